"""Photos and captions listed in a JSON file, for ``karpathy`` and ``coco``: checked, counted and copied.

Knows names, splits and published counts; nothing of the layout of the JSON.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from captionlab.core.records import Split
from captionlab.data.caption_json import is_text, shown
from captionlab.datasets import Found
from captionlab.datasets.photo_names import find_photos
from captionlab.datasets.reading import read_bytes
from captionlab.errors import CaptionlabError, some_of

RENAME = "rename the file if it is a selection of your own"
_LONGEST_NAME = 500  # characters, folders included


class Listed(NamedTuple):
    """One photo of a JSON file."""

    photo: str  # its file name, with the folder if the JSON has one
    split: Split
    captions: Sequence[str]


def listed(path: Path, photo: str, split: Split, captions: Sequence[Any]) -> Listed:
    """An entry of the file ``path``; raises CaptionlabError if the name or a caption is not valid text."""
    if len(photo) > _LONGEST_NAME or not is_text(photo):
        raise CaptionlabError(f"{path}: no photo can have the name {shown(photo)}; correct the file")
    if not all(map(is_text, captions)):
        raise CaptionlabError(f"{path}: image {shown(photo)} has a caption that is not text; correct the file")
    return Listed(photo, split, captions)


def check_counts(path: Path, found: Mapping[str, int], published: Mapping[str, int] | None, advice: str) -> None:
    """Raise CaptionlabError, ending with ``advice``, if there are published counts and ``found`` differs from them."""
    if published and found != published:
        raise CaptionlabError(
            f"{path} is not what was published: {_described(found)} instead of {_described(published)};"
            f" get it again, or {advice}"
        )


def collect(source: Path, images: Path, entries: Sequence[Listed], files: str, split_source: str) -> Found:
    """Copy the listed photos into ``images``; other photos of the folder are left out.

    ``files`` is the name of the JSON files for messages. Raises CaptionlabError if a split lists a photo twice, or none
    of the listed photos is found.
    """
    repeated = [
        photo for (photo, _), count in Counter((each.photo, each.split) for each in entries).items() if count > 1
    ]
    if repeated:
        raise CaptionlabError(
            f"{files}: {len(repeated):,} photos are listed more than once ({some_of(repeated)}); keep one entry of each"
        )
    names, notes = find_photos(source)
    captions: list[tuple[str, str]] = []
    splits: dict[Split, list[str]] = {}
    missing = []
    photo_of = names.find_each(entry.photo for entry in entries)
    for entry in entries:
        name = photo_of[entry.photo]
        if name not in names.files:
            missing.append(entry.photo)
        splits.setdefault(entry.split, []).append(name)
        captions += [(name, caption) for caption in entry.captions]
    wanted = {name for photos in splits.values() for name in photos}
    others = [name for name in names.files if name not in wanted]
    if len(missing) == len(entries):
        raise CaptionlabError(
            f"{names.folder} has none of the {len(entries):,} photos named in {files}, such as {shown(missing[0])};"
            f" it has photos such as {others[0]!r}{''.join(f'; {note}' for note in names.ambiguous(missing))}"
        )
    for name, path in names.files.items():
        if name in wanted:
            (images / name).write_bytes(read_bytes(path))
    if missing:
        notes.append(f"not in the folder, though named in {files}: {len(missing):,} ({shown(missing[0])})")
    notes += names.ambiguous(missing)
    if others:
        notes.append(f"left out, since not named in {files}: {len(others):,} ({others[0]!r})")
    return Found(captions=captions, splits=splits, split_source=split_source, problems=names.problems, notes=notes)


def _described(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {what}" for what, count in counts.items())
