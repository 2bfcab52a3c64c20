"""Choose one of a beam's captions: the most probable, or the one closest to the captions of similar photos.

Sentences in, sentences out. Knows nothing of files, splits or decoding.
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
    """The first caption of each beam."""
    return [[sentences[0] for sentences in photos] for photos in ranked]


def by_neighbours(retriever: Retriever, params: EnsembleParams) -> Choose:
    """Re-rank by log probability plus the weighted consensus with the captions of the most similar training photos.

    After Devlin et al. 2015, "Language models for image captioning: the quirks and what works". The log probability is
    not divided by a power of the length as in beam search, because CIDEr-D already penalises captions that are too
    short.
    """

    def choose(pooled_PD: Pooled, ranked: Ranked) -> list[list[Sentence]]:
        found = [
            list(dict.fromkeys(sentence.caption for sentences in photo for sentence in sentences))
            for photo in zip(*ranked, strict=True)
        ]  # each caption once: beams share most captions, and comparing takes most of the time
        words = [[tuple(caption.split()) for caption in own] for own in found]
        agreed = retriever.consensus(words, pooled_PD, params.neighbours)
        agreement = [dict(zip(own, scores, strict=True)) for own, scores in zip(found, agreed, strict=True)]

        def best(sentences: list[Sentence], own: Mapping[str, float]) -> Sentence:
            return max(
                sentences, key=lambda sentence: sentence.log_prob + params.consensus_weight * own[sentence.caption]
            )

        return [[best(*photo) for photo in zip(photos, agreement, strict=True)] for photos in ranked]

    return choose
