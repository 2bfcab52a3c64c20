"""CIDEr-D: the tf-idf similarity of a caption to its references. Words in, numbers out.

Knows nothing of files, protocols or models.
"""

import math
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Words = tuple[str, ...]

ORDERS = 4  # n-grams of one to four words
SIGMA = 6.0  # of the penalty on a difference in length


def ngrams(words: Words) -> Counter[Words]:
    """How often each n-gram of one to four words occurs."""
    return Counter(words[i : i + n] for n in range(1, ORDERS + 1) for i in range(len(words) - n + 1))


class CiderD:
    """CIDEr-D (Vedantam et al. 2015) as COCO computes it: times 10, so a score runs from 0 to 10.

    The weight of an n-gram (its idf) comes from ``documents``: for every photo, its reference captions. Scores under
    different documents cannot be compared; with a single document every idf, and so every score, is 0.

    COCO's penalty compares the numbers of two-word sequences, not of words. The two differ only when one of the
    captions is empty, and such a pair scores 0 in any case.
    """

    def __init__(self, documents: Iterable[Sequence[Words]]) -> None:
        photos = 0
        seen: Counter[Words] = Counter()
        for references in documents:
            photos += 1
            seen.update({gram for words in references for gram in ngrams(words)})
        self._rarest = math.log(photos) if photos else 0.0
        self._idf = {gram: self._rarest - math.log(count) for gram, count in seen.items()}
        self._cache: dict[tuple[Words, ...], _References] = {}

    def scores(self, hypotheses: Sequence[Words], references: Sequence[Sequence[Words]]) -> npt.NDArray[np.float64]:
        """(N,) scores from 0 to 10, one for each hypothesis against its own references.

        References are prepared once and kept, so scoring new captions of the same photos is fast. The mean is the
        corpus score. Raises ValueError when the two lists differ in length.
        """
        pairs = zip(hypotheses, references, strict=True)
        return np.array([self._score(words, self._prepared(tuple(own))) for words, own in pairs])

    def against(self, references: Sequence[Words], hypotheses: Sequence[Words]) -> npt.NDArray[np.float64]:
        """(N,) scores of hypotheses of one photo; nothing is kept, so there may be any number of photos."""
        prepared = _References(tuple(references), self._idf, self._rarest)
        return np.array([self._score(words, prepared) for words in hypotheses])

    def _prepared(self, references: tuple[Words, ...]) -> "_References":
        if references not in self._cache:
            self._cache[references] = _References(references, self._idf, self._rarest)
        return self._cache[references]

    def _score(self, words: Words, references: "_References") -> float:
        dots_RN = np.zeros_like(references.norms_RN)  # R references, n-grams of N sizes
        squares_N = np.zeros(ORDERS)
        for gram, count in ngrams(words).items():
            n = len(gram) - 1
            idf = self._idf.get(gram, self._rarest)
            weight = count * idf
            squares_N[n] += weight * weight
            for row, own_count in references.counts.get(gram, ()):
                own_weight = own_count * idf
                dots_RN[row, n] += min(weight, own_weight) * own_weight  # clipped: a repeated word adds nothing
        norms_RN = references.norms_RN * np.sqrt(squares_N)
        cosines_RN = np.divide(dots_RN, norms_RN, out=np.zeros_like(dots_RN), where=norms_RN > 0)
        penalties_R = np.exp(-((len(words) - references.lengths_R) ** 2) / (2 * SIGMA**2))
        return float(10 * (cosines_RN * penalties_R[:, None]).mean())


class _References:
    """One photo's references as n-gram counts and norms."""

    def __init__(self, references: tuple[Words, ...], idf: dict[Words, float], rarest: float) -> None:
        self.counts: dict[Words, list[tuple[int, int]]] = {}  # n-gram: (reference, times it occurs there)
        squares_RN = np.zeros((len(references), ORDERS))
        for row, words in enumerate(references):
            for gram, count in ngrams(words).items():
                self.counts.setdefault(gram, []).append((row, count))
                squares_RN[row, len(gram) - 1] += (count * idf.get(gram, rarest)) ** 2
        self.norms_RN = np.sqrt(squares_RN)
        self.lengths_R = np.array([len(words) for words in references])
