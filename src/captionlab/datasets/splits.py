"""Training, validation and test photos, as the dataset defines them or drawn at random.

Knows names of photos; nothing of formats.
"""

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from itertools import combinations
from pathlib import Path

from captionlab.config import DatasetParams
from captionlab.core.records import SPLITS, Split
from captionlab.datasets import Found
from captionlab.datasets.columns import PHOTO_NAME, column
from captionlab.datasets.reading import entries, read_text
from captionlab.errors import CaptionlabError, some_of

SPLIT_NAMES: dict[str, Split] = {
    "train": "train", "training": "train", "restval": "train",
    "val": "val", "valid": "val", "validation": "val", "dev": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
_SUFFIXES = r"(txt|lst|csv|tsv|json|jsonl)"
_FOLDERS = ("splits", "split", "flickr8k_text", "images")
_FILE = re.compile(
    rf"(|.*[_.-])({'|'.join(SPLIT_NAMES)})(?:[_-]?(?:images|list|split|set|ids))?\.{_SUFFIXES}",
    re.IGNORECASE,
)
_LIKE_FILE = re.compile(  # not read
    rf"(|.*[_.-])((?:{'|'.join(SPLIT_NAMES)})[_-]?(?:files|filenames|imgs|names|photos)|splits?|partitions?)"
    rf"\.{_SUFFIXES}",
    re.IGNORECASE,
)


def split_named(name: str, photo: str) -> Split:
    """The split with this name; raises CaptionlabError, with the photo, if it is unknown."""
    split = SPLIT_NAMES.get(name.strip().lower())
    if split is None:
        raise CaptionlabError(f"the split {name[:60]!r} of the photo {photo[:200]} is unknown; use train, val and test")
    return split


def seem_to_be_splits(source: Path) -> list[str]:
    """The files in the folder and in the folders there whose names suggest that they define splits."""
    paths = [path for place in (source, *filter(Path.is_dir, entries(source))) for path in entries(place)]
    found = [path for path in paths if _FILE.fullmatch(path.name) or _LIKE_FILE.fullmatch(path.name)]
    return [path.relative_to(source).as_posix() for path in found if path.is_file()]


def _places(source: Path) -> list[Path]:
    """The folders in which split files may be."""
    inner = [path for path in entries(source) if path.name.lower() in _FOLDERS and path.is_dir()]
    return [source, *inner]


def read_split_files(source: Path) -> tuple[dict[Split, list[str]], list[str]]:
    """The photos of each split file in the folder, one per line, and the files' names; both empty without such files.

    They are ``train.txt``, ``val.txt`` (or ``valid``, ``validation``, ``dev``) and ``test.txt``, or such names with the
    same beginning, as ``flickr30k_train.txt`` and ``Flickr_8k.trainImages.txt``; files without a beginning count alone.
    A single file with a beginning, as ``requirements-dev.txt``, is none of them. Without any they are looked for in the
    subfolders ``splits``, ``Flickr8k_text`` and ``Images``. A first line that names the column is left out. Raises
    CaptionlabError if only some of the three exist, and for several sets.
    """
    for folder in _places(source):
        sets: dict[str, dict[Split, list[str]]] = {}
        for path in entries(folder):
            if (match := _FILE.fullmatch(path.name)) and match[3].lower() == "txt" and path.is_file():
                sets.setdefault(match[1], {}).setdefault(SPLIT_NAMES[match[2].lower()], []).append(
                    path.relative_to(source).as_posix()
                )
        sets = {name: own for name, own in sets.items() if not name or len(own) > 1}
        if sets:
            return _read_sets(source, sets)
    return {}, []


def _read_sets(source: Path, sets: dict[str, dict[Split, list[str]]]) -> tuple[dict[Split, list[str]], list[str]]:
    found = sets.get("") or next(iter(sets.values()))
    names = [name for own in found.values() for name in own]
    if len(sets) > 1 and "" not in sets:
        names = [name for own in sets.values() for each in own.values() for name in each]
        raise CaptionlabError(f"{source} has several sets of split files ({', '.join(names)}); keep one")
    if missing := [split for split in SPLITS if split not in found]:
        raise CaptionlabError(
            f"{source} has split files ({', '.join(names)}), but none for {' and '.join(missing)}; give all three or"
            " none"
        )
    if len(names) > len(SPLITS):
        raise CaptionlabError(f"{source} has several files for a split ({', '.join(names)}); keep one for each")
    files = {split: found[split][0] for split in SPLITS}
    lines = {split: read_text(source / name).split("\n") for split, name in files.items()}
    photos = {split: [line.strip() for line in own if line.strip()] for split, own in lines.items()}
    first = {own[0] for own in photos.values() if own}
    header = len(first) == 1 and column([*first], PHOTO_NAME) is not None
    return {split: own[header:] for split, own in photos.items()}, [*files.values()]


def completed(
    found: Found, photos: Collection[str], params: DatasetParams, usable: Callable[[], Collection[str]] | None = None
) -> Found:
    """Draw the splits that the source does not give: from its training photos, or from all if it gives no split.

    ``photos`` are the names of the photos that are there, and ``usable`` finds those that can be used; None: all can.
    Others are not drawn, unless too few are left. Raises CaptionlabError when too few are there.
    """
    missing = [split for split in SPLITS if split not in found.splits]
    if not missing:
        return found
    refuse_overlap(found.splits)
    notes = []
    if found.splits:
        if "train" in missing:
            raise CaptionlabError(f"the dataset has no train split, only {' and '.join(found.splits)}; add it")
        pool = set(found.splits["train"]).intersection(photos)
        notes = [f"the dataset has no {' and no '.join(missing)} split: drawn at random from its training photos"]
    else:
        pool = {photo for photo, _ in found.captions}.intersection(photos)
    all_shares: dict[Split, float] = {"val": params.val_share, "test": params.test_share}
    shares = {split: share for split, share in all_shares.items() if split in missing}
    if len(pool) <= len(shares):
        raise CaptionlabError(
            f"{len(pool)} photos with captions are too few for train, {' and '.join(shares)}{mismatch(found, photos)}"
        )
    can_be_used = pool.intersection(usable()) if usable else pool
    if len(can_be_used) > len(shares):
        pool = can_be_used
    drawn = draw(shares, pool, params.split_seed)
    splits = {split: drawn[split] if split in drawn else found.splits[split] for split in SPLITS}
    splits["train"] = [*splits["train"], *(name for name in found.splits.get("train", ()) if name not in pool)]
    split_source = f"drawn at random with seed {params.split_seed}"
    if found.splits:
        split_source = f"{found.split_source}; {' and '.join(missing)} {split_source}"
    return dataclasses.replace(found, splits=splits, split_source=split_source, notes=[*found.notes, *notes])


def refuse_overlap(splits: Mapping[Split, Collection[str]]) -> None:
    """Raise CaptionlabError if two splits share a photo."""
    for one, other in combinations(splits, 2):
        if shared := sorted(set(splits[one]) & set(splits[other])):
            photos = f"{len(shared):,} photo{'' if len(shared) == 1 else 's'} ({some_of(shared)})"
            raise CaptionlabError(f"the splits {one} and {other} share {photos}; remove them from one of the two")


def draw(shares: Mapping[Split, float], photos: set[str], seed: int) -> dict[Split, list[str]]:
    """Split the photos at random into train and the splits of ``shares``, each with at least one photo.

    Each has at least two where they are enough for that, because CIDEr of one photo is always 0. The result depends
    only on photos, shares and seed. Raises CaptionlabError if no photo is left for training.
    """
    from sklearn.model_selection import train_test_split  # slow to import, and most sources have splits

    for split, share in shares.items():
        if share == 0:
            raise CaptionlabError(f"dataset.{split}_share must be above 0; the dataset has no {split} split")
    sizes = {split: max(1, round(len(photos) * share)) for split, share in shares.items()}
    at_least_two = {split: max(2, size) for split, size in sizes.items()}
    if len(photos) - sum(at_least_two.values()) >= 2:  # for training
        sizes = at_least_two
    if sum(sizes.values()) >= len(photos):
        raise CaptionlabError(f"of {len(photos)} photos with captions none is left for training; add photos")
    rest, drawn = sorted(photos), {}
    for split in reversed(list(sizes)):
        rest, drawn[split] = train_test_split(rest, test_size=sizes[split], random_state=seed)
    return {"train": sorted(rest), **{split: sorted(drawn[split]) for split in sizes}}


def mismatch(found: Found, photos: Collection[str]) -> str:
    """An example of a caption's photo name and a photo's name, to end a message; empty if every caption has a photo."""
    named = next((name for name, _ in found.captions if name not in photos), None)
    if named is None:
        return ""
    return f"; the captions name {named!r}, a photo is named {min(photos, default='')!r}"
