"""What evaluation leaves for single test photos: captions, attention maps and the gallery's selection.

Typed records with one reader and one writer for each file.
"""

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from captionlab.core.files import read_jsonl, write_json, write_jsonl
from captionlab.core.records import EVALUATION
from captionlab.core.typed import read_record, typed


@dataclass(frozen=True, kw_only=True)
class SaidCaption:
    """A caption and its natural log probability; None where the caption was retrieved."""

    caption: str
    log_prob: float | None


@dataclass(frozen=True, kw_only=True)
class PhotoCaptions:
    """One configuration's captions of a test photo, by the label of their decoding."""

    image: str
    references: tuple[str, ...]
    captions: dict[str, SaidCaption]


def write_photo_captions(folder: Path, key: str, rows: Iterable[PhotoCaptions]) -> None:
    """Write captions/<key>.jsonl."""
    write_jsonl(folder / "captions" / f"{key}.jsonl", map(dataclasses.asdict, rows))


def read_photo_captions(root: Path, key: str) -> list[PhotoCaptions]:
    """One configuration's captions of every test photo."""
    path = root / EVALUATION / "captions" / f"{key}.jsonl"
    return typed(read_jsonl(path), list[PhotoCaptions], str(path))


@dataclass(frozen=True, kw_only=True)
class AttentionMap:
    """Where one system looked in a photo: a row of grid * grid shares for each word of its caption."""

    image: str
    words: tuple[str, ...]
    grid: int  # regions per side
    maps: tuple[tuple[float, ...], ...]


def write_attention(folder: Path, key: str, maps: Sequence[AttentionMap]) -> None:
    """Write attention/<key>.json."""
    write_json(folder / "attention" / f"{key}.json", list(map(dataclasses.asdict, maps)))


def read_attention(root: Path, key: str) -> list[AttentionMap]:
    """One system's attention maps; empty for a system without."""
    path = root / EVALUATION / "attention" / f"{key}.json"
    return read_record(path, list[AttentionMap]) if path.exists() else []


@dataclass(frozen=True, kw_only=True)
class GalleryPhoto:
    """A photo of the gallery, with the CIDEr-D of the caption by which it was selected and its rank by it."""

    image: str
    tercile: str  # best, middle or worst third of the test photos
    rank: int
    cider: float


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Which test photos the gallery shows."""

    selected_by: str  # the configuration with the highest CIDEr-D on validation, whose scores rank the photos
    decoding: str
    ranked: int
    photos: tuple[GalleryPhoto, ...]


def write_gallery(folder: Path, gallery: Gallery) -> None:
    """Write gallery.json."""
    write_json(folder / "gallery.json", dataclasses.asdict(gallery))


def read_gallery(root: Path) -> Gallery:
    """The selection of artifacts/evaluation."""
    return read_record(root / EVALUATION / "gallery.json", Gallery)
