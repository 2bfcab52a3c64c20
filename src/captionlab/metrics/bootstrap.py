"""Confidence intervals and paired tests by the bootstrap over photos. Arrays in, numbers out.

Knows nothing of captions, files or systems. Shape letters: N photos, R resamples, O n-gram orders.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_NO_MATCH, _NO_NGRAMS = 1e-15, 1e-9  # pycocoevalcap's, in the BLEU of one caption
_INTERVAL = (2.5, 97.5)  # percentiles: 95 % lie between


@dataclass(frozen=True, kw_only=True)
class PerPhoto:
    """Each photo's contribution to the strict corpus scores of one system's captions."""

    matched_NO: Floats  # n-grams of the caption that occur in a reference, clipped as in BLEU
    total_NO: Floats  # n-grams of the caption
    words_N: Floats
    reference_words_N: Floats  # of the reference closest in length
    rouge_l_N: Floats
    cider_N: Floats  # with the idf of all photos, whichever are resampled

    def scores(self, weights_RN: Floats | None = None) -> dict[str, Floats]:
        """(R,) corpus scores, BLEU-1 to 4, ROUGE-L and CIDEr-D: row r counts photo n ``weights_RN[r, n]`` times.

        Without weights every photo counts once and R is 1.
        """
        if weights_RN is None:
            weights_RN = np.ones((1, len(self.words_N)))
        matched_RO, total_RO = weights_RN @ self.matched_NO, weights_RN @ self.total_NO
        words_R, reference_words_R = weights_RN @ self.words_N, weights_RN @ self.reference_words_N
        with np.errstate(divide="ignore", invalid="ignore"):
            logs_RO = np.where(matched_RO > 0, np.log(matched_RO / total_RO), -np.inf)
            brevity_R = np.where(words_R > 0, np.minimum(0.0, 1 - reference_words_R / words_R), -np.inf)
        orders = np.arange(1, logs_RO.shape[1] + 1)
        bleu_RO = np.exp(brevity_R[:, None] + np.cumsum(logs_RO, axis=1) / orders)
        photos_R = weights_RN.sum(1)
        return {
            **{f"bleu_{n}": bleu_RO[:, n - 1] for n in orders},
            "rouge_l": weights_RN @ self.rouge_l_N / photos_R,
            "cider": weights_RN @ self.cider_N / photos_R,
        }

    def by_caption(self) -> dict[str, Floats]:
        """(N,) the scores of each caption alone; its CIDEr-D has the idf of all photos.

        BLEU counts over a whole corpus. That of one caption is pycocoevalcap's: an order of n-grams without a match
        counts as 1e-15 matches, so that it is nearly 0 and the other orders still rank the captions.
        """
        ratios_NO = (self.matched_NO + _NO_MATCH) / (self.total_NO + _NO_NGRAMS)
        with np.errstate(divide="ignore"):
            brevity_N = np.minimum(0.0, 1 - self.reference_words_N / self.words_N)
        orders = np.arange(1, ratios_NO.shape[1] + 1)
        bleu_NO = np.exp(brevity_N[:, None] + np.cumsum(np.log(ratios_NO), axis=1) / orders)
        return {
            **{f"bleu_{n}": bleu_NO[:, n - 1] for n in orders},
            "rouge_l": self.rouge_l_N,
            "cider": self.cider_N,
        }

    def corpus(self) -> dict[str, float]:
        """The scores of all photos, each counted once."""
        return {key: float(values_R[0]) for key, values_R in self.scores().items()}


def draw(photos: int, count: int, seed: int) -> Floats:
    """(R, N) how often each photo is drawn in ``count`` resamples of as many photos, with replacement."""
    shares = np.full(photos, 1 / photos)
    return np.random.default_rng(seed).multinomial(photos, shares, size=count).astype(np.float64)


def interval(scores_R: Floats) -> tuple[float, float]:
    """The 95 % percentile interval (Efron and Tibshirani 1993, chapter 13)."""
    low, high = np.percentile(scores_R, _INTERVAL)
    return float(low), float(high)


def compare(one_R: Floats, other_R: Floats) -> Mapping[str, float]:
    """The paired bootstrap (Koehn 2004): both systems scored on the same resamples.

    ``wins`` is the share of resamples in which the first is better; a tie counts half. ``p`` is two-sided; its smallest
    value with R resamples is 2 / (R + 1), and it is 1 for a system against itself.
    """
    count = len(one_R)
    ahead, behind = int((one_R > other_R).sum()), int((one_R < other_R).sum())
    fewer = count - max(ahead, behind)  # a tie counts for both sides
    return {"wins": (ahead + (count - ahead - behind) / 2) / count, "p": min(1.0, 2 * (fewer + 1) / (count + 1))}
