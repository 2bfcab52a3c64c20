"""The checks every source goes through: from what was found to the records that later stages can trust.

Knows photos, captions and splits, not where they came from.
"""

import hashlib
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path

from tqdm import tqdm

from captionlab.core.files import digest_of
from captionlab.core.records import LONGEST_CAPTION, SPLITS, CaptionedImage, Split
from captionlab.data.photos import fault_of
from captionlab.datasets import Found, Problem
from captionlab.errors import CaptionlabError

CORRUPT = "corrupt photo"
TWIN = "duplicate photo"
UNCAPTIONED = "photo without captions"
UNKNOWN = "split names unknown photo"
REPEATED = "split names photo twice"
NO_PHOTO = "caption without photo"
EMPTY = "empty caption"
OVERLONG = "overlong caption"


@dataclass(frozen=True, kw_only=True)
class Checked:
    """A dataset whose every photo decodes and has a split and a caption."""

    records: list[CaptionedImage]  # by split, then by name
    problems: list[Problem]  # sorted
    digest: str  # over photos, captions and splits: the same on every machine
    set_aside: int  # sound photos that no split names


def check(found: Found, images: Path, *, max_bad_share: float) -> Checked:
    """Decode every photo, match photos, captions and splits, and list what does not fit.

    Raises CaptionlabError when two splits share a photo, when more than ``max_bad_share`` of the photos or of the
    captions cannot be used, or when a split is left with no photo.
    """
    _refuse_overlap(found.splits)
    photos = sorted(entry.name for entry in images.iterdir())
    looks = _look_at(images, photos)
    sound = {photo: look.sha256 for photo, look in looks.items() if look.fault is None}
    split_of = {photo: split for split in SPLITS for photo in found.splits[split]}

    bad_photos = [_problem(CORRUPT, photo, looks[photo].fault or "") for photo in photos if photo not in sound]
    bad_photos += [
        _problem(UNKNOWN, photo, f"in the {split} split") for photo, split in split_of.items() if photo not in looks
    ]
    captions, bad_captions, unusable_captions = _match(found.captions, looks)
    bad_photos += [_problem(UNCAPTIONED, photo, "") for photo in photos if photo in sound and photo not in captions]
    notes = [*found.problems, *_repeated(found.splits), *_twins(sound, split_of)]

    _refuse_share(bad_photos, len(bad_photos), len(looks.keys() | split_of.keys()), "photos", max_bad_share)
    _refuse_share(bad_captions, unusable_captions, len(found.captions), "captions", max_bad_share)

    records = [
        CaptionedImage(image=photo, split=split, captions=tuple(captions[photo]))
        for split in SPLITS
        for photo in sorted(set(found.splits[split]))
        if photo in sound and photo in captions
    ]
    for split in SPLITS:
        if not any(record.split == split for record in records):
            raise CaptionlabError(f"the {split} split has no usable photo; see dataset in params.yaml")
    return Checked(
        records=records,
        problems=sorted([*bad_photos, *bad_captions, *notes]),
        digest=digest_of([[r.image, r.split, r.captions, sound[r.image]] for r in records]),
        set_aside=sum(photo in captions and photo not in split_of for photo in sound),
    )


@dataclass(frozen=True)
class _Look:
    sha256: str
    fault: str | None


def _look_at(images: Path, photos: list[str]) -> dict[str, _Look]:
    """Hash and fully decode every photo, in threads: Pillow and hashlib let go of the interpreter's lock."""

    def look(photo: str) -> _Look:
        path = images / photo
        with path.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        fault = fault_of(path)
        # Pillow names the file with its whole path, which differs from machine to machine.
        return _Look(sha256, fault and fault.replace(str(path), photo))

    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        looks = tqdm(pool.map(look, photos), "checking photos", len(photos), leave=False, disable=None)
        return dict(zip(photos, looks, strict=True))


def _match(captions: list[tuple[str, str]], looks: dict[str, _Look]) -> tuple[dict[str, list[str]], list[Problem], int]:
    """The captions of each photo, the problems, and how many captions cannot be used."""
    usable: dict[str, list[str]] = {}
    homeless: Counter[str] = Counter()
    empty: Counter[str] = Counter()
    overlong: Counter[str] = Counter()
    for photo, caption in captions:
        if photo not in looks:
            homeless[photo] += 1
        elif not caption.strip():
            empty[photo] += 1
        elif len(caption) > LONGEST_CAPTION:
            overlong[photo] += 1
        else:
            usable.setdefault(photo, []).append(caption)
    problems = [_problem(NO_PHOTO, photo, _number(count, "caption")) for photo, count in homeless.items()]
    problems += [_problem(EMPTY, photo, _number(count, "caption")) for photo, count in empty.items()]
    problems += [_problem(OVERLONG, photo, _number(count, "caption")) for photo, count in overlong.items()]
    return usable, problems, homeless.total() + empty.total() + overlong.total()


def _refuse_overlap(splits: dict[Split, list[str]]) -> None:
    for one, other in combinations(SPLITS, 2):
        if shared := sorted(set(splits[one]) & set(splits[other])):
            raise CaptionlabError(
                f"the splits {one} and {other} share {_number(len(shared), 'photo')} ({_some(shared)});"
                " take them out of one of the two"
            )


def _refuse_share(problems: list[Problem], bad: int, total: int, noun: str, limit: float) -> None:
    if total and bad > limit * total:
        kinds = ", ".join(sorted({problem.kind for problem in problems}))
        raise CaptionlabError(
            f"{bad:,} of {total:,} {noun} cannot be used ({kinds}: {_some([p.item for p in problems])});"
            f" mend the dataset or raise dataset.max_bad_share, now {limit:g}"
        )


def _repeated(splits: dict[Split, list[str]]) -> list[Problem]:
    return [
        _problem(REPEATED, photo, f"in the {split} split; it counts once")
        for split in SPLITS
        for photo, count in Counter(splits[split]).items()
        if count > 1
    ]


def _twins(sound: dict[str, str], split_of: dict[str, Split]) -> list[Problem]:
    """Photos with the same bytes under two names. They stay: published splits hold some."""
    first: dict[str, str] = {}
    problems = []
    for photo, sha256 in sound.items():
        twin = first.setdefault(sha256, photo)
        if twin != photo:
            where = [split_of.get(name, "no split") for name in (photo, twin)]
            problems.append(_problem(TWIN, photo, f"the same bytes as {twin} (in {where[0]} and {where[1]}); kept"))
    return problems


def _problem(kind: str, item: str, detail: str) -> Problem:
    return Problem(kind=kind, item=item, detail=detail)


def _number(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
