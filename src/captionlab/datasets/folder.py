"""A folder of photos with a captions file, such as the popular ``Images/`` and ``captions.txt`` copy of Flickr8k.

Knows where the photos, the captions file and the split files lie.
"""

from pathlib import Path

from captionlab.core.records import SPLITS, Split
from captionlab.data.photos import SUFFIXES, skipped_formats
from captionlab.datasets import Found
from captionlab.datasets.captions_file import CAPTION_FILES, Row, read_captions
from captionlab.datasets.photo_names import PhotoNames
from captionlab.datasets.reading import files_under, photos_among, read_bytes
from captionlab.datasets.splits import FLICKR8K_FILES, OWN_FILES, read_split_files, split_named
from captionlab.errors import CaptionlabError


def folder(source: Path, images: Path) -> Found:
    """Copy the photos into ``images`` and read the captions and the splits, where there are any.

    Photos are in ``Images/`` or beside the captions file, and in the subfolders. The splits are ``train.txt``,
    ``val.txt`` and ``test.txt`` beside the captions file, one photo a line; or Flickr8k's own files; or a column
    ``split`` of the captions file. Raises CaptionlabError when a file is missing or cannot be read.
    """
    rows, problems = read_captions(_captions_file(source))
    place = next((source / name for name in ("Images", "images") if (source / name).is_dir()), source)
    files = files_under(place)
    names = PhotoNames(place, photos_among(files))
    skipped = skipped_formats(files)
    if not names.files:
        advice = f"; {skipped}" if skipped else ""
        raise CaptionlabError(f"{place} has no photos ({', '.join(sorted(SUFFIXES))}){advice}; put them there")
    for name, file in names.files.items():
        (images / name).write_bytes(read_bytes(file))
    splits = (
        read_split_files(source, OWN_FILES) or read_split_files(source, FLICKR8K_FILES) or _split_column(rows, names)
    )
    return Found(
        captions=[(names.find(row.image), row.caption) for row in rows],
        splits={split: [names.find(photo) for photo in photos] for split, photos in splits.items()},
        problems=[*problems, *names.problems],
        notes=[skipped] if skipped else [],
    )


def _captions_file(source: Path) -> Path:
    for name in CAPTION_FILES:
        if (source / name).is_file():
            return source / name
    raise CaptionlabError(
        f"{source} has no captions file ({', '.join(CAPTION_FILES)}); put one there, with the header image,caption"
    )


def _split_column(rows: list[Row], names: PhotoNames) -> dict[Split, list[str]]:
    """The photos of each split that the captions file names; empty where it names none."""
    named = {(split_named(row.split), names.find(row.image)): None for row in rows if row.split}
    found = {split: [photo for own, photo in named if own == split] for split in SPLITS}
    return {split: photos for split, photos in found.items() if photos}
