"""Safe extraction of untrusted zip files: all members are checked before anything is written.

Knows nothing of what the archives contain.
"""

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

from captionlab.datasets.reading import NAME_BYTES
from captionlab.errors import CaptionlabError, one_line

MAX_MEMBER_BYTES = 64 << 20
MAX_RATIO = 100  # of unpacked to packed size; that of photos is about 1, of text about 3
_BLOCK_BYTES = 1 << 20

# Exceptions that zipfile raises for damaged input, found by fuzzing.
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    MemoryError,  # an LZMA header may request gigabytes
    OSError,
    OverflowError,
    RuntimeError,  # an encrypted member, or (as NotImplementedError) an unknown compression
    ValueError,
)


def extract(archive: Path, folder: Path, choose: Callable[[PurePosixPath], str | None]) -> list[str]:
    """Write the members for which ``choose`` returns a file name into ``folder``; returns these names.

    If a name occurs twice it is returned twice, and the first member is written. Raises CaptionlabError before anything
    is written if the archive cannot be read, or a member points outside the folder, is a link or is too large; and
    during extraction if a member is damaged.
    """
    names: list[str] = []
    written: set[str] = set()
    with _opened(archive) as opened:
        _check(archive, opened.infolist())
        for member in opened.infolist():
            name = None if member.is_dir() else choose(PurePosixPath(member.filename))
            if name is None:
                continue
            names.append(name)
            if name in written:
                continue
            written.add(name)
            with (folder / name).open("wb") as out:
                for block in _blocks(archive, opened, member):
                    out.write(block)
    return names


def _opened(archive: Path) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(archive)
    except (FileNotFoundError, PermissionError) as error:
        raise CaptionlabError(f"cannot read {archive}: {error.strerror}") from None
    except _DAMAGED as error:
        raise _damaged(archive, error) from error


def _check(archive: Path, members: list[zipfile.ZipInfo]) -> None:
    """Raise CaptionlabError for members outside the folder, links, and implausible names or sizes."""
    for member in members:
        # Checked as a POSIX and as a Windows path, so that all systems refuse the same zips. zipfile cuts ``filename``
        # at a NUL; ``orig_filename`` is as in the archive.
        name = member.orig_filename
        posix, windows = PurePosixPath(name), PureWindowsPath(name)
        if posix.is_absolute() or windows.anchor or ".." in posix.parts or ".." in windows.parts or "\0" in name:
            raise CaptionlabError(
                f"{archive}: the member {name!r} points outside the folder; get the zip from another source"
            )
        if len(posix.name.encode(errors="surrogateescape")) > NAME_BYTES:
            raise CaptionlabError(
                f"{archive}: the member {name!r} has too long a name; get the zip from another source"
            )
        if stat.S_ISLNK(member.external_attr >> 16):
            raise CaptionlabError(f"{archive}: the member {name!r} is a link; get the zip from another source")
        if member.file_size > MAX_MEMBER_BYTES:
            raise CaptionlabError(
                f"{archive}: the member {name!r} unpacks to {member.file_size:,} bytes, more than"
                f" {MAX_MEMBER_BYTES:,}; get the zip from another source"
            )
    unpacked, packed = sum(member.file_size for member in members), archive.stat().st_size
    if unpacked > MAX_RATIO * packed:
        raise CaptionlabError(
            f"{archive} unpacks to {unpacked:,} bytes, more than {MAX_RATIO} times its size;"
            " get the zip from another source"
        )


def _blocks(archive: Path, opened: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
    """The member's bytes. zipfile stops at the size that was checked and verifies the CRC at the end."""
    try:
        with opened.open(member) as source:
            while block := source.read(_BLOCK_BYTES):
                yield block
    except _DAMAGED as error:  # only errors of reading; those of the writing consumer are not raised here
        raise _damaged(f"{archive}: the member {member.filename!r}", error) from error


def _damaged(what: Path | str, error: Exception) -> CaptionlabError:
    return CaptionlabError(f"{what} is truncated or damaged ({one_line(error)}); get the zip again")
