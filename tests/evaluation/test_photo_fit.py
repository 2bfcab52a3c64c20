"""Photo fit is highest for the photo that the caption describes."""

import numpy as np
import pytest

from captionlab.config import SimilarityParams
from captionlab.evaluation.photo_fit import PhotoFit

NOUNS = ("dog", "cat", "boat", "tree")


@pytest.fixture(scope="module")
def fit() -> PhotoFit:
    """Forty photos, ten of each noun: a feature for the noun, and noise."""
    random = np.random.default_rng(0)
    kinds = np.arange(40) % 4
    pooled_ND = random.normal(0, 0.1, (40, 6)).astype(np.float32)
    pooled_ND[np.arange(40), kinds] += 1
    captions = [[("a", NOUNS[kind], "here"), ("one", NOUNS[kind])] for kind in kinds]
    return PhotoFit(
        pooled_ND,
        captions,
        SimilarityParams(semantic_dimensions=5, min_captions=3, seed=0, ridge=0.1, semantic_weight=1.0),
    )


def test_the_matching_caption_has_the_best_fit(fit: PhotoFit) -> None:
    for kind, noun in enumerate(NOUNS):
        photo_D = np.zeros(6, np.float32)
        photo_D[kind] = 1
        scores = fit.scores(np.tile(photo_D, (4, 1)), [("a", other) for other in NOUNS])
        assert scores.argmax() == kind
        assert -1 <= scores.min() < 0.5 < scores[kind] <= 1 + 1e-9, noun


def test_a_caption_without_known_words_has_no_fit(fit: PhotoFit) -> None:
    assert fit.scores(np.ones((2, 6), np.float32), [("zebra",), ()]).tolist() == [0, 0]


def test_the_same_photos_give_the_same_scores(fit: PhotoFit) -> None:
    photo_QD = np.ones((3, 6), np.float32)
    said = [("a", "dog"), ("cat",), ("one", "boat")]
    np.testing.assert_array_equal(fit.scores(photo_QD, said), fit.scores(photo_QD, said))
    np.testing.assert_allclose(fit.scores(photo_QD[:1], said[:1]), fit.scores(photo_QD, said)[:1])
