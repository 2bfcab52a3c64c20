"""DVC's plots: two versions of the results are overlaid."""

import json
from pathlib import Path

from repository import Repository

CURVES = "configuration,epoch,train_loss,val_loss,val_accuracy,val_cider\n"
SCORES = "configuration,score,value\n"
TITLES = {
    "Validation loss", "Training loss", "Accuracy of the next word on validation",
    "CIDEr of validation captions in fine-tuning", "Scores on the test split",
}  # fmt: skip


def test_plots_diff_overlays_two_versions(tmp_path: Path) -> None:
    repository = Repository(tmp_path)
    reports = tmp_path / "reports/scenes"
    reports.mkdir(parents=True)
    for loss, cider in ((2.5, 0.4), (1.5, 0.7)):
        (reports / "curves.csv").write_text(f"{CURVES}baseline.tiny,1,3.0,{loss},0.5,\n")
        (reports / "scores.csv").write_text(f"{SCORES}baseline.tiny,cider,{cider}\n")
        if loss == 2.5:
            repository.run("git", "add", "-f", "reports")
            repository.commit("first results")
    found = json.loads(repository.run("dvc", "plots", "diff", "HEAD", "workspace", "--json"))["data"]
    assert found.keys() == TITLES
    losses = _values(found["Validation loss"][0]["content"], "val_loss")
    assert losses == {"HEAD": ["2.5"], "workspace": ["1.5"]}
    assert _values(found["Scores on the test split"][0]["content"], "value") == {"HEAD": ["0.4"], "workspace": ["0.7"]}


def _values(content: object, field: str) -> dict[str, list[str]]:
    """The plotted values by version."""
    drawing = json.loads(content) if isinstance(content, str) else content
    assert isinstance(drawing, dict)
    assert field in json.dumps(drawing["spec"])
    found: dict[str, list[str]] = {}
    for row in drawing["data"]["values"]:
        found.setdefault(row["rev"], []).append(row[field])
    return found
