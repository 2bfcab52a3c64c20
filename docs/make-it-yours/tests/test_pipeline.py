"""The pipeline in a copy of the project: what it writes, what an edit makes stale, and what no MLflow stops."""

import json
import shutil
from pathlib import Path

import pytest

from repository import Repository

STAGES = {"check_params", "download", "train", "evaluate", "report", "track"}
STALE = {  # by the file that is edited
    "stages/download.py": {"download"},
    "stages/train.py": {"train"},
    "stages/evaluate.py": {"evaluate"},
    "stages/report.py": {"report"},
    "stages/track.py": set(),
    "config.py": set(),
    "tracking/runs.py": set(),
}


@pytest.mark.slow
def test_the_pipeline(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Repository(tmp_path / "captionlab")
    shutil.copy(empty_database, project.folder)
    assert project.ran(project.run("dvc", "repro")) == STAGES
    metrics = json.loads((project.folder / "reports/digits/metrics.json").read_text())
    assert metrics["accuracy"] > 0.9
    assert len(project.mlflow_runs()["linear"]) == 1
    for name, stages in STALE.items():
        path = project.folder / "src/captionlab" / name
        text = path.read_text(encoding="utf-8")
        path.write_text(f"{text}# edited\n", encoding="utf-8")
        status = json.loads(project.run("dvc", "status", "--json"))
        path.write_text(text, encoding="utf-8")
        assert {stage for stage, changes in status.items() if changes != ["always changed"]} == stages, name
    said = project.run("dvc", "exp", "run", "-S", "train.epochs=3")
    assert project.ran(said) == STAGES - {"download"}
    assert len(project.mlflow_runs()["linear"]) == 2
    (project.folder / "mlflow.db").write_bytes(b"not a database")
    said = project.run("dvc", "repro", "--force", "train", "track", "--single-item")
    assert "the training continues" in said
    assert "no result is lost" in said
