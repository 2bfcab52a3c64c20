"""Photos in, the bytes an encoder takes out: one way of reading for training and for use.

Knows image files, never networks. Shape letters: H and W pixels.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from captionlab.errors import CaptionlabError

Pixels = NDArray[np.uint8]
Photo = Path | str | bytes | Image.Image | Pixels
"""A path, a file's bytes, a Pillow image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8."""

MAX_PIXELS = 100_000_000  # a photo beyond this is refused before it is decoded
PREPROCESSING = "square_bicubic"
SUFFIXES = frozenset({".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})  # in a folder
# The common ones first: to meet a later one Pillow imports all its readers. Not among them are EPS and the like, which
# Pillow hands to other programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "PPM", "WEBP", "TIFF", "JPEG2000", "AVIF")
# What Pillow's decoders raise on damaged files, such as one that says that it is gigabytes.
_UNDECODABLE = (
    OSError, ValueError, TypeError, SyntaxError, EOFError, IndexError, RuntimeError, MemoryError, CaptionlabError,
    Image.DecompressionBombError,
)  # fmt: skip


def read_photo(photo: Photo, pixels: int) -> Pixels:
    """Decode and preprocess one photo; one that cannot be decoded is a CaptionlabError that names its file."""
    with _open(photo) as image:
        return preprocess(image, pixels)


def read_upright(photo: Photo, longest: int) -> Image.Image:
    """The photo to look at: as people see it, no side longer than ``longest``. Raises what ``read_photo`` does."""
    with _open(photo) as image:
        image.draft("RGB", (2 * longest, 2 * longest))
        seen = upright(image)
    seen.thumbnail((longest, longest))
    return seen


@contextmanager
def _open(photo: Photo) -> Iterator[Image.Image]:
    """The photo as a Pillow image of its own; whatever fails while it is open is a CaptionlabError that names it."""
    try:
        with _opened(photo) as image:
            if image.width * image.height > MAX_PIXELS:
                raise CaptionlabError(f"it has {image.width}x{image.height} pixels; the limit is {MAX_PIXELS:,} in all")
            yield image
    except _UNDECODABLE as error:
        raise CaptionlabError(f"cannot read {_name(photo)}: {_reason(error)}") from error


def fault_of(photo: Path) -> str | None:
    """Why a photo's file cannot be read, without its path; None where it can. Decodes all of it."""
    try:
        with _open(photo) as image:
            image.load()
    except CaptionlabError as error:
        cause = error.__cause__
        return _reason(cause) if isinstance(cause, Exception) else str(error)
    return None


def preprocess(photo: Image.Image, pixels: int) -> Pixels:
    """Turn any photo into the (pixels, pixels, 3) bytes an encoder takes: upright, RGB, squeezed to a square.

    The one preprocessing of training and use; its name, ``PREPROCESSING``, stands in every checkpoint. The whole
    photo is kept: captions speak of what a centre crop would cut away.
    """
    photo.draft("RGB", (2 * pixels, 2 * pixels))  # a JPEG decodes at a fraction of its size, never below twice ours
    return np.asarray(upright(photo).resize((pixels, pixels), Image.Resampling.BICUBIC))


def upright(photo: Image.Image) -> Image.Image:
    """The photo as people see it: turned as its EXIF says, in RGB of 8 bits, on white where it is transparent."""
    turned = ImageOps.exif_transpose(photo)
    if turned.mode.startswith("I;16"):  # of 16 bits the high ones
        turned = Image.fromarray((np.asarray(turned, dtype=np.uint16) // 257).astype(np.uint8))
    elif turned.mode in ("I", "F"):  # 16 bits, too, or 8
        levels = np.asarray(turned, dtype=np.float32)
        turned = Image.fromarray((levels / 257 if levels.max() > 255 else levels).clip(0, 255).astype(np.uint8))
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        layer = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return turned.convert("RGB")


def _opened(photo: Photo) -> Image.Image:
    match photo:
        case Image.Image():
            return photo.copy()  # the caller's own stays as it is
        case np.ndarray():
            if (
                photo.dtype != np.uint8
                or photo.ndim not in (2, 3)
                or photo.shape[2:] not in ((), (3,), (4,))
                or not photo.size
            ):
                raise CaptionlabError(
                    f"an array {photo.shape} of {photo.dtype}; wanted is (H, W), (H, W, 3) or (H, W, 4) of uint8"
                )
            return Image.fromarray(photo)
        case bytes():
            return Image.open(io.BytesIO(photo), formats=FORMATS)
        case _:
            return Image.open(photo, formats=FORMATS)


def _name(photo: Photo) -> str:
    if not isinstance(photo, Path | str):
        return "the photo"
    return f"the photo {str(photo).encode(errors='surrogateescape').decode(errors='backslashreplace')}"


def _reason(error: Exception) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        return "it is no photo, or none of a known format (JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF)"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which the line has already
    return " ".join(str(error).split()) or type(error).__name__
