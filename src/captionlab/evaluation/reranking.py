"""Which caption of those that a beam found: its own best, or the one that agrees with similar photos' captions.

Sentences in, sentences out. Knows nothing of files, splits or how sentences are made.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from captionlab.config import EnsembleParams
from captionlab.evaluation.retrieval import Retriever
from captionlab.inference.captioner import Sentence

Pooled = NDArray[np.float32]  # (P, D) the photos' pooled features
Ranked = Sequence[list[list[Sentence]]]  # by decoding and photo: what a beam found, best first
Choose = Callable[[Pooled, Ranked], list[list[Sentence]]]  # by decoding: the chosen sentence for each photo


def as_ranked(pooled_PD: Pooled, ranked: Ranked) -> list[list[Sentence]]:
    """The beam's own best."""
    return [[sentences[0] for sentences in photos] for photos in ranked]


def by_neighbours(retriever: Retriever, params: EnsembleParams) -> Choose:
    """Ranked by log probability plus agreement with what people wrote of the training photos that are most alike.

    After Devlin et al. 2015, "Language models for image captioning: the quirks and what works". The beam divides by a
    power of the length lest it prefer what is short; agreement already wants the length that people's captions have.
    """

    def choose(pooled_PD: Pooled, ranked: Ranked) -> list[list[Sentence]]:
        found = [
            list(dict.fromkeys(sentence.caption for sentences in photo for sentence in sentences))
            for photo in zip(*ranked, strict=True)
        ]  # each caption once, for a wider beam finds most of a narrower one's: comparing is what takes the time
        words = [[tuple(caption.split()) for caption in own] for own in found]
        agreed = retriever.consensus(words, pooled_PD, params.neighbours)
        agreement = [dict(zip(own, scores, strict=True)) for own, scores in zip(found, agreed, strict=True)]

        def best(sentences: list[Sentence], own: Mapping[str, float]) -> Sentence:
            return max(
                sentences, key=lambda sentence: sentence.log_prob + params.consensus_weight * own[sentence.caption]
            )

        return [[best(*photo) for photo in zip(photos, agreement, strict=True)] for photos in ranked]

    return choose
