"""The opacity of the attention overlay."""

import numpy as np

from captionlab.core.attention_overlay import MAX_OPACITY, overlay_opacity


def test_opacity_is_linear_between_no_attention_and_the_maximum() -> None:
    opacity_SS = overlay_opacity([0.0, 0.1, 0.2, 0.4])
    full = 255 * MAX_OPACITY
    assert opacity_SS.tolist() == [[round(full), round(0.75 * full)], [round(0.5 * full), 0]]
    assert (overlay_opacity([0.0, 0.01, 0.02, 0.04]) == opacity_SS).all()  # each word has its own scale


def test_without_any_attention_the_whole_photo_is_dark() -> None:
    assert np.unique(overlay_opacity([0.0] * 9)).tolist() == [round(255 * MAX_OPACITY)]
