"""CLIPScore, RefCLIPScore and SPICE of configurations, by a tiny CLIP with random weights."""

from pathlib import Path

import pytest

from captionlab.evaluation.further_scores import FurtherScorer
from captionlab.inference.clip_score import ClipScorer
from photo_sets import jpegs
from tiny_transformers import clip

REFERENCES = {"a.jpg": ["a dog runs", "the dog"], "b.jpg": ["two cats", "cats sleep"]}
SAID = {
    "attention.one": {"a.jpg": "a dog", "b.jpg": "two dogs"},
    "baseline.one": {"a.jpg": "a dog", "b.jpg": "a cat on grass " * 9},  # longer than CLIP reads
}


@pytest.fixture
def photos(tmp_path: Path) -> dict[str, Path]:
    return jpegs(tmp_path, REFERENCES)


def test_a_configuration_has_the_mean_over_its_captions(tmp_path: Path, photos: dict[str, Path]) -> None:
    name = str(clip(tmp_path / "clip"))
    found = FurtherScorer(clip=name, spice=False, photos=lambda: photos, device="cpu").of_configurations(
        SAID, REFERENCES
    )
    assert found.scores == ("clip_score", "ref_clip_score")
    for key, own in SAID.items():
        alone = ClipScorer(name).scores([*own.items()], photos, REFERENCES)
        expected = {score: pytest.approx(values.mean(), abs=1e-5) for score, values in alone.items()}
        assert found.configurations[key] == expected


def test_people_and_configurations_are_scored_against_one_reference_less(
    tmp_path: Path, photos: dict[str, Path]
) -> None:
    name = str(clip(tmp_path / "clip"))
    found = FurtherScorer(clip=name, spice=False, photos=lambda: photos, device="cpu").of_configurations(
        SAID, REFERENCES
    )
    for key, own in {**SAID, "people": None}.items():
        means = []
        for way in (0, 1):
            left = {image: [raw[1 - way]] for image, raw in REFERENCES.items()}
            said = own or {image: raw[way] for image, raw in REFERENCES.items()}
            scores = ClipScorer(name).scores([*said.items()], photos, left)
            means.append({score: values.mean() for score, values in scores.items()})
        expected = {score: pytest.approx((means[0][score] + means[1][score]) / 2, abs=1e-5) for score in means[0]}
        assert (found.fewer_references[key] if own else found.people) == expected
    above = {key: found.above_people(key) for key in SAID}
    assert above == {
        key: [score for score in found.scores if (own[score] or 0) > (found.people[score] or 0)]
        for key, own in found.fewer_references.items()
    }
    single = {image: raw[:1] for image, raw in REFERENCES.items()}
    scorer = FurtherScorer(clip=name, spice=False, photos=lambda: photos, device="cpu")
    assert scorer.of_configurations(SAID, single).people == {}


def test_what_is_not_here_is_none_with_its_reason(
    tmp_path: Path, photos: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))  # without Java
    scorer = FurtherScorer(clip=str(tmp_path / "nothing"), spice=True, photos=lambda: photos, device="cpu")
    found = scorer.of_configurations(SAID, REFERENCES)
    assert found.configurations["baseline.one"] == {"clip_score": None, "ref_clip_score": None, "spice": None}
    assert (found.people, found.above_people("baseline.one")) == ({}, [])
    assert "is neither a folder with CLIP's weights" in scorer.missing["clip_score, ref_clip_score"]
    assert "needs Java" in scorer.missing["spice"]


def test_nothing_is_computed_unless_it_is_asked_for(photos: dict[str, Path]) -> None:
    found = FurtherScorer(clip=None, spice=False, photos=lambda: photos, device="cpu").of_configurations(
        SAID, REFERENCES
    )
    assert (found.scores, found.configurations) == ((), {key: {} for key in SAID})
