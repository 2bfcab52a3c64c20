"""Photos to a feature store on disk, block by block; a killed extraction resumes.

Knows encoders and files; nothing of captions or systems. Shape letters: N photos, D size of the pooled vector,
R regions, C channels of the grid.
"""

import os
import shutil
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from captionlab.core import distributed
from captionlab.core.files import digest_of, read_json, write_json
from captionlab.data.photos import PREPROCESSING, Pixels, read_photo
from captionlab.encoders.engines import CPU_BATCH, Engine, Floats, OnnxEngine, TorchEngine
from captionlab.encoders.load import Encoder
from captionlab.errors import CaptionlabError

BLOCK = 256  # photos between two records of progress


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
    with ThreadPoolExecutor(max(1, (os.cpu_count() or 1) // distributed.local_world_size())) as pool:
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
    own = images[distributed.shard(len(images), CPU_BATCH if device == "cpu" else BLOCK)]
    key = digest_of({**about, "images": list(own), "dataset": dataset, "device": device, "mirrored": mirrored})
    if distributed.world_size() == 1:
        _extract(encoder, grid, device, photos, own, work, key, mirrored)
    else:
        ranks = distributed.world_size()
        parts = [work / f"part{number}of{ranks}" for number in range(1, ranks + 1)]
        _extract(encoder, grid, device, photos, own, parts[distributed.rank()], key, mirrored)
        distributed.barrier()
        if not distributed.is_main():
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
    quiet = None if distributed.is_main() else True
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
