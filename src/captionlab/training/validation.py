"""CIDEr-D of the captions that a system generates for validation photos after each epoch.

Knows the decoder contract, words and scores. Shape letters as in ``models.base``.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from captionlab.core.tokens import END, PAD, START
from captionlab.data.vocab import Vocabulary
from captionlab.metrics.cider import CiderD, Words
from captionlab.models.base import Decoder, Features, forbid_tokens
from captionlab.training.batches import CaptionedFeatures

_PHOTOS_AT_ONCE = 100

# Generates a caption for each photo: word indices without START and END.
Generate = Callable[[Decoder, Features], Sequence[Sequence[int]]]


class ValidationCider:
    """Captions the first ``photos`` photos of ``val_set``, or all, and scores them against ``references``, by image.

    The end of a caption does not count as a word.
    """

    def __init__(
        self, vocab: Vocabulary, val_set: CaptionedFeatures, references: Mapping[str, Sequence[Words]],
        generate: Generate, photos: int | None = None,
    ) -> None:  # fmt: skip
        images = val_set.images[:photos]
        self._words = vocab.words
        self._val_set = val_set
        self._references = [references[image] for image in images]
        self._scorer = CiderD(self._references)
        self._generate = generate

    def cider(self, model: Decoder, device: str) -> float:
        """CIDEr-D of the photos' captions, with the idf of these photos."""
        model.eval()
        said: list[Words] = []
        for i in range(0, len(self._references), _PHOTOS_AT_ONCE):
            positions = range(i, min(i + _PHOTOS_AT_ONCE, len(self._references)))
            captions = self._generate(model, self._val_set.features(positions).to(device))
            said += [tuple(self._words[token] for token in tokens) for tokens in captions]
        return float(self._scorer.scores(said, self._references).mean())


@torch.inference_mode()
def greedy(model: Decoder, features: Features, max_words: int) -> list[list[int]]:
    """The most probable word at each step, at least one: what a beam search of width 1 finds.

    Training does not use ``inference.decoding``, so that an edit there leaves trained systems as they are.
    """
    state = model.start(features)
    tokens_B = torch.full((len(features.pooled_PD),), START, device=features.pooled_PD.device)
    steps, ended_B = list[Tensor](), torch.zeros_like(tokens_B, dtype=torch.bool)
    for place in range(max_words):
        log_probs_BV, state = model.step(tokens_B, state)
        forbid_tokens(log_probs_BV, may_end=place > 0)
        tokens_B = log_probs_BV.argmax(1)
        ended_B = ended_B | (tokens_B == END)
        steps.append(tokens_B.masked_fill(ended_B, PAD))
        if ended_B.all():
            break
    return [[token for token in row if token != PAD] for row in torch.stack(steps, 1).tolist()]
