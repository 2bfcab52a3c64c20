"""The demo's line-up of systems: decodings, ranking and contents of captions."""

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from builders import write_small_manifest
from captionlab.core.records import DATASET, MODELS, NO_WORDS, Decoding
from captionlab.demo import lineup
from captionlab.demo.examples import example_photo
from captionlab.demo.lineup import Lineup
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner, Sentence
from captionlab.inference.photos import PhotoReader
from captionlab.models.base import Features
from demo_project import KNOWN


@pytest.fixture(scope="module")
def tiny_lineup(demo_root: Path) -> Lineup:
    """The two tiny systems, without the released captioner."""
    paths = sorted((demo_root / "artifacts/models").glob("*/*/checkpoint.safetensors"))
    return Lineup([Captioner.load(path) for path in paths])


def test_without_a_request_each_system_uses_its_own_decoding(tiny_lineup: Lineup) -> None:
    digest = tiny_lineup.add(example_photo(KNOWN[0].name) or b"")

    def found(**given: Any) -> list[tuple[str, int]]:
        return [(one["decoding"], len(one["captions"])) for one in tiny_lineup.captions(digest, **given)]

    own, default = ("beam 3, length penalty 0.7", 3), ("beam 5, length penalty 0.7", 5)
    assert found() == [own, default]
    assert found(beam=2, length_penalty=0.0) == [("beam 2, length penalty 0", 2)] * 2
    assert found(length_penalty=1.5) == [("beam 3, length penalty 1.5", 3), ("beam 5, length penalty 1.5", 5)]
    assert found(beam=1) == [("greedy", 1)] * 2


def test_captions_are_sorted_by_the_displayed_score(tiny_lineup: Lineup) -> None:
    digest = tiny_lineup.add(example_photo(KNOWN[1].name) or b"")
    for penalty in (0.0, 0.7, 2.0):
        for system in tiny_lineup.captions(digest, beam=5, length_penalty=penalty):
            scores = [caption["score"] for caption in system["captions"]]
            assert len(set(scores)) == 5
            assert scores == sorted(scores, reverse=True)


def test_each_word_of_an_attention_system_has_a_map(tiny_lineup: Lineup) -> None:
    attention, baseline = tiny_lineup.captions(tiny_lineup.add(example_photo(KNOWN[0].name) or b""))
    for caption in attention["captions"]:
        assert len(caption["attention"]) == len(caption["words"])
        for weights in caption["attention"]:
            assert len(weights) == 9
            assert sum(weights) == pytest.approx(1, abs=1e-3)
    assert not any("attention" in caption for caption in baseline["captions"])


def test_about_names_the_training_data_of_each_system(demo_root: Path) -> None:
    released, *tiny = Lineup.load(demo_root).about()
    assert (released["name"], released["dataset"], released["drawn"]) == ("released", "flickr8k", False)
    assert [(one["name"], one["dataset"], one["drawn"]) for one in tiny] == [("tiny", "scenes", True)] * 2


def test_a_checkpoint_that_cannot_be_read_is_left_out(
    demo_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(demo_root / MODELS, tmp_path / MODELS)
    (tmp_path / MODELS / "baseline/tiny/checkpoint.safetensors").write_bytes(b"of another version")
    assert [one["system"] for one in Lineup.load(tmp_path).about()] == ["attention", "attention"]  # one is the released
    assert capsys.readouterr().err.startswith("captionlab: left out: ")


@pytest.mark.parametrize(("name", "kind", "drawn"), [
    ("scenes", "scenes", True), ("scenes", "folder", False), ("other", "folder", True)
])  # fmt: skip
def test_drawn_scenes_are_told_by_the_format(
    demo_root: Path, tmp_path: Path, name: str, kind: str, drawn: bool
) -> None:
    """Those of the project's dataset; of another dataset only the name is known."""
    shutil.copytree(demo_root / MODELS, tmp_path / MODELS)
    (tmp_path / DATASET).mkdir()
    write_small_manifest(tmp_path, name=name, format=kind)
    assert {one["drawn"] for one in Lineup.load(tmp_path).about() if one["name"] == "tiny"} == {drawn}


class BlankReader(PhotoReader):
    """Encodes every photo as zeros."""

    def features(self, photos: Sequence[Any]) -> Features:
        return Features(torch.zeros(1, 1280), torch.zeros(1, 9, 1280))


class Wordless(Captioner):
    """A captioner that generates empty captions."""

    @property
    def reader(self) -> PhotoReader:
        return BlankReader("blank", 3, "cpu", "")

    def describe(self, features: Features, decoding: Decoding | None = None) -> list[list[Sentence]]:
        return [[Sentence(caption="", log_prob=-1.0, score=-1.0, tokens=())]]


def test_a_caption_without_words_is_not_blank(demo_root: Path) -> None:
    real = Captioner.load(demo_root / "artifacts/models/attention/tiny/checkpoint.safetensors")
    wordless = Wordless(**{field.name: getattr(real, field.name) for field in dataclasses.fields(real)})
    systems = Lineup([wordless])
    (system,) = systems.captions(systems.add(b"photo"))
    assert system["captions"] == [{"words": [NO_WORDS], "score": -1.0}]


def test_features_of_the_latest_photos_are_cached(tiny_lineup: Lineup) -> None:
    baseline = tiny_lineup._members[1]
    assert isinstance(baseline, Captioner)
    systems = Lineup([baseline])
    photos = [(example_photo(KNOWN[0].name) or b"") + bytes([count]) for count in range(lineup._KEPT + 1)]
    first, second, *_ = digests = [systems.add(photo) for photo in photos[:-1]]
    systems.captions(first)  # now the latest
    systems.add(photos[-1])
    with pytest.raises(KeyError):
        systems.captions(second)
    assert systems.captions(first)
    assert len(set(digests)) == lineup._KEPT


def test_a_file_that_is_not_a_photo_is_an_error(tiny_lineup: Lineup) -> None:
    with pytest.raises(CaptionlabError, match="photo"):
        tiny_lineup.add(b"only words")


def test_a_project_without_systems_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lineup, "RELEASED", tmp_path / "not shipped")
    with pytest.raises(CaptionlabError, match=r"no trained system in .*; train some first"):
        Lineup.load(tmp_path)
