"""Photos as encoders read them: image files in, square RGB arrays out, the same for training and for use.

Knows image files, not networks. Shape letters: H and W pixels.
"""

import importlib
import io
from collections import Counter
from collections.abc import Callable, Iterable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin, UnidentifiedImageError

from captionlab.core.files import check_regular
from captionlab.data.resolution import without_resolution
from captionlab.data.upright import upright
from captionlab.errors import CaptionlabError, one_line

Pixels = NDArray[np.uint8]
Photo = Path | str | bytes | Image.Image | Pixels
"""A path, a file's bytes, a Pillow image, or an array (H, W), (H, W, 3) or (H, W, 4) of uint8."""
_T = TypeVar("_T")

MAX_PIXELS = 100_000_000  # a larger photo is refused before it is decoded
_RESAMPLING = {"bicubic": Image.Resampling.BICUBIC, "bilinear": Image.Resampling.BILINEAR}  # as timm names them
PREPROCESSINGS = {interpolation: f"square_{interpolation}" for interpolation in _RESAMPLING}  # as checkpoints name them

# Pillow's formats and their suffixes. The common ones come first: to try a later one, Pillow imports all its readers.
# EPS and the like are left out: Pillow passes them to other programs.
_SUFFIXES = {
    "JPEG": ".jpg .jpeg .jpe .jfif .jif .jfi .pjpeg .pjp .mpo",
    "PNG": ".png .apng",
    "GIF": ".gif",
    "BMP": ".bmp",
    "PPM": ".ppm .pgm .pbm .pnm",
    "WEBP": ".webp",
    "TIFF": ".tif .tiff",
    "JPEG2000": ".jp2 .j2k .jpx .jpf .j2c .jpc",
    "AVIF": ".avif",
}
FORMATS = tuple(_SUFFIXES)
_HEIC_SUFFIXES = frozenset({".heic", ".heif", ".hif"})
_HAS_HEIC = find_spec("pillow_heif") is not None
SUFFIXES = frozenset(" ".join(_SUFFIXES.values()).split()) | (_HEIC_SUFFIXES if _HAS_HEIC else frozenset())
# Formats of photos that are not read. Files in them are counted, not skipped silently.
_UNREAD_SUFFIXES = (
    frozenset(".3fr .arw .cr2 .cr3 .crw .dng .nef .orf .pef .raf .rw2 .sr2 .srw .x3f".split())
    | frozenset(".exr .hdr .ico .jxl .jxr .psd .svg .tga".split())
    | _HEIC_SUFFIXES
) - SUFFIXES
_HEIC_BRANDS = frozenset({b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1"})
_INSTALL_HEIC = "pip install 'captionlab[heic]'"

# Pillow refuses a PNG with more decompressed text than 1 MB, which the history of an image editor exceeds.
PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = 2**26

_JPEG_END = b"\xff\xd9"
_TAILS = (b"", b"\x55" * 64, b"\x33" * 64)  # tried after the last byte of a truncated JPEG
_CHECKED_AT = 224  # pixels a side


def read_photo(photo: Photo, pixels: int, interpolation: str = "bicubic") -> Pixels:
    """Decode and preprocess one photo to (pixels, pixels, 3).

    Raises CaptionlabError, with the name of the photo's file, when it cannot be decoded.
    """
    return _read(photo, lambda image: preprocess(image, pixels, interpolation))


def read_upright(photo: Photo, longest: int) -> Image.Image:
    """The photo to look at: upright, in RGB, no side longer than ``longest`` pixels.

    Raises what ``read_photo`` does.
    """

    def reduced(image: Image.Image) -> Image.Image:
        image.draft("RGB", (2 * longest, 2 * longest))
        seen = upright(image)
        seen.thumbnail((longest, longest))
        return seen

    return _read(photo, reduced)


def stored_size(photo: Path) -> tuple[int, int]:
    """Width and height in pixels, before the photo is turned upright. Raises what ``read_photo`` does."""
    return _read(photo, lambda image: image.size)


def fault_of(photo: Path) -> str | None:
    """Why ``read_photo`` cannot read a photo's file, without the file's name; None where it can."""
    try:
        read_photo(photo, _CHECKED_AT)
    except CaptionlabError as error:
        return _reason(error.__cause__ or error)
    return None


def preprocess(photo: Image.Image, pixels: int, interpolation: str = "bicubic") -> Pixels:
    """Turn any photo into the (pixels, pixels, 3) array an encoder takes: upright, RGB, resized to a square.

    The same for training and use: its name, one of ``PREPROCESSINGS``, is stored in every checkpoint. Nothing is
    cropped: captions mention what is at the edges.
    """
    photo.draft("RGB", (2 * pixels, 2 * pixels))  # a JPEG decodes at a fraction of its size, never below twice ours
    return np.asarray(upright(photo).resize((pixels, pixels), _RESAMPLING[interpolation]))


def skipped_formats(paths: Iterable[Path]) -> str | None:
    """A sentence that counts the photos in formats that are not read; None where there are none."""
    counts = Counter(suffix for path in paths if (suffix := path.suffix.lower()) in _UNREAD_SUFFIXES)
    if not counts:
        return None
    files = f"{counts.total():,} file{'s' if counts.total() > 1 else ''}"
    kinds = ", ".join(f"{suffix}: {count:,}" for suffix, count in sorted(counts.items()))
    advice = f"; {_INSTALL_HEIC}" if counts.keys() & _HEIC_SUFFIXES else ""
    return f"skipped {files} of formats that are not read ({kinds}){advice}"


def _read(photo: Photo, prepare: Callable[[Image.Image], _T]) -> _T:
    """Open the photo and prepare it; whatever goes wrong is a CaptionlabError that names it.

    Pillow's decoders raise errors of any type on damaged files; one bad photo must not stop a whole folder.
    """
    try:
        with _opened(photo) as image:
            try:
                return prepare(image)
            except OSError:
                completed = _with_end_marker(photo) if image.format in ("JPEG", "MPO") else None
                if completed is None:
                    raise
        with _opened(completed) as image:
            return prepare(image)
    except Exception as error:
        raise CaptionlabError(f"cannot read {_name(photo)}: {_reason(error)}") from error


def _opened(photo: Photo) -> Image.Image:
    """The photo as a Pillow image of its own, not yet decoded."""
    match photo:
        case Image.Image():
            image = photo.copy()  # a draft would shrink the caller's own
        case np.ndarray():
            image = Image.fromarray(_checked_array(photo))
        case _:
            image = _opened_file(photo)
    if image.width * image.height > MAX_PIXELS:
        image.close()
        raise CaptionlabError(f"it has {image.width}x{image.height} pixels; the limit is {MAX_PIXELS:,} in all")
    return image


def _checked_array(array: Pixels) -> Pixels:
    channels = array.shape[2:] in ((), (3,), (4,))
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or not channels or not array.size:
        raise CaptionlabError(
            f"an array {array.shape} of {array.dtype}; it must be (H, W), (H, W, 3) or (H, W, 4) of uint8"
        )
    return array


def _opened_file(photo: Path | str | bytes) -> Image.Image:
    if not isinstance(photo, bytes):
        check_regular(Path(photo))

    def source() -> Path | str | io.BytesIO:
        return io.BytesIO(photo) if isinstance(photo, bytes) else photo

    try:
        return Image.open(source(), formats=FORMATS)
    except UnidentifiedImageError as unknown:
        start = _first_bytes(photo)
        if start[4:8] == b"ftyp" and start[8:12] in _HEIC_BRANDS:
            return Image.open(source(), formats=_heic())
        content = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
        try:
            return Image.open(io.BytesIO(without_resolution(content)), formats=FORMATS)
        except UnidentifiedImageError:
            raise unknown from None


@cache
def _heic() -> tuple[str]:
    """Register the reader of HEIC and return Pillow's name of the format; CaptionlabError if it is not installed."""
    if not _HAS_HEIC:
        raise CaptionlabError(f"it is a HEIC file, which needs another package: {_INSTALL_HEIC}")
    importlib.import_module("pillow_heif").register_heif_opener()
    return ("HEIF",)


def _first_bytes(photo: Path | str | bytes) -> bytes:
    if isinstance(photo, bytes):
        return photo[:12]
    with Path(photo).open("rb") as file:
        return file.read(12)


def _with_end_marker(photo: Photo) -> bytes | None:
    """The bytes of a truncated JPEG with the end marker; None where it lacks pixels as well.

    Pixels that are missing would depend on what follows the file's last byte, so different bytes are tried there.
    """
    if not isinstance(photo, Path | str | bytes):
        return None
    content = photo if isinstance(photo, bytes) else Path(photo).read_bytes()
    content = content.removesuffix(_JPEG_END[:1])
    try:
        seen = [np.asarray(_opened(content + tail + _JPEG_END)) for tail in _TAILS]
    except OSError:
        return None
    return content + _JPEG_END if all(np.array_equal(seen[0], other) for other in seen[1:]) else None


def _name(photo: Photo) -> str:
    if not isinstance(photo, Path | str):
        return "the photo"
    return f"the photo {str(photo).encode(errors='surrogateescape').decode(errors='backslashreplace')}"


def _reason(error: BaseException) -> str:
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more than {MAX_PIXELS:,} pixels"
    if isinstance(error, UnidentifiedImageError):
        heic = ", HEIC" if _HAS_HEIC else ""
        return (
            "it is not a photo, or damaged, or not in a known format "
            f"(JPEG, PNG, WebP, GIF, BMP, TIFF, AVIF, JPEG 2000, PPM{heic})"
        )
    if isinstance(error, OSError) and error.strerror:
        return error.strerror  # without the path, which the message already has
    return one_line(error)
