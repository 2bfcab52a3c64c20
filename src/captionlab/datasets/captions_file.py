"""Captions files: CSV in its dialects, and the token files of Flickr8k and Flickr30k.

Knows columns, quotes and separators; nothing of photos.
"""

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from captionlab.datasets import Problem
from captionlab.datasets.reading import read_text
from captionlab.errors import CaptionlabError

CAPTION_FILES = (
    "captions.txt", "captions.csv", "captions.tsv",
    "results.csv", "Flickr8k.token.txt", "results_20130124.token",  # of Flickr30k and Flickr8k
)  # fmt: skip
_SEPARATORS = ("\t", ";", "|", ",")
# Column names in lowercase without blanks, hyphens and underscores; the first one in the header is used.
_IMAGE = ("image", "imagename", "filename", "file", "imagepath", "imagefile", "photo", "img", "path", "name", "imageid")
_CAPTION = ("caption", "comment", "text", "sentence", "description")
_SPLIT = ("split",)
_TOKEN_LINE = re.compile(r"[^\t\n]+#\d+\t")
_NUMBER_FIRST = re.compile(r"\s*(\d+)\s+(.*)", re.DOTALL)


class Row(NamedTuple):
    """One line of a captions file, as written; ``split`` is empty if there is no such column."""

    image: str
    caption: str
    split: str = ""


def read_captions(path: Path) -> tuple[list[Row], list[Problem]]:
    """The distinct rows of a captions file, and repeated rows as problems.

    A header names the columns, in any order; other columns are ignored. The separator is a comma, a semicolon, a tab
    or ``|``; fields may be in quotes. A caption may contain the separator without quotes: surplus fields belong to it.
    Raises CaptionlabError if the file cannot be read or has no such header or no rows.
    """
    text = read_text(path)
    if _TOKEN_LINE.match(text):
        captions, problems = token_captions(text, path.name)
        return [Row(*caption) for caption in captions], problems
    lines = text.split("\n")
    if not any(line.strip() for line in lines):
        raise CaptionlabError(f"{path} is empty; it needs the header image,caption and one line for each caption")
    table = _table_of(lines[0])
    if table is None:
        raise CaptionlabError(
            f"{path}: the first line is {lines[0][:60]!r}; it must name the columns, such as image,caption"
        )
    rows: list[Row] = []
    problems = []
    seen = set()
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        row = table.row(line)
        if row in seen:
            problems.append(Problem(kind="duplicate caption", item=row.image, detail=f"line {number}; it counts once"))
        else:
            seen.add(row)
            rows.append(row)
    if not rows:
        raise CaptionlabError(f"{path} has no captions below its header; add some")
    return rows, problems


def token_captions(text: str, name: str) -> tuple[list[tuple[str, str]], list[Problem]]:
    """(photo, caption) of each line ``photo#number<TAB>caption``, and repeated ids as problems.

    Raises CaptionlabError with ``name`` and the line number for any other line, and if there are no captions.
    """
    captions: dict[str, tuple[str, str]] = {}
    problems = []
    for number, line in enumerate(text.removesuffix("\n").split("\n") if text else [], 1):
        key, tab, caption = line.partition("\t")
        photo, mark, _ = key.rpartition("#")
        if not (tab and mark and photo):
            raise CaptionlabError(f"{name}, line {number} is not photo#number, tab, caption; get the file again")
        if key in captions:
            problems.append(Problem(kind="duplicate caption", item=key, detail="the first is kept"))
        else:
            captions[key] = (photo, caption)
    if not captions:
        raise CaptionlabError(f"{name} has no captions; get the file again")
    return list(captions.values()), problems


@dataclass(frozen=True, kw_only=True)
class _Table:
    """The separator, the number of columns and the indices of the columns that are used."""

    separator: str
    columns: int
    image: int
    caption: int
    split: int | None

    def row(self, line: str) -> Row:
        fields = self._aligned(line)
        split = "" if self.split is None else fields[self.split].strip()
        return Row(fields[self.image].strip(), fields[self.caption].strip(), split)

    def _aligned(self, line: str) -> Sequence[str]:
        """The line's fields, one for each column."""
        fields = _fields(line, self.separator, self.columns)
        surplus = len(fields) - self.columns
        if surplus > 0:
            stop = self.caption + surplus + 1
            return [*fields[: self.caption], self.separator.join(fields[self.caption : stop]), *fields[stop:]]
        # One line of Flickr30k's results.csv lacks the separator between the caption's number and the caption.
        if surplus == -1 and self.separator == "|" and (parts := _NUMBER_FIRST.fullmatch(fields[-1])):
            return [*fields[:-1], *parts.groups()]
        return [*fields, *[""] * -surplus]


def _table_of(header: str) -> _Table | None:
    for separator in _SEPARATORS:
        names = [re.sub(r"[\s_-]", "", name).lower() for name in _fields(header, separator)]
        image, caption, split = (_first(names, known) for known in (_IMAGE, _CAPTION, _SPLIT))
        if image is not None and caption is not None:
            return _Table(separator=separator, columns=len(names), image=image, caption=caption, split=split)
    return None


def _first(names: Sequence[str], known: Sequence[str]) -> int | None:
    return next((names.index(name) for name in known if name in names), None)


def _fields(line: str, separator: str, columns: int = 0) -> list[str]:
    """The fields of a line as CSV; quotes that are not valid CSV are kept as text.

    Each line is parsed separately, so that an unclosed quote does not extend over the following lines.
    """
    try:
        fields = next(csv.reader([line], delimiter=separator, strict=True, skipinitialspace=True), [])
        if columns and len(fields) != columns:  # keeps the blanks, because surplus fields are joined again
            fields = next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return line.split(separator)
    return fields
