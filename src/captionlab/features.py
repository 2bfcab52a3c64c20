"""The extraction engine and the feature store: photos in, memory-mapped arrays out.

Knows encoders and files; nothing of captions or systems. Shape letters: N photos, H and W pixels, D size of the
pooled vector, R regions, C channels of the grid.
"""

import io
import math
import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from tokenize import TokenError
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from captionlab import ranks
from captionlab.encoders import Encoder
from captionlab.errors import CaptionlabError
from captionlab.files import digest_of, read_json, write_json
from captionlab.photos import PREPROCESSING, Pixels, read_photo
from captionlab.strict import build

Floats = NDArray[np.float32]
BLOCK = 256  # photos between two records of progress
MIRRORED = "mirrored"  # the folder inside a store's that holds the store of the mirror images
CPU_BATCH = 4  # a few photos keep a core's cache warm; larger batches were slower


class Engine(Protocol):
    """Runs an encoder on (N, H, W, 3) bytes: pooled (N, D) and grid (N, R, C), float32."""

    batch: int  # photos a call: for the best speed, and no more where the engine was compiled for them

    def __call__(self, pixels_NHW3: Pixels) -> tuple[Floats, Floats]: ...


class OnnxEngine:
    """The compiled CPU engine. Safe to call from several threads: each call runs on its caller's core.

    Within a thousandth of the features' standard deviation of eager PyTorch.
    """

    def __init__(self, encoder: Encoder, batch: int = CPU_BATCH) -> None:
        import onnxruntime

        self.batch = batch
        example = torch.zeros(batch, encoder.pixels, encoder.pixels, 3, dtype=torch.uint8)
        graph = io.BytesIO()
        # The tracing exporter folds a fixed batch into constants in a second; the newer one takes ten for the
        # same speed. See docs/decisions/0003-cpu-engine.md.
        with _quiet_exporter():
            torch.onnx.export(
                encoder.network,
                (example,),
                graph,  # type: ignore[arg-type]  # its annotation leaves out files in memory
                dynamo=False,
                opset_version=17,
                input_names=["pixels"],
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels_NHW3: Pixels) -> tuple[Floats, Floats]:
        n = len(pixels_NHW3)
        if n < self.batch:
            pixels_NHW3 = np.concatenate([pixels_NHW3, np.zeros((self.batch - n, *pixels_NHW3.shape[1:]), np.uint8)])
        pooled_ND, grid_NRC = self._session.run(None, {"pixels": pixels_NHW3})
        return pooled_ND[:n], grid_NRC[:n]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracer warnings: the graph is used at the traced size only
        yield


class TorchEngine:
    """Eager PyTorch, channels-last: fp16 inside the CNN on CUDA, float32 elsewhere (the reference on CPU)."""

    def __init__(self, encoder: Encoder, device: str) -> None:
        self.batch = CPU_BATCH
        self._device = device
        self._network = encoder.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, pixels_NHW3: Pixels) -> tuple[Floats, Floats]:
        pixels = torch.from_numpy(pixels_NHW3)
        if self._device == "cuda":
            pixels = pixels.pin_memory()
        with torch.inference_mode():
            pooled_ND, grid_NRC = self._network(pixels.to(self._device, non_blocking=True))
        return pooled_ND.cpu().numpy(), grid_NRC.cpu().numpy()


def encode_photos(
    encoder: Encoder, device: str, paths: Sequence[Path], *, mirrored: bool = False
) -> Iterator[tuple[Floats, Floats]]:
    """Yield pooled (n, D) and grid (n, R, C) for each block of up to ``BLOCK`` photos, in order.

    On the CPU each core decodes and encodes its own few photos; elsewhere the cores decode the next block while the
    device encodes this one.
    """

    def read(path: Path) -> Pixels:
        pixels_HW3 = read_photo(path, encoder.pixels)
        return pixels_HW3[:, ::-1] if mirrored else pixels_HW3

    blocks = [paths[i : i + BLOCK] for i in range(0, len(paths), BLOCK)]
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // ranks.neighbours())) as pool:
        if device == "cpu":
            engine: Engine = OnnxEngine(encoder)

            def encode(chunk: Sequence[Path]) -> tuple[Floats, Floats]:
                return engine(np.stack([read(path) for path in chunk]))

            for block in blocks:
                parts = list(pool.map(encode, [block[i : i + CPU_BATCH] for i in range(0, len(block), CPU_BATCH)]))
                yield np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])
        else:
            engine = TorchEngine(encoder, device)
            ahead = [pool.submit(read, path) for path in blocks[0]] if blocks else []
            for following in [*blocks[1:], ()]:
                now, ahead = ahead, [pool.submit(read, path) for path in following]
                if now:
                    yield engine(np.stack([future.result() for future in now]))


def extract(
    encoder: Encoder, grid: int, device: str, photos: Path, images: Sequence[str], work: Path, *, dataset: str,
    mirrored: bool = False,
) -> None:  # fmt: skip
    """Write pooled.npy, grid.npy (if ``grid``) and images.json into the folder ``work``, block by block.

    ``mirrored`` has the encoder look at their mirror images. A folder left by a killed run of the same extraction is
    continued, one of another is begun anew; ``dataset`` is the digest that tells photos of equal names apart. Under
    torchrun each rank writes a part of its own in there, and the first one joins them to the same bytes: it has to see
    the others' files. ``finish`` puts the folder in its place.
    """
    about = {
        "encoder": encoder.name,
        "pixels": encoder.pixels,
        "preprocessing": PREPROCESSING,
        "weights": encoder.weights_digest,
        "grid": grid,
    }
    # Where a part ends, so does a batch in any case: a photo's last bits may depend on those it is encoded with.
    own = images[ranks.part(len(images), CPU_BATCH if device == "cpu" else BLOCK)]
    key = digest_of({**about, "images": list(own), "dataset": dataset, "device": device, "mirrored": mirrored})
    if ranks.count() == 1:
        _extract(encoder, grid, device, photos, own, work, key, mirrored)
    else:
        parts = [work / f"part{number}of{ranks.count()}" for number in range(1, ranks.count() + 1)]
        _extract(encoder, grid, device, photos, own, parts[ranks.rank()], key, mirrored)
        ranks.wait()
        if not ranks.first():
            return
        _join(parts, work, len(images))
    write_json(work / "images.json", {**about, "images": list(images)})
    for leftover in work.glob("part*of*"):
        shutil.rmtree(leftover)


def finish(work: Path, folder: Path) -> None:
    """Make a store of a whole ``work``. Until then it knows that it is whole, and a killed run need not repeat it."""
    (work / "progress.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(work, folder)


def _extract(
    encoder: Encoder, grid: int, device: str, photos: Path, images: Sequence[str], work: Path, key: str, mirrored: bool
) -> None:
    progress = work / "progress.json"
    done = 0
    if progress.exists():
        state = read_json(progress)
        done = state["done"] if state["key"] == key else 0
    if not done:
        shutil.rmtree(work, ignore_errors=True)
    pooled = grids = None
    quiet = None if ranks.first() else True
    bar = tqdm(total=len(images), initial=done, unit="img", desc=encoder.name, disable=quiet)
    paths = [photos / image for image in images[done:]]
    for pooled_ND, grid_NRC in encode_photos(encoder, device, paths, mirrored=mirrored):
        if pooled is None:
            mode: Any = "r+" if done else "w+"
            pooled = _array(work / "pooled.npy", mode, np.float32, (len(images), pooled_ND.shape[1]))
            if grid:
                grids = _array(work / "grid.npy", mode, np.float16, (len(images), *grid_NRC.shape[1:]))
        pooled[done : done + len(pooled_ND)] = pooled_ND
        pooled.flush()
        if grids is not None:
            grids[done : done + len(pooled_ND)] = grid_NRC
            grids.flush()
        done += len(pooled_ND)
        write_json(progress, {"key": key, "done": done})
        bar.update(len(pooled_ND))
    bar.close()


def _join(parts: Sequence[Path], work: Path, count: int) -> None:
    """Write the parts' arrays one after another into ``work``; ``count`` photos they have to be."""
    for name in ("pooled.npy", "grid.npy"):
        arrays = [np.load(part / name, mmap_mode="r") for part in parts if (part / name).exists()]
        rows = [*accumulate(map(len, arrays), initial=0)]
        if rows[-1] != count and (arrays or name == "pooled.npy"):
            raise CaptionlabError(
                f"{work} holds the features of {rows[-1]} photos of {count}; the machines have to share this folder"
            )
        if arrays:
            whole = _array(work / name, "w+", arrays[0].dtype, (count, *arrays[0].shape[1:]))
            for row, array in zip(rows, arrays, strict=False):
                whole[row : row + len(array)] = array
            whole.flush()


def _array(path: Path, mode: Any, dtype: Any, shape: tuple[int, ...]) -> np.memmap[Any, Any]:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        array = np.lib.format.open_memmap(path, mode=mode, dtype=dtype, shape=shape)
        if mode == "w+" and hasattr(os, "posix_fallocate"):
            # Without its blocks reserved, a full disk would kill the process at some later write, without a word.
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array
    except OSError as error:
        raise CaptionlabError(f"cannot write {path}: {error.strerror or error}; free space") from error


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """The features of a dataset under one encoder; rows in the order of ``images``. Nothing is read until used."""

    encoder: str
    preprocessing: str
    weights: str
    images: tuple[str, ...]
    pooled: NDArray[np.float32]
    grid: NDArray[np.float16] | None
    mirrored: "FeatureStore | None" = None  # the same photos' mirror images

    @property
    def side(self) -> int:
        """Regions a side of the grid; 0 without one."""
        return 0 if self.grid is None else math.isqrt(self.grid.shape[1])

    def rows(self, images: Sequence[str]) -> NDArray[np.int64]:
        """Row numbers of ``images``; one that is not in the store is a CaptionlabError."""
        index = {image: row for row, image in enumerate(self.images)}
        try:
            return np.array([index[image] for image in images], dtype=np.int64)
        except KeyError as error:
            raise CaptionlabError(f"no features of {error.args[0]}; run extract_features again") from None


@dataclass(frozen=True, kw_only=True)
class _About:
    """What images.json says: how the arrays came about, and whose their rows are."""

    encoder: str
    pixels: int
    preprocessing: str
    weights: str
    grid: int
    images: tuple[str, ...]


def open_store(folder: Path) -> FeatureStore:
    """Open a finished store, memory-mapped."""
    try:
        about: _About = build(_About, read_json(folder / "images.json"), "")
    except CaptionlabError as error:
        raise CaptionlabError(f"{folder / 'images.json'}: {error}; extract the features again") from None
    pooled = _mapped(folder / "pooled.npy", 2)
    grid = _mapped(folder / "grid.npy", 3) if about.grid else None
    for rows in (pooled, pooled if grid is None else grid):
        if len(rows) != len(about.images):
            raise CaptionlabError(f"{folder} has {len(rows)} rows for {len(about.images)} photos; extract again")
    return FeatureStore(
        encoder=about.encoder,
        preprocessing=about.preprocessing,
        weights=about.weights,
        images=about.images,
        pooled=pooled,
        grid=grid,
        mirrored=open_store(folder / MIRRORED) if (folder / MIRRORED).exists() else None,
    )


def _mapped(path: Path, dimensions: int) -> Any:
    """An array of floats on disk. Arrays of Python objects, which would be unpickled, are refused."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        if array.ndim != dimensions or array.dtype.kind != "f" or not array.size:
            raise ValueError(f"{path.name} holds {array.dtype} of shape {array.shape}")
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TokenError, MemoryError) as error:
        raise CaptionlabError(f"the features in {path.parent} are not whole ({error}); extract them again") from error
    return array


def describe(folder: Path) -> str:
    """The store's sizes in words, for a closing line."""
    store = open_store(folder)
    text = f"{len(store.images):,} photos{' and their mirror images' if store.mirrored else ''}"
    text = f"{text}, pooled {store.pooled.shape[1]}"
    return text if store.grid is None else f"{text}, grid {store.grid.shape[1]}x{store.grid.shape[2]}"
