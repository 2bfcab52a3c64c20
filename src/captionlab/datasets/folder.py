"""A folder of photos with a captions file, such as the popular ``Images/`` and ``captions.txt`` copy of Flickr8k.

Knows the layout of the folder; ``captions_file`` and ``splits`` read the files.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from captionlab.core.records import SPLITS, Split
from captionlab.datasets import Found, Problem
from captionlab.datasets.captions_file import CAPTION_FILES, CaptionRow, read_captions_file
from captionlab.datasets.layouts import but_has
from captionlab.datasets.photo_names import PhotoNames, find_photos
from captionlab.datasets.reading import entries, read_bytes
from captionlab.datasets.splits import SPLIT_NAMES, read_split_files, seem_to_be_splits, split_named
from captionlab.errors import CaptionlabError, some_of

_ADVICE = (
    "there may be one captions file, and for splits train.txt, val.txt and test.txt with a photo's name on each line,"
    " or a column split in the captions file"
)


def folder(
    source: Path, images: Path, caption_files: Sequence[str] = CAPTION_FILES, parent: Path | None = None
) -> Found:
    """Copy the photos into ``images`` and read the captions and any splits.

    The captions file is the first of ``caption_files`` that exists, in the folder or in ``Images/``; without one, those
    of folders named by split are read, as in Hugging Face's image folders. Photos are in ``Images/`` or in the folder
    itself, including subfolders. Splits are in split files, in a column ``split`` of the captions file, or in the names
    of the photos' folders. Split files may also be in ``parent``. Raises CaptionlabError if a file is missing or cannot
    be read.
    """
    rows, problems, unread = _rows(source, caption_files)
    names, notes = find_photos(source)
    photo_of = names.find_each(row.image for row in rows)
    notes += names.ambiguous(text for text, name in photo_of.items() if name not in names.files)
    listed, split_files = read_split_files(source)
    if not listed and parent:
        listed, split_files = read_split_files(parent)
    found = names.find_each(photo for photos in listed.values() for photo in photos)
    splits = {split: [found[photo] for photo in photos] for split, photos in listed.items()}
    split_source = ", ".join(split_files)
    notes += _contradiction(splits, rows, photo_of, split_source)
    if not splits and (splits := _by_column(rows, photo_of)):
        split_source = "the column split of the captions file"
    if not splits and (splits := _by_folder(names)):
        split_source = "the folders' names"
    like_splits = seem_to_be_splits(source)
    if parent and parent != source:
        like_splits += [name for name in seem_to_be_splits(parent) if not name.startswith(f"{source.name}/")]
    unread += [name for name in like_splits if name not in split_files]
    if unread:
        notes.append(f"not read: {', '.join(unread)}; {_ADVICE}")
    for name, file in names.files.items():
        (images / name).write_bytes(read_bytes(file))
    return Found(
        captions=[(photo_of[row.image], row.caption) for row in rows],
        splits=splits,
        split_source=split_source,
        problems=[*problems, *names.problems],
        notes=notes,
    )


def _rows(source: Path, names: Sequence[str]) -> tuple[list[CaptionRow], list[Problem], list[str]]:
    """The rows of the captions file or files, problems, and the other captions files that are not read."""
    folders = [path for path in entries(source) if path.is_dir()]
    there = [path for place in (source, *folders) for path in _captions_files(place, names)]
    of_all = next((path for path in there if path.parent == source or path.parent.name.lower() == "images"), None)
    by_folder = {path.parent: path for path in reversed(there) if path.parent.name.lower() in SPLIT_NAMES}
    used = [of_all] if of_all else [by_folder[place] for place in sorted(by_folder)]
    if not used:
        advice = "put one there"
        if "captions.txt" in names:
            advice = _advice([path.name for path in entries(source) if path.is_file()])
        raise CaptionlabError(f"{source} has no captions file ({', '.join(names)}){but_has(source, advice)}")
    rows: list[CaptionRow] = []
    problems: list[Problem] = []
    for path in used:
        own, found = read_captions_file(path)
        rows += own if of_all else [row._replace(image=f"{path.parent.name}/{row.image}") for row in own]
        problems += found
    return rows, problems, [path.relative_to(source).as_posix() for path in there if path not in used]


def _advice(files: Sequence[str]) -> str:
    """What to do about a missing captions file: put one there, or give the name to a file that may be it."""
    suffixes = {".csv": "captions.csv", ".tsv": "captions.tsv", ".txt": "captions.txt", ".jsonl": "metadata.jsonl"}
    for name in files:
        if to := suffixes.get(Path(name).suffix.lower()):
            return f"if {name} holds the captions, rename it to {to}"
    return "put one there, with the header image,caption"


def _captions_files(place: Path, names: Sequence[str]) -> list[Path]:
    """The files of a folder with these names, in capitals or not, in their order."""
    wanted = [name.lower() for name in names]
    files = {name: path for path in entries(place) if (name := path.name.lower()) in wanted and path.is_file()}
    return [files[name] for name in wanted if name in files]


def _by_column(rows: Sequence[CaptionRow], photo_of: Mapping[str, str]) -> dict[Split, list[str]]:
    """The photos of each split according to the column ``split``; empty without that column."""
    named = {(split_named(row.split, row.image), photo_of[row.image]): None for row in rows if row.split}
    found = {split: [photo for own, photo in named if own == split] for split in SPLITS}
    return {split: photos for split, photos in found.items() if photos}


def _contradiction(
    splits: Mapping[Split, Sequence[str]], rows: Sequence[CaptionRow], photo_of: Mapping[str, str], files: str
) -> list[str]:
    """A note that the column ``split`` names another split than the split files, if it does for a photo."""
    of_files = {photo: split for split, photos in splits.items() for photo in photos}
    of_column = {photo_of[row.image]: SPLIT_NAMES.get(row.split.lower()) for row in rows if row.split}
    other = [photo for photo, split in of_column.items() if split and of_files.get(photo) != split]
    if not splits or not other:
        return []
    photos = f"{len(other):,} photo{'' if len(other) == 1 else 's'} ({some_of(other)})"
    return [f"the column split of the captions file contradicts {files} for {photos}; the files count"]


def _by_folder(names: PhotoNames) -> dict[Split, list[str]]:
    """The photos of each split, if all are in folders of several splits' names; else empty."""
    found: dict[Split, list[str]] = {}
    for name, file in names.files.items():
        split = SPLIT_NAMES.get(file.relative_to(names.folder).parts[0].lower())
        if split is None:
            return {}
        found.setdefault(split, []).append(name)
    return found if len(found) > 1 else {}
