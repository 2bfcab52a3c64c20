"""Inputs shared by several parsers: file names, small photos, zips and malformed texts."""

import io
import json
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

ROOT = Path(__file__).parents[3]
MEGABYTE = 1 << 20
BIDI = "\u202eabc\u202c \u2066x\u2069 \u200b\u200f\ufeff\x1b[2J\x07"
PHOTOS = ("a.jpg", "b.jpg", "c.jpg")


def jpeg(colour: str = "red", size: tuple[int, int] = (8, 6)) -> bytes:
    """A small photo."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "JPEG")
    return out.getvalue()


def fresh(folder: Path, **content: bytes) -> Path:
    """Empty the folder and write these files; ``__`` in a name stands for a dot."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, data in content.items():
        (folder / name.replace("__", ".")).write_bytes(data)
    return folder


BAD_TEXTS = (
    *(b"", b"\n", b"\0", b"\xff\xfea\0", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"image,caption", b"image,caption\n"),
    b"image,caption\na.jpg," + b"a " * MEGABYTE,
    b"image,caption\na.jpg," + b"a" * MEGABYTE,
    b"image\tcaption\na.jpg\t" + b"a " * MEGABYTE,
    b"image,caption\n" + b'"' * MEGABYTE,
    b"image,caption\na.jpg," + BIDI.encode(),
    b"image,caption\n../../etc/passwd,x\n/etc/passwd,y\nC:\\x,z\n",
    b"image,caption\n" + b"a.jpg,x\n" * 20_000,
    b"image,caption\n" + b"/".join([b"a"] * 20_000) + b",x\n",
    b"#1" * MEGABYTE,
    b"image,caption\n" + "\u0301\u0327".encode() * 100_000 + b",x\n",
    b"image,caption\na.jpg," + "e\u0301".encode() * 100_000,
    b"image,caption\na.jpg,e" + "\u0301\u0327".encode() * 2_500,
)


def zipped(members: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    """A zip with these members."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, compress_type=method)
    return out.getvalue()


def npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


def pair(references: Any, hypotheses: Any) -> bytes:
    """References and captions in one JSON object, which ``texts`` splits into the two files of ``captionlab score``."""
    return json.dumps({"references": references, "hypotheses": hypotheses}).encode()


BAD_JSON = (
    *(
        b"",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"\xff",
        b"\0",
        b"9" * 5000,
        b'{"a": 1, "a": 2}',
        b"[]",
        b"null",
        b"NaN",
    ),
    pair({"a": ["a " * (MEGABYTE // 2)]}, {"a": "a " * (MEGABYTE // 2)}),
    pair({"a": ["ab " * (MEGABYTE // 3)]}, {"a": " ".join(map(str, range(150_000)))}),
    pair({"a": ["\ud800 \udfff x"]}, {"a": "\ud800"}),
    pair({"a": ["\u202e" * 1000]}, {"a": "\0" * 1000}),
    pair({str(i): ["x"] for i in range(5000)}, {str(i): "x" for i in range(5000)}),
)
TOKENS = b"".join(b"%s#%d\tA dog number %d runs .\n" % (p.encode(), i, i) for p in PHOTOS for i in range(3))
