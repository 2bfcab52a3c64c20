"""TIFF files and EXIF headers with arbitrary tags; Pillow writes only valid ones."""

import struct

from PIL import Image

ORIENTATION = 0x112
SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8}  # bytes of each type
_SHORT, _LONG = 3, 4


def tag(number: int, kind: int, count: int, value: bytes) -> bytes:
    """An entry of a directory. Values of more than four bytes are read at offset 0, whatever its contents."""
    return struct.pack("<HHL", number, kind, count) + (value if len(value) <= 4 else b"").ljust(4, b"\0")


def tiff(photo: Image.Image | None, *tags: bytes) -> bytes:
    """An RGB photo as a TIFF with orientation 6 and further tags; without a photo, only the EXIF data."""
    entries = [_number(ORIENTATION, _SHORT, 6), *tags]
    pixels = photo.tobytes() if photo else b""
    if photo:
        width, height = photo.size
        sizes = {0x100: width, 0x101: height, 0x102: 8, 0x103: 1, 0x106: 2, 0x115: 3, 0x116: height}
        entries += [_number(number, _SHORT, value) for number, value in sizes.items()]
        start = 8 + 2 + 12 * (len(entries) + 2) + 4
        entries += [_number(0x111, _LONG, start), _number(0x117, _LONG, len(pixels))]
    return b"II*\0" + struct.pack("<LH", 8, len(entries)) + b"".join(entries) + bytes(4) + pixels


def _number(number: int, kind: int, value: int) -> bytes:
    return tag(number, kind, 1, struct.pack("<H" if kind == _SHORT else "<L", value))
