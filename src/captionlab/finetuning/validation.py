"""Early-stopping metric of fine-tuning: CIDEr-D of the validation captions.

Knows the decoder contract, words and scores.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from captionlab.core.records import Decoding
from captionlab.data.vocab import Vocabulary
from captionlab.inference.decoding import beam_search
from captionlab.metrics.cider import CiderD, Words
from captionlab.models.base import Decoder
from captionlab.training.batches import CaptionedFeatures

_PHOTOS_AT_ONCE = 100


class ValidationCider:
    """Generates captions for the photos of ``val_set`` and scores them against ``references`` (words by image).

    The end of a caption does not count as a word.
    """

    def __init__(
        self, vocab: Vocabulary, val_set: CaptionedFeatures, references: Mapping[str, Sequence[Words]],
        decoding: Decoding,
    ) -> None:  # fmt: skip
        self.decoding = decoding
        self._words = vocab.words
        self._val_set = val_set
        self._references = [references[image] for image in val_set.images]
        self._scorer = CiderD(self._references)

    def cider(self, model: Decoder, device: str) -> float:
        """CIDEr-D of the photos' captions by beam search, under the strict protocol."""
        model.eval()
        said: list[Words] = []
        for i in range(0, len(self._val_set.images), _PHOTOS_AT_ONCE):
            positions = range(i, min(i + _PHOTOS_AT_ONCE, len(self._val_set.images)))
            ranked = beam_search(
                model, self._val_set.features(positions).to(device), **dataclasses.asdict(self.decoding)
            )  # fmt: skip
            said += [tuple(self._words[token] for token in photo[0].tokens) for photo in ranked]
        return float(self._scorer.scores(said, self._references).mean())
