"""From a decoded photo to what people see: upright, RGB of 8 bits, on white where it is transparent.

Knows pixels and their metadata, not files. Shape letters: H and W pixels.
"""

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin

from captionlab.errors import CaptionlabError

_HIGHEST_OF_1 = 2  # of floats from 0 to 1: resampling and sharpening leave some a little above
_LEAST_OF_255 = 32  # largest of floats from 0 to 255; between the two they may be from 0 to 1 with bright lights
_TURNS = {  # EXIF's orientation, and what turns the photo upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def upright(photo: Image.Image) -> Image.Image:
    """The photo as people see it: turned as its EXIF says, in RGB of 8 bits, on white where it is transparent."""
    turned = _turned(photo)
    if turned.mode.startswith("I;16"):  # the high 8 of 16 bits
        turned = Image.fromarray((np.asarray(turned, dtype=np.uint16) // 257).astype(np.uint8))
    elif turned.mode in ("I", "F"):
        turned = Image.fromarray(_to_8_bits(np.asarray(turned)))
    if turned.mode in ("RGBA", "LA", "PA") or "transparency" in turned.info:
        layer = turned.convert("RGBA")
        turned = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return turned.convert("RGB")


def _turned(photo: Image.Image) -> Image.Image:
    """Decode the photo and turn it as its orientation says, whatever else its EXIF holds.

    Not with ImageOps.exif_transpose, which writes all of EXIF back and fails on odd values.
    """
    if isinstance(photo, TiffImagePlugin.TiffImageFile):
        _drop_other_tags(photo)
    photo.load()
    try:
        turn = _TURNS.get(photo.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # EXIF that cannot be read, for which Pillow raises errors of any type
        turn = None
    return photo if turn is None else photo.transpose(turn)


def _drop_other_tags(tiff: TiffImagePlugin.TiffImageFile) -> None:
    """Leave the orientation alone of a TIFF's EXIF: Pillow turns a TIFF as it decodes it, and fails on odd values."""
    if not isinstance(tiff.info.get("xmp"), bytes):
        tiff.info.pop("xmp", None)
    exif = tiff.getexif()
    for tag in set(exif) - {ExifTags.Base.Orientation}:
        del exif[tag]
    tiff.info.pop("xmp", None)  # its orientation, where EXIF has none, is in ``exif`` now


def _to_8_bits(levels_HW: NDArray[np.int32] | NDArray[np.float32]) -> NDArray[np.uint8]:
    """Whole numbers of 8 or 16 bits, or floats from 0 to 1, 255 or 65535, to 8 bits. Raises CaptionlabError."""
    lowest, highest = float(levels_HW.min()), float(levels_HW.max())
    if levels_HW.dtype == np.float32 and _HIGHEST_OF_1 < highest < _LEAST_OF_255:
        raise CaptionlabError(
            f"its values run from {lowest:g} to {highest:g}, and may mean from 0 to 1 or 0 to 255; save it with 8 bits"
        )
    # Resampling leaves values a little below 0. The condition is false for NaN.
    if not (lowest >= -0.1 * highest and highest <= 65535):
        raise CaptionlabError(
            f"its values run from {lowest:g} to {highest:g}; save it with values from 0 to 1, 0 to 255 or 0 to 65535"
        )
    scaled: NDArray[np.float32] = levels_HW.astype(np.float32)
    if highest > 255:
        scaled /= 257
    elif highest <= _HIGHEST_OF_1 and levels_HW.dtype == np.float32:
        scaled = np.rint(scaled * np.float32(255))
    return scaled.clip(0, 255).astype(np.uint8)
