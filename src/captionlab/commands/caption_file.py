"""A file of captions in JSON lines that grows as photos are captioned, and that a later run continues.

Knows lines that name an image, a model and its decoding; nothing of how captions are made.
"""

import glob
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from captionlab.core import distributed
from captionlab.core.files import through_link, write_text
from captionlab.errors import CaptionlabError

_START = b'{"image": '  # of every line


class CaptionFile:
    """Appends captions to ``path``; in the end they have the order of the images in ``order``.

    ``source`` says which model writes them, and how it decodes; it is a part of every line. ``done`` are the images
    that the file has already. A single process appends to the file itself. Each of several processes appends to a file
    of its own beside it; the first process merges these at the end, or when a killed run is repeated. An incomplete
    last line is dropped. Raises CaptionlabError for a device or a pipe, when the file holds something else or captions
    of another source, and when the processes do not see each other's files.
    """

    def __init__(self, path: Path, order: Sequence[str], source: Mapping[str, Any]) -> None:
        path = through_link(path)
        with suppress(OSError):  # then the first line cannot be written, which is said there
            path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._source = path, dict(source)
        self._place = {image: place for place, image in enumerate(order)}
        if distributed.is_main():
            self._merge()
        distributed.barrier()
        self.done = self._read(path)[0].keys()
        self._own = path if distributed.world_size() == 1 else path.with_name(f"{path.name}.rank{distributed.rank()}")
        self._written = 0

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one line at once; ``row`` begins with its image."""
        left = json.dumps({**row, **self._source}, ensure_ascii=False).encode() + b"\n"
        try:
            with self._own.open("ab", buffering=0) as file:
                while left:  # a disk that is nearly full takes a part
                    left = left[file.write(left) :]
        except OSError as error:
            raise CaptionlabError(f"cannot write {self._own}: {error.strerror or error}; free space") from error
        self._written += 1

    def close(self) -> None:
        """Merge the processes' files when all have written theirs."""
        (written,) = distributed.all_reduce_sum(self._written)
        if distributed.is_main() and (merged := self._merge()) < len(self.done) + written:
            raise CaptionlabError(
                f"{self._path} received {merged - len(self.done)} of {written:.0f} lines; all machines must share its "
                "folder"
            )

    def _merge(self) -> int:
        """Bring all lines into the one file, and drop an incomplete one; returns how many images the file has."""
        parts = sorted(self._path.parent.glob(f"{glob.escape(self._path.name)}.rank*"))
        lines: dict[str, str] = {}
        incomplete = False
        for path in (self._path, *parts):
            found, rest = self._read(path)
            lines |= found
            incomplete |= rest
        if lines or incomplete:
            known = sorted(lines, key=lambda image: self._place.get(image, -1))
            write_text(self._path, "".join(f"{lines[image]}\n" for image in known))
        for part in parts:
            part.unlink()
        return len(lines)

    def _read(self, path: Path) -> tuple[dict[str, str], bool]:
        """The complete lines of a file by their image, and whether an incomplete one follows."""
        if not path.exists():
            return {}, False
        try:
            *complete, rest = path.read_bytes().split(b"\n")
        except OSError as error:
            raise CaptionlabError(f"cannot read {path}: {error.strerror or error}; name another file") from error
        lines = {}
        for number, line in enumerate(complete, 1):
            try:
                row = json.loads(line)
                lines[str(row["image"])] = line.decode()
                source = {key: row.get(key) for key in self._source}
            except (ValueError, TypeError, KeyError, AttributeError):
                raise _foreign(path, number) from None
            if source != self._source:
                raise CaptionlabError(
                    f"{path} has captions of {_shown(source)}, and this run has {_shown(self._source)}; name another "
                    "file"
                )
        if not (rest.startswith(_START) or _START.startswith(rest)):
            raise _foreign(path, len(complete) + 1)
        return lines, bool(rest)


def _foreign(path: Path, line: int) -> CaptionlabError:
    return CaptionlabError(f"{path}, line {line} was not written by captionlab caption; name another file")


def _shown(source: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value or 'unknown'}" for key, value in source.items())
