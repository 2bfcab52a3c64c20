"""Example photos: a few drawn scenes, and the two photos that scikit-learn ships.

Knows how to make them; nothing of systems or the server.
"""

import io
from dataclasses import dataclass
from functools import cache
from random import Random

from PIL import Image

from captionlab.datasets.drawing import Actor, Scene, draw_scene
from captionlab.datasets.drawing.pen import Colour

_QUALITY = 92  # of the JPEGs, as in the built-in dataset
_COLOURS: dict[str, Colour] = {  # as in assets/scenes/grammar.yaml, which is not part of the installed package
    "black": (38, 38, 44), "brown": (139, 86, 46), "orange": (242, 130, 28), "pink": (244, 130, 182),
    "red": (214, 36, 40), "yellow": (247, 212, 40), "blue": (36, 92, 208),
}  # fmt: skip


def _scene(place: str, *actors: tuple[int, str, str, str], relation: str | None = None) -> Scene:
    """A scene; each actor is (count, colour, kind, action)."""
    return Scene(
        place=place,
        actors=tuple(Actor(count=count, colour=colour, kind=kind, action=action)
                     for count, colour, kind, action in actors),
        relation=relation,
    )  # fmt: skip


_SCENES = {
    "A brown dog chases a red ball across the grass": _scene(
        "grass", (1, "brown", "dog", "running"), (1, "red", "ball", "bouncing"), relation="chasing"
    ),
    "A woman in a blue dress rides a brown horse on the beach": _scene(
        "beach", (1, "blue", "woman", "riding"), (1, "brown", "horse", "running"), relation="riding"
    ),
    "Two black sheep stand in the snow": _scene("snow", (2, "black", "sheep", "standing")),
    "A red bus drives down the street": _scene("street", (1, "red", "bus", "driving")),
    "A yellow boat sails on the lake": _scene("water", (1, "yellow", "boat", "sailing")),
    "An orange cat sits in the forest next to a girl in a pink dress": _scene(
        "forest", (1, "orange", "cat", "sitting"), (1, "pink", "girl", "standing"), relation="next to"
    ),
}


@dataclass(frozen=True, kw_only=True)
class Example:
    """An example photo: its file name, a description and a credit."""

    name: str
    label: str
    credit: str
    drawn: bool  # a drawn scene, not a photo


_DRAWN = [
    Example(name=f"scene_{number}.jpg", label=label, credit="Drawn by captionlab", drawn=True)
    for number, label in enumerate(_SCENES, 1)
]
_PHOTOS = [  # credits from scikit-learn's datasets/images/README.txt
    Example(name="china.jpg", label="A Chinese temple", credit="Photo: danielbuechele, flickr, CC BY 2.0", drawn=False),
    Example(name="flower.jpg", label="A flower", credit="Photo: vultilion, flickr, CC BY 2.0", drawn=False),
]
EXAMPLES = (*_DRAWN, *_PHOTOS)


@cache
def example_photo(name: str) -> bytes | None:
    """The JPEG of the example with this name, the same bytes every time; None if there is no such example."""
    example = next((example for example in EXAMPLES if example.name == name), None)
    if example is None:
        return None
    if example.drawn:
        image = draw_scene(_SCENES[example.label], _COLOURS, Random(name))
    else:
        from sklearn.datasets import load_sample_image

        image = Image.fromarray(load_sample_image(name))
    out = io.BytesIO()
    image.save(out, format="JPEG", quality=_QUALITY, subsampling=0)
    return out.getvalue()
