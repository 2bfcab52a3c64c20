"""MLflow's store: copied and moved projects, and passwords in addresses."""

import dataclasses
import os
import shutil
import socket
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from captionlab.commands import doctor
from captionlab.core.records import Decoding
from captionlab.errors import CaptionlabError
from captionlab.serving import registry
from captionlab.tracking.runs import Dataset, Result, open_tracker, publish
from captionlab.tracking.store import TrackingError, translated
from captionlab.tracking.ui import ui
from servers import serving

EXPERIMENT = "captionlab/scenes"
RESULT = Result(
    name="baseline.lite0", training_key="key", result_key="first", params={"hidden": 8}, metrics={"bleu_4": 0.2},
    history=[{"epoch": 1, "val_loss": 3.0}], tags={}, files=[], texts={"captions.csv": "a.jpg,a dog"},
    dataset=Dataset(name="scenes", digest="0123", source="data/scenes", splits={"train": 2}),
)  # fmt: skip


@pytest.fixture(autouse=True)
def _no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@pytest.fixture
def project(tmp_path: Path, empty_database: Path) -> Path:
    """A project with one run."""
    root = tmp_path / "project é"
    root.mkdir()
    shutil.copy(empty_database, root / "mlflow.db")
    assert publish(root, EXPERIMENT, [RESULT], ["metrics.bleu_4"]) == ["created"]
    return root


def captions(root: Path) -> dict[str, str]:
    """The text of each run's file, by the run's tag."""
    uri = f"sqlite:///{root / 'mlflow.db'}"
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return {
        run.data.tags["captionlab.result_key"]: Path(
            download_artifacts(run_id=run.info.run_id, artifact_path="captions.csv", tracking_uri=uri)
        ).read_text()
        for run in client.search_runs([experiment.experiment_id])
    }


def stored_text(database: Path) -> str:
    """The text of all values in the database."""
    with closing(sqlite3.connect(database)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        return "\n".join(str(row) for table in tables for row in connection.execute(f"SELECT * FROM {table}"))


def test_a_copied_project_uses_its_own_files(project: Path, tmp_path: Path, released: Path) -> None:
    tags = {"system": "attention", "configuration": "tiny"}
    candidate = registry.Candidate(
        name="released", checkpoints=(released,), decoding=Decoding(), dataset="scenes", tags=tags
    )
    registry.register_released(project, EXPERIMENT, candidate)
    copy = tmp_path / "project é 2"  # its path begins with that of the original
    shutil.copytree(project, copy)
    before = {path: path.read_bytes() for path in (project / "mlartifacts").rglob("*") if path.is_file()}
    second = dataclasses.replace(RESULT, result_key="second", texts={"captions.csv": "a.jpg,two dogs"})
    assert publish(copy, EXPERIMENT, [RESULT, second], ["metrics.bleu_4"]) == ["present", "created"]
    assert {path: path.read_bytes() for path in (project / "mlartifacts").rglob("*") if path.is_file()} == before
    assert captions(project) == {"first": "a.jpg,a dog"}
    shutil.rmtree(project)
    assert captions(copy) == {"first": "a.jpg,a dog", "second": "a.jpg,two dogs"}
    stored = stored_text(copy / "mlflow.db")
    assert f"{project.as_uri()}/" not in stored
    assert f"{copy.as_uri()}/mlartifacts" in stored
    with registry.local_checkpoint(copy, "models:/captionlab@released") as path:
        assert path.exists()


def test_a_model_can_be_loaded_first_in_a_moved_project(project: Path, tmp_path: Path, released: Path) -> None:
    candidate = registry.Candidate(
        name="released", checkpoints=(released,), decoding=Decoding(), dataset="scenes", tags={}
    )
    registry.register_released(project, EXPERIMENT, candidate)
    moved = project.rename(tmp_path / "moved")
    with registry.local_checkpoint(moved, "models:/captionlab@released") as path:
        assert path.exists()


def test_a_project_moved_without_its_files_is_an_error(project: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved"
    moved.mkdir()
    (project / "mlflow.db").rename(moved / "mlflow.db")
    shutil.rmtree(project)
    with pytest.raises(
        TrackingError, match=r"if the project was moved, move mlartifacts too, or delete .*moved/mlflow"
    ):
        publish(moved, EXPERIMENT, [RESULT], ["metrics.bleu_4"])


def test_a_database_that_two_projects_share_keeps_its_files_in_one_place(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path / "other"
    (other / "mlartifacts" / EXPERIMENT).mkdir(parents=True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{project / 'mlflow.db'}")
    second = dataclasses.replace(RESULT, result_key="second")
    assert publish(other, EXPERIMENT, [second], ["metrics.bleu_4"]) == ["created"]
    assert captions(project).keys() == {"first", "second"}
    assert not list((other / "mlartifacts" / EXPERIMENT).iterdir())


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("http://me:secret@127.0.0.1:9", ["secret"]),
        ("http://me:p@ss@127.0.0.1:9", ["p@", "ss@", "@ss"]),
        ("http://me:pa/ss@127.0.0.1:9", ["pa/", "/ss", "ss@", "'pa'"]),
        ("http://me:p%40sword@127.0.0.1:9", ["p%40", "sword"]),
        ("http://token@127.0.0.1:9", ["token"]),
        ("postgresql://me:se%40cret@127.0.0.1:1/runs?sslpassword=hidden", ["cret", "hidden"]),
        ("mysql+nothing://me:secret@127.0.0.1:1/runs", ["secret"]),
        ("nothing://me:secret@127.0.0.1:1/runs", ["secret"]),
    ],
)
def test_no_message_shows_a_password(
    uri: str, words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with open_tracker(tmp_path, EXPERIMENT, RESULT) as tracker:
        tracker.log_epoch(1, {"val_loss": 1.0})
    said = [*capsys.readouterr(), str(doctor._runs(tmp_path))]
    with pytest.raises(TrackingError) as published:
        publish(tmp_path, EXPERIMENT, [RESULT], ["metrics.bleu_4"])
    with pytest.raises(TrackingError) as loaded, registry.local_checkpoint(tmp_path, "models:/captionlab@best"):
        pass
    with pytest.raises(TrackingError) as shown:
        ui(tmp_path, EXPERIMENT, 1)
    for error in (published, loaded, shown):
        said += [str(error.value), str(error.value.__cause__)]
    assert all(said[1:])
    for text in said:
        assert not any(word in text for word in words), text


@pytest.mark.slow
def test_no_file_keeps_a_password(
    project: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with serving(project, port):  # this server needs no password and ignores one
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:se%40cret@127.0.0.1:{port}")
        with open_tracker(project, EXPERIMENT, dataclasses.replace(RESULT, training_key="other")) as tracker:
            tracker.log_epoch(1, {"val_loss": 1.0})
        second = dataclasses.replace(RESULT, result_key="second")
        assert publish(project, EXPERIMENT, [second], ["metrics.bleu_4"]) == ["created"]
        assert doctor._runs(project).verdict == "ok"
        (line,) = ui(project, EXPERIMENT, 1)
        assert line.startswith(f"the runs are at http://127.0.0.1:{port}/#/experiments/")
    files = [path for path in project.rglob("*") if path.is_file()]
    assert len(files) > 3
    for path in files:
        data = path.read_bytes()
        assert b"cret" not in data.replace(b"secret", b""), path  # MLflow has columns of other secrets
        assert b"se%40" not in data, path
    assert "cret" not in "".join(capfd.readouterr())
    assert os.environ["MLFLOW_TRACKING_URI"].startswith("http://me:")


class ForeignError(Exception):
    """As botocore has them: neither an OSError nor MLflow's."""


def test_errors_of_any_library_are_translated_and_those_of_the_program_are_not() -> None:
    with (
        pytest.raises(TrackingError, match=r"MLflow at http://host cannot be used \(no keys\)"),
        translated("http://host"),
    ):
        raise ForeignError("no keys")
    for own in (TypeError("not callable"), KeyError("tag"), AssertionError()):
        with pytest.raises(type(own)), translated("http://host"):
            raise own
    with pytest.raises(CaptionlabError, match=r"^as it is$"), translated("http://host"):
        raise CaptionlabError("as it is")
