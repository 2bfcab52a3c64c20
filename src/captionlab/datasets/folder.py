"""A folder of photos with a captions file: the layout of the popular ``Images/`` and ``captions.txt`` copy of Flickr8k.

Knows that layout, the user's own optional split files, and how to make a split by photo where there are none.
"""

import csv
import shutil
from pathlib import Path

from captionlab.core.records import SPLITS, Split
from captionlab.datasets import Found, Problem
from captionlab.errors import CaptionlabError

SUFFIXES = frozenset({".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})
_CAPTION_FILES = ("captions.txt", "captions.csv", "captions.tsv")
_HEADER = ["image", "caption"]


def folder(source: Path, images: Path, *, val_share: float, test_share: float, seed: int) -> Found:
    """Copy the photos into ``images``, read the captions, and read or make the splits.

    Photos lie in ``Images/`` or beside the captions file. ``train.txt``, ``val.txt`` and ``test.txt`` there, one photo
    a line, are the splits; without them photos are split at random from ``seed``. Raises CaptionlabError when a file
    is missing, is not what it should be, or there are too few photos.
    """
    captions, problems = _captions(_captions_file(source))
    photos = _photos(source)
    for photo in photos:
        shutil.copyfile(photo, images / photo.name)
    splits = _given_splits(source)
    if splits is None:
        captioned = {photo.name for photo in photos} & {photo for photo, _ in captions}
        splits = split_by_photo(captioned, val_share=val_share, test_share=test_share, seed=seed)
    return Found(captions=captions, splits=splits, problems=problems)


def split_by_photo(photos: set[str], *, val_share: float, test_share: float, seed: int) -> dict[Split, list[str]]:
    """Split at random, the same for the same photos, shares and seed; val and test get one photo at least."""
    from sklearn.model_selection import train_test_split  # seconds to import, and most sources bring their splits

    if not (0 < val_share < 1 and 0 < test_share < 1 and val_share + test_share < 1):
        raise CaptionlabError(
            f"dataset.val_share {val_share:g} and dataset.test_share {test_share:g} must be above 0 and add up to less"
            " than 1"
        )
    val, test = (max(1, round(len(photos) * share)) for share in (val_share, test_share))
    if val + test >= len(photos):
        raise CaptionlabError(
            f"{len(photos)} photos with captions are too few for train, val and test; check the names in the captions"
            " file, or add photos"
        )
    rest, test_photos = train_test_split(sorted(photos), test_size=test, random_state=seed)
    train_photos, val_photos = train_test_split(rest, test_size=val, random_state=seed)
    return {"train": sorted(train_photos), "val": sorted(val_photos), "test": sorted(test_photos)}


def _captions_file(source: Path) -> Path:
    for name in _CAPTION_FILES:
        if (source / name).is_file():
            return source / name
    raise CaptionlabError(f"{source} has no {_CAPTION_FILES[0]}; put it there, with the header image,caption")


def _photos(source: Path) -> list[Path]:
    place = next((source / name for name in ("Images", "images") if (source / name).is_dir()), source)
    photos = sorted(path for path in place.iterdir() if path.suffix.lower() in SUFFIXES and path.is_file())
    if not photos:
        raise CaptionlabError(f"{place} holds no photos ({', '.join(sorted(SUFFIXES))}); put them there")
    return photos


def _captions(path: Path) -> tuple[list[tuple[str, str]], list[Problem]]:
    """Photo and caption of each line, a repeated line once; the repeats as problems.

    Comma-separated with quotes where needed, or tab-separated as the header says. Captions may hold commas without
    quotes: what follows the first comma is the caption.
    """
    lines = _text(path).split("\n")
    if not any(line.strip() for line in lines):
        raise CaptionlabError(f"{path} is empty; it needs the header image,caption and a line a caption")
    tabs = "\t" in lines[0]
    header = [name.strip().lower() for name in lines[0].split("\t" if tabs else ",")]
    if header != _HEADER:
        raise CaptionlabError(f"{path}: the first line is {lines[0][:60]!r}; it must be image,caption")
    captions: list[tuple[str, str]] = []
    problems = []
    seen = set()
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        photo, _, caption = line.partition("\t") if tabs else _comma_fields(path, number, line)
        entry = (photo.strip(), caption.strip())
        if entry in seen:
            problems.append(Problem(kind="duplicate caption", item=entry[0], detail=f"line {number}; it counts once"))
        else:
            seen.add(entry)
            captions.append(entry)
    if not captions:
        raise CaptionlabError(f"{path} holds no captions below its header; add some")
    return captions, problems


def _comma_fields(path: Path, number: int, line: str) -> tuple[str, str, str]:
    """One line as CSV; each line is parsed alone, so that a quote left open cannot swallow the lines below it."""
    try:
        photo, *rest = next(csv.reader([line]))
    except csv.Error as error:
        raise CaptionlabError(f"{path}, line {number} is not comma-separated text ({error}); mend the line") from error
    return photo, ",", ",".join(rest)


def _given_splits(source: Path) -> dict[Split, list[str]] | None:
    files = {split: source / f"{split}.txt" for split in SPLITS}
    missing = [file.name for file in files.values() if not file.is_file()]
    if len(missing) == len(files):
        return None
    if missing:
        raise CaptionlabError(f"{source} has split files, but no {' and no '.join(missing)}; give all three or none")
    return {split: [line.strip() for line in _text(file).split("\n") if line.strip()] for split, file in files.items()}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise CaptionlabError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
