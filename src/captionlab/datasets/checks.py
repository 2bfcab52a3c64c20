"""The checks of every dataset: what a reader returned becomes valid records and a list of problems.

Knows photos, captions and splits; nothing of formats.
"""

import hashlib
import warnings
from collections import Counter
from collections.abc import Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from captionlab.core.cores import threads
from captionlab.core.files import digest_of
from captionlab.core.records import LONGEST_CAPTION, SPLITS, CaptionedImage, Split
from captionlab.data.photos import fault_of
from captionlab.data.text import clean, nfc
from captionlab.datasets import Found, Problem
from captionlab.datasets.splits import mismatch, refuse_overlap
from captionlab.errors import CaptionlabError, some_of

CORRUPT = "corrupt photo"
DUPLICATE = "duplicate photo"
UNCAPTIONED = "photo without captions"
UNKNOWN = "split names unknown photo"
REPEATED = "split names photo twice"
NO_PHOTO = "caption without photo"
EMPTY = "empty caption"
WORDLESS = "caption without words"
OVERLONG = "overlong caption"


@dataclass(frozen=True, kw_only=True)
class CheckedDataset:
    """A valid dataset: every photo can be read, is in one split and has a caption with words."""

    records: list[CaptionedImage]  # by split, then by name
    problems: list[Problem]  # sorted
    digest: str  # of photos, captions and splits: the same on every machine
    set_aside: int  # number of photos with captions that are in no split


@dataclass(frozen=True)
class Photo:
    """A photo that was read; ``fault`` is why it cannot be decoded."""

    sha256: str
    fault: str | None


def usable(found: Found, photos: Mapping[str, Photo]) -> set[str]:
    """The photos that can be decoded and have a usable caption."""
    captions, _, _ = _match(found.captions, photos)
    return {name for name in captions if photos[name].fault is None}


def check(found: Found, photos: Mapping[str, Photo], *, max_bad_share: float) -> CheckedDataset:
    """Match photos, captions and splits, and list the problems.

    ``photos`` are those of ``read_photos``. Raises CaptionlabError if two splits share a photo, if more than
    ``max_bad_share`` of the photos or of the captions cannot be used, or if a split has no usable photo.
    """
    refuse_overlap(found.splits)
    readable = {name: photo.sha256 for name, photo in photos.items() if photo.fault is None}
    split_of = {name: split for split in SPLITS for name in found.splits[split]}

    bad_photos = [_problem(CORRUPT, name, photo.fault) for name, photo in photos.items() if photo.fault is not None]
    bad_photos += [
        _problem(UNKNOWN, name, f"in the {split} split") for name, split in split_of.items() if name not in photos
    ]
    captions, bad_captions, unusable_captions = _match(found.captions, photos)
    bad_photos += [_problem(UNCAPTIONED, name, "") for name in readable if name not in captions]
    notes = [*found.problems, *_repeated(found.splits), *_duplicates(readable, split_of)]

    hints = "".join([mismatch(found, photos), *(f"; {note}" for note in found.notes)])
    total = len(found.captions)  # checked first, because unusable captions also leave photos without captions
    if unusable_captions > max_bad_share * total:
        raise _too_many(f"{unusable_captions:,} of {total:,} captions", bad_captions, hints, max_bad_share)
    total = len(photos.keys() | split_of.keys())
    if len(bad_photos) > max_bad_share * total:
        raise _too_many(f"{len(bad_photos):,} of {total:,} photos", bad_photos, hints, max_bad_share)

    records = [
        CaptionedImage(image=name, split=split, captions=tuple(captions[name]))
        for split in SPLITS
        for name in sorted(set(found.splits[split]))
        if name in readable and name in captions
    ]
    for split in SPLITS:
        if not any(record.split == split for record in records):
            raise CaptionlabError(f"the {split} split has no usable photo; see dataset in params.yaml")
    return CheckedDataset(
        records=records,
        problems=sorted([*bad_photos, *bad_captions, *notes]),
        digest=digest_of([[r.image, r.split, r.captions, readable[r.image]] for r in records]),
        set_aside=sum(name in captions and name not in split_of for name in readable),
    )


def read_photos(images: Path) -> dict[str, Photo]:
    """Every photo in the folder by its name in NFC, hashed and decoded."""
    files = sorted(images.iterdir())

    def read(path: Path) -> Photo:
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        fault = fault_of(path)
        # Pillow's messages have the full path, which differs between machines.
        return Photo(sha256, fault and fault.replace(str(path), path.name))

    # Pillow and hashlib release the GIL.
    with warnings.catch_warnings(), ThreadPoolExecutor(min(4, threads())) as pool:
        warnings.filterwarnings("ignore", module="PIL")  # such as unusual metadata in a readable photo
        decoded = tqdm(pool.map(read, files), "checking photos", len(files), leave=False, disable=None)
        # Some file systems return names in NFD.
        return {nfc(path.name): photo for path, photo in zip(files, decoded, strict=True)}


def _match(captions: list[tuple[str, str]], photos: Collection[str]) -> tuple[dict[str, list[str]], list[Problem], int]:
    """The usable captions of each photo, the problems, and the number of unusable captions."""
    kept: dict[str, list[str]] = {}
    unusable: Counter[tuple[str, str]] = Counter()  # kind of problem and photo
    for name, caption in captions:
        if name not in photos:
            unusable[NO_PHOTO, name] += 1
        elif not caption.strip():
            unusable[EMPTY, name] += 1
        elif len(caption) > LONGEST_CAPTION:
            unusable[OVERLONG, name] += 1
        elif not clean(caption, "standard"):
            unusable[WORDLESS, name] += 1
        else:
            kept.setdefault(name, []).append(nfc(caption))
    problems = [_problem(kind, name, _number(count, "caption")) for (kind, name), count in unusable.items()]
    return kept, problems, unusable.total()


def _too_many(counted: str, problems: list[Problem], hints: str, limit: float) -> CaptionlabError:
    kinds = ", ".join(sorted({problem.kind for problem in problems}))
    items = some_of([problem.item for problem in problems])
    return CaptionlabError(
        f"{counted} cannot be used ({kinds}: {items}){hints}; correct the dataset or raise dataset.max_bad_share, now"
        f" {limit:g}"
    )


def _repeated(splits: dict[Split, list[str]]) -> list[Problem]:
    return [
        _problem(REPEATED, name, f"in the {split} split; it counts once")
        for split in SPLITS
        for name, count in Counter(splits[split]).items()
        if count > 1
    ]


def _duplicates(readable: dict[str, str], split_of: dict[str, Split]) -> list[Problem]:
    """Photos with the same bytes under two names. They are kept, because published splits contain some."""
    first: dict[str, str] = {}
    problems = []
    for name, sha256 in readable.items():
        other = first.setdefault(sha256, name)
        if other != name:
            where = [split_of.get(each, "no split") for each in (name, other)]
            problems.append(
                _problem(DUPLICATE, name, f"the same bytes as {other} (in {where[0]} and {where[1]}); kept")
            )
    return problems


def _problem(kind: str, item: str, detail: str) -> Problem:
    return Problem(kind=kind, item=item, detail=detail)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
