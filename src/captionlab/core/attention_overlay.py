"""The attention overlay: black over a photo, more opaque where a word attended less.

The gallery and ``caption --attention`` use this rule; the demo page repeats it in JavaScript. Knows weights, no images.
"""

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MAX_OPACITY = 0.82  # over a region with weight 0
DESCRIPTION = (
    "Attention overlay: the less a word attended to a region, the darker the region. Each word is scaled to its own "
    "maximum, so brightness cannot be compared between words."
)


def overlay_opacity(weights_R: Sequence[float]) -> NDArray[np.uint8]:
    """(S, S) opacity from 0 (clear) to 255 of one word's overlay; the R = S * S regions lie row by row in the photo.

    The region with the largest weight is clear; opacity falls linearly with the weight.
    """
    side = math.isqrt(len(weights_R))
    weights_SS = np.asarray(weights_R, dtype=np.float64).reshape(side, side)
    relative_SS = weights_SS / max(float(weights_SS.max()), 1e-12)
    return np.round(255 * MAX_OPACITY * (1 - relative_SS)).astype(np.uint8)
