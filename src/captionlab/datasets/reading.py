"""Reading of a dataset's files and folders, with errors that name them.

The calling stage treats any other OSError as a failure to write its output.
"""

import codecs
import contextlib
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from captionlab.data.photos import SUFFIXES
from captionlab.errors import CaptionlabError

NAME_BYTES = 255  # longest file name of common file systems


def read_bytes(path: Path) -> bytes:
    """The file's bytes, or a CaptionlabError that names it."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise _cannot_read(path, error) from error


def check_readable(path: Path) -> None:
    """Raise a CaptionlabError that names the file if it cannot be opened; for files that a library opens."""
    try:
        path.open("rb").close()
    except OSError as error:
        raise _cannot_read(path, error) from error


def read_text(path: Path, shown: Path | None = None) -> str:
    """The file's text, as ``open_text`` gives it."""
    with open_text(path, shown) as stream:
        return stream.read()


@contextlib.contextmanager
def open_text(path: Path, shown: Path | None = None) -> Iterator[TextIO]:
    """The file as text with line ends as "\\n"; its faults are CaptionlabErrors that name it (as ``shown``, if given).

    It is UTF-8, or UTF-16 with a byte order mark, which Excel writes as "Unicode text". OSErrors of other files must
    not leave the block: they would be taken for this one's.
    """
    try:
        with path.open("rb") as file:
            utf_16 = file.peek(2)[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
            yield io.TextIOWrapper(file, "utf-16" if utf_16 else "utf-8-sig")
    except OSError as error:
        raise _cannot_read(path, error) from error
    except UnicodeDecodeError as error:  # its position is that in the part of the file that was read last
        fault = f"{error.reason}, byte 0x{error.object[error.start]:02x}"
        raise CaptionlabError(f"{shown or path} is not UTF-8 text ({fault}); save it as UTF-8") from error


def entries(folder: Path) -> list[Path]:
    """The files and folders in a folder, sorted, without hidden ones and ``__MACOSX``."""
    try:
        return sorted(path for path in folder.iterdir() if not path.name.startswith(".") and path.name != "__MACOSX")
    except OSError as error:
        raise _cannot_read(folder, error) from error


def files_under(folder: Path) -> list[Path]:
    """Every file in the folder and its subfolders, sorted; hidden ones and ``__MACOSX`` are left out.

    macOS stores a hidden ``._a.jpg`` for each ``a.jpg`` on other file systems, and in ``__MACOSX`` of archives.
    """
    return sorted(_walk(folder))


def linked_folders(folder: Path) -> list[Path]:
    """The links to folders in the folder and its subfolders, sorted; ``files_under`` does not follow them."""
    found = [Path(place, name) for place, folders, _ in _places(folder) for name in folders]
    return sorted(path for path in found if path.is_symlink())


def photos_among(files: list[Path]) -> list[Path]:
    """The files with the suffix of a supported format."""
    return [path for path in files if path.suffix.lower() in SUFFIXES]


def _walk(folder: Path) -> Iterator[Path]:
    for place, _, names in _places(folder):
        for name in names:
            path = Path(place, name)
            if not name.startswith(".") and path.is_file():
                yield path


def _places(folder: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    """Each folder that is not hidden, with its subfolders that are not, and its files."""

    def refuse(error: OSError) -> None:
        raise _cannot_read(Path(error.filename), error) from error

    for place, folders, names in os.walk(folder, onerror=refuse):
        if not os.access(place, os.X_OK):  # the files can be listed but not read
            raise CaptionlabError(f"cannot read {place}: Permission denied")
        folders[:] = [name for name in folders if not name.startswith(".") and name != "__MACOSX"]
        yield place, folders, names


def _cannot_read(path: Path, error: OSError) -> CaptionlabError:
    return CaptionlabError(f"cannot read {path}: {error.strerror or error}")
