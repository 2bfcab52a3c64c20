"""Choose one of a beam's captions: the most probable, or the one closest to the captions of similar photos.

Sentences in, sentences out. Knows nothing of files, splits or decoding.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np
from numpy.typing import NDArray

from captionlab.config import EnsembleParams
from captionlab.evaluation.retrieval import Retriever
from captionlab.inference.captioner import Sentence

Pooled = NDArray[np.float32]  # (P, D) the photos' pooled features
Found = list[list[Sentence]]  # by photo: what beam search found, best first
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

    score = _scorer(retriever, params)

    def choose(pooled_PD: Pooled, ranked: Ranked) -> list[list[Sentence]]:
        scores = score(pooled_PD, ranked)
        return [[max(own, key=of) for own, of in zip(photos, scores, strict=True)] for photos in ranked]

    return choose


def ranked_by_neighbours(retriever: Retriever, params: EnsembleParams) -> Callable[[Pooled, Found], Found]:
    """The same for one decoding, with all sentences of each photo, best first."""
    score = _scorer(retriever, params)

    def rank(pooled_PD: Pooled, found: Found) -> Found:
        return [sorted(own, key=of, reverse=True) for own, of in zip(found, score(pooled_PD, [found]), strict=True)]

    return rank


def _scorer(
    retriever: Retriever, params: EnsembleParams
) -> Callable[[Pooled, Ranked], list[Callable[[Sentence], float]]]:
    """For each photo, what its sentences are ranked by."""

    def scores(pooled_PD: Pooled, ranked: Ranked) -> list[Callable[[Sentence], float]]:
        found = [
            list(dict.fromkeys(sentence.caption for sentences in photo for sentence in sentences))
            for photo in zip(*ranked, strict=True)
        ]  # each caption once: beams share most captions, and comparing takes most of the time
        words = [[tuple(caption.split()) for caption in own] for own in found]
        cider = retriever.consensus(words, pooled_PD, params.neighbours)
        consensus = [dict(zip(own, scores, strict=True)) for own, scores in zip(found, cider, strict=True)]
        return [partial(_score, params.consensus_weight, own) for own in consensus]

    return scores


def _score(weight: float, consensus: Mapping[str, float], sentence: Sentence) -> float:
    return sentence.log_prob + weight * consensus[sentence.caption]
