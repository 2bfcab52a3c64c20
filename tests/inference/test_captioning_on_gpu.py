"""Captioning of photo files on an NVIDIA GPU, by the released captioner, whose encoder has trained blocks."""

from pathlib import Path

import pytest

from captionlab import Captioner
from captionlab.core.devices import choose_device
from captionlab.core.records import RELEASED
from cuda_systems import draw

pytestmark = pytest.mark.cuda


@pytest.mark.skipif(not RELEASED.exists(), reason="no captioner ships with this checkout")
def test_photos_get_the_captions_that_a_cpu_writes(tmp_path: Path) -> None:
    """For 95 % of them: the encoder computes in half precision."""
    paths = [tmp_path / name for name in draw(tmp_path, 60)]
    choose_device("cuda")
    on_cuda, on_cpu = Captioner.load(device="cuda"), Captioner.load(device="cpu")
    ours, theirs = on_cuda.caption(paths), on_cpu.caption(paths)
    assert sum(a[0].caption == b[0].caption for a, b in zip(ours, theirs, strict=True)) >= 57
    assert on_cuda.caption(paths[0])[0].caption == ours[0][0].caption
