"""Photos to a feature store on disk, block by block; a killed extraction resumes.

Knows encoders and files; nothing of captions or systems. Shape letters: N photos, D size of the pooled vector,
R regions, C channels of the grid.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from captionlab.core import distributed
from captionlab.core.cores import local_processes, threads
from captionlab.core.files import digest_of, read_json, write_json
from captionlab.data.photos import PREPROCESSINGS, Pixels, read_photo
from captionlab.encoders.engines import CPU_BATCH, Floats, OnnxEngine, TorchEngine, copied_to_host
from captionlab.encoders.load import Encoder
from captionlab.errors import CaptionlabError, first_line

BLOCK = 256  # photos between two records of progress
CHUNK = 8  # photos that a worker process decodes before it takes others; a divisor of BLOCK
_CHUNK_BYTES = CHUNK * 3 * 384**2  # of the largest of the usual sizes
_AHEAD = 4  # chunks that each process decodes ahead
_SHARED_MEMORY = Path("/dev/shm")
_MORE_MEMORY = "in a container, start it with more shared memory: docker run --shm-size=1g"


@dataclass(frozen=True, kw_only=True)
class Photos:
    """The photos to encode: files of a folder, or their mirror images."""

    folder: Path
    images: Sequence[str]  # their names in the folder
    dataset: str  # a digest of their content
    mirrored: bool = False
    flipped: bool = False  # training flips half of the maps: noted in the store


def encode_photos(
    encoder: Encoder, device: str, paths: Sequence[Path], *, mirrored: bool = False
) -> Iterator[tuple[Floats, NDArray[Any]]]:
    """Yield pooled (n, D) and grid (n, R, C) for each block of up to ``BLOCK`` photos, in order.

    On the CPU each core decodes and encodes a few photos at a time. For a GPU worker processes decode while it
    encodes; its grids are rounded to float16, as they are stored. Raises CaptionlabError for an unreadable photo.
    """
    if device == "cpu":
        return _encode_on_cpu(encoder, paths, mirrored)
    return _encode_on_gpu(encoder, device, paths, mirrored)


def _encode_on_cpu(encoder: Encoder, paths: Sequence[Path], mirrored: bool) -> Iterator[tuple[Floats, NDArray[Any]]]:
    engine = OnnxEngine(encoder)

    def encode(chunk: Sequence[Path]) -> tuple[Floats, Floats]:
        return engine(np.stack([_turned(reader(encoder)(path), mirrored) for path in chunk]))

    with ThreadPoolExecutor(threads()) as pool:
        for i in range(0, len(paths), BLOCK):
            block = paths[i : i + BLOCK]
            parts = list(pool.map(encode, [block[k : k + CPU_BATCH] for k in range(0, len(block), CPU_BATCH)]))
            yield np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def _encode_on_gpu(
    encoder: Encoder, device: str, paths: Sequence[Path], mirrored: bool
) -> Iterator[tuple[Floats, NDArray[Any]]]:
    chunks = decode_in_processes(paths, reader(encoder), mirrored=mirrored, pinned=device == "cuda")
    engine = TorchEngine(encoder, device)
    encoded = None
    while block := list(islice(chunks, BLOCK // CHUNK)):
        pooled_ND, grid_NRC = engine.encode(block)
        before, encoded = encoded, copied_to_host(pooled_ND, grid_NRC.half())
        if before:  # stored while the device is at work on the next block
            pooled, grid = before()
            yield pooled, grid
    if encoded:
        pooled, grid = encoded()
        yield pooled, grid


class _Pixels(Dataset[Pixels | CaptionlabError]):
    """Decoded photos. An error is returned, for DataLoader would wrap a raised one in a traceback."""

    def __init__(self, paths: Sequence[Path], read: Callable[[Path], Pixels], mirrored: bool) -> None:
        self._paths, self._read, self._mirrored = paths, read, mirrored

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Pixels | CaptionlabError:
        try:
            return _turned(self._read(self._paths[index]), self._mirrored)
        except CaptionlabError as error:
            return error


def decode_in_processes(
    paths: Sequence[Path], read: Callable[[Path], Pixels], *, mirrored: bool = False, pinned: bool = False
) -> Iterator[Tensor]:
    """Chunks (n, H, W, 3) of up to ``CHUNK`` photos, in order, decoded by one process for each core.

    The processes start at once. ``pinned`` chunks are in memory that can be copied to CUDA without waiting.
    """
    if not paths:
        return iter(())
    room = _room()
    workers = min(threads(), -(-len(paths) // CHUNK), room)
    loader = DataLoader(
        _Pixels(paths, read, mirrored), CHUNK, num_workers=workers, prefetch_factor=min(_AHEAD, room // workers),
        pin_memory=pinned, collate_fn=_chunk_of,
    )  # fmt: skip
    return _raising(iter(loader))


def _room() -> int:
    """Chunks that fit into this process's share of half the free shared memory, through which they are passed."""
    try:
        free = shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:  # another system
        return _AHEAD * threads()
    return max(1, free // 2 // local_processes() // _CHUNK_BYTES)


def _chunk_of(photos: Sequence[Pixels | CaptionlabError]) -> Tensor | CaptionlabError:
    errors = (photo for photo in photos if isinstance(photo, CaptionlabError))
    if fault := next(errors, None):
        return fault
    try:  # Without this, PyTorch shares it in a thread whose errors nobody sees, and the main process waits for ever.
        return torch.from_numpy(np.stack(photos)).share_memory_()  # type: ignore[arg-type]
    except RuntimeError as error:
        return CaptionlabError(f"too little shared memory ({first_line(error)}); {_MORE_MEMORY}")


def _raising(chunks: Iterator[Tensor | CaptionlabError]) -> Iterator[Tensor]:
    try:
        for chunk in chunks:
            if isinstance(chunk, CaptionlabError):
                raise chunk
            yield chunk
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        # Killed, often because memory is full.
        raise CaptionlabError(f"a process that decodes photos ended ({first_line(error)}); {_MORE_MEMORY}") from error


def reader(encoder: Encoder) -> Callable[[Path], Pixels]:
    """Reads photos as an encoder wants them; other processes may call it."""
    return partial(read_photo, pixels=encoder.pixels, interpolation=encoder.interpolation)


def _turned(pixels_HW3: Pixels, mirrored: bool) -> Pixels:
    return pixels_HW3[:, ::-1] if mirrored else pixels_HW3


def extract(encoder: Encoder, device: str, photos: Photos, work: Path) -> None:
    """Write pooled.npy, grid.npy (if the encoder has a grid) and images.json into the folder ``work``.

    A folder that a killed run of the same extraction left is continued, that of another one is started again. Under
    torchrun each rank writes a part of its own there, and the first one joins them to the same bytes: it has to see
    the others' files. ``finish`` moves the folder to its place.
    """
    about = {
        "encoder": encoder.name,
        "pixels": encoder.pixels,
        "preprocessing": PREPROCESSINGS[encoder.interpolation],
        "weights": encoder.weights_digest,
        "grid": encoder.grid,
    }
    if encoder.network.keeps_map:
        about.update(is_cut=True, flipped=photos.flipped)
    images = list(photos.images)
    # Parts are multiples of a batch: a photo's last bits may depend on the others in its batch.
    own = images[distributed.shard(len(images), CPU_BATCH if device == "cpu" else BLOCK)]
    same = {"images": own, "dataset": photos.dataset, "device": device, "mirrored": photos.mirrored}
    paths, key = [photos.folder / image for image in own], digest_of({**about, **same})
    ranks = distributed.world_size()
    parts = [work / f"part{number}of{ranks}" for number in range(1, ranks + 1)] if ranks > 1 else [work]
    quiet = None if distributed.is_main() else True
    with (
        _Part(parts[distributed.rank()], key, len(own)) as part,
        tqdm(total=len(own), initial=part.done, unit="img", desc=encoder.name, disable=quiet) as bar,
    ):
        for pooled_ND, grid_NRC in encode_photos(encoder, device, paths[part.done :], mirrored=photos.mirrored):
            part.write(pooled_ND, grid_NRC)
            bar.update(len(pooled_ND))
    if ranks > 1:
        distributed.barrier()
        if not distributed.is_main():
            return
        _join(parts, work, len(images))
    write_json(work / "images.json", {**about, "images": images})
    for leftover in work.glob("part*of*"):
        shutil.rmtree(leftover)


def finish(work: Path, folder: Path) -> None:
    """Move a complete ``work`` to its place. Until then a killed run finds in it that all photos are done."""
    (work / "progress.json").unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    folder.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(work, folder)


class _Part:
    """A folder with the features of ``count`` photos, written block by block, and a record of how many are done."""

    def __init__(self, folder: Path, key: str, count: int) -> None:
        self._folder, self._key, self._count = folder, key, count
        self._arrays: dict[str, np.memmap[Any, Any]] = {}
        self.done = 0
        if (folder / "progress.json").exists():
            state = read_json(folder / "progress.json")
            self.done = state["done"] if state["key"] == key else 0
        if not self.done:
            shutil.rmtree(folder, ignore_errors=True)
        self._thread = ThreadPoolExecutor(1)  # it waits for the disk while the next block is encoded
        self._writing: Future[None] | None = None

    def __enter__(self) -> "_Part":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._thread.shutdown()
        if self._writing and kind is None:
            self._writing.result()

    def write(self, pooled_ND: Floats, grid_NRC: NDArray[Any]) -> None:
        """Start writing the next block, once the one before is written."""
        if self._writing:
            self._writing.result()
        self._writing = self._thread.submit(self._write, self.done, pooled_ND, grid_NRC)
        self.done += len(pooled_ND)

    def _write(self, row: int, pooled_ND: Floats, grid_NRC: NDArray[Any]) -> None:
        for name, values, dtype in (("pooled.npy", pooled_ND, np.float32), ("grid.npy", grid_NRC, np.float16)):
            if not values.size:  # an encoder without a grid
                continue
            path = self._folder / name
            if name not in self._arrays:
                self._arrays[name] = _array(path, "r+" if row else "w+", dtype, (self._count, *values.shape[1:]))
            self._arrays[name][row : row + len(values)] = values
            with path.open("r+b") as file:
                os.fsync(file.fileno())  # NumPy's flush would stop all threads
        write_json(self._folder / "progress.json", {"key": self._key, "done": row + len(pooled_ND)})


def _join(parts: Sequence[Path], work: Path, count: int) -> None:
    """Write the parts' arrays one after another into ``work``; they have to be of ``count`` photos."""
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
            # Reserve the blocks: otherwise a full disk kills the process at a later write, without a message.
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        return array
    except OSError as error:
        raise CaptionlabError(f"cannot write {path}: {error.strerror or error}; free space") from error
