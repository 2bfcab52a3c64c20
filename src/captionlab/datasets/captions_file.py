"""Captions files: CSV in its dialects, JSON lines, and the token files of Flickr8k and Flickr30k.

Knows columns, quotes and separators; nothing of photos.
"""

import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from captionlab.data.caption_json import is_text, parse
from captionlab.data.photos import SUFFIXES
from captionlab.datasets import Problem
from captionlab.datasets.columns import PHOTO_NAME, SPLIT, caption_columns, captions_in, column
from captionlab.datasets.reading import read_text
from captionlab.errors import CaptionlabError

CAPTION_FILES = (
    "captions.txt", "captions.csv", "captions.tsv",
    "results.csv", "Flickr8k.token.txt", "results_20130124.token",  # of Flickr30k and Flickr8k
    "metadata.csv", "metadata.jsonl",  # of Hugging Face's image folders
)  # fmt: skip
_SEPARATORS = ("\t", ";", "|", ",")
# Lines without text; sep= is Excel's.
_ABOVE_HEADER = re.compile(r'\A(?:[\s,;|]*\n)?(?:"?sep=."?\n)?(?:[\s,;|]*\n)?', re.IGNORECASE)
_TOKEN_LINE = re.compile(r"[^\t\n]+#\d+\t")
_ESCAPED = re.compile(r'\\(["\\])')  # in quotes, as MySQL and Spark write them
_NUMBER_FIRST = re.compile(r"\s*(\d+)\s+(.*)", re.DOTALL)


class CaptionRow(NamedTuple):
    """One line of a captions file, as written; ``split`` is empty if there is no such column."""

    image: str
    caption: str
    split: str = ""


def read_captions_file(path: Path) -> tuple[list[CaptionRow], list[Problem]]:
    """The distinct rows of a captions file, and repeated rows as problems.

    A header names the columns, in any order; other columns are ignored. The separator is a comma, a semicolon, a tab
    or ``|``; fields may be in quotes. A caption may contain the separator without quotes: surplus fields belong to it.
    Columns such as ``caption_1`` and ``caption_2`` are captions of one photo. In JSON lines the keys are the columns.
    Raises CaptionlabError if the file cannot be read or has no such header or no rows.
    """
    text = read_text(path)
    if _TOKEN_LINE.match(text.lstrip()):
        captions, problems = token_captions(text, path.name)
        return [CaptionRow(*caption) for caption in captions], problems
    if not text.strip():
        raise CaptionlabError(
            f"{path} is empty; get it again, or write captions into it below the header image,caption"
        )
    rows: list[CaptionRow] = []
    problems = []
    seen = set()
    for number, row in _json_rows(path, text) if path.suffix.lower() == ".jsonl" else _table_rows(path, text):
        if row in seen:
            problems.append(Problem(kind="duplicate caption", item=row.image, detail=f"line {number}; it counts once"))
        else:
            seen.add(row)
            rows.append(row)
    if not rows:
        raise CaptionlabError(f"{path} has no captions below its header; add some")
    return rows, problems


def _table_rows(path: Path, text: str) -> Iterator[tuple[int, CaptionRow]]:
    """The rows below the header, each with the number of its last line."""
    table_text = _ABOVE_HEADER.sub("", text, count=1)
    first = 1 + text.count("\n") - table_text.count("\n")
    header, _, body = table_text.partition("\n")
    table = _table_of(header)
    if table is None:
        raise CaptionlabError(
            f"{path}: the first line is {header[:60]!r}; it must name the columns, such as image,caption"
        )
    lines = body.split("\n")
    number = 0
    while number < len(lines):
        count, fields = _over_several_lines(lines, number, table) or (1, table.aligned(lines[number]))
        number += count
        if len(fields) > table.columns:
            raise CaptionlabError(
                f"{path}, line {first + number} has {len(fields)} fields, the header {table.columns}; put captions with"
                f" {table.separator!r} in quotes"
            )
        for row in table.rows(fields) if any(map(str.strip, fields)) else []:  # Excel writes rows of separators alone
            yield first + number, row


def _over_several_lines(lines: Sequence[str], start: int, table: "_Table") -> tuple[int, list[str]] | None:
    """The record that begins on a line and its number of lines, if a quoted field extends it over more than one."""
    if lines[start].count('"') % 2 == 0:
        return None
    stop = next((stop for stop in range(start + 1, len(lines)) if lines[stop].count('"') % 2), None)
    if stop is None:
        return None
    if table.begins_a_row(lines[start]) and any(map(table.begins_a_row, lines[start + 1 : stop + 1])):
        return None  # a quote that was forgotten
    text = "\n".join(lines[start : stop + 1])
    for form in (text, _unescaped(text)):
        try:
            records = list(csv.reader(io.StringIO(form, newline=""), delimiter=table.separator, strict=True))
        except csv.Error:
            continue
        if len(records) == 1 and len(records[0]) == table.columns:
            return stop + 1 - start, records[0]
    return None


def _json_rows(path: Path, text: str) -> Iterator[tuple[int, CaptionRow]]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        value = parse(line, f"{path}, line {number}")
        keys, values = (list(value), list(value.values())) if isinstance(value, dict) else ([], [])
        image, split = column(keys, PHOTO_NAME), column(keys, SPLIT)
        found = [values[index] for index in caption_columns(keys)] or [None]
        captions = [text for each in found for text in (each if isinstance(each, list) else [each])]
        captions = [text for text in captions if text not in (None, "")] or captions[:1]  # some keys may have none
        texts = [
            None if image is None else values[image],
            *captions,
            "" if split is None or values[split] is None else values[split],
        ]
        if not all(map(is_text, texts)):
            raise CaptionlabError(
                f"{path}, line {number} has no file_name and text that are text; write one JSON object for each photo"
            )
        for each in captions:
            for text in captions_in(each):
                yield number, CaptionRow(texts[0].strip(), _one_line(text), texts[-1].strip())


def token_captions(text: str, name: str) -> tuple[list[tuple[str, str]], list[Problem]]:
    """(photo, caption) of each line ``photo#number<TAB>caption``, and repeated ids as problems.

    Raises CaptionlabError with ``name`` and the line number for any other line, and if there are no captions.
    """
    captions: dict[str, tuple[str, str]] = {}
    problems = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
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
    captions: Sequence[int]
    split: int | None

    def rows(self, fields: Sequence[str]) -> list[CaptionRow]:
        """One row for each caption; of several columns those that are empty have none."""
        split = "" if self.split is None else fields[self.split].strip()
        captions = [_one_line(text) for column in self.captions for text in captions_in(fields[column].strip())]
        if len(captions) > 1:
            captions = [caption for caption in captions if caption] or [""]
        return [CaptionRow(fields[self.image].strip(), caption, split) for caption in captions]

    def begins_a_row(self, line: str) -> bool:
        """Whether the line has a photo's name in its place, and so is no continuation of the line before."""
        fields = line.split(self.separator)
        return len(fields) >= self.columns and Path(fields[self.image].strip(' "')).suffix.lower() in SUFFIXES

    def aligned(self, line: str) -> Sequence[str]:
        """The line's fields, one for each column; more of them where it is unclear to which caption they belong."""
        fields = _fields(line, self.separator, self.columns)
        surplus = len(fields) - self.columns
        if surplus > 0 and len(self.captions) == 1:
            last = self.captions[-1]
            stop = last + surplus + 1
            return [*fields[:last], self.separator.join(fields[last:stop]), *fields[stop:]]
        # One line of Flickr30k's results.csv lacks the separator between the caption's number and the caption.
        if surplus == -1 and self.separator == "|" and (parts := _NUMBER_FIRST.fullmatch(fields[-1])):
            return [*fields[:-1], *parts.groups()]
        return [*fields, *[""] * -surplus]


def _table_of(header: str) -> _Table | None:
    for separator in _SEPARATORS:
        names = _fields(header, separator)
        image, captions, split = column(names, PHOTO_NAME), caption_columns(names), column(names, SPLIT)
        if image is not None and captions:
            return _Table(separator=separator, columns=len(names), image=image, captions=captions, split=split)
    return None


def _unescaped(text: str) -> str:
    """CSV with backslashes before quotes and backslashes as CSV with doubled quotes."""
    return _ESCAPED.sub(lambda match: '""' if match[1] == '"' else "\\", text)


def _one_line(caption: str) -> str:
    return " ".join(caption.split("\n")).strip()


def _fields(line: str, separator: str, columns: int = 0) -> list[str]:
    """The fields of a line as CSV; quotes that are not valid CSV are kept as text.

    Where they leave other than ``columns`` fields, backslashes before quotes are tried as CSV's doubled quotes. An
    unclosed quote does not extend over the following lines: ``_over_several_lines`` reads those that do.
    """
    fields = _as_csv(line, separator, columns)
    if '\\"' in line and (fields is None or len(fields) != columns):
        escaped = _as_csv(_unescaped(line), separator, columns)
        if escaped is not None and len(escaped) == columns:
            return escaped
    return line.split(separator) if fields is None else fields


def _as_csv(line: str, separator: str, columns: int) -> list[str] | None:
    """The fields of a line of valid CSV; None for any other."""
    try:
        fields = next(csv.reader([line], delimiter=separator, strict=True, skipinitialspace=True), [])
        if columns and len(fields) != columns:  # keeps the blanks, because surplus fields are joined again
            fields = next(csv.reader([line], delimiter=separator, strict=True), [])
    except csv.Error:
        return None
    return fields
