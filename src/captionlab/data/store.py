"""The feature store: what an encoder saw of a dataset's photos, as memory-mapped arrays.

Knows files and arrays; nothing of encoders, captions or systems, and no torch. Shape letters: N photos, D size of the
pooled vector, R regions, C channels of the grid.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tokenize import TokenError
from typing import Annotated, Any

import numpy as np
import pydantic.dataclasses
from numpy.typing import NDArray
from pydantic import Field, StrictBool, StrictInt, StrictStr

from captionlab.core.files import read_json
from captionlab.core.validation import Checked, Size, validate
from captionlab.errors import CaptionlabError

MIRRORED = "mirrored"  # the folder inside a store's that holds the store of the mirror images


@dataclass(frozen=True, kw_only=True)
class FeatureStore:
    """The features of a dataset under one encoder; rows in the order of ``images``. Nothing is read until used."""

    encoder: str
    preprocessing: str
    weights: str
    images: tuple[str, ...]
    side: int  # regions per side that attention sees; 0 for none
    pooled: NDArray[np.float32]
    grid: NDArray[np.float16] | None
    is_cut: bool = False  # the grid is a map inside the encoder, whose last blocks belong to the systems
    flipped: bool = False  # training flips half of the grids, in place of mirror images
    mirrored: "FeatureStore | None" = None  # the same photos' mirror images

    def rows(self, images: Sequence[str]) -> NDArray[np.int64]:
        """Row numbers of ``images``; one that is not in the store is a CaptionlabError."""
        index = {image: row for row, image in enumerate(self.images)}
        try:
            return np.array([index[image] for image in images], dtype=np.int64)
        except KeyError as error:
            raise CaptionlabError(f"no features of {error.args[0]}; run extract_features again") from None


@pydantic.dataclasses.dataclass(frozen=True, kw_only=True)
class _About(Checked):
    """images.json: how the arrays were computed, and the image of each row."""

    encoder: StrictStr
    pixels: Size
    preprocessing: StrictStr
    weights: StrictStr
    grid: Annotated[StrictInt, Field(ge=0)]
    images: tuple[StrictStr, ...]
    is_cut: StrictBool = False
    flipped: StrictBool = False


def open_store(folder: Path) -> FeatureStore:
    """Open a finished store, memory-mapped."""
    try:
        about = validate(_About, read_json(folder / "images.json"))
    except CaptionlabError as error:
        raise CaptionlabError(f"{folder / 'images.json'}: {error}; extract the features again") from None
    pooled = _mapped(folder / "pooled.npy", 2)
    grid = _mapped(folder / "grid.npy", 3) if about.grid or about.is_cut else None
    for rows in (pooled, pooled if grid is None else grid):
        if len(rows) != len(about.images):
            raise CaptionlabError(f"{folder} has {len(rows)} rows for {len(about.images)} photos; extract again")
    regions = grid.shape[1] if grid is not None else 0
    if regions != (math.isqrt(regions) ** 2 if about.flipped else regions if about.is_cut else about.grid**2):
        raise CaptionlabError(f"{folder} has {regions} regions a photo, which do not fit images.json; extract again")
    return FeatureStore(
        encoder=about.encoder,
        preprocessing=about.preprocessing,
        weights=about.weights,
        images=about.images,
        side=about.grid,
        pooled=pooled,
        grid=grid,
        is_cut=about.is_cut,
        flipped=about.flipped,
        mirrored=open_store(folder / MIRRORED) if (folder / MIRRORED).exists() else None,
    )


def _mapped(path: Path, dimensions: int) -> Any:
    """An array of floats on disk. Arrays of Python objects, which would be unpickled, are refused."""
    try:
        array = np.lib.format.open_memmap(path, mode="r")
        if array.ndim != dimensions or array.dtype.kind != "f" or not array.size:
            raise ValueError(f"{path.name} is {array.dtype} of shape {array.shape}")
    except (OSError, ValueError, EOFError, OverflowError, SyntaxError, TokenError, MemoryError) as error:
        raise CaptionlabError(f"the features in {path.parent} are damaged ({error}); extract them again") from error
    return array


def describe(folder: Path) -> str:
    """The store's sizes in words, for a closing line."""
    store = open_store(folder)
    mirrored = " and their mirror images" if store.mirrored or store.flipped else ""
    text = f"{len(store.images):,} photos{mirrored}"
    text = f"{text}, pooled {store.pooled.shape[1]}"
    return text if store.grid is None else f"{text}, grid {store.grid.shape[1]}x{store.grid.shape[2]}"
