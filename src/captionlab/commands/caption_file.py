"""A JSONL file that grows a line a photo, from one process or several, and goes on after a kill.

Knows lines that name an image; nothing of captions.
"""

import json
from collections.abc import Sequence
from pathlib import Path

from captionlab.core import distributed
from captionlab.core.files import write_text
from captionlab.errors import CaptionlabError


class Journal:
    """Lines for ``path``, in the end in the order of the images ``order``; ``done`` are the images it already has.

    A process alone appends to the file itself, each of several to a file of its own beside it; the first of them
    gathers these, at the end or when a run that was killed is repeated. What a kill left half written is dropped.
    Raises CaptionlabError when the file holds something else, or when the processes do not see one another's files.
    """

    def __init__(self, path: Path, order: Sequence[str]) -> None:
        self._path = path
        self._place = {image: place for place, image in enumerate(order)}
        if distributed.is_main():
            self._gather()
        distributed.barrier()
        self.done = _read(path).keys()
        self._own = path if distributed.world_size() == 1 else path.with_name(f"{path.name}.rank{distributed.rank()}")
        self._written = 0

    def write(self, line: str) -> None:
        """Append one line, at once."""
        try:
            with self._own.open("ab", buffering=0) as file:
                file.write(f"{line}\n".encode())
        except OSError as error:
            raise CaptionlabError(f"cannot write {self._own}: {error.strerror or error}; free space") from error
        self._written += 1

    def close(self) -> None:
        """Gather the processes' lines when all have written theirs."""
        (written,) = distributed.all_reduce_sum(self._written)
        if distributed.is_main() and (gathered := self._gather()) < len(self.done) + written:
            raise CaptionlabError(
                f"{self._path} got {gathered - len(self.done)} lines of {written:.0f}; the machines have to share its "
                "folder"
            )

    def _gather(self) -> int:
        """Bring whatever former processes wrote into the one file; returns how many images it has."""
        parts = sorted(self._path.parent.glob(f"{self._path.name}.rank*"))
        lines: dict[str, str] = {}
        for path in (self._path, *parts):
            lines |= _read(path)
        if lines:
            known = sorted(lines, key=lambda image: self._place.get(image, -1))
            write_text(self._path, "".join(f"{lines[image]}\n" for image in known))
        for part in parts:
            part.unlink()
        return len(lines)


def _read(path: Path) -> dict[str, str]:
    """The whole lines of a file by the image they name; none where there is no file."""
    if not path.exists():
        return {}
    lines = {}
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        try:
            lines[str(json.loads(line)["image"])] = line.decode()
        except (ValueError, TypeError, KeyError):
            raise CaptionlabError(f"{path}, line {number} is not of captionlab caption; name another file") from None
    return lines
