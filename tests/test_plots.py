"""DVC's plots: two versions of the results are overlaid."""

import json
from pathlib import Path

import pytest

from repository import Repository

CURVES = "configuration,epoch,train_loss,val_loss,val_accuracy,val_cider\n"
SCORES = "configuration,score,value\n"
TITLES = {
    "Validation loss", "Training loss", "Accuracy of the next word on validation",
    "CIDEr of validation captions", "Scores on the test split",
}  # fmt: skip


@pytest.fixture
def repository_with_results(tmp_path: Path) -> Repository:
    """Its committed results have a validation loss of 2.5, those in the workspace of 1.5."""
    repository = Repository(tmp_path)
    reports = tmp_path / "reports/scenes"
    reports.mkdir(parents=True)
    for loss, cider in ((2.5, 0.4), (1.5, 0.7)):
        (reports / "curves.csv").write_text(f"{CURVES}baseline.tiny,1,3.0,{loss},0.5,\n")
        (reports / "scores.csv").write_text(f"{SCORES}baseline.tiny,cider,{cider}\n")
        if loss == 2.5:
            repository.run("git", "add", "-f", "reports")
            repository.commit("first results")
    return repository


def test_plots_diff_overlays_two_versions(repository_with_results: Repository) -> None:
    found = json.loads(repository_with_results.run("dvc", "plots", "diff", "HEAD", "workspace", "--json"))["data"]
    assert found.keys() == TITLES
    losses = _values(found["Validation loss"][0]["content"], "val_loss")
    assert losses == {"HEAD": ["2.5"], "workspace": ["1.5"]}
    assert _values(found["Scores on the test split"][0]["content"], "value") == {"HEAD": ["0.4"], "workspace": ["0.7"]}


def test_an_editor_can_colour_the_versions(repository_with_results: Repository) -> None:
    """DVC's extension for VS Code asks for the drawing without data, and gives each version its own colour."""
    asked = repository_with_results.run("dvc", "plots", "diff", "HEAD", "workspace", "--json", "--split")
    for drawings in json.loads(asked)["data"].values():
        assert drawings[0]["content"]["spec"]["encoding"]["color"] == "<DVC_METRIC_COLOR>"
        assert drawings[0]["anchor_definitions"]["<DVC_METRIC_COLOR>"]["scale"]["domain"] == ["workspace", "HEAD"]


def _values(content: object, field: str) -> dict[str, list[str]]:
    """The plotted values by version."""
    drawing = json.loads(content) if isinstance(content, str) else content
    assert isinstance(drawing, dict)
    assert field in json.dumps(drawing["spec"])
    found: dict[str, list[str]] = {}
    for row in drawing["data"]["values"]:
        found.setdefault(row["rev"], []).append(row[field])
    return found
