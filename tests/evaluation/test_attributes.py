"""Parsing of captions of drawn scenes; the scenes' own captions must all be true."""

from pathlib import Path
from typing import Any

import pytest

from captionlab.config import ScenesParams
from captionlab.data.text import clean
from captionlab.datasets.scenes import scene_words, scenes
from captionlab.evaluation.attributes import ATTRIBUTES, accuracy, compare, read

SOURCE = Path(__file__).parents[2] / "assets/scenes"


@pytest.fixture(scope="module")
def meaning() -> dict[str, Any]:
    return scene_words(SOURCE)


def actor(kind: str, colour: str, count: int, action: str) -> dict[str, Any]:
    return {"kind": kind, "colour": colour, "count": count, "action": action}


DOG_AND_MEN = {
    "place": "snow", "actors": [actor("dog", "black", 1, "running"), actor("man", "red", 2, "standing")]
}  # fmt: skip


@pytest.mark.parametrize(("caption", "verdict"), [
    ("a black dog runs next to two men in red shirts in the snow", (True, True, True, True, True)),
    ("two men in red shirts stand behind a black dog", (True, True, True, None, True)),  # the second actor first
    ("a white dog is running", (True, False, True, None, True)),
    ("three black cats on a lawn", (False, True, False, False, None)),  # compared with the first actor
    ("an animal is sitting in the snow", (None, None, True, True, False)),  # "animal" may be the dog
    ("a man in a black shirt stands", (True, False, False, None, True)),
    ("a dog next to a red ball jumping", (True, None, True, None, None)),  # colour and action belong to the ball
    ("red red", (None, None, None, None, None)),
    ("", (None, None, None, None, None)),
])  # fmt: skip
def test_claims_of_a_caption_are_checked(
    caption: str, verdict: tuple[bool | None, ...], meaning: dict[str, Any]
) -> None:
    assert compare(read(caption.split(), meaning), DOG_AND_MEN) == dict(zip(ATTRIBUTES, verdict, strict=True))


def test_the_scenes_own_captions_are_true(meaning: dict[str, Any], tmp_path: Path) -> None:
    records, truth = scenes(SOURCE, ScenesParams(train=39, val=1, test=20, seed=3), tmp_path)
    for number in range(5):
        captions = {record.image: clean(record.captions[number], "standard") for record in records}
        found = accuracy(captions, truth, meaning)
        assert found["seen"]["scenes"] + found["unseen"]["scenes"] == 60
        assert found["unseen"]["scenes"] == 5
        for part in found.values():
            assert {part[attribute]["right"] for attribute in ATTRIBUTES} <= {1.0, None}
            assert part["count"]["said"] == 1.0


def test_captions_of_another_scene_are_not_true(meaning: dict[str, Any], tmp_path: Path) -> None:
    records, truth = scenes(SOURCE, ScenesParams(train=58, val=1, test=1, seed=3), tmp_path)
    shifted = [*records[1:], records[0]]
    captions = {
        record.image: clean(other.captions[0], "standard") for record, other in zip(records, shifted, strict=True)
    }
    found = accuracy(captions, truth, meaning)
    assert found["seen"]["kind"]["right"] < 0.4
    assert found["seen"]["place"]["right"] < 0.5
    assert found["unseen"] == {"scenes": 0, **{each: {"said": None, "right": None} for each in ATTRIBUTES}}
