"""Parquet files with photos and captions, as in Hugging Face's datasets.

Knows the layout: photos as bytes in one column, captions in others, the split in the file's name or in a column.
"""

import re
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from captionlab.core.records import SPLITS, Split
from captionlab.data.text import nfc
from captionlab.datasets import Found
from captionlab.datasets.columns import PHOTO_BYTES, SPLIT, caption_columns, captions_in, column
from captionlab.datasets.layouts import but_has
from captionlab.datasets.reading import NAME_BYTES, check_readable, files_under
from captionlab.datasets.splits import SPLIT_NAMES, split_named
from captionlab.errors import CaptionlabError, one_line

_PREFIXES: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "dev"), "test": ("test",)}
_BATCH_ROWS = 32  # photos in memory at a time
_SUFFIXES = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp"}


class _Row(NamedTuple):
    """One photo: its bytes (empty if missing), its path as written, its captions and its split."""

    content: bytes
    path: str
    captions: list[str]
    split: str


def parquet(source: Path, images: Path) -> Found:
    """Write the photos' bytes unchanged into ``images`` and read captions and splits.

    A photo keeps the file name of its ``path`` if it is unique, or else is named by split and row. If the file names
    define no split, or only one, splits are drawn later. Raises CaptionlabError if there are no files, a file is
    damaged, a column is missing, or two splits have a photo of the same path and bytes.
    """
    captions: list[tuple[str, str]] = []
    splits: dict[Split, list[str]] = {}
    by_split, unread = _files(source)
    split_sources: set[str] = set()
    photo_of: dict[tuple[Split | None, bytes], str] = {}  # by content: a photo may have a row for each caption
    split_of: dict[tuple[str, bytes], Split] = {}  # by path and content
    for own, files in by_split.items():
        for number, row in enumerate(_rows(files)):
            shown = row.path or f"row {number}"
            split = split_named(row.split, shown) if row.split else own if len(by_split) > 1 else None
            if len(by_split) > 1 and split != own:
                raise CaptionlabError(
                    f"{source}: the column split of {shown} says {split}, its file's name {own}; correct one of them"
                )
            content = split, sha256(row.content).digest()
            # The same bytes under two paths are accepted, because published splits contain such photos.
            if split and row.path and row.content and split_of.setdefault((row.path, content[1]), split) != split:
                other = split_of[row.path, content[1]]
                raise CaptionlabError(
                    f"{source}: the splits {other} and {split} share the photo {shown[:200]}; remove it from one"
                    " of the two"
                )
            if row.content and content in photo_of:
                captions += [(photo_of[content], text) for text in row.captions]
                continue
            name = _safe_name(row.path)
            if name is None or (images / name).exists():
                name = f"{own or 'photo'}-{number:05d}{_SUFFIXES.get(row.content[:2], '.jpg')}"
                while (images / name).exists():  # another row's own name
                    name = f"_{name}"
            photo_of[content] = name
            if split:
                splits.setdefault(split, []).append(name)
                split_sources.add("the column split" if row.split else "the files' names")
            captions += [(name, text) for text in row.captions]
            if row.content:  # a photo without bytes is reported by the checks
                (images / name).write_bytes(row.content)
    if photo_of and not any(images.iterdir()):
        raise CaptionlabError(
            f"{source}: no photo's bytes are in the files, only paths; save the dataset with its photos in it"
        )
    notes = [f"not read, since no split is in the name: {', '.join(path.name for path in unread)}"] if unread else []
    return Found(captions=captions, splits=splits, split_source=" and ".join(sorted(split_sources)), notes=notes)


def _files(source: Path) -> tuple[dict[Split | None, list[Path]], list[Path]]:
    """The files by split, all under None if no file name has a split; and the files that are not read."""
    every = [path for path in files_under(source) if path.suffix.lower() == ".parquet"]
    near = [path for place in (source, source / "data") for path in every if path.parent == place]
    files = near or every  # Hugging Face converts datasets to a folder for each split
    if not files:
        advice = but_has(source, "put them there")
        raise CaptionlabError(f"{source} has no *.parquet files, neither there nor in its folder data{advice}")
    split_of = {path: _split_of(path.relative_to(source)) for path in files}
    by_split: dict[Split | None, list[Path]] = {
        split: own for split in SPLITS if (own := [path for path in files if split_of[path] == split])
    }
    if not by_split:
        return {None: files}, []
    return by_split, [path for path in files if not any(path in own for own in by_split.values())]


def _split_of(path: Path) -> Split | None:
    """The split that the words of the file's name or folders name, as in train-00000-of-00001 and flickr8k-train."""
    words = re.split(r"[^a-z]+", path.with_suffix("").as_posix().lower())
    whole = {SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES}
    begun = {split for split in SPLITS if any(word.startswith(_PREFIXES[split]) for word in words)}
    found = whole or begun
    return next(iter(found)) if len(found) == 1 else None


def _rows(files: list[Path]) -> Iterator[_Row]:
    for path in files:
        check_readable(path)
        try:
            with pq.ParquetFile(path) as opened:
                image, captions, split = _columns(path, opened.schema_arrow)
                for batch in opened.iter_batches(_BATCH_ROWS, columns=[image, *captions, *split]):
                    for row in batch.to_pylist():
                        photo = row[image] if isinstance(row[image], dict) else {"bytes": row[image]}
                        texts = [text for column in captions for text in _texts(row[column])]
                        texts = [text for text in texts if text] or texts[:1]  # of several columns some may be empty
                        own = next((row[column] or "" for column in split), "")
                        yield _Row(photo.get("bytes") or b"", photo.get("path") or "", texts, own)
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            raise CaptionlabError(f"{path} is truncated or damaged ({one_line(error)}); get the file again") from error


def _texts(value: Any) -> list[str]:
    """The captions of a column's value: a text, ``{"raw": text}`` as in Karpathy's files, or a list of such."""
    if isinstance(value, list):
        return [text for each in value for text in _texts(each)]
    return captions_in((value["raw"] if isinstance(value, dict) else value) or "")


def _columns(path: Path, schema: Any) -> tuple[str, list[str], list[str]]:
    """The names of the image column, of the caption columns in order, and of the split column, if any."""
    kinds: dict[str, Any] = {field.name: field.type for field in schema}
    photos = [name for name, kind in kinds.items() if _is_photo(kind)]
    image = column(photos, PHOTO_BYTES)
    if image is None:
        raise CaptionlabError(f"{path} has no column image of bytes, or of bytes and path; it has {', '.join(kinds)}")
    textual = [name for name, kind in kinds.items() if _is_caption(kind) or _is_list_of_captions(kind)]
    captions = [textual[index] for index in caption_columns(textual)]
    if not captions:
        raise CaptionlabError(
            f"{path} has no column of captions (caption_0, caption_1, ..., or caption or text, of text or lists of"
            f" text); it has {', '.join(kinds)}"
        )
    split = column([*kinds], SPLIT)
    if split is not None and not _is_text([*kinds.values()][split]):
        raise CaptionlabError(f"{path}: the column split is not text; use train, val and test")
    return photos[image], captions, [] if split is None else [[*kinds][split]]


def _is_photo(kind: Any) -> bool:
    if not pa.types.is_struct(kind):
        return _is_bytes(kind)
    parts = {part.name: part.type for part in kind.fields}
    return "bytes" in parts and _is_bytes(parts["bytes"]) and _is_text(parts.get("path", pa.null()))


def _is_bytes(kind: Any) -> bool:
    """Whether an Arrow type is null or any kind of binary, including dictionary-encoded ones."""
    types = pa.types
    stored = kind.value_type if types.is_dictionary(kind) else kind
    binary = (types.is_binary, types.is_large_binary, types.is_binary_view, types.is_fixed_size_binary)
    return any(is_kind(stored) for is_kind in (*binary, types.is_null))


def _is_text(kind: Any) -> bool:
    """Whether an Arrow type is null or any kind of string, including dictionary-encoded ones."""
    types = pa.types
    stored = kind.value_type if types.is_dictionary(kind) else kind
    return any(
        is_kind(stored) for is_kind in (types.is_string, types.is_large_string, types.is_string_view, types.is_null)
    )


def _is_caption(kind: Any) -> bool:
    """Whether an Arrow type is text, or a struct with the text ``raw``."""
    if pa.types.is_struct(kind):
        return any(part.name == "raw" and _is_text(part.type) for part in kind.fields)
    return _is_text(kind)


def _is_list_of_captions(kind: Any) -> bool:
    types = pa.types
    is_list = types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)
    return is_list and _is_caption(kind.value_type)


def _safe_name(path: str) -> str | None:
    """The file name of a POSIX or Windows path; None if it is not a valid file name."""
    name = nfc(PurePosixPath(path.replace("\\", "/")).name)
    return name if name.strip(".") and "\0" not in name and len(name.encode()) <= NAME_BYTES else None
