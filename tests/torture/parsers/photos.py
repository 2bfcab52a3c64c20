"""Readers of photos."""

import io
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from random import Random

from PIL import Image

from captionlab.data.photos import FORMATS, fault_of, read_photo
from captionlab.datasets import Found
from captionlab.datasets.checks import check, read_photos
from tiff_tags import tag, tiff
from torture.fuzz import Parser, mutate_bytes
from torture.parsers.inputs import (
    PHOTOS,
    jpeg,
)

_ODD_TAGS = (
    (tag(0x10E, 5, 1, b""),),  # text stored as a fraction
    (tag(0x11A, 10, 1, b""), tag(0x128, 3, 1, b"\3\0")),
    (tag(0x11A, 2, 1, b"x"), tag(0x128, 1, 1, b"\2")),
    (tag(0x102, 1, 3, b"\x08\x08\x08"), tag(0x2BC, 4, 1, b"\0\0\0\0")),
    (tag(0x8769, 9, 1, b"\xff\xff\xff\xff"), tag(0x8825, 16, 1, b"")),
)


def _photos() -> list[bytes]:
    """Photos of every format and mode; those with EXIF are rotated, and some have odd EXIF values."""
    photos = [tiff(Image.new("RGB", (9, 5)), *tags) for tags in _ODD_TAGS]
    exif = tiff(None, tag(0x10E, 2, 4, b"abc\0"), tag(0x11A, 5, 1, bytes(8)), tag(0x128, 3, 1, b"\2\0"))
    for kind in ("JPEG", "PNG", "WEBP"):
        for tags in _ODD_TAGS:
            out = io.BytesIO()
            Image.new("RGB", (9, 5)).save(out, kind, exif=b"Exif\0\0" + tiff(None, *tags))
            photos.append(out.getvalue())
    for kind in FORMATS:
        for mode in ("RGB", "L", "P", "RGBA", "1", "I;16", "CMYK"):
            out = io.BytesIO()
            image = Image.linear_gradient("L").resize((17, 12))
            try:
                (image if mode == "L" else image.convert(mode)).save(
                    out, kind, **({"exif": b"Exif\0\0" + exif} if kind in ("JPEG", "PNG", "WEBP") else {})
                )
            except (OSError, ValueError, KeyError):
                continue
            photos.append(out.getvalue())
    animated = io.BytesIO()
    frames = [Image.new("P", (9, 9), i) for i in range(3)]
    frames[0].save(animated, "GIF", save_all=True, append_images=frames[1:])
    return [*photos, animated.getvalue()]


def png(width: int, height: int, colour: int = 2, depth: int = 8, rows: bytes = b"") -> bytes:
    """A PNG with this size in its header, whatever its data."""
    chunks = [
        (b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    ]
    body = b"".join(struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks)
    return b"\x89PNG\r\n\x1a\n" + body


def _mutate_photo(rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Mutate the bytes; the checksums of half of the PNGs are corrected, so that later chunks are read too."""
    data = mutate_bytes(rng, corpus)
    if data[:4] != b"\x89PNG" or rng.random() < 0.5:
        return data
    out, at = bytearray(data[:8]), 8
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        body = data[at + 4 : at + 8 + size]
        out += struct.pack(">I", size) + body + struct.pack(">I", zlib.crc32(body))
        at += 12 + size
    return bytes(out)


def _photo(data: bytes, work: Path) -> None:
    assert read_photo(data, 16).shape == (16, 16, 3)


def _checked_photo(data: bytes, work: Path) -> None:
    """Check the data as a dataset's photo; if it passes, every size must be readable."""
    images = work / "images"
    if not images.exists():
        images.mkdir()
        for name in ("b.jpg", "c.jpg"):
            (images / name).write_bytes(jpeg(size=(4, 4)))
    (images / "a.jpg").write_bytes(data)
    found = Found(
        captions=[(name, "x") for name in PHOTOS], splits={"train": ["a.jpg"], "val": ["b.jpg"], "test": ["c.jpg"]}
    )
    check(found, read_photos(images), max_bad_share=0.5)
    if fault_of(images / "a.jpg") is None:
        for pixels in (16, 224):
            read_photo(images / "a.jpg", pixels)


_SPECIAL_CASES = (
    png(2**31 - 1, 2**31 - 1),
    png(60_000, 60_000),
    png(20_000, 6_000, rows=bytes(1000)),
    png(13_000, 13_000, rows=bytes(13_001 * 20)),
    png(0, 0),
    png(1, 2**31 - 1),
    png(9_999, 9_999, 6, 16, bytes(1000)),
    b"P6 99999 99999 255\n",
    b"P6 0 0 255\n",
    b"P5 9999 9999 65535\n",
    b"GIF89a\xff\xff\xff\xff\0\0\0,\0\0\0\0\xff\xff\xff\xff\0\2\2L\1\0;",
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
    b"BM" + bytes(12) + struct.pack("<IiiHH", 40, 2**31 - 1, -(2**31), 1, 24) + bytes(30),
    b"",
    b"\xff\xd8\xff",
    b"II*\0" + b"\xff" * 50,
)


def parsers() -> list[Parser]:
    """Every reader of photos."""
    photos = _photos()
    return [
        Parser(name="photos", corpus=photos, read=_photo, mutate=_mutate_photo, special=_SPECIAL_CASES, share=5),
        Parser(
            name="photos of a dataset",
            corpus=photos,
            read=_checked_photo,
            mutate=_mutate_photo,
            special=_SPECIAL_CASES,
            share=3,
        ),
    ]
