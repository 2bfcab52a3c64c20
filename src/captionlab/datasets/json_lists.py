"""Lists in large JSON files, read entry by entry.

Knows JSON and the keys that no reader needs, not what the entries are.
"""

import json
import re
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any, TextIO

from captionlab.data.caption_json import shown, unique
from captionlab.datasets.reading import open_text
from captionlab.errors import CaptionlabError

_PIECE = 1 << 16  # characters read at once
_SPACE = re.compile(r"[ \t\n\r]*")
_CUT = 16  # characters before the end of the held text in which a value that is cut there shows a fault
_UNUSED = frozenset((  # keys that are dropped: most of an entry's memory
    "tokens", "imgid", "sentid", "sentids",  # of Karpathy's files
    "license", "coco_url", "flickr_url", "date_captured", "height", "width",  # of COCO's
))  # fmt: skip


def iter_objects(path: Path, key: str) -> Iterator[dict[str, Any]]:
    """The objects in the list ``key`` of a JSON file's outermost object, without keys that are not used.

    Raises CaptionlabError that names the file, when the fault is reached: the file cannot be read or is not JSON, a
    key is repeated, the list is missing or empty, or has something else than objects.
    """
    found = False
    with open_text(path) as stream:
        for value in iter_list(stream, str(path), key, unused=_UNUSED):
            found = isinstance(value, dict)
            if not found:
                break
            yield value
    if not found:
        raise CaptionlabError(f"{path} has no list of {key}; get the file again")


def iter_list(stream: TextIO, origin: str, key: str, piece: int = _PIECE, unused: Container[str] = ()) -> Iterator[Any]:
    """Each entry of the list ``key`` of the outermost object, without ``unused`` keys; nothing where that is no list.

    Memory is that of the largest entry, or other value of the object, and of ``piece`` characters. Raises
    CaptionlabError, with the name ``origin``, for invalid JSON and repeated keys.
    """

    def build(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        return unique(origin, (pair for pair in pairs if pair[0] not in unused))

    text = _Text(stream, piece, json.JSONDecoder(object_pairs_hook=build))
    try:
        if text.peek() == "{":
            names: set[str] = set()
            for _ in text.members("}"):
                name = text.name()
                if name in names:
                    raise CaptionlabError(f"{origin}: {shown(name)} occurs more than once; keep one")
                names.add(name)
                if text.peek() == "[":
                    for _ in text.members("]"):
                        value = text.value()
                        if name == key:
                            yield value
                else:
                    text.value()
        else:
            text.value()
        text.end()
    except UnicodeDecodeError:
        raise
    except (ValueError, RecursionError) as error:
        raise CaptionlabError(f"{origin} is not valid JSON: {error}; get the file again") from None


class _Text:
    """JSON text, of which only what has not been used is held. Each method raises ValueError at a fault."""

    def __init__(self, stream: TextIO, piece: int, decoder: json.JSONDecoder) -> None:
        self._stream = stream
        self._piece = piece
        self._decoder = decoder
        self._held = ""
        self._place = 0  # in the held text
        self._dropped = 0  # characters

    def peek(self) -> str:
        """The next character that is not white space, or nothing at the end."""
        while True:
            space = _SPACE.match(self._held, self._place)
            self._place = space.end() if space else self._place
            if self._place < len(self._held) or not self._read():
                return self._held[self._place : self._place + 1]

    def value(self) -> Any:
        """The next value."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._held, self._place)
            except json.JSONDecodeError as error:
                cut = error.pos > len(self._held) - _CUT or error.msg.startswith("Unterminated string")
                place = self._dropped + error.pos
                if not (cut and self._read()):
                    raise ValueError(f"{error.msg.removesuffix(' at')} at character {place:,}") from None
            except ValueError:  # an integer of too many digits, or what of a number with a point is there
                if not self._read():
                    raise
            else:
                if end + 2 < len(self._held) or not self._read():  # a number may go on, as 1 in 1e+5
                    self._place = end
                    return value

    def name(self) -> str:
        """The name of the next member of an object, and its colon."""
        if self.peek() != '"':
            raise self._fault("Expecting a name in quotes")
        name: str = self.value()
        self._take(":")
        return name

    def members(self, end: str) -> Iterator[None]:
        """Once for each member of the object or list that begins here and ends with ``end``.

        The caller has to read the member before it asks for the next.
        """
        self._place += 1
        first = True
        while self.peek() != end:
            if not first:
                self._take(",")
            first = False
            yield
        self._take(end)

    def end(self) -> None:
        """There is no further text."""
        if self.peek():
            raise self._fault("Extra data")

    def _take(self, character: str) -> None:
        if self.peek() != character:
            raise self._fault(f"Expecting {character!r}")
        self._place += 1

    def _read(self) -> bool:
        """Whether there is more text; it at least doubles what is held, so that a long value is rarely tried anew."""
        more = self._stream.read(max(self._piece, len(self._held) - self._place))
        if more:
            self._held = self._held[self._place :] + more
            self._dropped += self._place
            self._place = 0
        return bool(more)

    def _fault(self, message: str) -> ValueError:
        return ValueError(f"{message} at character {self._dropped + self._place:,}")
