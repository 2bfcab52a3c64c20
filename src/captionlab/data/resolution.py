"""A photo file without the resolution in its metadata: Pillow refuses one that is no number, and no pixel needs it.

Knows the structure of JPEG and TIFF, not of photos.
"""

import struct
from collections.abc import Iterator

_TAGS = frozenset({282, 283, 296})  # XResolution, YResolution and ResolutionUnit
_UNUSED = 65_000  # TIFF 6.0 leaves the tags from here on to private use
_JPEG, _START_OF_SCAN, _APP1 = b"\xff\xd8", 0xDA, 0xE1


def without_resolution(content: bytes) -> bytes:
    """The content of a JPEG or TIFF file with its tags of resolution renamed; any other content as it is."""
    changed = bytearray(content)
    for start in _exif_in_jpeg(content) if content.startswith(_JPEG) else (0,):
        _rename(changed, start)
    return bytes(changed)


def _exif_in_jpeg(content: bytes) -> Iterator[int]:
    """Where the EXIF of a JPEG begins, which has the structure of a TIFF file."""
    at = len(_JPEG)
    while content[at : at + 1] == b"\xff" and content[at + 1 : at + 2] not in (b"", bytes([_START_OF_SCAN])):
        if content[at + 1] == _APP1 and content[at + 4 : at + 10] == b"Exif\0\0":
            yield at + 10
        at += 2 + int.from_bytes(content[at + 2 : at + 4], "big")


def _rename(content: bytearray, start: int) -> None:
    """Rename the tags in the first directory of the TIFF structure at ``start``; nothing if there is none."""
    order = {b"II": "<", b"MM": ">"}.get(bytes(content[start : start + 2]))
    if order is None:
        return
    try:
        (version,) = struct.unpack_from(f"{order}H", content, start + 2)
        is_big = version == 43
        (directory,) = struct.unpack_from(f"{order}{'Q' if is_big else 'I'}", content, start + (8 if is_big else 4))
        (count,) = struct.unpack_from(f"{order}{'Q' if is_big else 'H'}", content, start + directory)
        first, size = start + directory + (8 if is_big else 2), 20 if is_big else 12
        for at in range(first, min(first + count * size, len(content)), size):
            (tag,) = struct.unpack_from(f"{order}H", content, at)
            if tag in _TAGS:
                struct.pack_into(f"{order}H", content, at, _UNUSED)
    except struct.error:  # it ends before the directory does
        return
