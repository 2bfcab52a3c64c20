"""Draw a scene as a 224x224 picture: first the place, then the actors from back to front.

Knows the positions of actors; nothing of captions, splits or files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from random import Random
from typing import NamedTuple

from PIL import Image, ImageChops, ImageDraw

from captionlab.datasets.drawing.creatures import Look
from captionlab.datasets.drawing.figures import FIGURES
from captionlab.datasets.drawing.pen import BIG, SIDE, SUPERSAMPLING, Colour, Pen, shade, varied
from captionlab.datasets.drawing.places import GROUND, PLACES

_TALLEST = 0.5  # height of an adult, as a share of the picture's height
_SHADOW = 0.72
_ALOFT = ("flying",)
_SPREAD = {"swimming": 1.45, "running": 1.25, "jumping": 1.15, "sitting": 1.15, "driving": 1.2}  # of the figure's width


@dataclass(frozen=True, kw_only=True)
class Actor:
    """One or more figures of a kind, with the same colour and action."""

    kind: str
    colour: str
    count: int
    action: str


@dataclass(frozen=True, kw_only=True)
class Scene:
    """The content of a picture. The relation is between the first two actors; a third is in the background."""

    place: str
    actors: tuple[Actor, ...]
    relation: str | None


def draw_scene(scene: Scene, colours: Mapping[str, Colour], rng: Random) -> Image.Image:
    """The scene as an RGB picture of 224x224; the same ``rng`` state gives the same picture."""
    image = Image.new("RGB", (BIG, BIG))
    canvas = ImageDraw.Draw(image)
    PLACES[scene.place](image, canvas, rng)
    for spot in _arrange(scene, rng):
        _draw_actor(image, canvas, spot, varied(colours[spot.actor.colour], rng), rng)
    return _grained(image.reduce(SUPERSAMPLING), rng)


def _grained(image: Image.Image, rng: Random) -> Image.Image:
    """The picture with light noise, so that pictures of the same scene differ."""
    cells = SIDE // 4
    grain = Image.frombytes("L", (cells, cells), rng.randbytes(cells * cells)).point(lambda v: 244 + v * 11 // 255)
    return ImageChops.multiply(image, Image.merge("RGB", [grain.resize((SIDE, SIDE), Image.Resampling.BILINEAR)] * 3))


# --- positions of the actors


@dataclass(frozen=True, kw_only=True)
class _Spot:
    """Where one figure is drawn, in shares of the picture's side; y points down."""

    actor: Actor
    x: float
    y: float  # of the feet, or of a flying figure
    ground: float  # where its shadow falls
    unit: float  # height of an adult at this distance
    facing: int


class _Strip(NamedTuple):
    """The ground where a row of figures stands, in shares of the picture's side."""

    left: float
    width: float
    base: float  # the feet's y
    largest: float = 1.0  # size of the figures, 1 for those in front


def _arrange(scene: Scene, rng: Random) -> list[_Spot]:
    """The positions of all figures, from back to front."""
    facing = rng.choice((-1, 1))
    first = scene.actors[0]
    near = scene.actors[:2]
    spots: list[_Spot] = []
    room = 0.94
    left = 0.03
    if len(scene.actors) == 3:
        far_left = rng.random() < 0.5
        width = 0.32 if scene.actors[2].kind in ("car", "bus", "horse", "boat") or scene.actors[2].count > 1 else 0.26
        start = 0.02 if far_left else 0.98 - width
        spots += _row([scene.actors[2]], rng, _Strip(start, width, GROUND + 0.09, 0.56), 1 if far_left else -1)
        room -= 0.22
        left = 0.25 if far_left else 0.03
    base = rng.uniform(0.84, 0.9)
    if scene.relation == "riding":
        mount = near[1]
        spot = _row([mount], rng, _Strip(left, room, base), facing)[0]
        seat_x, seat_y = (-0.10, 0.52) if mount.kind == "bicycle" else (-0.05, 0.80)
        child = 0.84 if first.kind in ("boy", "girl") else 1.0
        rider = _Spot(
            actor=first, x=spot.x + facing * seat_x * spot.unit, y=spot.y - seat_y * spot.unit, ground=spot.ground,
            unit=spot.unit * child, facing=facing,
        )  # fmt: skip
        return [*spots, spot, rider]
    if scene.relation in ("in front of", "behind"):
        front, back = near if scene.relation == "in front of" else near[::-1]
        share = width_of(front) / (width_of(front) + width_of(back))
        split = left + room * (share if facing > 0 else 1 - share)
        slack = 0.2 * room * min(share, 1 - share)
        halves = ((left, split + slack), (split - slack, left + room))
        (a, b), (c, d) = halves if facing > 0 else halves[::-1]
        spots += _row([back], rng, _Strip(c, d - c, base - 0.17, 0.86), facing)
        spots += _row([front], rng, _Strip(a, b - a, base + 0.04), facing)
        return spots
    row = list(near if facing < 0 else near[::-1])
    if scene.relation == "chasing":  # the second is ahead
        row = list(near if facing > 0 else near[::-1])
    return spots + _row(row, rng, _Strip(left, room, base), facing)


def width_of(actor: Actor) -> float:
    """The width of an actor's figures side by side, in heights of an adult."""
    return _breadth(actor) * actor.count


def _breadth(actor: Actor) -> float:
    return FIGURES[actor.kind].width * _SPREAD.get(actor.action, 1.0)


def _row(actors: list[Actor], rng: Random, strip: _Strip, facing: int) -> list[_Spot]:
    """Figures side by side within a strip; those of the same kind overlap a little."""
    left, room, base, size = strip
    total = sum(width_of(actor) for actor in actors) + 0.08 * (len(actors) - 1)
    tallest = max(FIGURES[actor.kind].height for actor in actors)
    unit = min(room / total, _TALLEST * size * 1.3 / max(tallest, 0.75)) * rng.uniform(0.9, 1.0)
    unit = min(unit, _TALLEST * size * 1.35)
    x = left + (room - total * unit) * rng.uniform(0.25, 0.75)
    spots = []
    for actor in actors:
        figure = FIGURES[actor.kind]
        for number in range(actor.count):
            drop = 0.0 if actor.count == 1 else (0.035 if number % 2 else -0.015)
            ground = base + drop * size
            y = ground
            if actor.action in _ALOFT:
                y = (
                    max(0.12 + figure.height * unit * 0.8, min(0.42, base - 0.35))
                    + drop * 1.6
                    + rng.uniform(-0.03, 0.02)
                )
            elif actor.action == "jumping":
                y = max(y - 0.17 * unit - rng.uniform(0.02, 0.05), 0.06 + figure.height * unit)
            elif actor.action == "bouncing":
                y -= 0.3 * unit + rng.uniform(0.0, 0.06)
            middle = x + _breadth(actor) * unit / 2
            spots.append(_Spot(actor=actor, x=middle, y=y, ground=ground, unit=unit, facing=facing))
            x += _breadth(actor) * unit
        x += 0.08 * unit
    return sorted(spots, key=lambda spot: spot.ground)


def _draw_actor(image: Image.Image, canvas: ImageDraw.ImageDraw, spot: _Spot, colour: Colour, rng: Random) -> None:
    figure = FIGURES[spot.actor.kind]
    look = Look(skin=rng.randrange(4), hair=rng.randrange(4), swing=rng.uniform(-1, 1))
    wet = spot.actor.action in ("swimming", "floating", "sailing", "anchored")
    if not wet and spot.actor.action not in (*_ALOFT, "riding"):
        _cast_shadow(image, spot, figure.width * (0.7 if spot.y < spot.ground else 0.86))
    unit = spot.unit * figure.scale * BIG
    pen = Pen(canvas, spot.x * BIG, spot.y * BIG, unit, facing=spot.facing, line=0.0055 * BIG)
    pen.outline = shade(colour, 0.38) if sum(colour) > 200 else (112, 112, 120)
    figure.draw(pen, colour, spot.actor.action, look)
    pen.outline = None
    pen.tilt(0)
    figure.draw(pen, colour, spot.actor.action, look)


def _cast_shadow(image: Image.Image, spot: _Spot, width: float) -> None:
    half, flat = width * spot.unit * BIG / 2, 0.045 * spot.unit * BIG
    x, y = spot.x * BIG, spot.ground * BIG
    box = (round(max(0, x - half)), round(y - flat), round(min(BIG, x + half)), round(y + flat))
    patch = image.crop(box)
    mask = Image.new("L", patch.size)
    ImageDraw.Draw(mask).ellipse((x - half - box[0], 0, x + half - box[0], patch.height - 1), 255)
    image.paste(patch.point(lambda v: round(v * _SHADOW)), box[:2], mask)
