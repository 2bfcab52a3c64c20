"""COCO's captions as published: ``captions_train2017.json``, ``captions_val2017.json`` and a folder of photos.

Knows the file names and the published counts; ``data.caption_json`` knows the layout of the JSON.
"""

import dataclasses
import re
from pathlib import Path

from captionlab.core.records import SPLITS, Split
from captionlab.data.caption_json import coco_captions, coco_names, shown, unique
from captionlab.datasets import Found
from captionlab.datasets.json_lists import iter_objects
from captionlab.datasets.layouts import but_has
from captionlab.datasets.listed import RENAME, Listed, check_counts, collect, listed
from captionlab.datasets.splits import SPLIT_NAMES
from captionlab.errors import CaptionlabError, some_of

PUBLISHED = {
    "captions_train2014.json": {"photos": 82_783, "captions": 414_113},
    "captions_val2014.json": {"photos": 40_504, "captions": 202_654},
    "captions_train2017.json": {"photos": 118_287, "captions": 591_753},
    "captions_val2017.json": {"photos": 5_000, "captions": 25_014},
}
_NAMES = "whose split is not clear; the names are captions_train.json, captions_val.json and captions_test.json"
_NAME = re.compile(rf"captions_({'|'.join(SPLIT_NAMES)})\d*\.json")


def coco(source: Path, images: Path, published: dict[str, dict[str, int]] = PUBLISHED) -> Found:
    """Copy the photos listed in ``captions_*.json`` into ``images`` and read captions and splits.

    There is one file for each split, in the folder or its subfolder ``annotations``. A split without a file, such as
    COCO's test split, is drawn later. Photos are in ``Images/`` or in the folder itself, including subfolders. Raises
    CaptionlabError if there is no file, one is damaged or differs from the counts of ``published``, or none of the
    listed photos is found.
    """
    files, others = _files(source)
    entries = [entry for split, path in files.items() for entry in _entries(path, split, published)]
    names = ", ".join(path.name for path in files.values())
    found = collect(source, images, entries, names, f"COCO's, from {names}")
    unread = [f"not read: {some_of(others)}, {_NAMES}"] if others else []
    return dataclasses.replace(found, notes=[*found.notes, *unread])


def _files(source: Path) -> tuple[dict[Split, Path], list[str]]:
    """The files by split, where a split may have none, and the names of similar files that are not read."""
    paths = sorted([*source.glob("captions_*.json"), *source.glob("annotations/captions_*.json")])
    others = [path.name for path in paths if not _NAME.fullmatch(path.name)]
    files: dict[Split, Path] = {}
    for split in SPLITS:
        own = [path for path in paths if (match := _NAME.fullmatch(path.name)) and SPLIT_NAMES[match[1]] == split]
        if len(own) > 1:
            raise CaptionlabError(
                f"{source} has several files of the {split} split: {', '.join(map(str, own))}; keep one"
            )
        if own:
            files[split] = own[0]
    if not files and others:
        raise CaptionlabError(f"{source} has {some_of(others)}, {_NAMES}")
    if not files:
        raise CaptionlabError(
            f"{source} has no captions_train*.json, captions_val*.json or captions_test*.json, neither there nor in its"
            f" folder annotations{but_has(source, 'put them there')}"
        )
    return files, others


def _entries(path: Path, split: Split, published: dict[str, dict[str, int]]) -> list[Listed]:
    by_id = coco_captions(path, iter_objects(path, "annotations"))
    names = unique(path, coco_names(iter_objects(path, "images")))
    counts = {"photos": len(names), "captions": sum(map(len, by_id.values()))}
    check_counts(path, counts, published.get(path.name), RENAME)
    for image, name in names.items():
        if not (isinstance(name, str) and name):
            raise CaptionlabError(f"{path}: the image {shown(image)} has no file_name; get the file again")
    if unnamed := next((image for image in by_id if image not in names), None):
        raise CaptionlabError(f"{path}: no image has the id {shown(unnamed)} of an annotation; get the file again")
    return [listed(path, name, split, by_id.get(image, [])) for image, name in names.items()]
