"""The pipeline in a copy of the project: what it writes, what an edit makes stale, and what no MLflow stops."""

import json
import shutil
from pathlib import Path

import pytest

from repository import Repository

STAGES = {"check_params", "download", "train", "evaluate", "report", "track"}
STALE: dict[tuple[str, ...], set[str]] = {  # by the files that are edited
    ("stages/train.py", "stages/report.py"): {"train", "report"},
    ("stages/track.py", "tracking/runs.py", "config.py"): set(),
}


@pytest.mark.slow
def test_the_pipeline(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Repository(tmp_path / "captionlab")
    shutil.copy(empty_database, project.folder)
    assert project.ran(project.run("dvc", "repro")) == STAGES
    metrics = json.loads((project.folder / "reports/digits/metrics.json").read_text())
    assert metrics["accuracy"] > 0.9
    assert len(project.mlflow_runs()["linear"]) == 1
    for names, stages in STALE.items():
        for name in names:
            with (project.folder / "src/captionlab" / name).open("a", encoding="utf-8") as file:
                file.write("# edited\n")
        status = json.loads(project.run("dvc", "status", "--json"))
        assert {stage for stage, changes in status.items() if changes != ["always changed"]} == stages, names
        project.run("git", "restore", "src")
    (project.folder / "mlflow.db").write_bytes(b"not a database")
    said = project.run("dvc", "repro", "--force", "train", "track", "--single-item")
    assert "the training continues" in said
    assert "no result is lost" in said
