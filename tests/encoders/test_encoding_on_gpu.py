"""Feature extraction on an NVIDIA GPU: close to a CPU's features, deterministic and resumable."""

from pathlib import Path

import numpy as np
import pytest

from captionlab.core.devices import choose_device
from captionlab.core.files import read_json
from captionlab.data.photos import read_photo
from captionlab.encoders import extraction
from captionlab.encoders.engines import TorchEngine
from captionlab.encoders.extraction import encode_photos
from captionlab.encoders.load import load_encoder
from captionlab.errors import CaptionlabError
from cuda_systems import draw, extracted

pytestmark = pytest.mark.cuda
MEAN_ERROR = 0.003  # of the features' standard deviation: half precision inside the CNN


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_features_are_close_to_those_of_a_cpu_in_fp32(tmp_path: Path, name: str) -> None:
    choose_device("cuda")
    encoder = load_encoder(name, 7)
    paths = [tmp_path / image for image in draw(tmp_path, 40)]
    expected = TorchEngine(encoder, "cpu")(np.stack([read_photo(path, encoder.pixels) for path in paths]))
    (found,) = encode_photos(load_encoder(name, 7), "cuda", paths)
    assert [part.dtype.name for part in found] == ["float32", "float16"]
    for ours, theirs in zip(found, expected, strict=True):
        assert np.abs(ours - theirs).mean() <= MEAN_ERROR * theirs.std()
    pooled_ND, grid_NRC = TorchEngine(load_encoder(name, 7), "cuda")(
        np.stack([read_photo(path, encoder.pixels) for path in paths])
    )
    np.testing.assert_array_equal(pooled_ND, found[0])
    assert grid_NRC.dtype == np.float32


def test_an_interrupted_extraction_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    choose_device("cuda")
    monkeypatch.setattr(extraction, "BLOCK", 64)
    last = tmp_path / "photos" / draw(tmp_path / "photos", 300)[-1]  # in the fifth block
    expected = extracted("cuda", tmp_path, "unbroken")
    assert extracted("cuda", tmp_path, "again") == expected
    whole = last.read_bytes()
    last.write_bytes(b"no photo")
    with pytest.raises(CaptionlabError, match=r"^cannot read the photo .*/299\.jpg: "):
        extracted("cuda", tmp_path, "work")
    assert read_json(tmp_path / "work/progress.json")["done"] == 3 * 64  # the fourth is stored after the fifth is read
    last.write_bytes(whole)
    assert extracted("cuda", tmp_path, "work") == expected
