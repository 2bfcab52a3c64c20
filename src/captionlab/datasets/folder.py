"""A folder of photos with a captions file, such as the popular ``Images/`` and ``captions.txt`` copy of Flickr8k.

Knows the layout of the folder; ``captions_file`` and ``splits`` read the files.
"""

from collections.abc import Sequence
from pathlib import Path

from captionlab.core.records import SPLITS, Split
from captionlab.datasets import Found, Problem
from captionlab.datasets.captions_file import CAPTION_FILES, Row, read_captions
from captionlab.datasets.layouts import but_has
from captionlab.datasets.photo_names import PhotoNames, find_photos
from captionlab.datasets.reading import read_bytes
from captionlab.datasets.splits import SPLIT_FOLDER, SPLIT_NAMES, names_split, read_split_files, split_named
from captionlab.errors import CaptionlabError


def folder(source: Path, images: Path, caption_files: Sequence[str] = CAPTION_FILES) -> Found:
    """Copy the photos into ``images`` and read the captions and any splits.

    The captions file is the first of ``caption_files`` that exists, in the folder or in ``Images/``; without one, the
    metadata files of folders named by split, as in Hugging Face's image folders, are read. Photos are in ``Images/`` or
    in the folder itself, including subfolders. Splits are in split files, or in a column ``split`` of the captions
    file. Raises CaptionlabError if a file is missing or cannot be read.
    """
    rows, problems, column_source = _rows(source, caption_files)
    names, skipped = find_photos(source)
    for name, file in names.files.items():
        (images / name).write_bytes(read_bytes(file))
    splits, files = read_split_files(source)
    if splits:
        splits = {split: [names.find(photo) for photo in photos] for split, photos in splits.items()}
        split_source = ", ".join(files)
    else:
        splits = _split_column(rows, names)
        split_source = column_source if splits else ""
    return Found(
        captions=[(names.find(row.image), row.caption) for row in rows],
        splits=splits,
        split_source=split_source,
        problems=[*problems, *names.problems],
        notes=[*([skipped] if skipped else []), *_unread(source, files)],
    )


def _rows(source: Path, names: Sequence[str]) -> tuple[list[Row], list[Problem], str]:
    """The rows of the captions file or files, problems, and where their splits come from."""
    for path in (place / name for place in (source, source / "Images", source / "images") for name in names):
        if path.is_file():
            return *read_captions(path), f"the column split of {path.name}"
    rows: list[Row] = []
    problems: list[Problem] = []
    for path in sorted(source.glob("*/metadata.*")):
        if path.name in names and (split := SPLIT_NAMES.get(path.parent.name.lower())):
            own, found = read_captions(path)
            rows += [row._replace(image=f"{path.parent.name}/{row.image}", split=row.split or split) for row in own]
            problems += found
    if not rows:
        advice = "put one there, with the header image,caption"
        raise CaptionlabError(f"{source} has no captions file ({', '.join(names)}){but_has(source, advice)}")
    return rows, problems, "the folders' names"


def _unread(source: Path, used: Sequence[str]) -> list[str]:
    """A note that names files which seem to define splits but are not read."""
    paths = [path for place in (source, source / SPLIT_FOLDER) if place.is_dir() for path in sorted(place.iterdir())]
    names = [path.relative_to(source).as_posix() for path in paths if names_split(path.name)]
    if not (unread := [name for name in names if name not in used]):
        return []
    return [
        f"not read: {', '.join(unread)}; for splits give train.txt, val.txt and test.txt with a photo's name on each"
        " line, or a column split in the captions file"
    ]


def _split_column(rows: list[Row], names: PhotoNames) -> dict[Split, list[str]]:
    """The photos of each split according to the column ``split``; empty without that column."""
    named = {(split_named(row.split), names.find(row.image)): None for row in rows if row.split}
    found = {split: [photo for own, photo in named if own == split] for split in SPLITS}
    return {split: photos for split, photos in found.items() if photos}
