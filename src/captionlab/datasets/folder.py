"""A folder of photos with a captions file, such as the popular ``Images/`` and ``captions.txt`` copy of Flickr8k.

Knows the layout of the folder; ``captions_file`` and ``splits`` read the files.
"""

from collections.abc import Sequence
from pathlib import Path

from captionlab.core.records import SPLITS, Split
from captionlab.datasets import Found
from captionlab.datasets.captions_file import CAPTION_FILES, Row, read_captions
from captionlab.datasets.photo_names import PhotoNames, find_photos
from captionlab.datasets.reading import read_bytes
from captionlab.datasets.splits import FLICKR8K_FILES, OWN_FILES, read_split_files, split_named
from captionlab.errors import CaptionlabError


def folder(source: Path, images: Path, caption_files: Sequence[str] = CAPTION_FILES) -> Found:
    """Copy the photos into ``images`` and read the captions and any splits.

    The captions file is the first of ``caption_files`` that exists. Photos are in ``Images/`` or in the folder itself,
    including subfolders. Splits are ``train.txt``, ``val.txt`` and ``test.txt`` with one photo per line, or Flickr8k's
    split files, or a column ``split`` of the captions file. Raises CaptionlabError if a file is missing or cannot be
    read.
    """
    captions_file = _captions_file(source, caption_files)
    rows, problems = read_captions(captions_file)
    names, skipped = find_photos(source)
    for name, file in names.files.items():
        (images / name).write_bytes(read_bytes(file))
    splits, split_source = _splits(source, rows, names, captions_file.name)
    return Found(
        captions=[(names.find(row.image), row.caption) for row in rows],
        splits=splits,
        split_source=split_source,
        problems=[*problems, *names.problems],
        notes=[skipped] if skipped else [],
    )


def _captions_file(source: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (source / name).is_file():
            return source / name
    raise CaptionlabError(
        f"{source} has no captions file ({', '.join(names)}); put one there, with the header image,caption"
    )


def _splits(source: Path, rows: list[Row], names: PhotoNames, captions_file: str) -> tuple[dict[Split, list[str]], str]:
    """The photos of each split that the source defines, and where it defines them."""
    for files in (OWN_FILES, FLICKR8K_FILES):
        if splits := read_split_files(source, files):
            found = {split: [names.find(photo) for photo in photos] for split, photos in splits.items()}
            return found, ", ".join(files.values())
    columns = _split_column(rows, names)
    return columns, f"the column split of {captions_file}" if columns else ""


def _split_column(rows: list[Row], names: PhotoNames) -> dict[Split, list[str]]:
    """The photos of each split according to the column ``split``; empty without that column."""
    named = {(split_named(row.split), names.find(row.image)): None for row in rows if row.split}
    found = {split: [photo for own, photo in named if own == split] for split in SPLITS}
    return {split: photos for split, photos in found.items() if photos}
