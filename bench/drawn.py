"""Random captions and features with Flickr8k's sizes, caption lengths and word frequencies, without a download."""

import math

import numpy as np

from captionlab.core.tokens import END, START
from captionlab.data.store import FeatureStore
from captionlab.training.batches import CaptionedFeatures, CaptionTokens

CAPTIONS = 5  # per photo
# Caption lengths in words of Flickr8k's training split: the medians of 20 equal parts, shortest to longest.
LENGTHS = np.array([5, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 15, 16, 19])


def draw(photos: int, *, words: int, pooled: int, regions: int = 0, seed: int = 0) -> CaptionedFeatures:
    """Random features of ``photos`` photos, with five captions each from a vocabulary of ``words`` words.

    With ``regions``, the features have a grid of that many regions.
    """
    random = np.random.default_rng(seed)
    chance = 1 / (np.arange(words - 4) + 2.7)  # the Zipf-Mandelbrot law
    chance /= chance.sum()

    def caption() -> list[int]:
        return [START, *(4 + random.choice(words - 4, random.choice(LENGTHS), p=chance)).tolist(), END]

    images = tuple(f"{number:06d}.jpg" for number in range(photos))
    grid = random.random((photos, regions, pooled), dtype=np.float32).astype(np.float16) if regions else None
    store = FeatureStore(
        encoder="drawn", preprocessing="", weights="", images=images, side=math.isqrt(regions),
        pooled=random.random((photos, pooled), dtype=np.float32), grid=grid,
    )  # fmt: skip
    captions = CaptionTokens([caption() for _ in range(CAPTIONS)] for _ in range(photos))
    return CaptionedFeatures(store, bool(regions), images, np.arange(photos), captions)
