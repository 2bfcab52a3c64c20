"""captionlab release: the released captioner and its model card."""

import dataclasses
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image

from builders import digests
from captionlab.commands import release as releasing
from captionlab.commands.release import CARD, RELEASED, release
from captionlab.core.records import DATASET, EVALUATION, MODELS
from captionlab.core.results import (
    CaptionStatistics,
    ConfigurationDiagnostics,
    Diagnostics,
    LanguageBias,
    WordAgreement,
    checkpoint_of,
    read_evaluation,
    read_manifest,
    write_diagnostics,
    write_evaluation,
)
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner
from results_tree import configuration_scores

if TYPE_CHECKING:
    from conftest import Run, World

NAMES = ("baseline", "modified", "attention")


@pytest.fixture
def project(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of the tree to release from."""
    shutil.copytree(evaluated / "artifacts", tmp_path / "project/artifacts")
    (tmp_path / "project" / DATASET / "images").mkdir(exist_ok=True)
    for name, size in (("a", (40, 30)), ("b", (50, 20)), ("c", (20, 40))):
        Image.new("RGB", size).save(tmp_path / "project" / DATASET / f"images/{name}.png")
    return tmp_path / "project"


@pytest.mark.parametrize("name", [f"{system}.tiny" for system in NAMES])
def test_a_released_system_gives_the_same_captions_and_has_its_scores(project: Path, world: "World", name: str) -> None:
    line, back = release(project, name)
    assert back == "to go back: git restore src/captionlab/released/captioner.safetensors docs/model-card.md"
    assert line.startswith(f"{name} is released as src/captionlab/released/captioner.safetensors (0.0 MB, 16 bits; ")
    system = name.split(".")[0]
    trained = checkpoint_of(project, system, "tiny")
    ours, theirs = Captioner.load(project / RELEASED), Captioner.load(trained)
    assert theirs.release is None
    assert ours.release is not None
    best = read_evaluation(project)[name].best
    assert ours.decoding == theirs.decoding == best.decoding
    assert (ours.release.scores, ours.release.dataset_digest) == (best.test["strict"], "abc")
    assert ours.release.photos == {"train": 6, "val": 3, "test": 3}
    assert ours.vocab == theirs.vocab
    assert ours.identity == theirs.identity
    assert (project / RELEASED).stat().st_size < trained.stat().st_size
    features = world.split("test", system == "attention").features(range(3))
    said = [each.describe(features) for each in (ours, theirs)]
    assert [photo[0].tokens for photo in said[0]] == [photo[0].tokens for photo in said[1]]
    card = (project / CARD).read_text(encoding="utf-8")
    assert f"| CIDEr-D | {best.test['strict'].cider:.3f} |" in card
    assert "n/a (needs Java)" in card
    assert "## Language bias" in card
    assert ours.release.photo_size == (40, 30)
    assert ours.release.format == read_manifest(project).format
    assert "| photos | 40 x 30 pixels (median), prepared by `square_bicubic` |" in card
    assert "(published weights, frozen, not in the file)" in card


def test_the_best_on_validation_is_released_with_its_evaluation(project: Path) -> None:
    name = "modified.tiny"
    configurations = (
        configuration_scores("baseline", "tiny", val=0.2, test=0.5),
        configuration_scores("modified", "tiny", val=0.3, test=0.1),
        configuration_scores("retrieval", "tiny", val=0.9, test=0.9),  # it has no checkpoint
    )
    evaluation = dataclasses.replace(read_evaluation(project), configurations=configurations)
    write_evaluation(project / EVALUATION, evaluation)
    per_score = {"bleu_4": 0.5, "cider": 1.0}
    colours = WordAgreement(said=4, precision=0.75, expected=0, recall=None)
    found = ConfigurationDiagnostics(
        language_bias=LanguageBias(right=per_score, wrong=per_score, without=per_score, image_contribution=per_score),
        caption_statistics=CaptionStatistics(
            distinct=0.5, repeated=0.25, copied=0.125, words=7, length=4.5, length_ratio=0.9, colours=colours,
            counts=WordAgreement(said=0, precision=None, expected=0, recall=None),
        ),
    )  # fmt: skip
    diagnostics = Diagnostics(
        settings={}, configurations={name: found}, intervals={name: {"cider": (0.25, 1.75)}}, pairs={}
    )
    write_diagnostics(project / EVALUATION, diagnostics)
    line, _ = release(project)
    assert line.startswith("modified.tiny ")
    card = (project / CARD).read_text(encoding="utf-8")
    assert "| CIDEr-D | 0.300 [0.250, 1.750] |" in card
    assert "| CIDEr-D | 1.000 | 1.000 | 1.000 | 1.000 |" in card
    assert "50 % of the captions are different" in card
    assert "Of the colours it names, 75 %" in card
    assert "Of the counts" not in card
    before = digests(project / "src") | digests(project / "docs")
    release(project)
    assert digests(project / "src") | digests(project / "docs") == before


def test_weights_that_fp16_would_change_stay_in_fp32(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releasing, "MIN_UNCHANGED", 1.1)
    line, _ = release(project, "baseline.tiny")
    assert "32 bits" in line
    loaded = Captioner.load(project / RELEASED)
    assert loaded.release is not None
    assert (loaded.release.bits, loaded.release.unchanged) == (32, 1.0)
    original = Captioner.load(project / MODELS / "baseline/tiny/checkpoint.safetensors").model.state_dict()
    assert all(value.equal(original[key]) for key, value in loaded.model.state_dict().items())


def test_what_cannot_be_released_is_refused(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CaptionlabError, match=r"'oracle' is not trained and scored; there are attention\.tiny, base"):
        release(project, "oracle")
    monkeypatch.setattr(releasing, "MAX_MEGABYTES", 0.001)
    with pytest.raises(CaptionlabError, match=r"baseline\.tiny takes 0\.0 MB, more than the 0\.001 of a release"):
        release(project, "baseline.tiny")
    assert not (project / "src").exists()
    shutil.rmtree(project / MODELS)
    with pytest.raises(CaptionlabError, match="no trained and scored system to release; run dvc repro"):
        release(project)


def test_a_release_names_what_it_replaces_and_needs_confirmation(
    project: Path, run: "Run", monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project)
    code, out, err = run("release")
    assert (code, out) == (1, "")
    assert "or give --yes" in err
    code, out, _ = run("release", "baseline.tiny")
    assert code == 0
    code, out, _ = run("release", "--yes")
    assert code == 0
    assert out.startswith("replaced: baseline.tiny, trained on tiny\n")
    assert out.endswith(f"git does not have the replaced {RELEASED} and {CARD}\n")
    for command in (["init", "-q"], ["add", "src", "docs"]):
        subprocess.run(["git", *command], check=True)
    _, out, _ = run("release", "--yes")
    assert out.endswith(f"to go back: git restore {RELEASED} {CARD}\n")
