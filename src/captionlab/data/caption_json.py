"""The JSON files in which captions are published: COCO's annotations and Karpathy's ``dataset_*.json``.

Knows their keys and ids, not where photos lie nor what the captions are for.
"""

import json
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from captionlab.errors import CaptionlabError

Value = TypeVar("Value")


class KarpathyImage(NamedTuple):
    """One entry of Karpathy's list, as written."""

    filename: str
    filepath: str  # the folder, of COCO alone; else empty
    split: str
    cocoid: Any  # of COCO alone; else None
    captions: list[Any]


def parse(text: str, origin: str) -> Any:
    """The value of JSON text.

    Raises CaptionlabError, with the name ``origin``, for invalid JSON and repeated keys.
    """
    try:
        return json.loads(text, object_pairs_hook=partial(unique, origin))
    except (ValueError, RecursionError) as error:
        raise CaptionlabError(f"{origin} is not valid JSON: {error}") from None


def unique(origin: Path | str, pairs: Iterable[tuple[str, Value]]) -> dict[str, Value]:
    """Pairs as a dict; ``dict`` alone would silently keep the last of two equal keys."""
    result: dict[str, Value] = {}
    for key, value in pairs:
        if key in result:
            raise CaptionlabError(f"{origin}: {shown(key)} occurs more than once; keep one")
        result[key] = value
    return result


def is_coco(value: Any) -> bool:
    """Whether a JSON value has COCO's list of annotations."""
    return isinstance(value, dict) and are_objects(value.get("annotations"))


def is_karpathy(value: Any) -> bool:
    """Whether a JSON value has Karpathy's list of images. COCO's files have such a list too; ask ``is_coco`` first."""
    return isinstance(value, dict) and are_objects(value.get("images"))


def are_objects(value: Any) -> bool:
    """Whether a JSON value is a list of objects, at least one."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, dict) for one in value)


def is_id(value: Any) -> bool:
    """Whether a JSON value is a number or a text that can stand for a photo."""
    return isinstance(value, int | str) and not isinstance(value, bool) and value != ""


def is_text(value: Any) -> bool:
    """Whether a JSON value is text that UTF-8 can encode; JSON may contain unpaired surrogates."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """A text in quotes for a message, cut to a readable length."""
    return repr(text if len(text) <= 100 else f"{text[:100]}...")


def coco_captions(path: Path, annotations: Iterable[dict[str, Any]]) -> dict[str, list[Any]]:
    """The captions of each image id, as written; CaptionlabError for an annotation without id or caption."""
    by_id: dict[str, list[Any]] = {}
    for place, row in enumerate(annotations):
        if not is_id(row.get("image_id")) or "caption" not in row:
            raise CaptionlabError(f"{path}: annotation {place} has no image_id or no caption")
        by_id.setdefault(str(row["image_id"]), []).append(row["caption"])
    return by_id


def coco_names(images: Iterable[dict[str, Any]]) -> Iterator[tuple[str, Any]]:
    """Image id and file name of each image, as written."""
    return ((str(image.get("id")), image.get("file_name")) for image in images)


def karpathy_images(path: Path, images: Iterable[dict[str, Any]]) -> Iterator[KarpathyImage]:
    """The entries of Karpathy's list; CaptionlabError, when it is reached, for one without a file name or sentences."""
    for image in images:
        name, folder, split = (image.get(key, "") for key in ("filename", "filepath", "split"))
        sentences = image.get("sentences")
        if not (isinstance(name, str) and name and isinstance(sentences, list)):
            raise CaptionlabError(f"{path}: an image has no filename or no sentences")
        if not (isinstance(folder, str) and isinstance(split, str)):
            raise CaptionlabError(f"{path}: image {shown(name)} has a filepath or a split that is not text")
        if not all(isinstance(sentence, dict) and "raw" in sentence for sentence in sentences):
            raise CaptionlabError(f"{path}: image {shown(name)} has a sentence without the key raw")
        captions = [sentence["raw"] for sentence in sentences]
        yield KarpathyImage(name, folder, split, image.get("cocoid"), captions)
