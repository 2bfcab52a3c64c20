"""Draw the background of each place, from the sky to the ground. Knows nothing of actors."""

from collections.abc import Callable
from random import Random

from PIL import Image, ImageDraw

from captionlab.datasets.drawing.pen import BIG, Colour, shade, varied

GROUND = 0.5  # where the sky ends, as a share of the picture's height


def _blend(image: Image.Image, top: float, bottom: float, upper: Colour, lower: Colour) -> None:
    """A vertical gradient over the picture's full width."""
    height = round((bottom - top) * BIG)
    strip = Image.new("RGB", (1, 2))
    strip.putpixel((0, 0), upper)
    strip.putpixel((0, 1), lower)
    image.paste(
        strip.resize((1, height), Image.Resampling.BILINEAR).resize((BIG, height), Image.Resampling.NEAREST),
        (0, round(top * BIG)),
    )


def _px(*values: float) -> list[float]:
    return [value * BIG for value in values]


def _sky(
    image: Image.Image, canvas: ImageDraw.ImageDraw, rng: Random, upper: Colour, lower: Colour, *, clouds: bool = True
) -> None:
    _blend(image, 0, GROUND + 0.01, varied(upper, rng), varied(lower, rng))
    if clouds:
        for _ in range(rng.randint(1, 3)):
            x, y, size = rng.random(), rng.uniform(0.06, 0.26), rng.uniform(0.05, 0.09)
            for dx, dy, r in ((-1.1, 0.15, 0.7), (0, 0, 1), (1.1, 0.2, 0.65)):
                cx, cy = x + dx * size, y + dy * size
                canvas.ellipse(
                    _px(cx - r * size, cy - r * size * 0.55, cx + r * size, cy + r * size * 0.55), shade(upper, 1.75)
                )


def _hills(canvas: ImageDraw.ImageDraw, rng: Random, colour: Colour, height: float) -> None:
    for _ in range(3):
        x, wide, high = rng.random(), rng.uniform(0.3, 0.55), height * rng.uniform(0.6, 1.2)
        canvas.ellipse(_px(x - wide, GROUND - high, x + wide, GROUND + high), varied(colour, rng))


def _sun(canvas: ImageDraw.ImageDraw, rng: Random, radius: float = 0.055) -> None:
    x, y = rng.choice((rng.uniform(0.08, 0.3), rng.uniform(0.7, 0.92))), rng.uniform(0.1, 0.17)
    canvas.ellipse(_px(x - radius, y - radius, x + radius, y + radius), (255, 236, 140))


def _tree(canvas: ImageDraw.ImageDraw, x: float, foot: float, size: float, leaf: Colour) -> None:
    canvas.rectangle(_px(x - 0.08 * size, foot - 0.45 * size, x + 0.08 * size, foot), (108, 78, 52))
    for dx, dy, r in ((-0.22, 0.55, 0.27), (0.22, 0.55, 0.27), (0, 0.8, 0.32)):
        cx, cy = x + dx * size, foot - dy * size
        canvas.ellipse(_px(cx - r * size, cy - r * size, cx + r * size, cy + r * size), leaf)


def _fir(canvas: ImageDraw.ImageDraw, x: float, foot: float, size: float, leaf: Colour, *, snowy: bool) -> None:
    canvas.rectangle(_px(x - 0.06 * size, foot - 0.25 * size, x + 0.06 * size, foot), (96, 70, 50))
    for low, half in ((0.2, 0.4), (0.5, 0.32), (0.8, 0.22)):
        top = foot - (low + 0.45) * size
        canvas.polygon(_px(x - half * size, foot - low * size, x + half * size, foot - low * size, x, top), leaf)
        if snowy:
            canvas.polygon(
                _px(x - half * 0.45 * size, top + 0.2 * size, x + half * 0.45 * size, top + 0.2 * size, x, top),
                (250, 252, 255),
            )


def _grass(image: Image.Image, canvas: ImageDraw.ImageDraw, rng: Random) -> None:
    _sky(image, canvas, rng, (118, 178, 232), (206, 230, 246))
    _hills(canvas, rng, (128, 178, 104), 0.1)
    _tree(canvas, rng.random(), GROUND + 0.02, rng.uniform(0.16, 0.26), (70, 132, 66))
    _blend(image, GROUND, 1, varied((142, 196, 92), rng), varied((84, 150, 58), rng))
    for _ in range(70):
        x, y = rng.random(), rng.uniform(GROUND + 0.03, 1)
        size = 0.02 + 0.05 * (y - GROUND)
        for lean in (-0.5, 0, 0.5):
            canvas.line(_px(x, y, x + lean * size, y - size), (66, 128, 48), 3)


def _snow(image: Image.Image, canvas: ImageDraw.ImageDraw, rng: Random) -> None:
    _sky(image, canvas, rng, (160, 180, 204), (220, 228, 238), clouds=False)
    _hills(canvas, rng, (226, 234, 244), 0.13)
    for _ in range(rng.randint(3, 5)):
        _fir(canvas, rng.random(), GROUND + 0.03, rng.uniform(0.14, 0.26), varied((62, 96, 84), rng), snowy=True)
    _blend(image, GROUND, 1, varied((238, 243, 250), rng), varied((214, 224, 238), rng))
    for _ in range(8):
        x, y, wide = rng.random(), rng.uniform(GROUND + 0.06, 1), rng.uniform(0.08, 0.2)
        canvas.arc(_px(x - wide, y, x + wide, y + wide * 0.4), 200, 340, (194, 208, 228), 5)
    for _ in range(60):
        x, y, r = rng.random(), rng.random(), rng.uniform(0.003, 0.007)
        canvas.ellipse(_px(x - r, y - r, x + r, y + r), (255, 255, 255))


def _beach(image: Image.Image, canvas: ImageDraw.ImageDraw, rng: Random) -> None:
    _sky(image, canvas, rng, (108, 186, 236), (214, 238, 248))
    _sun(canvas, rng)
    shore = GROUND + rng.uniform(0.04, 0.07)
    _blend(image, GROUND - 0.1, shore, varied((36, 124, 186), rng), varied((92, 190, 214), rng))
    for _ in range(10):
        x, y = rng.random(), rng.uniform(GROUND - 0.08, shore - 0.03)
        canvas.line(_px(x, y, x + rng.uniform(0.04, 0.12), y), (170, 218, 236), 3)
    _blend(image, shore, 1, varied((240, 220, 170), rng), varied((226, 196, 134), rng))
    wave = [v for i in range(13) for v in (i / 12, shore + 0.012 * ((i * 7) % 3 - 1))]
    canvas.line(_px(*wave), (250, 253, 255), 15, joint="curve")
    for _ in range(45):
        x, y = rng.random(), rng.uniform(shore + 0.05, 1)
        canvas.ellipse(_px(x, y, x + 0.006, y + 0.004), (202, 170, 112))
    x = rng.choice((0.06, 0.94))  # a palm
    foot = shore + 0.05
    canvas.line(_px(x, foot, x + 0.01, foot - 0.17, x + 0.03, foot - 0.32), (132, 96, 60), 14, joint="curve")
    for dx, dy in ((-0.13, 0.02), (-0.1, -0.06), (0.0, -0.09), (0.1, -0.06), (0.13, 0.03)):
        tip, root = (x + 0.03 + dx, foot - 0.32 + dy), (x + 0.03, foot - 0.32)
        middle = ((tip[0] + root[0]) / 2, min(tip[1], root[1]) - 0.02)
        canvas.line(_px(*root, *middle, *tip), (58, 136, 66), 13, joint="curve")


def _street(image: Image.Image, canvas: ImageDraw.ImageDraw, rng: Random) -> None:
    _sky(image, canvas, rng, (156, 196, 228), (222, 232, 238))
    x = -0.03
    while x < 1:
        wide, top = rng.uniform(0.16, 0.26), rng.uniform(0.06, 0.26)
        wall = varied(rng.choice(((196, 150, 126), (206, 190, 160), (172, 172, 176), (184, 136, 112))), rng)
        canvas.rectangle(_px(x, top, x + wide, GROUND + 0.02), wall, shade(wall, 0.7), 2)
        across = 3 if wide > 0.2 else 2
        for row in range(round((GROUND - top) / 0.09)):
            for column in range(across):
                left, up = x + wide * (column + 0.28) / across, top + 0.03 + 0.09 * row
                canvas.rectangle(
                    _px(left, up, left + wide * 0.45 / across, up + 0.05), (226, 234, 238), shade(wall, 0.6), 2
                )
        x += wide
    _blend(image, GROUND + 0.01, GROUND + 0.09, (198, 196, 190), (186, 184, 178))
    canvas.line(_px(0, GROUND + 0.09, 1, GROUND + 0.09), (140, 138, 134), 7)
    _blend(image, GROUND + 0.1, 1, varied((112, 112, 116), rng), varied((92, 92, 98), rng))
    start = rng.uniform(-0.2, 0)
    for i in range(6):
        left = start + 0.24 * i
        canvas.polygon(_px(left, 0.745, left + 0.13, 0.745, left + 0.14, 0.765, left, 0.765), (236, 232, 214))
    canvas.line(_px(0, 0.97, 1, 0.97), (236, 232, 214), 8)


def _forest(image: Image.Image, canvas: ImageDraw.ImageDraw, rng: Random) -> None:
    _blend(image, 0, GROUND + 0.05, varied((64, 104, 64), rng), varied((138, 172, 118), rng))
    for depth, count, trunk in ((0, 9, (104, 98, 72)), (1, 7, (88, 66, 46))):
        for i in range(count):
            x = (i + rng.uniform(0.1, 0.9)) / count
            half = 0.011 + 0.012 * depth
            canvas.rectangle(_px(x - half, 0, x + half, GROUND + 0.02 + 0.03 * depth), varied(trunk, rng))
    for _ in range(38):
        x, y, r = rng.random(), rng.uniform(-0.03, 0.16), rng.uniform(0.05, 0.1)
        canvas.ellipse(_px(x - r, y - r * 0.8, x + r, y + r * 0.8), varied((52, 104, 50), rng))
    _blend(image, GROUND + 0.04, 1, varied((134, 132, 82), rng), varied((112, 92, 60), rng))
    for _ in range(16):
        x, r = rng.random(), rng.uniform(0.03, 0.06)
        canvas.ellipse(_px(x - r, GROUND + 0.04 - r * 0.7, x + r, GROUND + 0.06 + r * 0.4), varied((82, 128, 66), rng))
    for _ in range(60):
        x, y = rng.random(), rng.uniform(GROUND + 0.1, 1)
        canvas.ellipse(_px(x, y, x + 0.016, y + 0.008), varied((152, 108, 58), rng))


def _desert(image: Image.Image, canvas: ImageDraw.ImageDraw, rng: Random) -> None:
    _sky(image, canvas, rng, (244, 190, 124), (252, 230, 186), clouds=False)
    _sun(canvas, rng, 0.075)
    _hills(canvas, rng, (214, 152, 92), 0.14)
    _blend(image, GROUND, 1, varied((228, 172, 102), rng), varied((206, 140, 76), rng))
    for _ in range(9):
        x, y, wide = rng.random(), rng.uniform(GROUND + 0.05, 1), rng.uniform(0.12, 0.3)
        canvas.arc(_px(x - wide, y, x + wide, y + wide * 0.35), 205, 335, (188, 124, 66), 6)
    for x in (rng.uniform(0.03, 0.2), rng.uniform(0.8, 0.97)):
        size, foot, leaf = rng.uniform(0.16, 0.24), GROUND + rng.uniform(0.03, 0.08), varied((74, 128, 70), rng)
        for line in (
            (0, 0, 0, 1),
            (-0.3, 0.7, -0.3, 0.4),
            (-0.3, 0.4, 0, 0.4),
            (0.28, 0.85, 0.28, 0.55),
            (0.28, 0.55, 0, 0.55),
        ):
            ax, ay, bx, by = line
            canvas.line(
                _px(x + ax * size, foot - ay * size, x + bx * size, foot - by * size), leaf, round(0.13 * size * BIG)
            )


def _water(image: Image.Image, canvas: ImageDraw.ImageDraw, rng: Random) -> None:
    _sky(image, canvas, rng, (138, 190, 232), (220, 236, 246))
    _hills(canvas, rng, (122, 158, 130), 0.09)
    _blend(image, GROUND - 0.01, 1, varied((96, 168, 206), rng), varied((30, 100, 158), rng))
    for _ in range(60):
        x, y = rng.uniform(-0.05, 1), rng.uniform(GROUND + 0.02, 1)
        wide = 0.02 + 0.14 * (y - GROUND) * rng.uniform(0.6, 1.4)
        canvas.arc(_px(x, y, x + wide, y + wide * 0.3), 190, 350, rng.choice(((134, 196, 224), (58, 132, 184))), 4)


PLACES: dict[str, Callable[[Image.Image, ImageDraw.ImageDraw, Random], None]] = {
    "grass": _grass,
    "snow": _snow,
    "beach": _beach,
    "street": _street,
    "forest": _forest,
    "desert": _desert,
    "water": _water,
}
