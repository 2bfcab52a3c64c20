"""Parquet files as in the copy of Flickr8k that report B loads: an image column and ``caption_0``, ``caption_1``, ...

Knows that layout: one file or more a split, the split in the file's name, photos as bytes.
"""

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from captionlab.core.records import SPLITS, Split
from captionlab.datasets import Found
from captionlab.errors import CaptionlabError

_PREFIXES: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "dev"), "test": ("test",)}
_NAME_BYTES = 255  # what file systems take
_ROWS_A_BATCH = 32  # photos in memory at a time
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp"}


def parquet(source: Path, images: Path) -> Found:
    """Write the photos' bytes as they are into ``images`` and read captions and splits.

    A photo keeps the name in its ``path`` where that is its own, else it is named by split and row. Raises
    CaptionlabError when a split has no file, a file is damaged or a column is missing.
    """
    captions: list[tuple[str, str]] = []
    splits: dict[Split, list[str]] = {}
    for split in SPLITS:
        splits[split] = []
        for row, (photo, texts) in enumerate(_rows(_files(source, split))):
            content = photo["bytes"] if photo and photo["bytes"] else b""
            name = _safe_name(photo["path"] if photo else None)
            if name is None or (images / name).exists():
                name = f"{split}-{row:05d}{_SUFFIXES.get(content[:2], '.jpg')}"
            splits[split].append(name)
            captions += [(name, text or "") for text in texts]
            if content:  # without it, the name is left in the split and the captions, where the checks find it
                (images / name).write_bytes(content)
    return Found(captions=captions, splits=splits)


def _files(source: Path, split: Split) -> list[Path]:
    prefixes = _PREFIXES[split]
    found = [
        path
        for folder in (source, source / "data")
        for path in sorted(folder.glob("*.parquet"))
        if path.name.lower().startswith(prefixes)
    ]
    if not found:
        raise CaptionlabError(f"{source} has no {prefixes[0]}*.parquet for the {split} split; put it there")
    return found


def _rows(files: list[Path]) -> Iterator[tuple[dict[str, Any] | None, list[str | None]]]:
    """Photo ({"bytes", "path"}) and captions of each row."""
    for path in files:
        try:
            with pq.ParquetFile(path) as opened:
                columns = _caption_columns(path, opened.schema_arrow)
                for batch in opened.iter_batches(_ROWS_A_BATCH, columns=["image", *columns]):
                    for row in batch.to_pylist():
                        yield row["image"], [row[column] for column in columns]
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise CaptionlabError(f"{path} is truncated or damaged ({reason}); get the file again") from error


def _caption_columns(path: Path, schema: Any) -> list[str]:
    """The caption columns by number; the image column must be a struct of bytes and path."""
    kinds: dict[str, Any] = {field.name: field.type for field in schema}
    image = kinds.get("image", pa.null())
    parts = {part.name: part.type for part in image.fields} if pa.types.is_struct(image) else {}
    if not (_is(parts.get("bytes"), "binary") and _is(parts.get("path"), "string")):
        raise CaptionlabError(f"{path} has no column image with bytes and path; it has {', '.join(schema.names)}")
    columns = [
        name for name, kind in kinds.items() if re.fullmatch(r"caption_[0-9]{1,6}", name) and _is(kind, "string")
    ]
    if not columns:
        raise CaptionlabError(f"{path} has no columns caption_0, caption_1, ...; it has {', '.join(schema.names)}")
    return sorted(columns, key=lambda name: int(name.removeprefix("caption_")))


def _is(kind: Any, wanted: str) -> bool:
    """Whether an Arrow type is ``binary`` or ``string``, in its plain or its large form, or has no value at all."""
    return str(kind).removeprefix("large_") in (wanted, "null")


def _safe_name(path: str | None) -> str | None:
    """The file name alone, whichever system wrote the path; None where it is no name that a file could have."""
    name = PurePosixPath((path or "").replace("\\", "/")).name
    return name if name.strip(".") and "\0" not in name and len(name.encode()) <= _NAME_BYTES else None
