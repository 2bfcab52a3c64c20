"""Report B's model and data generator in Keras, for the comparison in ``bench/training.py``.

    .venv-keras/bin/python bench/report_b.py DATA.npz

Builds the model, trains one batch so that its graph is compiled, and prints the number of parameters; then trains an
epoch for every line on standard input and prints its loss. Runs in a separate environment, without captionlab.

The only difference to the report: captions are already tokenised, while the report's generator looks each up in a
pandas table and tokenises it for every batch.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import numpy as np
from keras import layers
from keras.utils import Sequence, pad_sequences, to_categorical

BATCH = 64  # captions


class Generator(Sequence):  # type: ignore[misc]
    """Batches of every prefix of every caption: the photo's features, the prefix padded with zeros, the next word."""

    def __init__(self, features, captions, photos, words, longest) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.features, self.captions, self.photos = features, captions, photos
        self.words, self.longest = words, longest
        self.indexes = np.arange(len(captions))

    def on_epoch_end(self) -> None:
        np.random.shuffle(self.indexes)

    def __len__(self) -> int:
        return -(-len(self.captions) // BATCH)  # the report drops the last, incomplete batch

    def __getitem__(self, index):  # type: ignore[no-untyped-def]
        x1, x2, y = [], [], []
        for row in self.indexes[index * BATCH : (index + 1) * BATCH]:
            tokens = self.captions[row]
            for i in range(1, len(tokens)):
                x1.append(self.features[self.photos[row]])
                x2.append(pad_sequences([tokens[:i]], maxlen=self.longest, padding="post")[0])
                y.append(to_categorical([tokens[i]], num_classes=self.words)[0])
        return (np.array(x1), np.array(x2)), np.array(y)


def build(words: int, longest: int, pooled: int, size: int = 256, dense: int = 128):  # type: ignore[no-untyped-def]
    """The report's model with its best sizes."""
    photo = layers.Input(shape=(pooled,))
    prefix = layers.Input(shape=(longest,))
    image = layers.Dense(size, activation="relu")(photo)
    embedded = layers.Embedding(words, size, mask_zero=False)(prefix)
    merged = layers.concatenate([layers.Reshape((1, size))(image), embedded], axis=1)
    x = layers.Dropout(0.5)(layers.LSTM(size)(merged))
    x = layers.Dense(dense, activation="relu")(layers.add([x, image]))
    output = layers.Dense(words, activation="softmax")(layers.Dropout(0.5)(x))
    model = keras.Model(inputs=[photo, prefix], outputs=output)
    model.compile(loss="categorical_crossentropy", optimizer="adam", metrics=["accuracy"])
    return model


def main() -> None:
    """Train one epoch for each line on standard input."""
    data = np.load(sys.argv[1])
    ends = np.cumsum(data["lengths"])
    captions = [own.tolist() for own in np.split(data["tokens"], ends[:-1])]
    photos = np.arange(len(captions)) // int(data["captions"])
    words, longest = int(data["words"]), int(data["lengths"].max())
    model = build(words, longest, data["features"].shape[1])
    generator = Generator(data["features"], captions, photos, words, longest)
    model.train_on_batch(*generator[0])
    print(model.count_params(), flush=True)
    for _ in sys.stdin:
        history = model.fit(generator, verbose=0)
        print(history.history["loss"][-1], flush=True)


if __name__ == "__main__":
    main()
