"""The file formats of references and captions that ``captionlab score`` and the stage ``guests`` read.

Knows JSON and ids; nothing of scores. Some formats name a photo in several ways, by number and by file name say, so
both readers return candidates: the same captions under each kind of id. The caller takes those that fit together.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from captionlab.core.records import LONGEST_CAPTION, Split
from captionlab.data.caption_json import (
    KarpathyImage,
    Value,
    are_objects,
    coco_captions,
    coco_names,
    is_coco,
    is_id,
    is_karpathy,
    is_text,
    karpathy_images,
    parse,
    unique,
)
from captionlab.data.text import nfc
from captionlab.errors import CaptionlabError, some_of

REFERENCES = (
    '{"id": ["reference", ...]}, COCO annotations, Karpathy\'s dataset_*.json (one split or all), Flickr8k\'s or '
    "Flickr30k's .token.txt, or a project's artifacts/dataset/dataset.jsonl"
)
CAPTIONS = (
    '{"id": "caption"}, {"id": ["caption"]}, COCO results (a list, or a line each), or what captionlab caption --out '
    "writes"
)

# What a line of captions has, and no mapping of ids: of captionlab caption, and of COCO results as JSON lines.
ROWS = ({"image", "caption"}, {"image_id", "caption"})
DATASET_ROW = {"image", "split", "captions"}  # what a line of dataset.jsonl has
_TOKEN = re.compile(r"(?P<image>[^\t\n]+)#(?P<number>\d+)\t(?P<caption>.*)")  # a line of .token.txt

References = dict[str, list[str]]
Captions = dict[str, str]


def read_references(path: Path) -> list[References]:
    """Read references by image id, in any of the formats of ``REFERENCES``.

    The ids of COCO annotations are image ids or file names, Karpathy's are file names or COCO's image ids, of each
    split; those of a dataset.jsonl are file names, of each split too. Each kind is also returned without suffixes,
    where these are unique. All are in NFC. Raises CaptionlabError naming the file for anything else, for a photo
    without references and for a blank reference.
    """
    value = _read(path, REFERENCES)
    if is_coco(value):
        candidates = _coco_references(path, value)
    elif is_karpathy(value):
        candidates = _karpathy_references(path, value["images"])
    elif are_objects(value) and value[0].keys() >= DATASET_ROW:
        candidates = _dataset_references(path, value)
    elif isinstance(value, dict) and value:
        candidates = [value]
    else:
        raise CaptionlabError(f"{path} has no references with image ids; known formats: {REFERENCES}")
    for image, captions in (entry for candidate in candidates for entry in candidate.items()):
        if not isinstance(captions, list) or not captions:
            raise CaptionlabError(
                f"{path}: image {image!r} must have a list of at least one reference; known formats: {REFERENCES}"
            )
        if not all(is_text(caption) and caption.strip() for caption in captions):
            raise CaptionlabError(f"{path}: image {image!r} has a reference that is not text or is blank")
        _check_length(path, image, captions)
    candidates = [_in_nfc(path, candidate) for candidate in candidates]
    return candidates + [other for own in candidates for other in _changed(own, _renamed(own, _without_suffix))]


def read_captions(path: Path) -> list[Captions]:
    """Read one generated caption per image id, in any of the formats of ``CAPTIONS``.

    Ids are as in the file, such as paths that were given to captionlab caption, or the file names of such paths; all
    are in NFC. Raises CaptionlabError naming the file for anything else. An empty caption is allowed.
    """
    value = _read(path, CAPTIONS)
    if are_objects(value):
        candidates = _caption_rows(path, value)
    elif isinstance(value, dict) and value:
        single = _in_nfc(path, {image: _single(caption) for image, caption in value.items()})
        candidates = [single, *_changed(single, _renamed(single, _file_name))]
    else:
        raise CaptionlabError(f"{path} has no captions with image ids; known formats: {CAPTIONS}")
    for image, caption in candidates[0].items():
        if not is_text(caption):
            raise CaptionlabError(
                f"{path}: image {image!r} must have one caption, of valid text; known formats: {CAPTIONS}"
            )
        _check_length(path, image, [caption])
    return [_in_nfc(path, candidate) for candidate in candidates]


def captions_by_split(path: Path, images: Mapping[Split, Sequence[str]]) -> dict[Split, dict[str, str]]:
    """One caption for each image of the test split, and of the validation split where the file has it.

    An id is an image's file name, the name without suffix, or the number that ends this, as in COCO's
    ``COCO_val2014_000000000042.jpg``. Raises CaptionlabError as ``read_captions`` does, and naming images without a
    caption and ids of no image.
    """
    ids = _by_id(image for own in images.values() for image in own)
    names = {key: own[0] for key, own in ids.items() if len(own) == 1}
    captions = max(read_captions(path), key=lambda candidate: len(candidate.keys() & names.keys()))
    found: Captions = {}
    for key, caption in captions.items():
        if key in names:
            if names[key] in found:
                raise CaptionlabError(f"{path}: {names[key]!r} has two captions under different ids; keep one")
            found[names[key]] = caption
    wanted: list[Split] = ["test"]
    if any(image in found for image in images.get("val", ())):
        wanted.insert(0, "val")
    missing = [image for split in wanted for image in images[split] if image not in found]
    surplus = sorted(key for key in captions if key not in names)
    ambiguous = [key for key in surplus if key in ids]
    faults = [
        f"{len(keys):,} {what} ({some_of(keys)})"
        for keys, what in (
            (missing, "photos have no caption; the test photos need one, those for validation all or none"),
            (ambiguous, "ids mean several photos; use file names"),
            ([key for key in surplus if key not in ids], "ids are not in the validation or test split; remove them"),
        )
        if keys
    ]
    if faults:
        raise CaptionlabError(f"{path} does not fit the dataset: {' and '.join(faults)}")
    return {split: {image: found[image] for image in images[split]} for split in wanted}


def _by_id(images: Iterable[str]) -> dict[str, list[str]]:
    """The images that each id could mean; a whole file name means that image alone."""
    images = list(images)
    found: dict[str, set[str]] = {}
    for image in images:
        stem = Path(image).stem
        number = re.search(r"\d+$", stem)
        for key in {stem, *((number[0], str(int(number[0]))) if number else ())}:
            found.setdefault(key, set()).add(image)
    return {key: sorted(own) for key, own in found.items()} | {image: [image] for image in images}


def _coco_references(path: Path, value: dict[str, Any]) -> list[References]:
    by_id = coco_captions(path, value["annotations"])
    images = value["images"] if are_objects(value.get("images")) else []
    return [by_id, *_renamed(by_id, dict(coco_names(images)).get)]


def _karpathy_references(path: Path, images: list[dict[str, Any]]) -> list[References]:
    by_split: dict[str, list[KarpathyImage]] = {}
    for image in karpathy_images(path, images):
        by_split.setdefault(image.split, []).append(image)
    candidates = []
    splits = sorted(by_split, key=lambda split: split != "test")  # of candidates that fit equally the first counts
    everything = [image for split in splits for image in by_split[split]]
    for own in [*(by_split[split] for split in splits), *([everything] if len(splits) > 1 else [])]:
        by_name = unique(path, ((image.filename, image.captions) for image in own))
        numbers = {image.filename: image.cocoid for image in own}
        candidates += [by_name, *_renamed(by_name, numbers.get)]
    return candidates


def _dataset_references(path: Path, rows: list[dict[str, Any]]) -> list[References]:
    by_split: dict[str, list[tuple[str, Any]]] = {}
    for number, row in enumerate(rows, 1):
        if not is_id(row.get("image")) or not is_text(row.get("split")) or "captions" not in row:
            raise CaptionlabError(f"{path}, line {number}: there must be {', '.join(sorted(DATASET_ROW))}")
        by_split.setdefault(row["split"], []).append((str(row["image"]), row["captions"]))
    everything = [own for rows in by_split.values() for own in rows]
    splits = sorted(by_split, key=lambda split: split != "test")
    return [unique(path, own) for own in [*(by_split[split] for split in splits), everything]]


def _token_references(path: Path, lines: Sequence[str]) -> References:
    """The captions of each photo; a repeated line counts once."""
    found: dict[str, dict[tuple[str, str], None]] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        parts = _TOKEN.fullmatch(line.rstrip("\r"))
        if not parts:
            raise CaptionlabError(f"{path}, line {number}: there must be a file name, # and a number, a tab, a caption")
        found.setdefault(parts["image"], {})[parts["number"], parts["caption"]] = None
    return {image: [caption for _, caption in captions] for image, captions in found.items()}


def _caption_rows(path: Path, rows: list[dict[str, Any]]) -> list[Captions]:
    """COCO results, and the lines of captionlab caption."""
    key = "image" if "image" in rows[0] else "image_id"
    for place, row in enumerate(rows):
        if not is_id(row.get(key)) or "caption" not in row:
            raise CaptionlabError(f"{path}: entry {place} has no {key} or no caption; known formats: {CAPTIONS}")
    captions = unique(path, ((str(row[key]), row["caption"]) for row in rows))
    return [captions, *_renamed(captions, _file_name)]


def _file_name(image: str) -> str:
    """The last part of a POSIX or Windows path."""
    return Path(image.replace("\\", "/")).name


def _without_suffix(image: str) -> str:
    """The id that COCO's results have of a photo such as 1000092795.jpg."""
    return image.removesuffix(Path(image).suffix)


def _changed(captions: dict[str, Value], others: list[dict[str, Value]]) -> list[dict[str, Value]]:
    """Those of the others that have other ids than the captions."""
    return [other for other in others if other.keys() != captions.keys()]


def _renamed(captions: dict[str, Value], name: Callable[[str], Any]) -> list[dict[str, Value]]:
    """The same under other ids; none where these are missing or not unique."""
    names = [name(image) for image in captions]
    if not all(map(is_id, names)):
        return []
    renamed = {nfc(str(name)): own for name, own in zip(names, captions.values(), strict=True)}
    return [renamed] if len(renamed) == len(names) else []


def _in_nfc(path: Path, captions: dict[str, Value]) -> dict[str, Value]:
    return unique(path, ((nfc(image), value) for image, value in captions.items()))


def _single(value: Any) -> Any:
    return value[0] if isinstance(value, list) and len(value) == 1 else value


def _check_length(path: Path, image: str, captions: Iterable[str]) -> None:
    longest = max(map(len, captions))
    if longest > LONGEST_CAPTION:
        raise CaptionlabError(
            f"{path}: image {image!r} has a caption of {longest:,} characters; at most {LONGEST_CAPTION:,} are scored"
        )


def _read(path: Path, formats: str) -> Any:
    """A file's JSON; JSON lines become a list, a .token.txt references. ``formats`` are named for anything else."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some Windows editors write a byte order mark
    except OSError as error:
        raise CaptionlabError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CaptionlabError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    if formats == REFERENCES and _TOKEN.match(text.lstrip()):
        return _token_references(path, text.split("\n"))
    if text.strip()[:1] not in ("{", "["):
        raise CaptionlabError(f"{path} is not JSON; known formats: {formats}")
    lines = {number: line for number, line in enumerate(text.split("\n"), 1) if line.strip()}
    first = next(iter(lines.values()))
    if len(lines) > 1 and _is_object(first):
        if not _is_row(json.loads(first)):
            raise CaptionlabError(f"{path} has JSON lines of an unknown kind; known formats: {formats}")
        return [parse(line, f"{path}, line {number}") for number, line in lines.items()]
    value = parse(text, str(path))
    return [value] if _is_row(value) else value


def _is_object(line: str) -> bool:
    """Whether this is a whole line of JSON lines, and not the beginning of a larger JSON value."""
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _is_row(value: Any) -> bool:
    return isinstance(value, dict) and any(value.keys() >= keys for keys in (*ROWS, DATASET_ROW))
