"""Nearest-neighbour retrieval: the training photos most similar to a photo, and what their captions agree on.

As a baseline it reuses a caption of these photos; re-ranking compares generated captions with theirs. Features and
captions in, captions or scores out; knows nothing of files or systems.
Shape letters: N training photos, Q photos to caption, D features, C candidate captions, G n-grams, M dimensions of the
semantic analysis, X all features that photos are compared by.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix, hstack
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import Ridge
from sklearn.neighbors import NearestNeighbors
from sklearn.preprocessing import StandardScaler, normalize

from captionlab.config import SimilarityParams
from captionlab.metrics.cider import ORDERS, SIGMA, CiderD, Words, ngrams


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """A caption of a training photo, or a guest's: it was not generated here, so it has no probability."""

    caption: str
    log_prob: None = None
    tokens: tuple[int, ...] = ()


class Retriever:
    """Nearest neighbours and their consensus caption (Devlin et al. 2015, "Exploring nearest neighbor approaches").

    The candidates are all captions of the nearest photos, by cosine similarity of standardised features. The chosen
    one has the greatest mean CIDEr similarity to the ``consensus_k`` candidates most similar to it. The idf comes from
    the training captions.

    With ``by_meaning``, a part of the similarity is semantic, with the weight ``semantic_weight``: training photos have
    the latent semantic analysis of their captions, and a ridge regression predicts it for other photos.
    """

    def __init__(
        self, pooled_ND: NDArray[np.float32], captions: Sequence[Sequence[Words]], consensus_k: int, *,
        by_meaning: SimilarityParams | None = None,
    ) -> None:  # fmt: skip
        self._scaler = StandardScaler().fit(pooled_ND)
        standard_ND = self._scaler.transform(pooled_ND)
        self._ridge: Ridge | None = None
        compared_NX = standard_ND
        if by_meaning:
            meaning_NM = _meanings(captions, by_meaning)
            self._semantic_weight = by_meaning.semantic_weight
            self._ridge = Ridge(by_meaning.ridge).fit(standard_ND, meaning_NM)
            compared_NX = np.hstack([normalize(standard_ND), by_meaning.semantic_weight * normalize(meaning_NM)])
        self._search = NearestNeighbors(metric="cosine", algorithm="brute").fit(compared_NX)
        self._consensus_k = consensus_k
        self._by_photo = captions
        self._captions = [words for own in captions for words in own]
        self._lengths_C = np.array([len(words) for words in self._captions])
        self._first = np.cumsum([0, *map(len, captions)])  # of each photo's captions
        # The most typical photos are those nearest to the mean, which is 0.
        self._typical = np.argsort(np.square(standard_ND).sum(1), kind="stable")

    @cached_property
    def _cider(self) -> CiderD:  # re-ranking alone needs it
        return CiderD(self._by_photo)

    @cached_property
    def _vectors(self) -> csr_matrix:  # (C, G); retrieval alone needs it
        return _tf_idf(self._captions, np.repeat(np.arange(len(self._by_photo)), list(map(len, self._by_photo))))

    def captions(self, pooled_QD: NDArray[np.float32], neighbours: int) -> list[Words]:
        """A training caption for each photo, from those of its ``neighbours`` nearest photos."""
        return [self._consensus(nearest) for nearest in self._nearest(pooled_QD, neighbours)]

    def consensus(
        self, candidates: Sequence[Sequence[Words]], pooled_QD: NDArray[np.float32], neighbours: int
    ) -> list[NDArray[np.float64]]:
        """CIDEr-D, 0 to 10, of each photo's candidates against all captions of its neighbours."""
        return [
            self._cider.against([self._captions[row] for row in self._rows(nearest)], own)
            for own, nearest in zip(candidates, self._nearest(pooled_QD, neighbours), strict=True)
        ]

    def without_photo(self, neighbours: int) -> Words:
        """The consensus caption of the training photos nearest to the mean: the answer without a photo."""
        return self._consensus(self._typical[:neighbours])

    def _nearest(self, pooled_QD: NDArray[np.float32], neighbours: int) -> NDArray[np.intp]:
        count = min(neighbours, len(self._typical))
        compared_QX = self._scaler.transform(pooled_QD)
        if self._ridge is not None:
            meaning_QM = normalize(self._ridge.predict(compared_QX))
            compared_QX = np.hstack([normalize(compared_QX), self._semantic_weight * meaning_QM])
        nearest_QK: NDArray[np.intp] = self._search.kneighbors(compared_QX, count, return_distance=False)
        return nearest_QK

    def _rows(self, photos: NDArray[np.intp]) -> NDArray[np.intp]:
        """The rows of the photos' captions."""
        return np.concatenate([np.arange(self._first[photo], self._first[photo + 1]) for photo in photos])

    def _consensus(self, photos: NDArray[np.intp]) -> Words:
        rows = self._rows(photos)
        own_CG, lengths = self._vectors[rows], self._lengths_C[rows]
        alike_CC = (own_CG @ own_CG.T).toarray()
        alike_CC *= np.exp(-((lengths[:, None] - lengths) ** 2) / (2 * SIGMA**2))
        np.fill_diagonal(alike_CC, -1.0)  # a candidate is not compared with itself
        most = min(self._consensus_k, len(rows) - 1)
        consensus_C = np.partition(alike_CC, len(rows) - most, axis=1)[:, len(rows) - most :].mean(1) if most else [0.0]
        return self._captions[rows[int(np.argmax(consensus_C))]]  # of equal ones, that of the nearest photo


def _meanings(captions: Sequence[Sequence[Words]], params: SimilarityParams) -> NDArray[np.float64]:
    """(N, M) latent semantic analysis (Deerwester et al. 1990) of each photo's captions, minus the mean."""
    texts = [[word for words in own for word in words] for own in captions]
    weights_NV = TfidfVectorizer(analyzer=list, sublinear_tf=True).fit_transform(texts)
    analysis = TruncatedSVD(min(params.semantic_dimensions, *weights_NV.shape), random_state=params.seed)
    meaning_NM: NDArray[np.float64] = analysis.fit_transform(weights_NV)
    return meaning_NM - meaning_NM.mean(0)


def _tf_idf(captions: Sequence[Words], photo_C: NDArray[np.intp]) -> csr_matrix:
    """(C, G) captions as tf-idf vectors of n-grams, as in CIDEr; each order has length 1 / sqrt(ORDERS).

    The product of two rows is then the mean over the orders of their cosines.
    """
    counter = CountVectorizer(analyzer=_grams, dtype=np.float32)
    counts_CG = counter.fit_transform(captions)
    ones = np.ones(len(captions), dtype=np.float32)
    of_photo_NC = csr_matrix((ones, (photo_C, np.arange(len(captions)))))
    holding_G = (of_photo_NC @ counts_CG).getnnz(axis=0)  # photos with the n-gram in some caption
    idf_G = np.log(of_photo_NC.shape[0] / holding_G).astype(np.float32)
    weights_CG = counts_CG.multiply(idf_G).tocsc()
    order_G = np.array([gram.count(" ") for gram in counter.get_feature_names_out()])
    parts = [normalize(weights_CG[:, order_G == n]) for n in np.unique(order_G)]  # captions may all be short
    return (hstack(parts) / np.sqrt(np.float32(ORDERS))).tocsr()


def _grams(words: Words) -> list[str]:
    return [" ".join(gram) for gram, count in ngrams(words).items() for _ in range(count)]
