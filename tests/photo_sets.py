"""Small photos, zips and datasets for tests of readers and checks."""

import io
import zipfile
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from captionlab.datasets import Found, Problem
from captionlab.datasets.checks import CheckedDataset, check, read_photos


def jpeg(seed: int) -> bytes:
    """A small photo of one colour, which depends on the seed."""
    out = io.BytesIO()
    Image.new("RGB", (8, 8), (seed * 37 % 256, seed * 91 % 256, seed // 7 % 256)).save(out, "JPEG")
    return out.getvalue()


def jpegs(folder: Path, images: Iterable[str]) -> dict[str, Path]:
    """A small photo for each image id, each of another colour."""
    paths = {image: folder / image for image in images}
    for number, path in enumerate(paths.values()):
        path.write_bytes(jpeg(number))
    return paths


def kinds(problems: list[Problem]) -> list[tuple[str, str]]:
    return [(problem.kind, problem.item) for problem in problems]


def checked(raw: Found, images: Path, share: float = 0.5) -> CheckedDataset:
    return check(raw, read_photos(images), max_bad_share=share)


def zipped(path: Path, members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as opened:
        for name, content in members.items():
            opened.writestr(zipfile.ZipInfo(name), content, compression)
    return path
