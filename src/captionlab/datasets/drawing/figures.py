"""Draw objects; and the table of every kind that can be drawn. Coordinates are as in ``creatures``."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from captionlab.datasets.drawing.creatures import FOAM, WHITE, Look, draw_beast, draw_bird, draw_person, ripples
from captionlab.datasets.drawing.pen import CIRCLE, Colour, Pen, shade

_GLASS = (196, 226, 240)
_TYRE = (44, 44, 48)
_DUST = (176, 172, 168)


def _wheel(pen: Pen, x: float, radius: float) -> None:
    pen.oval(_TYRE, x, radius, radius, radius)
    pen.oval((176, 180, 186), x, radius, radius * 0.5, radius * 0.5)


def _speed(pen: Pen, back: float, heights: tuple[float, ...]) -> None:
    """Lines and dust behind a moving vehicle."""
    for i, y in enumerate(heights):
        pen.mark(_DUST, 0.025, (back - 0.08, y), (back - 0.3 - 0.08 * (i % 2), y))
    for x, r in ((0.06, 0.06), (0.19, 0.08), (0.34, 0.055)):
        if not pen.outline:
            pen.oval(_DUST, back - x, r + 0.01, r, r * 0.8)


def _car(pen: Pen, colour: Colour, action: str, look: Look) -> None:
    if action == "driving":
        _speed(pen, -0.78, (0.26, 0.38, 0.5))
    pen.shape(colour, (-0.48, 0.38), (-0.32, 0.64), (0.18, 0.64), (0.42, 0.38))
    pen.shape(colour, (-0.78, 0.14), (-0.78, 0.36), (-0.68, 0.42), (0.5, 0.42), (0.76, 0.34), (0.79, 0.14))
    if not pen.outline:
        pen.shape(_GLASS, (-0.38, 0.41), (-0.27, 0.58), (-0.08, 0.58), (-0.08, 0.41))
        pen.shape(_GLASS, (-0.02, 0.41), (-0.02, 0.58), (0.15, 0.58), (0.31, 0.41))
        pen.limb(shade(colour, 0.7), 0.014, (-0.05, 0.4), (-0.05, 0.16))
        pen.limb(shade(colour, 0.6), 0.02, (-0.02, 0.34), (0.07, 0.34))
    pen.oval((255, 240, 150), 0.74, 0.29, 0.035, 0.045)
    pen.oval((190, 30, 30), -0.755, 0.31, 0.025, 0.04)
    for x in (-0.45, 0.45):
        _wheel(pen, x, 0.155)


def _bus(pen: Pen, colour: Colour, action: str, look: Look) -> None:
    if action == "driving":
        _speed(pen, -1.05, (0.35, 0.55, 0.75))
    pen.shape(colour, (-1.05, 0.14), (-1.05, 0.9), (-1.0, 0.96), (0.98, 0.96), (1.05, 0.86), (1.05, 0.14))
    if not pen.outline:
        for i in range(5):
            left = -0.98 + 0.34 * i
            pen.shape(_GLASS, (left, 0.54), (left, 0.84), (left + 0.27, 0.84), (left + 0.27, 0.54))
        pen.shape(_GLASS, (0.76, 0.2), (0.76, 0.84), (1.0, 0.84), (1.02, 0.5), (0.98, 0.2))
        pen.limb(shade(colour, 0.7), 0.03, (-1.02, 0.42), (0.7, 0.42))
    for x in (-0.62, 0.5):
        _wheel(pen, x, 0.17)


def _bicycle(pen: Pen, colour: Colour, action: str, look: Look) -> None:
    radius, back, front = 0.23, -0.34, 0.36
    crank, seat, bar = (-0.02, 0.22), (-0.12, 0.5), (0.27, 0.52)
    for x in (back, front):
        pen.ring(_TYRE, x, radius, radius - 0.02, 0.045)
        for i in range(0, 14, 3):
            u, v = CIRCLE[i]
            pen.mark((150, 150, 156), 0.01, (x - 0.2 * u, radius - 0.2 * v), (x + 0.2 * u, radius + 0.2 * v))
    pen.limb(colour, 0.055, (back, radius), crank, (0.25, 0.45), seat, (back, radius))
    pen.limb(colour, 0.055, crank, seat)
    pen.limb(colour, 0.055, (front, radius), bar)
    pen.limb(_TYRE, 0.045, (0.33, 0.56), bar, (0.19, 0.56))
    pen.limb(_TYRE, 0.07, (-0.2, 0.54), (-0.06, 0.54))
    pen.oval((90, 90, 96), *crank, 0.05, 0.05)


def _boat(pen: Pen, colour: Colour, action: str, look: Look) -> None:
    mast = (112, 78, 48)
    pen.limb(mast, 0.045, (0.02, 0.2), (0.02, 1.12))
    if action == "sailing":
        pen.shape(WHITE, (-0.02, 1.08), (-0.02, 0.3), (-0.55, 0.32))
        pen.shape((232, 232, 224), (0.07, 1.0), (0.07, 0.3), (0.5, 0.32))
    else:
        pen.limb(WHITE, 0.07, (-0.02, 0.33), (-0.5, 0.33))  # the sail is down
        pen.mark((120, 120, 120), 0.014, (0.6, 0.2), (0.78, -0.02))
    pen.shape(colour, (-0.62, 0.24), (0.72, 0.26), (0.5, 0.0), (-0.48, 0.0))
    pen.mark(shade(colour, 0.65), 0.03, (-0.58, 0.18), (0.64, 0.19))
    ripples(pen, 0.66)
    if action == "sailing":
        pen.mark(FOAM, 0.03, (-0.56, 0.02), (-0.75, 0.05), (-0.95, 0.0))


def _ball(pen: Pen, colour: Colour, action: str, look: Look) -> None:
    r = 0.17
    pen.oval(colour, 0, r, r, r)
    if not pen.outline:
        pen.limb(WHITE, 0.035, *[(0.12 * u, r + 0.96 * r * v) for u, v in CIRCLE[7:22]])
        pen.limb(WHITE, 0.035, (-r * 0.95, r), (r * 0.95, r))
        pen.oval(shade(colour, 1.7), 0.07, r + 0.08, 0.035, 0.03)
    if action == "bouncing":
        for x in (-0.12, 0, 0.12):
            pen.mark(WHITE, 0.024, (x, -0.06), (x * 1.3, -0.19))
    if action == "floating":
        ripples(pen, 0.26)


def _kite(pen: Pen, colour: Colour, action: str, look: Look) -> None:
    pen.limb(colour, 0.02, (0, -0.02), (0.06, -0.12), (-0.06, -0.24), (0.05, -0.36))
    for x, y in ((0.05, -0.12), (-0.05, -0.24)):
        pen.shape(
            shade(colour, 1.45), (x - 0.07, y + 0.04), (x - 0.07, y - 0.04), (x + 0.07, y + 0.04), (x + 0.07, y - 0.04)
        )
    pen.shape(colour, (0, 0.62), (0.24, 0.38), (0, 0), (-0.24, 0.38))
    if not pen.outline:
        pen.shape(shade(colour, 1.45), (0, 0.62), (0.24, 0.38), (0, 0.38))
        pen.shape(shade(colour, 1.45), (0, 0), (-0.24, 0.38), (0, 0.38))


class Figure(NamedTuple):
    """How to draw a kind, and its size in heights of an adult."""

    draw: Callable[[Pen, Colour, str, Look], None]
    width: float
    height: float
    scale: float = 1.0  # from the coordinates of ``draw`` to heights of an adult


FIGURES: dict[str, Figure] = {
    "man": Figure(draw_person, 0.56, 1.05),
    "woman": Figure(partial(draw_person, dress=True), 0.56, 1.05),
    "boy": Figure(partial(draw_person, child=True), 0.46, 0.8, 0.72),
    "girl": Figure(partial(draw_person, child=True, dress=True), 0.48, 0.8, 0.72),
    "dog": Figure(partial(draw_beast, kind="dog"), 0.86, 0.62, 0.95),
    "cat": Figure(partial(draw_beast, kind="cat"), 0.78, 0.6, 0.98),
    "horse": Figure(partial(draw_beast, kind="horse"), 1.35, 1.2),
    "sheep": Figure(partial(draw_beast, kind="sheep"), 0.92, 0.7, 1.12),
    "bird": Figure(draw_bird, 0.72, 0.5, 0.95),
    "car": Figure(_car, 1.7, 0.62, 0.9),
    "bus": Figure(_bus, 2.1, 0.85, 0.85),
    "bicycle": Figure(_bicycle, 1.2, 0.62, 1.0),
    "boat": Figure(_boat, 1.4, 1.15, 0.95),
    "ball": Figure(_ball, 0.5, 0.5, 1.25),
    "kite": Figure(_kite, 0.5, 0.7, 0.9),
}
