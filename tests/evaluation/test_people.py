"""People as a row: hand-computed scores, and systems scored against the same references."""

import dataclasses
import shutil

import pytest

from captionlab.evaluation.people import against_fewer, mean_of_ways
from captionlab.metrics.meteor import Meteor
from captionlab.metrics.scorer import Scorer

REFERENCES = {
    "a": ["a dog runs on the grass", "a brown dog runs", "the dog is on the grass"],
    "b": ["two cats sleep on a bed", "cats on a bed"],
}
SYSTEM = {"a": "a dog runs on grass", "b": "two cats on a bed"}
OTHER = {"a": "the brown dog", "b": "cats sleep"}


def test_each_reference_is_scored_against_the_others_and_so_are_the_systems() -> None:
    found = against_fewer(REFERENCES, {"attention.lite2": [SYSTEM, OTHER], "baseline.lite0": [OTHER]})
    assert found is not None
    assert found.ways == 2  # the photo with the fewest references has two
    first = {"a": REFERENCES["a"][1:], "b": REFERENCES["b"][1:]}
    second = {"a": [REFERENCES["a"][0], REFERENCES["a"][2]], "b": REFERENCES["b"][:1]}
    out = ({"a": REFERENCES["a"][0], "b": REFERENCES["b"][0]}, {"a": REFERENCES["a"][1], "b": REFERENCES["b"][1]})
    attention, baseline = found.configurations["attention.lite2"], found.configurations["baseline.lite0"]
    rows = ((found.people, out), (attention[0], (SYSTEM, SYSTEM)), (attention[1], (OTHER, OTHER)))
    assert baseline == (attention[1],)
    for scores, said in rows:
        ways = [Scorer(left).score(own) for left, own in zip((first, second), said, strict=True)]
        for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"):
            expected = sum(getattr(way, key) for way in ways) / 2
            assert getattr(scores, key) == pytest.approx(expected, abs=1e-6)
        assert scores.meteor is None


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs a Java")
def test_meteor_of_people_and_systems_is_the_mean_over_the_ways() -> None:
    same = {"a": REFERENCES["a"][2], "b": SYSTEM["b"]}
    with Meteor() as meteor:
        Scorer(REFERENCES).score(same, meteor)
        found = against_fewer(REFERENCES, {"attention.lite2": [same]}, meteor)
    assert found is not None
    ways: list[tuple[float, float]] = []
    for left, people in (
        ({"a": REFERENCES["a"][1:], "b": REFERENCES["b"][1:]}, {image: own[0] for image, own in REFERENCES.items()}),
        (
            {"a": [REFERENCES["a"][0], REFERENCES["a"][2]], "b": REFERENCES["b"][:1]},
            {image: own[1] for image, own in REFERENCES.items()},
        ),
    ):
        with Meteor() as meteor:
            theirs, own = (Scorer(left).score(said, meteor).meteor for said in (people, same))
        assert theirs is not None
        assert own is not None
        ways.append((theirs, own))
    assert found.people.meteor == pytest.approx(sum(theirs for theirs, _ in ways) / 2, abs=1e-6)
    assert found.configurations["attention.lite2"][0].meteor == pytest.approx(sum(own for _, own in ways) / 2, abs=1e-6)
    assert ways[0] != ways[1]


def test_meteor_is_missing_if_java_failed_in_one_of_the_ways() -> None:
    assert mean_of_ways([{"meteor": 0.25, "cider": 1.0}, {"meteor": None, "cider": 2.0}]) == {
        "meteor": None,
        "cider": 1.5,
    }


def test_people_scores_match_hand_made_numbers() -> None:
    """Of the unigrams of each left-out caption, another reference has 1 of 2."""
    found = against_fewer({"a": ["a dog", "a cat"]}, {})
    assert found is not None
    assert (found.people.bleu_1, found.people.bleu_2) == (0.5, 0.0)


def test_photos_with_one_reference_have_no_people_row() -> None:
    assert against_fewer({**REFERENCES, "c": ["a bus"]}, {"attention.lite2": [{**SYSTEM, "c": "a bus"}]}) is None


def test_only_higher_scores_are_above_people() -> None:
    found = against_fewer(REFERENCES, {})
    assert found is not None
    higher = dataclasses.replace(found.people, cider=(found.people.cider or 0) + 1)
    found = dataclasses.replace(found, configurations={"attention.lite2": (found.people, higher)})
    assert [found.above_people("attention.lite2", place) for place in (0, 1)] == [[], ["cider"]]
