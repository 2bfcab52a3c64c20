"""The built-in dataset: determinism, true captions, and held-out pairs only in the test split."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from ruamel.yaml import YAML

from captionlab.config import ScenesParams
from captionlab.core.records import CaptionedImage
from captionlab.datasets.scenes import scenes
from captionlab.errors import CaptionlabError

SOURCE = Path(__file__).parents[2] / "assets" / "scenes"
GRAMMAR = YAML(typ="safe").load((SOURCE / "grammar.yaml").read_text(encoding="utf-8"))
SIZES = ScenesParams(train=300, val=50, test=100, seed=7)
Drawn = tuple[Path, list[CaptionedImage], list[dict[str, Any]]]


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Drawn:
    images = tmp_path_factory.mktemp("scenes")
    return images, *scenes(SOURCE, SIZES, images)


def _pairs(row: dict[str, Any]) -> set[tuple[str, str]]:
    return {p for actor in row["actors"] for p in ((actor["colour"], actor["kind"]), (actor["kind"], row["place"]))}


def test_scenes_are_jpegs_of_224_pixels(drawn: Drawn) -> None:
    images, records, truth = drawn
    assert [sum(record.split == split for record in records) for split in ("train", "val", "test")] == [300, 50, 100]
    assert sorted(path.name for path in images.iterdir()) == sorted(record.image for record in records)
    assert [row["image"] for row in truth] == [record.image for record in records]
    digests = set()
    for record in records:
        with Image.open(images / record.image) as image:
            assert (image.size, image.mode) == ((224, 224), "RGB")
        digests.add((images / record.image).read_bytes())
    assert len(digests) == len(records)


def test_a_scene_depends_only_on_seed_split_and_number(drawn: Drawn, tmp_path: Path) -> None:
    images, records, truth = drawn
    again, other = tmp_path / "again", tmp_path / "other"
    again.mkdir()
    other.mkdir()
    few, few_truth = scenes(SOURCE, ScenesParams(train=4, val=7, test=5, seed=7), again)
    by_name = dict(zip((r.image for r in records), zip(records, truth, strict=True), strict=True))
    for record, row in zip(few, few_truth, strict=True):
        assert by_name[record.image] == (record, row)
        assert (again / record.image).read_bytes() == (images / record.image).read_bytes()
    reseeded, _ = scenes(SOURCE, ScenesParams(train=4, val=7, test=5, seed=8), other)
    assert not {r.captions for r in reseeded} & {r.captions for r in few}


def test_held_out_pairs_appear_only_in_test(drawn: Drawn) -> None:
    _, _, truth = drawn
    held_out = {tuple(pair) for pair in GRAMMAR["held_out"]["pairs"]}
    for row in truth:
        unseen = {tuple(pair) for pair in row["unseen"]}
        assert unseen == _pairs(row) & held_out
        assert row["split"] == "test" or not unseen
    test = [row for row in truth if row["split"] == "test"]
    assert 0.25 <= sum(bool(row["unseen"]) for row in test) / len(test) <= 0.30


def test_every_place_kind_colour_and_action_occurs_in_training(drawn: Drawn) -> None:
    _, _, truth = drawn
    train = [row for row in truth if row["split"] == "train"]
    assert {row["place"] for row in train} == set(GRAMMAR["places"])
    assert {row["relation"] for row in train} == {None, *GRAMMAR["relations"]}
    actors = [actor for row in train for actor in row["actors"]]
    for key, section in (("kind", "kinds"), ("colour", "colours"), ("action", "actions")):
        assert {actor[key] for actor in actors} == set(GRAMMAR[section])
    assert {actor["count"] for actor in actors} == {1, 2, 3}


def test_captions_are_true_of_their_scene(drawn: Drawn) -> None:
    _, records, truth = drawn
    singular = {kind: kind for kind in GRAMMAR["kinds"]}
    kind_of = singular | {entry["plural"]: kind for kind, entry in GRAMMAR["kinds"].items()}
    for record, row in zip(records, truth, strict=True):
        kinds = {actor["kind"]: actor for actor in row["actors"]}
        colours = {actor["colour"] for actor in row["actors"]}
        for caption in record.captions:
            words = caption.lower().split()
            assert {kind_of[word] for word in words if word in kind_of} <= set(kinds), caption
            assert {word for word in words if word in GRAMMAR["colours"]} <= colours, caption
            for noun, kind in kind_of.items():
                actor = kinds.get(kind)
                if actor and "wears" not in GRAMMAR["kinds"][kind]:  # the colour directly before the noun belongs to it
                    before = re.findall(rf"(\w+) {noun}\b", caption.lower())
                    assert {word for word in before if word in GRAMMAR["colours"]} <= {actor["colour"]}, caption
            counts = {actor["count"] for actor in row["actors"]}
            assert {number for word, number in (("two", 2), ("three", 3)) if word in words} <= counts, caption


def test_captions_are_five_different_sentences(drawn: Drawn) -> None:
    _, records, _ = drawn
    for record in records:
        assert len(set(record.captions)) == 5
        for caption in record.captions:
            assert re.fullmatch(r"[A-Z][a-z ]* \.", caption), caption
            assert "  " not in caption
            assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", caption), caption
            assert not re.search(r"\b(two|three|are) (man|woman|boy|girl|dog|cat|car|is)\b", caption.lower()), caption


def test_a_missing_grammar_is_one_error_line(tmp_path: Path) -> None:
    with pytest.raises(CaptionlabError, match=r"grammar\.yaml does not exist; run `dvc repro`") as caught:
        scenes(tmp_path, SIZES, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("colours: #", "colours: [", "is not valid YAML"),
        ("templates:", "phrases:", "'templates' is missing"),
        ("  kite:\n", "  dragon:\n", "'dragon' is not a kind that can be drawn"),
        ("  desert:\n", "  moon:\n", "'moon' is not a place that can be drawn"),
        ("black: [38, 38, 44]", "black: [38, 38]", "'black' is not a colour of three numbers"),
        ("[jumps, jump, jumping]", "[jumps, jump]", r"actions\.jumping\.forms needs three words"),
        ("    - [red, bird]", "    - [bird, red]", "bird, red is neither"),
        ("[jumps, jump, jumping]", "[jumps, jump, 3]", r"actions\.jumping\.forms must be words, not \['jumps'"),
        ("    plural: dogs\n", "", "does not have the structure of"),
        ("    plural: dogs\n", "    plural: {dogs: 2}\n", r"kinds\.dog\.plural must be words"),
        ("general: [toy, toys]", "general: [t<<: oy, toys]", r"general must be words, not \[\{'t<<': 'oy'\}, 'toys'\]"),
        ('"{A} {acts} {where}"', '"{A} {acts} {where}}"', r"templates.alone .*Single '}' encountered"),
        ("forms: [[stands, stand, parked]]", "forms: []", r"actions\.parked\.forms is empty"),
        ("forms: [chases, chase, chasing]", "forms: [chases, chase]", r"relations\.chasing\.forms needs three words"),
        ("still: [in the desert]", "still: []", r"places\.desert\.still must be words, not \[\]"),
        ("share: 0.28", "share: 2", r"held_out\.share must be from 0 to 1"),
        ('"{A} {acts} {where}"', '"{A} {sings} {where}"', "'sings' is not a word of templates.alone"),
    ],
)
def test_an_invalid_grammar_is_one_error_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    shutil.copytree(SOURCE, tmp_path, dirs_exist_ok=True)
    text = (tmp_path / "grammar.yaml").read_text(encoding="utf-8")
    assert old in text
    (tmp_path / "grammar.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(CaptionlabError, match=message) as caught:
        scenes(tmp_path, SIZES, tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.glob("*.jpg"))
