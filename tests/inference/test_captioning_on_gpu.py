"""Captioning of photo files on an NVIDIA GPU, by the released captioner and by one with random weights."""

from pathlib import Path

import pytest

from captionlab import Captioner
from captionlab.core.devices import choose_device
from common import released_is_usable
from cuda_systems import draw

pytestmark = pytest.mark.cuda


@pytest.mark.parametrize("shipped", [True, False])
def test_photos_get_the_captions_that_a_cpu_writes(released: Path, tmp_path: Path, shipped: bool) -> None:
    """For 95 % of them: the encoder computes in half precision."""
    if shipped and not released_is_usable():
        pytest.skip("the released captioner or the weights of its encoders are missing")
    checkpoint = None if shipped else released
    paths = [tmp_path / name for name in draw(tmp_path, 120)]
    choose_device("cuda")
    on_cuda, on_cpu = Captioner.load(checkpoint, "cuda"), Captioner.load(checkpoint, "cpu")
    ours, theirs = on_cuda.caption(paths), on_cpu.caption(paths)
    assert sum(a[0].caption == b[0].caption for a, b in zip(ours, theirs, strict=True)) >= 114
    assert on_cuda.caption(paths[0])[0].caption == ours[0][0].caption
