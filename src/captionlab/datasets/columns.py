"""Columns of captions files, JSON lines and Parquet files: their names, and lists of captions in a cell."""

import ast
import json
import re
from collections.abc import Sequence

# In lowercase without the characters of ``_PUNCTUATION``; the first one that exists is used.
PHOTO_NAME = (
    "image", "imagename", "filename", "file", "imagepath", "imagefile", "imagefilename", "filepath", "photo", "img",
    "path", "name", "imageid",
)  # fmt: skip
PHOTO_BYTES = ("image", "img", "photo", "picture", "jpg", "jpeg", "png", "webp")
SPLIT = ("split", "splitname", "datasplit", "subset", "partition", "set")
_CAPTION = (
    "caption", "comment", "text", "sentence", "description", "captions", "texts", "txt", "sentences", "sentencesraw",
)  # fmt: skip
_TITLE = ("title",)  # of open_clip's files; others have it beside the captions
# An item of a list of texts, as JSON, Python or NumPy write it.
_ITEM = re.compile(r"""[\s,]*('(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|None|null|nan|NaN)""", re.DOTALL)
_PUNCTUATION = re.compile(r"[\s_./\[\]-]")  # as in caption_1, caption.1 (of pandas), caption[1] and caption/1
_NUMBERED = re.compile(rf"(?:{'|'.join(_CAPTION)})(\d{{1,6}})")


def column(names: Sequence[str], known: Sequence[str]) -> int | None:
    """The index of the column that has one of the ``known`` names; None without one."""
    found = _plain(names)
    return next((found.index(name) for name in known if name in found), None)


def caption_columns(names: Sequence[str]) -> list[int]:
    """The indices of the column or equal columns of captions and of numbered ones such as ``caption_1``, by number.

    ``title`` is the column of captions where there is no other.
    """
    one, plain = column(names, _CAPTION), _plain(names)
    equal = [] if one is None else [index for index, name in enumerate(plain) if name == plain[one]]
    found = enumerate(map(_NUMBERED.fullmatch, plain))
    numbered = [(int(match[1]), index) for index, match in found if match]
    captions = [*equal, *(index for _, index in sorted(numbered))]
    title = column(names, _TITLE)
    return captions or ([] if title is None else [title])


def _plain(names: Sequence[str]) -> list[str]:
    return [_PUNCTUATION.sub("", name).lower() for name in names]


def captions_in(text: str) -> list[str]:
    """The captions of a cell: the text itself, or those of a list as JSON, Python or NumPy write it.

    NumPy's has no commas. Missing values in a list are left out.
    """
    if not (text.startswith("[") and text.endswith("]")):
        return [text]
    items, place = [], 1
    while item := _ITEM.match(text, place):
        items.append(item[1])
        place = item.end()
    if not items or text[place:].strip(" \t\n,") != "]":
        return [text]
    found = [_unquoted(item) for item in items if item[0] in "'\""]
    return [text] if None in found else [caption for caption in found if caption is not None] or [""]


def _unquoted(item: str) -> str | None:
    """The text of a quoted string in JSON or Python; None if it is neither."""
    for read in (json.loads, ast.literal_eval):
        try:
            return str(read(item))
        except (ValueError, SyntaxError):
            continue
    return None
