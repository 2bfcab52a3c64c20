"""The stage guests: captions of other captioners as rows of the comparison."""

import dataclasses
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from captionlab.commands.caption import Options, caption_photos
from captionlab.config import Params
from captionlab.core.files import read_jsonl
from captionlab.core.params import GuestParams, ImageToTextParams
from captionlab.core.records import DATASET, Given
from captionlab.core.results import read_diagnostics, read_evaluation
from captionlab.core.results.guests import read_guest
from captionlab.core.results.photos import read_photo_captions
from captionlab.errors import CaptionlabError
from captionlab.evaluation.rows import RowCaptioner
from captionlab.stages.evaluate import evaluate
from captionlab.stages.guest_models import guest_models
from captionlab.stages.guests import guests
from photo_sets import jpeg
from tiny_transformers import git

TEST = ("test0.jpg", "test1.jpg", "test2.jpg")
VAL = ("val0.jpg", "val1.jpg", "val2.jpg")


@pytest.fixture
def root(evaluated: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of an evaluated tree for changes, without Java."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    return Path(shutil.copytree(evaluated, tmp_path / "copy"))


def with_guest(params: Params, captions: str = "guest.json") -> Params:
    return dataclasses.replace(params, guests={"friend": GuestParams(captions=captions)})


def write(root: Path, captions: Any) -> None:
    (root / "guest.json").write_text(json.dumps(captions), encoding="utf-8")


def test_a_guest_with_a_systems_captions_has_its_scores_and_diagnostics(
    root: Path, tiny_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied = read_evaluation(root)["attention.tiny"]
    rows = read_photo_captions(root, "attention.tiny")
    written = {row.image: f"{row.captions[copied.best.decoding.label].caption.capitalize()} ." for row in rows}
    write(root, written)  # as most captioners write
    params = with_guest(tiny_params)
    assert guests(params, root, "friend") == ["guests: friend has captions of 3 test photos"]
    evaluate(params, root)
    scored = read_evaluation(root)["guests.friend"]
    assert scored.best.test == copied.best.test
    assert (scored.best.val, scored.val_cider, scored.loss) == (None, 0.0, None)
    assert scored.best.decoding == Given(source="guest.json")
    found = read_diagnostics(root)
    own, system = (found.configurations[key] for key in ("guests.friend", "attention.tiny"))
    assert own.caption_statistics == system.caption_statistics
    assert own.language_bias.wrong == system.language_bias.wrong
    assert own.language_bias.without == {"bleu_4": None, "cider": None}  # there is no caption without a photo
    assert found.intervals["guests.friend"] == found.intervals["attention.tiny"]
    assert found.pairs["guests.friend"]["attention.tiny"]["cider"].p == 1.0
    with pytest.raises(CaptionlabError, match=r"guests\.friend is a guest and cannot caption photos"):
        RowCaptioner.load(root, "guests.friend", "cpu")
    monkeypatch.chdir(root)
    with pytest.raises(CaptionlabError, match=r"guests\.friend is a guest and cannot caption photos"):
        caption_photos(["a.jpg"], Options(model="guests.friend"))
    shown = {row.image: row.captions["as given"].caption for row in read_photo_captions(root, "guests.friend")}
    assert shown == written


def test_captions_of_the_validation_split_are_scored_too(root: Path, tiny_params: Params) -> None:
    references = {}
    for line in (root / DATASET / "dataset.jsonl").read_text("utf-8").splitlines():
        record = json.loads(line)
        references[record["image"]] = record["captions"][0]
    write(root, {image: references[image] for image in (*VAL, *TEST)})
    params = with_guest(tiny_params)
    assert guests(params, root, "friend") == ["guests: friend has captions of 3 val and 3 test photos"]
    assert read_guest(root, "friend").captions["val"] == {image: references[image] for image in VAL}
    evaluate(params, root)
    evaluation = read_evaluation(root)
    assert evaluation.best.key == "guests.friend"  # its captions are references
    assert evaluation.best.best.val is not None
    assert evaluation.best.best.val.bleu_1 == pytest.approx(1)


@pytest.mark.parametrize(
    ("captions", "fault"),
    [
        (dict.fromkeys(TEST[:2], "a dog"), r"1 photos have no caption; .* all or none \(test2\.jpg\)"),
        (
            dict.fromkeys([*TEST, "train0.jpg", "moon"], "a dog"),
            r"2 ids are not in the validation or test split; remove them \(moon, train0",
        ),
        (dict.fromkeys([*TEST, VAL[0]], "a dog"), r"2 photos have no caption; .* all or none \(val1\.jpg, val2\.jpg\)"),
        (["a dog"], "has no captions with image ids"),
    ],
)
def test_captions_that_do_not_match_the_photos_are_named(
    root: Path, tiny_params: Params, captions: Any, fault: str
) -> None:
    write(root, captions)
    with pytest.raises(CaptionlabError, match=fault) as caught:
        guests(with_guest(tiny_params), root, "friend")
    assert str(root / "guest.json") in str(caught.value)


def test_captions_without_a_word_are_a_warning(root: Path, tiny_params: Params) -> None:
    write(root, {TEST[0]: "", TEST[1]: " . ", TEST[2]: "a dog"})
    _, warning = guests(with_guest(tiny_params), root, "friend")
    assert warning == f"guests: warning: 2 captions have no word ({TEST[0]}, {TEST[1]})"


def test_an_unknown_guest_and_a_missing_file_are_one_error_line(root: Path, tiny_params: Params) -> None:
    with pytest.raises(CaptionlabError, match=r"guests has no entry 'stranger'; params\.yaml has friend"):
        guests(with_guest(tiny_params), root, "stranger")
    with pytest.raises(CaptionlabError, match=r"cannot read .*lost\.json: No such file"):
        guests(with_guest(tiny_params, "lost.json"), root, "friend")


def test_a_model_captions_the_photos_and_is_a_guest(root: Path, tiny_params: Params) -> None:
    git(root / "models/git")
    images = [record["image"] for record in read_jsonl(root / DATASET / "dataset.jsonl") if record["split"] != "train"]
    (root / DATASET / "images").mkdir(exist_ok=True)
    for number, image in enumerate(images):
        (root / DATASET / "images" / image).write_bytes(jpeg(number))
    params = dataclasses.replace(tiny_params, guest_models={"git": ImageToTextParams(model="models/git", max_tokens=5)})
    (line,) = guest_models(params, root, "git")
    found = read_guest(root, "git")
    cost = rf"{len(images)} photos in [\d.]+ s each; {found.parameters:,} parameters, 0\.\d MB; "
    assert re.fullmatch(rf"guest_models: git captioned {cost}the peak memory is in artifacts/timings/", line)
    assert {split: list(own) for split, own in found.captions.items()} == {"val": list(VAL), "test": list(TEST)}
    guest_models(params, root, "git")
    assert read_guest(root, "git") == found  # nothing in it depends on the time
    evaluate(params, root)
    scored = read_evaluation(root)["guests.git"]
    assert scored.best.val is not None
    assert scored.best.decoding == Given(source="models/git")
