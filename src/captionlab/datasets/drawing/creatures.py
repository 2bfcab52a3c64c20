"""Draw people and animals in the poses of their actions.

Each figure has its own coordinates: x points forwards, y points up, the feet are at (0, 0) and 1 is about the height of
an adult. Knows nothing of places, layout or captions.
"""

from dataclasses import dataclass
from typing import NamedTuple

from captionlab.datasets.drawing.pen import CIRCLE, Colour, Pen, Point, shade

_SKINS = ((245, 208, 176), (232, 186, 148), (198, 146, 106), (142, 96, 66))
_HAIRS = ((52, 34, 24), (98, 62, 34), (196, 150, 78), (30, 28, 30))
_TROUSERS = (84, 88, 104)
_SHOES = (56, 48, 46)
WHITE = (252, 252, 250)
_BEAK = (240, 160, 40)
FOAM = (226, 242, 250)


@dataclass(frozen=True)
class Look:
    """What varies between figures of the same kind, colour and action."""

    skin: int
    hair: int
    swing: float  # phase of the limbs' movement, from -1 to 1


class _Pose(NamedTuple):
    hip: Point
    neck: Point
    legs: tuple[tuple[Point, Point], tuple[Point, Point]]  # far and near: knee, foot
    arms: tuple[tuple[Point, Point], tuple[Point, Point]]  # far and near: elbow, hand


_POSES = {
    "standing": _Pose(
        (0, 0.46), (0, 0.78), (((-0.06, 0.25), (-0.08, 0)), ((0.06, 0.25), (0.08, 0))),
        (((-0.17, 0.62), (-0.21, 0.46)), ((0.17, 0.62), (0.21, 0.46))),
    ),
    "running": _Pose(
        (0, 0.48), (0.09, 0.78), (((-0.09, 0.27), (-0.34, 0.24)), ((0.21, 0.39), (0.25, 0.12))),
        (((0.24, 0.62), (0.33, 0.76)), ((-0.13, 0.60), (-0.20, 0.44))),
    ),
    "jumping": _Pose(
        (0, 0.46), (0, 0.78), (((-0.20, 0.36), (-0.30, 0.16)), ((0.20, 0.36), (0.30, 0.16))),
        (((-0.19, 0.88), (-0.30, 1.08)), ((0.19, 0.88), (0.30, 1.08))),
    ),
    "sitting": _Pose(
        (-0.06, 0.10), (-0.11, 0.43), (((0.20, 0.29), (0.31, 0.02)), ((0.24, 0.25), (0.38, 0.02))),
        (((0.00, 0.25), (0.16, 0.27)), ((-0.01, 0.22), (0.17, 0.23))),
    ),
    "riding": _Pose(
        (0, 0), (0.10, 0.31), (((0.17, -0.08), (0.10, -0.33)), ((0.15, -0.14), (0.04, -0.36))),
        (((0.22, 0.16), (0.36, 0.10)), ((0.20, 0.13), (0.36, 0.08))),
    ),
}  # fmt: skip


def draw_person(pen: Pen, colour: Colour, action: str, look: Look, *, child: bool = False, dress: bool = False) -> None:
    skin = _SKINS[look.skin]
    head = 0.155 if child else 0.115
    if action == "swimming":
        pen.limb(skin, 0.09, (0.12, 0.14), (0.28, 0.28), (0.42, 0.05))
        pen.dome(colour, 0, 0, 0.24, 0.26)
        _head(pen, look, (0.03, 0.25 + head), head, child=child, dress=dress)
        pen.limb(skin, 0.09, (-0.15, 0.14), (-0.32, 0.27), (-0.40, 0.04))
        ripples(pen, 0.44)
        return
    pose = _POSES[action]
    (hx, hy), (nx, ny) = pose.hip, pose.neck
    bare = dress or child
    leg = skin if bare else _TROUSERS
    width = 0.085 if dress else 0.115
    stride = 0.03 * look.swing
    shoulder = (nx, ny - 0.07)

    def arm(elbow: Point, hand: Point) -> None:
        pen.limb(skin, 0.075, shoulder, elbow, (hand[0] + stride, hand[1]))
        pen.limb(colour, 0.095, shoulder, ((shoulder[0] + elbow[0]) / 2, (shoulder[1] + elbow[1]) / 2))

    arm(*pose.arms[0])
    for i, (knee, foot) in enumerate(pose.legs):
        start = (hx + (0.05 if knee[0] > hx else -0.05) * (action in ("standing", "jumping")), hy)
        foot = (foot[0] + (stride if i else -stride), foot[1] + 0.03)
        pen.limb(leg, width, start, knee, foot)
        if child and not dress:  # shorts
            pen.limb(_TROUSERS, width + 0.02, start, ((start[0] + knee[0]) / 2, (start[1] + knee[1]) / 2))
        pen.limb(_SHOES, 0.065, foot, (foot[0] + 0.07, foot[1] - 0.005))
    if dress:
        if action in ("sitting", "riding"):
            pen.limb(colour, 0.19, (hx, hy), pose.legs[1][0])
        else:
            hem = 0.22 if action == "standing" else 0.27
            pen.shape(colour, (nx - 0.09, ny - 0.2), (nx + 0.09, ny - 0.2), (hx + 0.23, hem), (hx - 0.23, hem))
    pen.limb(colour, 0.21, (hx, hy + 0.05), (nx, ny - 0.10))
    pen.limb(skin, 0.08, (nx, ny - 0.03), (nx, ny + 0.05))
    _head(pen, look, (nx + (0.03 if action != "standing" else 0), ny + 0.02 + head), head, child=child, dress=dress)
    arm(*pose.arms[1])


def _head(pen: Pen, look: Look, at: Point, r: float, *, child: bool, dress: bool) -> None:
    skin, hair = _SKINS[look.skin], _HAIRS[look.hair]
    x, y = at
    if dress and not child:  # long hair
        pen.oval(hair, x - 0.02, y - 0.05, r * 1.22, r * 1.55)
    if dress and child:  # two pigtails
        for side in (-1, 1):
            pen.oval(hair, x + side * r * 1.25, y - 0.03, r * 0.42, r * 0.75, 25 * side)
    pen.oval(hair, x - 0.012, y + 0.02, r * 1.05, r * 1.05)
    pen.oval(skin, x + 0.012, y - 0.02, r * 0.88, r * 0.86)
    if not dress and not child:  # beard
        pen.shape(hair, *[(x + 0.012 + r * 0.88 * u, y - r * 0.3 + r * 0.72 * v) for u, v in CIRCLE[14:]])
        pen.oval(skin, x + 0.03, y - r * 0.3, r * 0.5, r * 0.22)
    if not dress and child:  # a cap
        pen.dome((86, 86, 92), x, y + r * 0.28, r * 1.08, r * 0.82)
        pen.limb((66, 66, 72), 0.045, (x + r * 0.3, y + r * 0.3), (x + r * 1.45, y + r * 0.26))
    for eye in (-0.2, 0.45):
        pen.oval((30, 26, 26), x + eye * r + 0.01, y - r * 0.02, r * 0.11, r * 0.14)
    pen.mark(
        (150, 60, 56), 0.018, (x - r * 0.1, y - r * 0.46), (x + r * 0.14, y - r * 0.53), (x + r * 0.38, y - r * 0.46)
    )


class _Build(NamedTuple):
    length: float  # of the body
    leg: float
    girth: float
    neck: Point  # from the shoulder to the middle of the head
    head: tuple[float, float]
    limb: float  # thickness of a leg


_BUILDS = {
    "dog": _Build(0.50, 0.24, 0.22, (0.13, 0.19), (0.125, 0.105), 0.085),
    "cat": _Build(0.40, 0.17, 0.18, (0.10, 0.15), (0.125, 0.115), 0.07),
    "horse": _Build(0.74, 0.46, 0.34, (0.24, 0.38), (0.19, 0.095), 0.10),
    "sheep": _Build(0.46, 0.20, 0.34, (0.15, 0.10), (0.12, 0.09), 0.07),
}


def draw_beast(pen: Pen, colour: Colour, action: str, look: Look, *, kind: str) -> None:
    build = _BUILDS[kind]
    half, leg, girth = build.length / 2, build.leg, build.girth
    far = shade(colour, 0.78) if sum(colour) > 200 else shade(colour, 1.12)
    limb = (66, 60, 58) if kind == "sheep" else colour
    far_limb = (52, 48, 46) if kind == "sheep" else far
    body = leg + girth / 2
    if action == "swimming":
        pen.limb(colour, 0.07, (-half, 0.05), (-half - 0.16, 0.2))
        pen.dome(colour, -0.05, 0, half, 0.15)
        pen.limb(colour, girth * 0.7, (half - 0.1, 0.06), (half + 0.05, 0.16))
        _muzzle(pen, colour, far, (half + 0.1, 0.24), build, kind)
        ripples(pen, half + 0.2)
        return
    if action == "sitting":
        _tail(pen, colour, kind, (-half * 0.8, 0.06), low=True)
        pen.limb(far, build.limb, (half * 0.45, girth * 0.9), (half * 0.62, 0.03))
        pen.limb(colour, girth, (-half * 0.35, girth * 0.62), (half * 0.28, girth * 0.9 + leg * 0.75))
        pen.oval(
            shade(colour, 0.9) if sum(colour) > 200 else far, -half * 0.42, girth * 0.55, girth * 0.72, girth * 0.56
        )
        pen.limb(far, build.limb * 0.9, (-half * 0.45, 0.035), (0.02, 0.035))
        pen.limb(colour, build.limb, (half * 0.35, girth), (half * 0.48, 0.035), (half * 0.48 + 0.05, 0.03))
        head = (half * 0.28 + build.neck[0] * 0.55, girth * 0.9 + leg * 0.75 + build.neck[1] * 0.85)
        _muzzle(pen, colour, far, head, build, kind)
        return
    if action == "lying":
        body = girth / 2
        _tail(pen, colour, kind, (-half, body * 0.7), low=True)
        pen.limb(far_limb, build.limb, (half * 0.6, 0.06), (half + 0.16, 0.06))
        _trunk(pen, colour, half, body, girth, kind)
        pen.limb(limb, build.limb, (half * 0.5, 0.035), (half + 0.1, 0.035))
        pen.limb(limb, build.limb, (-half * 0.75, 0.04), (-half * 0.2, 0.035))
        head = (half + build.neck[0] * 0.6, body + build.neck[1] * 0.72)
        pen.limb(colour, girth * 0.6, (half * 0.7, body), (head[0] - 0.02, head[1]))
        _muzzle(pen, colour, far, head, build, kind)
        return
    gallop = action in ("running", "jumping")
    if action == "jumping":
        pen.tilt(16, (0, body))
    stretch = 0.85 + 0.1 * look.swing
    front, back = half * 0.72, -half * 0.74
    for side, ink in ((-1, far_limb), (1, limb)):
        if gallop:
            lead = leg * stretch * (1.0 if side > 0 else 0.72)
            pen.limb(
                ink, build.limb, (front, body), (front + lead * 0.75, leg * 0.72), (front + lead * 1.15, leg * 0.28)
            )
            pen.limb(ink, build.limb, (back, body), (back - lead * 0.45, leg * 0.62), (back - lead * 1.15, leg * 0.24))
        else:
            for x in (front, back):
                foot = x + side * 0.05 + 0.02 * look.swing
                pen.limb(ink, build.limb, (x + side * 0.03, body), (foot, 0.035))
    _tail(pen, colour, kind, (-half, body + girth * 0.25), low=False)
    _trunk(pen, colour, half, body, girth, kind)
    head = (half * 0.8 + build.neck[0], body + girth * 0.1 + build.neck[1])
    thick = 0.19 if kind == "horse" else girth * 0.68
    if kind == "horse":
        mane = shade(colour, 0.45) if sum(colour) > 200 else (84, 84, 92)
        pen.limb(mane, 0.13, (half * 0.5, body + 0.17), (head[0] - 0.09, head[1] + 0.05))
    pen.limb(colour, thick, (half * 0.72, body + girth * 0.1), (head[0] - 0.03, head[1] - 0.02))
    _muzzle(pen, colour, far, head, build, kind)


def _trunk(pen: Pen, colour: Colour, half: float, body: float, girth: float, kind: str) -> None:
    if kind != "sheep":
        pen.limb(colour, girth, (-half + girth / 2, body), (half - girth / 2, body))
        return
    for x, y in ((-0.17, 0.04), (-0.2, -0.05), (-0.06, 0.09), (0.08, 0.09), (0.18, 0.03), (0.17, -0.06), (0.0, -0.08)):
        pen.oval(colour, x, body + y, 0.13, 0.12)
    curl = shade(colour, 0.8) if sum(colour) > 200 else shade(colour, 1.25)
    for x, y in ((-0.14, 0.04), (0.02, 0.07), (0.13, -0.02), (-0.04, -0.06)):
        pen.mark(curl, 0.018, (x - 0.04, body + y), (x, body + y - 0.03), (x + 0.04, body + y))


def _tail(pen: Pen, colour: Colour, kind: str, at: Point, *, low: bool) -> None:
    x, y = at
    match kind:
        case "dog":
            pen.limb(colour, 0.06, (x + 0.06, y - 0.03), (x - 0.08, y + (0.0 if low else 0.08)), (x - 0.15, y + 0.17))
        case "cat" if low:
            pen.limb(colour, 0.055, (x + 0.08, y), (x - 0.12, y - 0.01), (x - 0.22, y + 0.08), (x - 0.17, y + 0.15))
        case "cat":
            pen.limb(
                colour, 0.055, (x + 0.06, y - 0.05), (x - 0.09, y + 0.02), (x - 0.12, y + 0.2), (x - 0.06, y + 0.3)
            )
        case "horse":
            hair = shade(colour, 0.45) if sum(colour) > 200 else (84, 84, 92)
            pen.limb(hair, 0.08, (x + 0.05, y), (x - 0.09, y - 0.03), (x - 0.15, y - 0.33))
        case _:
            pen.oval(colour, x - 0.06, y - 0.04, 0.06, 0.05)


def _muzzle(pen: Pen, colour: Colour, far: Colour, at: Point, build: _Build, kind: str) -> None:
    (x, y), (rx, ry) = at, build.head
    dark = (28, 26, 28) if sum(colour) > 200 else (236, 222, 150)
    match kind:
        case "horse":
            pen.shape(colour, (x - 0.12, y + 0.06), (x - 0.09, y + 0.20), (x - 0.02, y + 0.08))
            pen.limb(colour, 0.15, (x - 0.05, y + 0.03), (x + 0.16, y - 0.10))
            pen.oval(far, x + 0.18, y - 0.115, 0.075, 0.07)
            pen.oval(dark, x + 0.03, y + 0.02, 0.019, 0.022)
        case "cat":
            for side in (-1, 1):
                pen.shape(
                    colour, (x + side * 0.015, y + 0.07), (x + side * 0.10, y + 0.20), (x + side * 0.12, y + 0.03)
                )
            pen.oval(colour, x, y, rx, ry)
            for side in (-1, 1):
                pen.oval((120, 190, 70), x + side * 0.05, y + 0.02, 0.026, 0.03)
                pen.oval((20, 20, 20), x + side * 0.05, y + 0.02, 0.01, 0.026)
                pen.mark(far, 0.008, (x + side * 0.05, y - 0.04), (x + side * 0.18, y - 0.02))
                pen.mark(far, 0.008, (x + side * 0.05, y - 0.05), (x + side * 0.18, y - 0.07))
            pen.oval((226, 130, 140), x, y - 0.03, 0.018, 0.013)
        case "dog":
            pen.oval(colour, x, y, rx, ry)
            pen.limb(colour, 0.105, (x + 0.06, y - 0.03), (x + 0.17, y - 0.04))
            pen.oval(dark, x + 0.21, y - 0.02, 0.03, 0.026)
            pen.oval(dark, x + 0.055, y + 0.03, 0.019, 0.022)
            ear = shade(colour, 0.62) if sum(colour) > 200 else (82, 80, 86)
            pen.oval(ear, x - 0.06, y - 0.015, 0.05, 0.11, 12)
        case _:
            face = (66, 60, 58) if sum(colour) > 200 else (96, 92, 92)
            pen.oval(face, x + 0.03, y - 0.01, rx * 0.95, ry, -25)
            pen.oval(face, x - 0.06, y + 0.04, 0.06, 0.028, 20)
            pen.oval(colour, x - 0.02, y + 0.09, 0.075, 0.055)
            pen.oval(WHITE, x + 0.05, y + 0.02, 0.018, 0.02)


def draw_bird(pen: Pen, colour: Colour, action: str, look: Look) -> None:
    wing = shade(colour, 0.72) if sum(colour) > 200 else (84, 84, 92)
    eye = (24, 24, 24) if sum(colour) > 200 else WHITE
    if action == "flying":
        lift = 0.03 * look.swing
        pen.shape(wing, (-0.02, 0.15), (0.12, 0.15), (-0.02, 0.46 + lift), (-0.2, 0.5 + lift))
        pen.shape(colour, (-0.16, 0.13), (-0.40, 0.2), (-0.38, 0.06))
        pen.oval(colour, 0, 0.13, 0.21, 0.095, 6)
        pen.shape(_BEAK, (0.28, 0.22), (0.28, 0.14), (0.38, 0.17))
        pen.oval(colour, 0.22, 0.18, 0.085, 0.08)
        pen.shape(wing, (-0.08, 0.15), (0.08, 0.16), (-0.12, 0.42 + lift), (-0.32, 0.42 + lift))
        pen.oval(eye, 0.25, 0.2, 0.018, 0.02)
        return
    low = 0.1 if action == "swimming" else 0.0
    if action == "standing":
        for x in (-0.04, 0.05):
            pen.limb(_BEAK, 0.028, (x, 0.14), (x, 0.015), (x + 0.06, 0.01))
    pen.shape(colour, (-0.12, 0.2 - low), (-0.36, 0.3 - low * 1.2), (-0.34, 0.2 - low))
    if low:
        pen.dome(colour, 0, 0, 0.27, 0.22)
    else:
        pen.oval(colour, 0, 0.22, 0.20, 0.135, 14)
    pen.limb(colour, 0.12, (0.14, 0.24 - low), (0.18, 0.36 - low))
    pen.shape(_BEAK, (0.24, 0.42 - low), (0.24, 0.33 - low), (0.37, 0.36 - low))
    pen.oval(colour, 0.18, 0.38 - low, 0.1, 0.09)
    pen.oval(wing, -0.05, 0.23 - low, 0.14, 0.075, -10)
    pen.oval(eye, 0.21, 0.40 - low, 0.02, 0.022)
    if low:
        ripples(pen, 0.34)


def ripples(pen: Pen, half: float) -> None:
    pen.mark(FOAM, 0.022, (-half, 0.0), (-half * 0.5, -0.02), (0, 0.0), (half * 0.5, -0.02), (half, 0.0))
    pen.mark(FOAM, 0.016, (-half * 0.6, -0.07), (-half * 0.2, -0.085), (half * 0.3, -0.065))
