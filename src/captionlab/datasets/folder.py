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
from captionlab.datasets.splits import read_split_files, split_named
from captionlab.errors import CaptionlabError

_OF_OTHER_FORMATS = {
    "dataset_*.json": "karpathy",
    "captions_*.json": "coco",
    "annotations/captions_*.json": "coco",
    "*.parquet": "parquet",
    "data/*.parquet": "parquet",
    "Flickr8k_text.zip": "flickr8k",
}


def folder(source: Path, images: Path, caption_files: Sequence[str] = CAPTION_FILES) -> Found:
    """Copy the photos into ``images`` and read the captions and any splits.

    The captions file is the first of ``caption_files`` that exists. Photos are in ``Images/`` or in the folder itself,
    including subfolders. Splits are in split files, or in a column ``split`` of the captions file. Raises
    CaptionlabError if a file is missing or cannot be read.
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
        notes=[*([skipped] if skipped else []), *_unread(source)],
    )


def _captions_file(source: Path, names: Sequence[str]) -> Path:
    for name in names:
        if (source / name).is_file():
            return source / name
    for pattern, own in _OF_OTHER_FORMATS.items():
        if other := next(source.glob(pattern), None):
            raise CaptionlabError(f"{source} has no captions file, but {other.name}; set dataset.format to {own}")
    raise CaptionlabError(
        f"{source} has no captions file ({', '.join(names)}); put one there, with the header image,caption"
    )


def _unread(source: Path) -> list[str]:
    """A note that names tables of one split each, which no reader takes."""
    names = [f"{split}.csv" for split in SPLITS if (source / f"{split}.csv").is_file()]
    advice = "for splits give train.txt, val.txt and test.txt, or a column split in the captions file"
    return [f"not read: {', '.join(names)}; {advice}"] if names else []


def _splits(source: Path, rows: list[Row], names: PhotoNames, captions_file: str) -> tuple[dict[Split, list[str]], str]:
    """The photos of each split that the source defines, and where it defines them."""
    splits, files = read_split_files(source)
    if splits:
        return {split: [names.find(photo) for photo in photos] for split, photos in splits.items()}, ", ".join(files)
    columns = _split_column(rows, names)
    return columns, f"the column split of {captions_file}" if columns else ""


def _split_column(rows: list[Row], names: PhotoNames) -> dict[Split, list[str]]:
    """The photos of each split according to the column ``split``; empty without that column."""
    named = {(split_named(row.split), names.find(row.image)): None for row in rows if row.split}
    found = {split: [photo for own, photo in named if own == split] for split in SPLITS}
    return {split: photos for split, photos in found.items() if photos}
