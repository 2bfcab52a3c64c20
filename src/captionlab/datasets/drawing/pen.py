"""Draw filled shapes in the coordinates of a figure, at its position and in its direction.

Knows pixels and Pillow; nothing of figures.
"""

import math
from collections.abc import Sequence
from random import Random

from PIL import ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

SIDE = 224  # of a finished picture, in pixels
SUPERSAMPLING = 3  # drawn this many times larger, then averaged, for smooth edges
BIG = SIDE * SUPERSAMPLING
CIRCLE = [(math.cos(i * math.pi / 14), math.sin(i * math.pi / 14)) for i in range(28)]


def shade(colour: Colour, factor: float) -> Colour:
    """The colour darker (factor below 1) or moved towards white (above 1)."""
    if factor <= 1:
        red, green, blue = (round(c * factor) for c in colour)
    else:
        red, green, blue = (round(c + (255 - c) * (factor - 1)) for c in colour)
    return red, green, blue


def varied(colour: Colour, rng: Random) -> Colour:
    """The colour with a small random change of brightness and hue."""
    light = rng.uniform(-10, 10)
    red, green, blue = (min(255, max(0, round(c + light + rng.uniform(-6, 6)))) for c in colour)
    return red, green, blue


class Pen:
    """Draws shapes in a figure's coordinates. With ``outline``, shapes are larger and in that colour."""

    def __init__(
        self, draw: ImageDraw.ImageDraw, x: float, y: float, unit: float, *, facing: int = 1, line: float = 0.0
    ) -> None:
        self._draw, self._x, self._y, self._unit, self._facing = draw, x, y, unit, facing
        self._line = line  # pixels
        self.outline: Colour | None = None
        self.tilt(0)

    def tilt(self, degrees: float, centre: Point = (0, 0)) -> None:
        """Rotate what is drawn next about ``centre``; a positive angle lifts the front."""
        self._cos, self._sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        self._centre = centre

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        cx, cy = self._centre
        placed = []
        for px, py in points:
            x, y = px - cx, py - cy
            tx, ty = cx + x * self._cos - y * self._sin, cy + x * self._sin + y * self._cos
            placed.append((self._x + self._facing * tx * self._unit, self._y - ty * self._unit))
        return placed

    def shape(self, colour: Colour, *points: Point) -> None:
        """A filled polygon."""
        pixels = self._pixels(points)
        if self.outline:
            self._draw.line([*pixels, pixels[0], pixels[1]], self.outline, round(2 * self._line), joint="curve")
        self._draw.polygon(pixels, self.outline or colour)

    def oval(self, colour: Colour, x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> None:
        """A filled ellipse, rotated by ``tilt`` degrees."""
        grow = self._line / self._unit if self.outline else 0.0
        cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        a, b = rx + grow, ry + grow
        points = [(x + a * u * cos - b * v * sin, y + a * u * sin + b * v * cos) for u, v in CIRCLE]
        self._draw.polygon(self._pixels(points), self.outline or colour)

    def dome(self, colour: Colour, x: float, y: float, rx: float, ry: float) -> None:
        """The upper half of an ellipse, as of a figure in the water."""
        self.shape(colour, *[(x + rx * u, y + ry * v) for u, v in CIRCLE[:15]])

    def limb(self, colour: Colour, width: float, *points: Point) -> None:
        """A thick line with round ends and joints."""
        pixels = self._pixels(points)
        thick = width * self._unit + (2 * self._line if self.outline else 0)
        ink = self.outline or colour
        self._draw.line(pixels, ink, max(1, round(thick)), joint="curve")
        for x, y in (pixels[0], pixels[-1]):
            self._draw.ellipse((x - thick / 2, y - thick / 2, x + thick / 2, y + thick / 2), ink)

    def ring(self, colour: Colour, x: float, y: float, radius: float, width: float) -> None:
        """An unfilled circle."""
        self.limb(colour, width, *[(x + radius * u, y + radius * v) for u, v in [*CIRCLE, CIRCLE[0]]])

    def mark(self, colour: Colour, width: float, *points: Point) -> None:
        """A line without outline, for motion, mouths and ripples."""
        if not self.outline:
            self.limb(colour, width, *points)
