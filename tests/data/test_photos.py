"""Reading photos of every format and mode as input of an encoder; errors for other files."""

import io
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageFile
from PIL.PngImagePlugin import PngInfo

from captionlab.data.photos import (
    Photo,
    fault_of,
    preprocess,
    read_photo,
    read_upright,
    skipped_formats,
)
from captionlab.errors import CaptionlabError
from tiff_tags import SIZES, tag, tiff

PIXELS = 64


def reopened(photo: Image.Image, kind: str, **options: Any) -> Image.Image:
    out = io.BytesIO()
    photo.save(out, kind, **options)
    return Image.open(out)


def corners(photo: Image.Image) -> list[list[int]]:
    """The colours near the corners: top left, top right, bottom left, bottom right."""
    pixels = preprocess(photo, PIXELS)
    assert pixels.shape == (PIXELS, PIXELS, 3)
    assert pixels.dtype == np.uint8
    return [pixels[y, x].tolist() for y in (8, -9) for x in (8, -9)]


def flag(mode: str = "RGB", size: tuple[int, int] = (200, 120)) -> Image.Image:
    """Red, green / blue, white quarters."""
    photo = Image.new("RGB", size)
    w, h = size[0] // 2, size[1] // 2
    for box, colour in zip([(0, 0), (w, 0), (0, h), (w, h)], ["#ff0000", "#00ff00", "#0000ff", "#ffffff"], strict=True):
        photo.paste(Image.new("RGB", (w, h), colour), box)
    return photo.convert(mode)


RED, GREEN, BLUE, WHITE = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]


def test_upright_and_rotated_photos_are_read() -> None:
    assert corners(reopened(flag(), "PNG")) == [RED, GREEN, BLUE, WHITE]
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees clockwise
    assert corners(reopened(flag(), "PNG", exif=exif)) == [BLUE, RED, WHITE, GREEN]


def test_greyscale_photos_of_8_and_16_bits_are_read() -> None:
    grey = np.tile(np.linspace(0, 255, 50).astype(np.uint8), (40, 1))
    eight = preprocess(reopened(Image.fromarray(grey), "PNG"), PIXELS)
    assert (eight[..., 0] == eight[..., 2]).all()
    assert np.ptp(eight) > 240
    sixteen = reopened(Image.fromarray(grey.astype(np.uint16) * 257), "PNG")
    assert sixteen.mode.startswith("I;16")
    np.testing.assert_allclose(preprocess(sixteen, PIXELS).astype(int), eight, atol=1)
    dark = reopened(Image.fromarray(grey.astype(np.uint16)), "PNG")  # 16 bits, nearly black
    assert preprocess(dark, PIXELS).max() <= 1
    floats = reopened(Image.fromarray(grey.astype(np.float32)), "TIFF")
    assert floats.mode == "F"
    np.testing.assert_allclose(preprocess(floats, PIXELS).astype(int), eight, atol=1)


def test_other_colour_models_are_converted() -> None:
    cmyk = reopened(flag("CMYK"), "JPEG", quality=95)
    assert cmyk.mode == "CMYK"
    np.testing.assert_allclose(corners(cmyk), [RED, GREEN, BLUE, WHITE], atol=12)
    np.testing.assert_array_equal(corners(reopened(flag("1"), "PNG"))[3], WHITE)
    np.testing.assert_array_equal(corners(reopened(flag("P"), "GIF")), [RED, GREEN, BLUE, WHITE])


def test_transparent_pixels_are_white() -> None:
    layer = flag("RGBA")
    layer.paste((9, 9, 9, 0), (0, 0, 100, 60))  # the red quarter is transparent
    assert corners(reopened(layer, "PNG")) == [WHITE, GREEN, BLUE, WHITE]
    palette = flag("P")
    red = palette.getpixel((0, 0))
    assert corners(reopened(palette, "PNG", transparency=red)) == [WHITE, GREEN, BLUE, WHITE]
    assert corners(reopened(flag("L"), "PNG", transparency=flag("L").getpixel((0, 0))))[0] == WHITE


def test_a_wide_jpeg_is_decoded_at_reduced_size_to_the_same_picture() -> None:
    wide = reopened(flag(size=(3000, 300)), "JPEG", quality=95)
    small = preprocess(wide, PIXELS)
    whole = preprocess(reopened(flag(size=(3000, 300)), "PNG"), PIXELS)
    assert wide.size[1] >= 2 * PIXELS
    assert abs(small.astype(int) - whole).mean() < 3
    large = reopened(flag(size=(2000, 1600)), "JPEG")
    preprocess(large, PIXELS)
    assert large.size == (250, 200)  # decoded at an eighth of the size


def test_a_jpeg_is_only_decoded_at_reduced_size_and_resized() -> None:
    """Checkpoints were trained on these pixels, so they must stay exactly the same."""
    content = jpeg(Image.effect_noise((700, 500), 90).convert("RGB"))
    with Image.open(io.BytesIO(content)) as photo:
        photo.draft("RGB", (2 * PIXELS, 2 * PIXELS))
        expected = np.asarray(photo.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(read_photo(content, PIXELS), expected)


def jpeg(photo: Image.Image, **options: Any) -> bytes:
    out = io.BytesIO()
    photo.save(out, "JPEG", **options)
    return out.getvalue()


def test_every_input_type_gives_the_same_pixels(tmp_path: Path) -> None:
    path = tmp_path / "flag.png"
    flag().save(path)
    opened = Image.open(path)
    ways: list[Photo] = [path, str(path), path.read_bytes(), opened, np.asarray(flag()), np.asarray(flag("RGBA"))]
    for way in ways:
        np.testing.assert_array_equal(read_photo(way, PIXELS), preprocess(flag(), PIXELS))
    grey = np.asarray(flag("L"))
    np.testing.assert_array_equal(read_photo(grey, PIXELS), preprocess(flag("L"), PIXELS))
    assert opened.size == (200, 120)


def test_a_given_image_is_not_modified() -> None:
    """Pillow's draft mode would shrink the caller's image."""
    photo = reopened(flag(size=(2000, 1600)), "JPEG")
    read_photo(photo, PIXELS)
    assert photo.size == (2000, 1600)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_the_first_frame_of_an_animation_is_used(kind: str) -> None:
    out = io.BytesIO()
    flag().save(out, kind, save_all=True, append_images=[Image.new("RGB", (200, 120), "#111111")] * 2, lossless=True)
    pixels = read_photo(out.getvalue(), PIXELS)
    np.testing.assert_allclose([pixels[8, 8], pixels[8, -9]], [RED, GREEN], atol=2)


LYING = {  # as a camera stores a photo with this orientation
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}  # fmt: skip


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_exif_orientation_is_applied(orientation: int, kind: str) -> None:
    photo = flag().transpose(LYING[orientation]) if orientation > 1 else flag()
    exif = Image.Exif()
    exif[0x0112] = orientation
    out = io.BytesIO()
    photo.save(out, kind, exif=exif)
    assert corners(Image.open(out)) == [RED, GREEN, BLUE, WHITE]
    assert read_upright(out.getvalue(), 400).size == (200, 120)


def written(kind: str, *tags: bytes) -> bytes:
    """A rotated photo with an EXIF orientation and further tags; in a TIFF, the tags are in the file itself."""
    lying = flag().transpose(LYING[6])
    if kind == "TIFF":
        return tiff(lying, *tags)
    out = io.BytesIO()
    lying.save(out, kind, exif=b"Exif\0\0" + tiff(None, *tags), **({"lossless": True} if kind == "WEBP" else {}))
    return out.getvalue()


TAGS = (0x10E, 0x10F, 0x11A, 0x128, 0x131, 0x13B, 0x213, 0x2BC, 0x8298, 0x8769, 0x8825, 0x9003, 0x927C, 0xA005, 0xFFFF)
RESOLUTIONS = [
    (tag(0x11A, kind, count, fill * SIZES[kind] * count), tag(0x128, 3, 1, b"\3\0"))
    for kind in SIZES for count in (1, 2) for fill in (b"\0", b"\xff", b"a")
]  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_photo_with_unusual_exif_values_is_read_and_rotated(kind: str) -> None:
    """Values of another type or size, out of range, or outside the file."""
    odd = [
        (tag(number, type_, count, fill * SIZES[type_] * count),)
        for number in TAGS for type_ in SIZES for count in (0, 1, 2) for fill in (b"\0", b"\xff")
    ]  # fmt: skip
    for tags in [*odd, *RESOLUTIONS]:
        pixels = read_photo(written(kind, *tags), 16).astype(int)
        seen = [pixels[2, 2], pixels[2, -3], pixels[-3, 2], pixels[-3, -3]]
        np.testing.assert_allclose(seen, [RED, GREEN, BLUE, WHITE], atol=6, err_msg=str(tags))


@pytest.mark.parametrize(
    "exif", [b"", b"II", b"II*\0", b"XX*\0\x08\0\0\0", b"II*\0\xff\xff\xff\xff", b"MM\0*\0\0\0\x08\xff\xff"]
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_photo_whose_exif_is_damaged_is_read_as_stored(kind: str, exif: bytes) -> None:
    out = io.BytesIO()
    flag().save(out, kind, exif=b"Exif\0\0" + exif)
    np.testing.assert_allclose(read_photo(out.getvalue(), 16)[2, 2], RED, atol=6)


def test_floats_from_0_to_1_are_scaled_to_8_bits() -> None:
    grey = np.tile(np.linspace(0, 255, 50).astype(np.uint8), (40, 1))
    eight = preprocess(reopened(Image.fromarray(grey), "PNG"), PIXELS)
    floats = reopened(Image.fromarray(grey.astype(np.float32) / 255), "TIFF")
    np.testing.assert_array_equal(preprocess(floats, PIXELS), eight)
    sharpened = Image.fromarray(grey.astype(np.float32) / 255 * np.float32(1.02))
    np.testing.assert_allclose(preprocess(sharpened, PIXELS).astype(int), eight, atol=6)
    assert (preprocess(Image.fromarray(np.zeros((4, 4), np.float32)), 8) == 0).all()


def test_floats_that_may_be_from_0_to_1_or_to_255_are_refused() -> None:
    """Such as bright lights in a picture from 0 to 1."""
    out = io.BytesIO()
    Image.fromarray(np.linspace(0, 7, 16, dtype=np.float32).reshape(4, 4)).save(out, "TIFF")
    with pytest.raises(CaptionlabError, match="run from 0 to 7, and may mean from 0 to 1 or 0 to 255; save it"):
        read_photo(out.getvalue(), 8)


@pytest.mark.parametrize("levels", [
    np.linspace(-1, 1, 16, dtype=np.float32), np.linspace(0, 1e6, 16, dtype=np.float32),
    np.full(16, np.nan, np.float32), np.array([0, 1, np.inf] * 5 + [0], np.float32),
    np.linspace(0, 2**31 - 1, 16).astype(np.int32), -np.arange(16, dtype=np.int32),
])  # fmt: skip
def test_a_photo_with_an_unknown_value_range_is_refused(levels: Any) -> None:
    out = io.BytesIO()
    Image.fromarray(levels.reshape(4, 4)).save(out, "TIFF")
    with pytest.raises(CaptionlabError, match=r"its values run from .* to .*; save it with values from 0 to 1"):
        read_photo(out.getvalue(), 8)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}, {"quality": 30}])
@pytest.mark.parametrize("cut", [1, 2])
def test_a_jpeg_without_end_marker_is_read(options: dict[str, Any], cut: int, tmp_path: Path) -> None:
    whole = jpeg(Image.effect_noise((150, 100), 90).convert("RGB"), **options)
    path = tmp_path / "cut.jpg"
    path.write_bytes(whole[:-cut])
    for photo in (path, whole[:-cut]):
        np.testing.assert_array_equal(read_photo(photo, 16), read_photo(whole, 16))
    assert fault_of(path) is None


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_rows": 1}])
@pytest.mark.parametrize("photo", [flag(size=(300, 200)), Image.effect_noise((150, 100), 90).convert("RGB")])
def test_a_truncated_jpeg_is_refused(photo: Image.Image, options: dict[str, Any], share: float) -> None:
    whole = jpeg(photo, **options)
    scan = whole.index(b"\xff\xda")
    with pytest.raises(CaptionlabError, match="the photo: image file is truncated"):
        read_photo(whole[: scan + 14 + round(share * (len(whole) - scan - 14 - 8))], 16)


def test_fault_of_and_read_photo_agree(tmp_path: Path) -> None:
    for name, content in {"sound.jpg": jpeg(flag()), "cut.jpg": jpeg(flag())[:900], "no.jpg": b"no photo"}.items():
        path = tmp_path / name
        path.write_bytes(content)
        fault = fault_of(path)
        if fault is None:
            assert read_photo(path, PIXELS).shape == (PIXELS, PIXELS, 3)
        else:
            with pytest.raises(CaptionlabError, match=f"{name}: {re.escape(fault)}$"):
                read_photo(path, PIXELS)
    assert fault_of(tmp_path / "sound.jpg") is None


def test_skipped_formats_are_counted_by_suffix() -> None:
    names = ["a.jpg", "b.NEF", "c.nef", "d.svg", "e.txt", "f"]
    assert skipped_formats(map(Path, names)) == "skipped 3 files of formats that are not read (.nef: 2, .svg: 1)"
    assert skipped_formats(map(Path, ["a.jpg", "e.txt"])) is None


def test_photos_of_16_bits_with_transparency_and_colour_are_read() -> None:
    """16 bits per channel; Pillow cannot write such colour PNGs, so the file is made by hand."""
    rows = b"".join(b"\0" + struct.pack(">4H", 65535, 0, 32768, 65535) * 6 for _ in range(6))
    pixels = read_photo(png(6, 6, 6, rows), 8)
    np.testing.assert_allclose(pixels[4, 4], [255, 0, 128], atol=1)
    clear = b"".join(b"\0" + struct.pack(">2H", 0, 0) * 6 for _ in range(6))
    assert (read_photo(png(6, 6, 4, clear), 8) == 255).all()


def png(width: int, height: int, colour: int, rows: bytes) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">2I5B", width, height, 16, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("side", "message"), [
    (12_000, "the photo: it has 12000x12000 pixels; the limit is 100,000,000 in all"),
    (20_000, "the photo: it has more than 100,000,000 pixels"),
])  # fmt: skip
def test_a_huge_photo_is_refused_before_it_is_decoded(side: int, message: str) -> None:
    with pytest.raises(CaptionlabError, match=message):
        read_photo(png(side, side, 0, b""), PIXELS)


def test_a_png_with_much_text_is_read() -> None:
    """Image editors store a history of megabytes."""
    info = PngInfo()
    info.add_text("XML:com.adobe.xmp", "a" * 3_000_000, zip=True)
    out = io.BytesIO()
    flag().save(out, "PNG", pnginfo=info)
    np.testing.assert_array_equal(read_photo(out.getvalue(), PIXELS), read_photo(flag(), PIXELS))


def test_a_photo_of_a_large_camera_is_read() -> None:
    out = io.BytesIO()
    flag(size=(9_000, 4_000)).save(out, "JPEG")
    np.testing.assert_allclose(read_photo(out.getvalue(), PIXELS)[8, 8], RED, atol=3)


@pytest.mark.parametrize(("photo", "message"), [
    (b"", "the photo: it is not a photo, or damaged, or not in a known format"),
    (b"<svg/>", "the photo: it is not a photo"),
    (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "the photo: it is not a photo"),  # would start Ghostscript
    (jpeg(flag())[:900], "the photo: image file is truncated"),
    ("no/such.jpg", "the photo no/such.jpg: No such file"),
    (Path("."), r"the photo \.: Is a directory"),
    (np.zeros((4, 4, 3)), r"an array \(4, 4, 3\) of float64; it must be"),
    (np.zeros((4, 4, 2), np.uint8), r"an array \(4, 4, 2\) of uint8"),
    (np.zeros((0, 4, 3), np.uint8), r"an array \(0, 4, 3\)"),
])  # fmt: skip
def test_a_file_that_is_not_a_photo_is_one_error_line(photo: Photo, message: str) -> None:
    with pytest.raises(CaptionlabError, match=message) as caught:
        read_photo(photo, PIXELS)
    assert str(caught.value).startswith("cannot read the photo")
    assert "\n" not in str(caught.value)


def test_a_tiff_with_a_fractional_offset_is_one_error_line() -> None:
    out = io.BytesIO()
    flag().save(out, "TIFF")
    offset, long, double = 273, 4, 12  # the tag of the pixels' offset, and types of numbers
    odd = out.getvalue().replace(struct.pack("<HH", offset, long), struct.pack("<HH", offset, double), 1)
    assert odd != out.getvalue()
    with pytest.raises(
        CaptionlabError, match=r"^cannot read the photo: 'float' object cannot be interpreted as an int"
    ):
        read_photo(odd, PIXELS)


def test_a_decoder_error_is_one_error_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow's AVIF decoder raises RuntimeError."""

    def give_up(image: ImageFile.ImageFile) -> None:
        raise RuntimeError("Failed to decode frame 0:\nDecoding of color planes failed")

    out = io.BytesIO()
    Image.new("RGB", (4, 4)).save(out, "PNG")
    monkeypatch.setattr(ImageFile.ImageFile, "load", give_up)
    with pytest.raises(CaptionlabError, match=r"^cannot read the photo: Failed to decode frame 0: Decoding of color"):
        read_photo(out.getvalue(), 16)


def test_an_encoder_chooses_how_photos_are_resized() -> None:
    photo = reopened(Image.fromarray(np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)), "PNG")
    for interpolation in ("bicubic", "bilinear"):
        resampling = Image.Resampling[interpolation.upper()]
        expected = np.asarray(photo.convert("RGB").resize((32, 32), resampling))
        np.testing.assert_array_equal(preprocess(photo, 32, interpolation), expected)
