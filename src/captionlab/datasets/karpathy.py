"""Karpathy's splits of Flickr8k, Flickr30k and COCO: ``dataset_flickr8k.json`` etc. and a folder of photos.

Knows the file names and the published counts; ``data.caption_json`` knows the layout of the JSON.
"""

from collections import Counter
from pathlib import Path

from captionlab.data.caption_json import karpathy_images
from captionlab.datasets import Found
from captionlab.datasets.json_lists import iter_objects
from captionlab.datasets.layouts import but_has
from captionlab.datasets.listed import RENAME, Listed, check_counts, collect, listed
from captionlab.datasets.splits import split_named
from captionlab.errors import CaptionlabError

PUBLISHED = {  # restval counted as train
    "dataset_flickr8k.json": {"train": 6_000, "val": 1_000, "test": 1_000, "captions": 40_000},
    "dataset_flickr30k.json": {"train": 29_000, "val": 1_014, "test": 1_000, "captions": 155_070},
    "dataset_coco.json": {"train": 113_287, "val": 5_000, "test": 5_000, "captions": 616_767},
}


def karpathy(source: Path, images: Path, published: dict[str, dict[str, int]] = PUBLISHED) -> Found:
    """Copy the photos listed in ``dataset_*.json`` into ``images`` and read captions and splits.

    Photos are in ``Images/`` or in the folder itself, including subfolders such as COCO's ``val2014``. Raises
    CaptionlabError if the folder does not have exactly one such file, it is damaged or differs from the counts of
    ``published``, or none of the listed photos is found.
    """
    path = _file(source)
    entries = _entries(path)
    sizes = Counter(entry.split for entry in entries)
    captions = sum(len(entry.captions) for entry in entries)
    counts = {"train": sizes["train"], "val": sizes["val"], "test": sizes["test"], "captions": captions}
    check_counts(path, counts, published.get(path.name), RENAME)
    return collect(source, images, entries, path.name, f"Karpathy's, from {path.name}")


def _file(source: Path) -> Path:
    paths = sorted(source.glob("dataset_*.json"))
    if len(paths) != 1:
        several = f"several: {', '.join(path.name for path in paths)}; keep one"
        found = several if paths else f"none{but_has(source, 'put it there')}"
        raise CaptionlabError(
            f"{source} must have one dataset_*.json (such as {', '.join(PUBLISHED)}), but has {found}"
        )
    return paths[0]


def _entries(path: Path) -> list[Listed]:
    return [
        listed(
            path, f"{each.filepath}/{each.filename}".lstrip("/"), split_named(each.split, each.filename), each.captions
        )
        for each in karpathy_images(path, iter_objects(path, "images"))
    ]
