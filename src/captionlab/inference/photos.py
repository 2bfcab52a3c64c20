"""Photos in, features out: reading photos and running an encoder on them, for one captioner or for several.

Knows encoders; nothing of captions. Shape letters as in ``models.base``; N photos, H and W pixels.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import Any, Generic, TypeVar, cast, overload

import numpy as np
import torch

from captionlab.core.cores import threads
from captionlab.data.photos import Photo, Pixels, read_photo
from captionlab.encoders.engines import Engine, OnnxEngine, TorchEngine
from captionlab.encoders.load import Encoder, load_encoder
from captionlab.errors import CaptionlabError
from captionlab.models.base import Features

CPU_BLOCK, GPU_BLOCK = 32, 256  # photos that are captioned together
COMPILE_FROM = 100  # photos from which compiling the encoder saves more time than it takes

Captions = TypeVar("Captions")


class CaptionsPhotos(ABC, Generic[Captions]):
    """What every captioner does with photos; ``Captions`` are those of one photo, best first."""

    @abstractmethod
    def stream(self, photos: Sequence[Photo], **changes: Any) -> Iterator[Captions | CaptionlabError]:
        """The captions of each photo in order, as they are made; for one that cannot be read, the error instead.

        ``changes`` are fields of ``Decoding``, such as ``beam=3``; the others are those that validation selected.
        """

    @overload
    def caption(self, photos: Photo, **changes: Any) -> Captions: ...
    @overload
    def caption(self, photos: Sequence[Photo], **changes: Any) -> list[Captions]: ...
    def caption(self, photos: Photo | Sequence[Photo], **changes: Any) -> Captions | list[Captions]:
        """The captions of a photo, best first, or of each photo of a list or tuple.

        A photo is a path, a file's bytes, a Pillow image or an array (H, W), (H, W, 3) or (H, W, 4) of uint8.
        ``changes`` are those of ``stream``. The first photo that cannot be read is a CaptionlabError.
        """
        many = isinstance(photos, list | tuple)
        captions = []
        for said in self.stream(cast(Sequence[Photo], photos) if many else [cast(Photo, photos)], **changes):
            if isinstance(said, CaptionlabError):
                raise said
            captions.append(said)
        return captions if many else captions[0]


class PhotoReader:
    """Computes an encoder's features of photos, as the feature store has them. The encoder is loaded when needed."""

    def __init__(self, name: str, grid: int, device: str, weights: str) -> None:
        """``grid`` is that of the encoder, ``weights`` the digest of the weights that are wanted."""
        self.name, self.grid, self.device, self.weights = name, grid, device, weights

    @cached_property
    def encoder(self) -> Encoder:
        """Raises CaptionlabError when its weights are not available, or not those that are wanted."""
        encoder = load_encoder(self.name, self.grid)
        if encoder.weights_digest != self.weights:
            raise CaptionlabError(
                f"the installed weights of {encoder.name} differ from those the system was trained with; train it again"
            )
        return encoder

    def warm_up(self) -> None:
        """Load and compile the encoder now, so that a server's first request does not wait for it."""
        if self.device == "cpu":
            _ = self._compiled
        black_1HW3 = np.zeros((1, self.encoder.pixels, self.encoder.pixels, 3), np.uint8)
        self.encode(self.engine(1), black_1HW3, map)  # a GPU loads its kernels when they are first used

    def features(self, photos: Sequence[Photo]) -> Features:
        """The features of some photos; CaptionlabError for the first that cannot be read."""
        pixels = np.stack([read_photo(photo, self.encoder.pixels, self.encoder.interpolation) for photo in photos])
        return self.encode(self.engine(len(photos)), pixels, map)

    def read(self, photo: Photo) -> Pixels | CaptionlabError:
        """A photo's pixels as the encoder wants them, or why it cannot be read."""
        try:
            return read_photo(photo, self.encoder.pixels, self.encoder.interpolation)
        except CaptionlabError as error:
            return error

    def encode(self, engine: Engine, pixels_NHW3: Pixels, run: Callable[..., Any]) -> Features:
        """Features of pixels, a batch of the engine at a time; ``run`` is ``map`` or a pool's."""
        chunks = [pixels_NHW3[i : i + engine.batch] for i in range(0, len(pixels_NHW3), engine.batch)]
        pooled, grids = zip(*run(engine, chunks), strict=True)
        grid = torch.from_numpy(np.concatenate(grids)).half()  # as the store keeps it
        return Features(torch.from_numpy(np.concatenate(pooled)), grid if grid.shape[1] else None)

    def engine(self, photos: int) -> Engine:
        """The engine for this number of photos: compiling takes as long as 100 photos without."""
        if self.device == "cpu" and (photos >= COMPILE_FROM or "_compiled" in self.__dict__):
            return self._compiled
        return TorchEngine(self.encoder, self.device)

    @cached_property
    def _compiled(self) -> OnnxEngine:
        return OnnxEngine(self.encoder, batch=1)  # a batch of 4 would make a single photo take four times as long


def stream_photos(
    readers: Sequence[PhotoReader], photos: Sequence[Photo], describe: Callable[[Features], Sequence[Captions]]
) -> Iterator[Captions | CaptionlabError]:
    """What ``describe`` says of each photo in order, as it is made; for one that cannot be read, the error instead.

    It gets the features of the first reader, with those of the further ones as ``others``.
    """
    engines = [reader.engine(len(photos)) for reader in readers]
    block = CPU_BLOCK if readers[0].device == "cpu" else GPU_BLOCK
    with ThreadPoolExecutor(min(8, threads())) as pool:
        for i in range(0, len(photos), block):
            read = [list(pool.map(reader.read, photos[i : i + block])) for reader in readers]
            features = []
            for reader, engine, own in zip(readers, engines, read, strict=True):
                whole = [pixels for pixels in own if not isinstance(pixels, CaptionlabError)]
                if whole:
                    # A GPU gets one batch at a time, in this thread: others would use the first GPU of several.
                    run = pool.map if reader.device == "cpu" else map
                    features.append(reader.encode(engine, np.stack(whole), run))
            said = iter(describe(features[0]._replace(others=tuple(features[1:]))) if features else ())
            yield from (pixels if isinstance(pixels, CaptionlabError) else next(said) for pixels in read[0])
