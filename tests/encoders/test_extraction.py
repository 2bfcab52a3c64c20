"""Feature extraction: agreement of the engines, resumption, and errors for incomplete stores."""

import json
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from builders import draw_photos, project
from captionlab.config import EncoderParams
from captionlab.core.files import read_json, write_json
from captionlab.data.photos import Pixels, read_photo
from captionlab.data.store import describe, open_store
from captionlab.encoders import extraction
from captionlab.encoders.engines import OnnxEngine, TorchEngine, gpu_batch
from captionlab.encoders.extraction import Photos, decode_in_processes, encode_photos, extract, finish
from captionlab.encoders.load import Encoder, load_encoder
from captionlab.encoders.network import PooledMap
from captionlab.errors import CaptionlabError
from captionlab.stages.extract_features import extract_features
from servers import wait_until
from tiny_encoder import tiny_encoder, tiny_network

TOLERANCE = 1e-3  # largest difference between the engines, in standard deviations; measured: below 1e-4


def stored(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ["efficientnet_lite0", "efficientnet_lite2"])
def test_the_compiled_engine_equals_eager_pytorch(tmp_path: Path, name: str) -> None:
    """Seven photos: a full batch of the compiled engine and a partial one."""
    encoder = load_encoder(name, grid=7)
    images = draw_photos(tmp_path, 7)
    pixels = np.stack([read_photo(tmp_path / image, encoder.pixels) for image in images])
    compiled = next(encode_photos(encoder, "cpu", [tmp_path / image for image in images]))
    for ours, reference in zip(compiled, TorchEngine(encoder, "cpu")(pixels), strict=True):
        assert ours.shape == reference.shape
        assert ours.dtype == reference.dtype == np.float32
        assert np.abs(ours - reference).max() / reference.std() < TOLERANCE
    alone = OnnxEngine(encoder)(pixels[:1])
    np.testing.assert_array_equal(alone[0][0], compiled[0][0])  # independent of the other photos in the batch


def test_the_engine_of_a_gpu_encodes_large_photos_in_smaller_batches() -> None:
    """So that those of 518 pixels, as DINOv2 reads them, take no more memory."""
    assert [gpu_batch(pixels) for pixels in (224, 260, 380, 518, 10**4)] == [256, 256, 119, 64, 1]
    encoder, taken = tiny_encoder(2), []
    encoder.network.register_forward_pre_hook(lambda _, given: taken.append(len(given[0])))
    engine = TorchEngine(encoder, "cpu")
    pixels = torch.randint(256, (11, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    found = engine.encode([pixels[:5], pixels[5:]])
    assert taken == [4, 4, 3]
    for ours, whole in zip(found, encoder.network(pixels), strict=True):
        torch.testing.assert_close(ours, whole, atol=1e-5, rtol=0)


@pytest.mark.parametrize("count", [1, 5, 8, 13])
def test_photos_come_out_in_order_whatever_their_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr(extraction, "BLOCK", 8)
    encoder = tiny_encoder(2)
    paths = [tmp_path / image for image in draw_photos(tmp_path, count)]
    blocks = list(encode_photos(encoder, "cpu", paths))
    assert [len(pooled) for pooled, _ in blocks] == [8] * (count // 8) + [count % 8] * (count % 8 > 0)
    expected = TorchEngine(encoder, "cpu")(np.stack([read_photo(path, 32) for path in paths]))
    for part in (0, 1):
        np.testing.assert_allclose(np.concatenate([block[part] for block in blocks]), expected[part], atol=1e-5)


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> str:
    """A device name for which the CPU encodes photos as a GPU does, in blocks of 16."""
    monkeypatch.setattr(extraction, "BLOCK", 16)
    monkeypatch.setattr(extraction, "TorchEngine", lambda encoder, _: TorchEngine(encoder, "cpu"))
    return "other"


@pytest.mark.parametrize("count", [0, 1, 16, 37])
@pytest.mark.parametrize("mirrored", [False, True])
def test_worker_processes_decode_for_a_gpu(tmp_path: Path, gpu: str, count: int, mirrored: bool) -> None:
    encoder = tiny_encoder(2)
    paths = [tmp_path / image for image in draw_photos(tmp_path, count)]
    ours, theirs = (list(encode_photos(encoder, device, paths, mirrored=mirrored)) for device in (gpu, "cpu"))
    assert [len(pooled) for pooled, _ in ours] == [16] * (count // 16) + [count % 16] * (count % 16 > 0)
    assert {grid.dtype.name for _, grid in ours} <= {"float16"}
    for own, reference in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(own[0], reference[0], atol=1e-5)
        np.testing.assert_allclose(own[1], reference[1], atol=1e-5, rtol=1e-3)


def test_little_shared_memory_takes_fewer_processes(tmp_path: Path, gpu: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker gives a container 64 MB."""
    monkeypatch.setattr(extraction, "threads", lambda: 16)
    asked: list[tuple[int, int]] = []

    class Loader(DataLoader[Any]):
        def __init__(self, *args: Any, **options: Any) -> None:
            asked.append((options["num_workers"], options["prefetch_factor"]))
            super().__init__(*args, **options)

    monkeypatch.setattr(extraction, "DataLoader", Loader)
    paths = [tmp_path / image for image in draw_photos(tmp_path, 17)]
    everything = []
    for free in (2**40, 2**26, 0):
        monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: SimpleNamespace(free=free))
        everything.append(torch.cat([*decode_in_processes(paths, partial(read_photo, pixels=32))]))
    assert asked == [(3, 4), (3, 3), (1, 1)]
    assert torch.equal(everything[0], everything[1])
    assert torch.equal(everything[0], everything[2])


def test_full_shared_memory_is_one_error_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: No space left on device (28)")

    monkeypatch.setattr(Tensor, "share_memory_", full)
    paths = [tmp_path / image for image in draw_photos(tmp_path, 3)]
    with pytest.raises(CaptionlabError, match=r"^too little shared memory \(unable .*; .* docker run --shm-size=1g$"):
        list(decode_in_processes(paths, partial(read_photo, pixels=32)))


def test_an_unreadable_photo_stops_worker_processes_with_its_name(tmp_path: Path, gpu: str) -> None:
    """Without the worker's traceback; earlier photos stay encoded."""
    images = draw_photos(tmp_path, 60)
    for unreadable in (images[49], images[50]):
        (tmp_path / unreadable).write_bytes(b"no photo")
    photos = Photos(folder=tmp_path, images=images, dataset="d")
    with pytest.raises(CaptionlabError, match=r"^cannot read the photo .*/049\.jpg: ") as caught:
        extract(tiny_encoder(2), gpu, photos, tmp_path / "work")
    assert "\n" not in str(caught.value)
    assert read_json(tmp_path / "work/progress.json")["done"] in (32, 48)  # the last block may not be finished
    for mended in (images[49], images[50]):
        shutil.copy(tmp_path / images[0], tmp_path / mended)
    extract(tiny_encoder(2), gpu, photos, tmp_path / "work")
    extract(tiny_encoder(2), gpu, photos, tmp_path / "unbroken")
    assert stored(tmp_path / "work") == stored(tmp_path / "unbroken")


class OwnVector(nn.Module):
    """A head whose output type depends on autocast."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(map_NCHW.amax((2, 3))), map_NCHW


@pytest.mark.parametrize("pooled", [True, False], ids=["pooled map", "own vector"])
def test_features_are_float32_under_any_autocast(pooled: bool) -> None:
    """Outputs are float32, because NumPy has no bf16; pooling is exact."""
    network = tiny_network(2, PooledMap() if pooled else OwnVector())
    pixels = torch.randint(0, 256, (3, 32, 32, 3), dtype=torch.uint8)
    with torch.inference_mode():
        exact = network(pixels)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(pixels)
    for own, reference in zip(rounded, exact, strict=True):
        assert own.dtype == reference.dtype == torch.float32
        assert own.numpy() == pytest.approx(reference.numpy(), abs=0.02)
        assert not torch.equal(own, reference), "autocast reached nothing"


def test_a_store_has_the_features_of_the_engine(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", 6)
    encoder = tiny_encoder(2)
    extract(encoder, "cpu", Photos(folder=tmp_path / "photos", images=images, dataset="d"), tmp_path / "work")
    finish(tmp_path / "work", tmp_path / "store")
    store = open_store(tmp_path / "store")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["grid.npy", "images.json", "pooled.npy"]
    assert (store.encoder, store.weights, store.preprocessing) == ("tiny", "w", "square_bicubic")
    assert (store.pooled.shape, store.pooled.dtype.name) == ((6, 6), "float32")
    assert store.grid is not None
    assert (store.grid.shape, store.grid.dtype.name, store.side) == ((6, 4, 6), "float16", 2)
    assert isinstance(store.pooled, np.memmap)
    assert isinstance(store.grid, np.memmap)
    assert store.rows([images[4], images[0]]).tolist() == [4, 0]
    with pytest.raises(CaptionlabError, match=r"no features of other\.jpg; run extract_features again"):
        store.rows(["other.jpg"])
    assert describe(tmp_path / "store") == "6 photos, pooled 6, grid 4x6"


def test_an_encoder_without_a_grid_writes_none(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", 5)
    extract(tiny_encoder(2), "cpu", Photos(folder=tmp_path / "photos", images=images, dataset="d"), tmp_path / "work")
    (tmp_path / "work/progress.json").write_text('{"key": "another", "done": 4}')
    extract(tiny_encoder(0), "cpu", Photos(folder=tmp_path / "photos", images=images, dataset="d"), tmp_path / "work")
    finish(tmp_path / "work", tmp_path / "store")
    assert sorted(path.name for path in (tmp_path / "store").iterdir()) == ["images.json", "pooled.npy"]
    store = open_store(tmp_path / "store")
    assert store.grid is None
    assert store.side == 0
    assert describe(tmp_path / "store") == "5 photos, pooled 6"


# A killed run


EXTRACT_SLOWLY = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from captionlab.data import store
from captionlab.encoders import extraction
from tiny_encoder import tiny_encoder
extraction.BLOCK = 8
read = extraction.read_photo
def slowly(path, **how):
    time.sleep(0.1 if path.name >= "008.jpg" else 0)
    return read(path, **how)
extraction.read_photo = slowly
images = sorted(path.name for path in Path("photos").iterdir())
photos = extraction.Photos(folder=Path("photos"), images=images, dataset="d")
extraction.extract(tiny_encoder(2), "cpu", photos, Path("work"))
"""


def watch_reading(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A list to which the name of every photo that is read is added."""
    read: list[str] = []

    def watched(path: Path, **how: Any) -> Pixels:
        read.append(path.name)
        return read_photo(path, **how)

    monkeypatch.setattr(extraction, "read_photo", watched)
    return read


def test_a_killed_extraction_resumes_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extraction, "BLOCK", 8)
    images = draw_photos(tmp_path / "photos", 40)
    run = subprocess.Popen([sys.executable, "-c", EXTRACT_SLOWLY, str(Path(__file__).parents[1])], cwd=tmp_path)
    progress = tmp_path / "work/progress.json"
    wait_until(lambda: progress.exists() or run.poll() is not None, pause=0.01)
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    done = read_json(progress)["done"]
    assert 8 <= done < 40
    assert not (tmp_path / "work/images.json").exists()

    read = watch_reading(monkeypatch)
    photos = tmp_path / "photos"
    extract(tiny_encoder(2), "cpu", Photos(folder=photos, images=images, dataset="d"), tmp_path / "work")
    assert sorted(read) == images[done:]
    extract(tiny_encoder(2), "cpu", Photos(folder=photos, images=images, dataset="d"), tmp_path / "unbroken")
    assert stored(tmp_path / "work") == stored(tmp_path / "unbroken")


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with ten photos and an interrupted extraction into ``work`` that has stored eight."""
    monkeypatch.setattr(extraction, "BLOCK", 4)
    images = draw_photos(tmp_path / "photos", 10)

    def broken(path: Path, **how: Any) -> Pixels:
        if path.name >= "008.jpg":
            raise CaptionlabError("stop")
        return read_photo(path, **how)

    monkeypatch.setattr(extraction, "read_photo", broken)
    photos = Photos(folder=tmp_path / "photos", images=images, dataset="d")
    with pytest.raises(CaptionlabError, match="stop"):
        extract(tiny_encoder(2), "cpu", photos, tmp_path / "work")
    monkeypatch.setattr(extraction, "read_photo", read_photo)
    assert read_json(tmp_path / "work/progress.json")["done"] == 8
    return tmp_path


@pytest.mark.parametrize(
    "change", [{"dataset": "redrawn"}, {"encoder": {"name": "other"}}, {"encoder": {"weights_digest": "v"}}]
)
def test_another_extraction_starts_from_the_beginning(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch, change: Any
) -> None:
    read = watch_reading(monkeypatch)
    images = sorted(path.name for path in (interrupted / "photos").iterdir())
    encoder = replace(tiny_encoder(2), **change.get("encoder", {}))
    dataset = change.get("dataset", "d")
    extract(encoder, "cpu", Photos(folder=interrupted / "photos", images=images, dataset=dataset), interrupted / "work")
    assert sorted(read) == images


def test_a_run_killed_after_its_last_photo_is_finished(interrupted: Path) -> None:
    images = sorted(path.name for path in (interrupted / "photos").iterdir())
    photos, work = interrupted / "photos", interrupted / "work"
    extract(tiny_encoder(2), "cpu", Photos(folder=photos, images=images, dataset="d"), interrupted / "unbroken")
    state = read_json(work / "progress.json")
    extract(tiny_encoder(2), "cpu", Photos(folder=photos, images=images, dataset="d"), work)
    (work / "images.json").unlink()
    write_json(work / "progress.json", {**state, "done": 10})
    extract(tiny_encoder(2), "cpu", Photos(folder=photos, images=images, dataset="d"), work)
    assert stored(work) == stored(interrupted / "unbroken")


# Damaged photos and incomplete stores


def test_a_corrupt_photo_is_named_in_one_line(tmp_path: Path) -> None:
    images = draw_photos(tmp_path, 6)
    whole = (tmp_path / images[4]).read_bytes()
    for content in (b"", b"no photo", whole[: len(whole) // 2], b"<svg/>"):
        (tmp_path / images[4]).write_bytes(content)
        with pytest.raises(CaptionlabError, match=r"^cannot read the photo .*/004\.jpg: ") as caught:
            extract(tiny_encoder(0), "cpu", Photos(folder=tmp_path, images=images, dataset="d"), tmp_path / "work")
        assert "\n" not in str(caught.value)
    (tmp_path / images[4]).unlink()
    with pytest.raises(CaptionlabError, match=r"^cannot read the photo .*/004\.jpg: No such file"):
        list(encode_photos(tiny_encoder(0), "cpu", [tmp_path / image for image in images]))
    Image.new("1", (20_000, 6_000)).save(tmp_path / "huge.png")
    with (
        pytest.warns(Image.DecompressionBombWarning),
        pytest.raises(CaptionlabError, match=r"^cannot read the photo .*/huge\.png: it has 20000x6000 pixels"),
    ):
        read_photo(tmp_path / "huge.png", 32)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(kind=st.sampled_from(["JPEG", "PNG", "GIF", "TIFF", "BMP", "WEBP"]), data=st.data())
@pytest.mark.filterwarnings("ignore")  # Pillow warns about skipped data
def test_damaged_bytes_give_a_photo_or_a_captionlab_error(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    path = tmp_path / "photo"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.linear_gradient("L").resize((40, 30)).convert("RGB").save(path, kind, exif=exif)
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, min(len(content), 400) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        assert read_photo(path, 16).shape == (16, 16, 3)
    except CaptionlabError as error:
        assert str(error).startswith(f"cannot read the photo {path}: ")  # noqa: PT017


def test_an_incomplete_store_is_refused(tmp_path: Path) -> None:
    images = draw_photos(tmp_path / "photos", 5)
    work = tmp_path / "work"
    with pytest.raises(CaptionlabError, match=r"images\.json does not exist; run the stage"):
        open_store(work)

    def fresh() -> None:
        shutil.rmtree(work, ignore_errors=True)
        extract(tiny_encoder(2), "cpu", Photos(folder=tmp_path / "photos", images=images, dataset="d"), work)

    for name in ("pooled.npy", "grid.npy"):
        fresh()
        whole = (work / name).read_bytes()
        for content in (b"", whole[:-1], whole[:50], b"x" * 200):
            (work / name).write_bytes(content)
            with pytest.raises(CaptionlabError, match=r"work are damaged .*; extract them again"):
                open_store(work)
        (work / name).unlink()
        with pytest.raises(CaptionlabError, match=r"work are damaged .*; extract them again"):
            open_store(work)
        fresh()
        np.save(work / name, np.load(work / name)[:4])
        with pytest.raises(CaptionlabError, match="work has 4 rows for 5 photos; extract again"):
            open_store(work)


@pytest.mark.slow
def test_a_full_disk_is_an_error_not_a_killed_process(tmp_path: Path, small_disk: Path) -> None:
    """Writing to a memory map of a sparse file would end the process with SIGBUS."""
    script = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r}); from pathlib import Path\n"
        "from captionlab.encoders.extraction import Photos, extract; from tiny_encoder import tiny_encoder\n"
        "images = sorted(path.name for path in Path('photos').iterdir())\n"
        "photos = Photos(folder=Path('photos'), images=images, dataset='d')\n"
        "extract(tiny_encoder(40), 'cpu', photos, Path('disk/features'))"
    )
    draw_photos(tmp_path / "photos", 5)
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1, done.returncode
    last = done.stderr.splitlines()[-1]
    assert last.endswith("CaptionlabError: cannot write disk/features/grid.npy: No space left on device; free space")


# The stage


def test_the_stage_writes_one_encoders_features(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    params = project(tmp_path, 5, efficientnet_lite0=0)
    monkeypatch.setattr("captionlab.stages.extract_features.load_encoder", lambda _, grid: tiny_encoder(grid))
    for _ in range(2):
        (line,) = extract_features(params, tmp_path, "efficientnet_lite0")
        assert line.startswith("efficientnet_lite0: 5 photos, pooled 6; ")
        assert line.endswith(" img/s on cpu")
        assert not any((tmp_path / ".resume").rglob("*.*"))
    store = open_store(tmp_path / "artifacts/features/efficientnet_lite0")
    assert list(store.images) == sorted(store.images)
    about = json.loads((tmp_path / "artifacts/features/efficientnet_lite0/images.json").read_text())
    assert sorted(about) == ["encoder", "grid", "images", "pixels", "preprocessing", "weights"]


def test_mirror_images_have_a_separate_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Finished parts of a killed run are not computed again."""
    params = project(tmp_path, 5, efficientnet_lite0=2)
    params.extract_features.encoders["efficientnet_lite0"] = EncoderParams(grid=2, mirrored=True)
    monkeypatch.setattr("captionlab.stages.extract_features.load_encoder", lambda _, grid: tiny_encoder(grid))
    encoded = []

    def encode(encoder: Encoder, device: str, paths: list[Path], *, mirrored: bool = False) -> Any:
        encoded.extend([mirrored] * len(paths))
        return encode_photos(encoder, device, paths, mirrored=mirrored)

    def killed(work: Path, folder: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(extraction, "encode_photos", encode)
    with monkeypatch.context() as patch:
        patch.setattr(extraction, "finish", killed)
        with pytest.raises(KeyboardInterrupt):
            extract_features(params, tmp_path, "efficientnet_lite0")
    (line,) = extract_features(params, tmp_path, "efficientnet_lite0")
    assert encoded == [False] * 5 + [True] * 5
    assert line.startswith("efficientnet_lite0: 5 photos and their mirror images, pooled 6, grid 4x6; ")
    store = open_store(tmp_path / "artifacts/features/efficientnet_lite0")
    assert store.mirrored is not None
    assert store.mirrored.grid is not None
    assert store.mirrored.images == store.images
    photos = [tmp_path / "artifacts/dataset/images" / image for image in store.images]
    turned = np.stack([read_photo(photo, 32)[:, ::-1] for photo in photos])
    pooled_ND, grid_NRC = TorchEngine(tiny_encoder(2), "cpu")(turned)
    np.testing.assert_allclose(store.mirrored.pooled, pooled_ND, atol=1e-5)
    np.testing.assert_allclose(store.mirrored.grid, grid_NRC, atol=1e-2)


def test_the_stage_refuses_an_encoder_not_in_params(tmp_path: Path) -> None:
    params = project(tmp_path, 1, efficientnet_lite0=0)
    with pytest.raises(CaptionlabError, match=r"'vgg16' is not in extract_features.encoders .*\(efficientnet_lite0\)"):
        extract_features(params, tmp_path, "vgg16")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("images.json", b"{}"),
        ("images.json", b"[]"),
        (
            "images.json",
            b'{"encoder": "e", "pixels": 8, "preprocessing": "p", "weights": "w", "grid": [], "images": []}',
        ),
        ("pooled.npy", b"\x93NUMPY\x01\x00v\x00{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3" + b" " * 60),
        ("pooled.npy", None),
    ],
)
def test_a_store_of_another_shape_is_refused(tmp_path: Path, name: str, content: bytes | None) -> None:
    images = draw_photos(tmp_path / "photos", 3)
    work = tmp_path / "work"
    extract(tiny_encoder(2), "cpu", Photos(folder=tmp_path / "photos", images=images, dataset="d"), work)
    if content is None:
        np.save(work / name, np.zeros(3, np.float32))
    else:
        (work / name).write_bytes(content)
    with pytest.raises(CaptionlabError, match=r"extract (them|the features) again"):
        open_store(work)
