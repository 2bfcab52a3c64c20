"""MLflow runs during training: killed, repeated and concurrent trainings, and MLflow unavailable."""

import dataclasses
import os
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import ViewType
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST

from captionlab.stages.track import track
from captionlab.tracking import runs as tracking
from captionlab.tracking import store
from servers import answers, wait_until
from tracked import CONFIGS, CURVES, EXPERIMENT, PARAMS, epoch_metrics, expected, points, runs, start, train, worker


@pytest.fixture
def short_lock_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the timeout of a locked database to 0.2 seconds."""
    for module in (tracking, store):
        monkeypatch.setattr(module, "LIVE_SECONDS", 0.2)


def test_a_killed_training_and_its_publication_share_one_run(pipeline: Path) -> None:
    with pytest.raises(MemoryError):
        train(pipeline, dies_in=3)
    (killed,) = runs(pipeline)["baseline.lite0"]
    assert killed.info.status == "FAILED"
    assert killed.inputs is not None
    assert [used.dataset.digest for used in killed.inputs.dataset_inputs] == ["0123456789abcdef"]
    train(pipeline, first=2)  # resumes from the checkpoint before the last logged epoch
    (resumed,) = runs(pipeline)["baseline.lite0"]
    assert (resumed.info.run_id, resumed.info.status) == (killed.info.run_id, "FINISHED")
    assert points(pipeline, resumed, "val_loss") == expected("lite0", "val_loss")
    lines = track(PARAMS, pipeline)
    assert "1 created, 1 completed, 0 already there" in lines[0]
    (published,) = runs(pipeline)["baseline.lite0"]
    assert published.info.run_id == killed.info.run_id
    assert published.info.end_time == resumed.info.end_time  # the training's, not the publication's
    assert published.data.metrics["bleu_4"] == 0.2
    for key in CURVES:
        assert points(pipeline, published, key) == expected("lite0", key)


def test_a_run_with_other_parameters_names_them(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As `dvc repro` after a change of params.yaml; under `dvc exp run` the experiment's name does."""
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    first = start()
    changes = [{}, {"hidden": 128}, {"hidden": 128, "a": 1, "b": 2, "c": 3}, {"hidden": 512}]
    for number, change in enumerate(changes):
        params = dict.fromkeys("abc", 0) | dict(first.params) | change
        own = dataclasses.replace(first, training_key=str(number), params=params)
        with tracking.open_tracker(pipeline, EXPERIMENT, own):
            pass
    name = first.name
    assert set(runs(pipeline)) == {name, f"{name} hidden=128", f"{name} hidden=512", f"{name} a=1 b=2 c=3 …"}


def test_a_run_with_other_data_or_another_training_alone_says_so(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    first = start()
    other_data = dataclasses.replace(first.dataset, digest="fedcba9876543210")
    for own in (
        first,
        dataclasses.replace(first, training_key="other", dataset=other_data),
        dataclasses.replace(first, training_key="0123456789"),
    ):
        with tracking.open_tracker(pipeline, EXPERIMENT, own):
            pass
    assert set(runs(pipeline)) == {first.name, f"{first.name} data=fedcba", f"{first.name} key=012345"}


def test_a_dataset_that_a_run_has_is_not_logged_again(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a kill, MLflow can store a run's dataset and refuse the call all the same."""
    log_inputs = MlflowClient.log_inputs

    def stored_but_refused(client: MlflowClient, *arguments: Any) -> None:
        log_inputs(client, *arguments)
        raise MlflowException("UNIQUE constraint failed: inputs.source_type", BAD_REQUEST)

    monkeypatch.setattr(MlflowClient, "log_inputs", stored_but_refused)
    train(pipeline)
    (run,) = runs(pipeline)["baseline.lite0"]
    assert run.inputs is not None
    assert (run.info.status, len(run.inputs.dataset_inputs)) == ("FINISHED", 1)


@pytest.mark.parametrize("name", ["Anna's run", 'a "new" run', """both ' and \" in one"""])
def test_a_name_with_quotes_is_a_run(pipeline: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.delenv("DVC_EXP_NAME", raising=False)
    with tracking.open_tracker(pipeline, EXPERIMENT, dataclasses.replace(start(), name=name)):
        pass
    assert set(runs(pipeline)) == {name}


@pytest.mark.parametrize(("variable", "value"), [
    ("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "yes"), ("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "fast")
])  # fmt: skip
def test_a_setting_that_mlflow_refuses_is_a_warning(
    pipeline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "true")
    monkeypatch.setenv(variable, value)
    train(pipeline)
    (run,) = runs(pipeline)["baseline.lite0"]
    assert run.info.status == "FINISHED"
    warned = capsys.readouterr().err
    assert warned.count("warning: no system metrics") == 1  # for all epochs
    assert variable in warned


@pytest.mark.parametrize("switch", ["", "false"])
def test_a_training_logs_the_load_of_the_machine_unless_that_is_switched_off(
    pipeline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, switch: str
) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    monkeypatch.delenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", raising=False)
    if switch:
        monkeypatch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", switch)
    with pytest.raises(MemoryError):
        train_slowly(pipeline, dies=True)
    first = system_metrics(pipeline)
    train_slowly(pipeline)  # resumes in the same run
    second = system_metrics(pipeline)
    if switch:
        assert first == second == {}
    else:
        assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= first.keys()
        for key, steps in first.items():
            assert second[key] == list(range(len(second[key])))
            assert len(second[key]) > len(steps)
    assert capsys.readouterr().err == ""
    assert not [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]
    assert "1 created, 1 completed, 0 already there" in track(PARAMS, pipeline)[0]


def train_slowly(root: Path, dies: bool = False) -> None:
    """Train until the system metrics have several samples."""
    with tracking.open_tracker(root, EXPERIMENT, start()) as tracker:
        tracker.log_epoch(1, epoch_metrics("lite0", 1))
        time.sleep(1.5)
        if dies:
            raise MemoryError


def system_metrics(root: Path) -> dict[str, list[int]]:
    """The steps of the logged system metrics, by metric."""
    (run,) = runs(root)["baseline.lite0"]
    names = [key for key in run.data.metrics if key.startswith("system/")]
    return {name: [step for step, _ in points(root, run, name)] for name in names}


def test_epochs_that_could_not_be_logged_live_are_filled_in(pipeline: Path) -> None:
    train(pipeline, last=1)
    track(PARAMS, pipeline)
    (run,) = runs(pipeline)["baseline.lite0"]
    assert points(pipeline, run, "val_loss") == expected("lite0", "val_loss")


def test_repeated_trainings_with_equal_results_leave_one_run(pipeline: Path) -> None:
    track(PARAMS, pipeline)
    (published,) = runs(pipeline)["baseline.lite0"]
    train(pipeline)
    assert len(runs(pipeline)["baseline.lite0"]) == 2  # its curves are visible during training
    assert "0 created, 0 completed, 2 already there" in track(PARAMS, pipeline)[0]
    assert [run.info.run_id for run in runs(pipeline)["baseline.lite0"]] == [published.info.run_id]


@pytest.mark.parametrize("repeated", [False, True])
def test_a_training_published_by_another_process_continues(
    pipeline: Path, capsys: pytest.CaptureFixture[str], repeated: bool
) -> None:
    if repeated:
        track(PARAMS, pipeline)
    with tracking.open_tracker(pipeline, EXPERIMENT, start()) as tracker:
        tracker.log_epoch(1, epoch_metrics("lite0", 1))
        train(pipeline)  # the same training, in the same run
        track(PARAMS, pipeline)
        (published,) = runs(pipeline)["baseline.lite0"]
        tracker.log_epoch(2, epoch_metrics("lite0", 2))
    assert capsys.readouterr().err == ""
    (run,) = runs(pipeline)["baseline.lite0"]
    assert run.to_dictionary() == published.to_dictionary()
    assert points(pipeline, run, "val_loss") == expected("lite0", "val_loss")


def test_curves_of_other_attempts_are_not_mixed(pipeline: Path) -> None:
    with tracking.open_tracker(pipeline, EXPERIMENT, start()) as tracker:
        tracker.log_epoch(1, {"train_loss": 9.0, "val_loss": 9.0})
    track(PARAMS, pipeline)
    (run,) = runs(pipeline)["baseline.lite0"]
    assert points(pipeline, run, "val_loss") == expected("lite0", "val_loss")


@pytest.mark.slow
def test_three_processes_on_a_new_database_make_one_run_per_result(pipeline: Path) -> None:
    (pipeline / "mlflow.db").unlink()
    workers = [
        subprocess.Popen(worker(pipeline), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    for process in workers:
        out, err = process.communicate(timeout=300)
        assert process.returncode == 0, err
        assert "2 runs" in out
        assert "warning" not in err
    found = runs(pipeline)
    assert {name: len(group) for name, group in found.items()} == {"baseline.lite0": 1, "baseline.lite1": 1}
    for name in CONFIGS:
        for key in CURVES:
            assert points(pipeline, found[f"baseline.{name}"][0], key) == expected(name, key)
    experiments = MlflowClient(f"sqlite:///{pipeline / 'mlflow.db'}").search_experiments(view_type=ViewType.ALL)
    assert sorted(experiment.name for experiment in experiments) == ["Default", EXPERIMENT]


@pytest.mark.slow
def test_a_kill_during_the_database_setup_is_harmless(pipeline: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (pipeline / "mlflow.db").unlink()
    scratch = pipeline / "scratch"
    scratch.mkdir()
    with subprocess.Popen(worker(pipeline), env={**os.environ, "TMPDIR": str(scratch)}) as process:
        while sum(path.stat().st_size for path in pipeline.rglob("mlflow.db")) < 100_000:  # of 900,000
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    train(pipeline)
    assert capsys.readouterr().err == ""
    (run,) = runs(pipeline)["baseline.lite0"]
    assert points(pipeline, run, "val_loss") == expected("lite0", "val_loss")


@pytest.mark.slow
def test_a_locked_database_is_one_warning(
    pipeline: Path, capsys: pytest.CaptureFixture[str], short_lock_timeout: None
) -> None:
    with (
        closing(sqlite3.connect(pipeline / "mlflow.db")) as other,
        tracking.open_tracker(pipeline, EXPERIMENT, start()) as tracker,
    ):
        tracker.log_epoch(1, epoch_metrics("lite0", 1))
        other.execute("BEGIN EXCLUSIVE")
        tracker.log_epoch(2, epoch_metrics("lite0", 2))
        tracker.log_epoch(3, epoch_metrics("lite0", 3))
        train(pipeline, "lite1")  # starts with a locked database
        lines = track(PARAMS, pipeline)
    assert "not everything is published" in lines[0]
    warnings = capsys.readouterr().err.splitlines()
    assert [line.startswith("warning: MLflow at sqlite:") for line in warnings] == [True, True]
    track(PARAMS, pipeline)
    (run,) = runs(pipeline)["baseline.lite0"]
    assert points(pipeline, run, "val_loss") == expected("lite0", "val_loss")


# Locks the database until its standard input ends.
LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_database_locked_during_training_is_published_later(
    pipeline: Path, capsys: pytest.CaptureFixture[str], short_lock_timeout: None
) -> None:
    command = [sys.executable, "-c", LOCKER, str(pipeline / "mlflow.db")]
    with tracking.open_tracker(pipeline, EXPERIMENT, start()) as tracker:
        tracker.log_epoch(1, epoch_metrics("lite0", 1))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as locker:
            assert locker.stdout is not None
            assert locker.stdout.readline() == b"locked\n"
            tracker.log_epoch(2, epoch_metrics("lite0", 2))
            assert "not everything is published" in track(PARAMS, pipeline)[0]
            locker.kill()
        tracker.log_epoch(3, epoch_metrics("lite0", 3))
    (warning,) = capsys.readouterr().err.splitlines()
    assert "the training continues" in warning
    for published in ("1 created, 1 completed, 0 already there", "0 created, 0 completed, 2 already there"):
        assert published in track(PARAMS, pipeline)[0]
    found = runs(pipeline)
    assert {name: len(group) for name, group in found.items()} == {"baseline.lite0": 1, "baseline.lite1": 1}
    for key in CURVES:
        assert points(pipeline, found["baseline.lite0"][0], key) == expected("lite0", key)


@pytest.mark.parametrize("answer", ["nobody", "silence", "another program"])
def test_an_unavailable_server_or_mlflow_is_one_warning(
    answer: str, pipeline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        other: subprocess.Popen[bytes] | None = None
        if answer == "nobody":
            listener.close()
        elif answer == "another program":
            listener.close()
            other = subprocess.Popen(
                [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"],
                cwd=pipeline,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_until(lambda: answers(f"http://127.0.0.1:{port}/"), 10)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hidden@127.0.0.1:{port}")
        try:
            train(pipeline)
            lines = track(PARAMS, pipeline)
        finally:
            if other:
                other.kill()
                other.wait()
    assert "not everything is published" in lines[0]
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: MLflow at http://127.0.0.1:")
    assert "hidden" not in warning + lines[0]


@pytest.mark.parametrize("missing", ["mlflow", "psycopg", "pymysql", "MySQLdb"])
def test_a_missing_package_is_one_warning(
    missing: str, pipeline: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    schemes = {"psycopg": "postgresql+psycopg", "pymysql": "mysql+pymysql", "MySQLdb": "mysql"}
    if missing == "mlflow":
        for module in [name for name in sys.modules if name.split(".")[0] == "mlflow"]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, "mlflow", None)
    else:
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{schemes[missing]}://me:hidden@127.0.0.1:1/runs")
    train(pipeline)
    lines = track(PARAMS, pipeline)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: MLflow")
    assert f"pip install {'mysqlclient' if missing == 'MySQLdb' else missing}" in warning
    assert "not everything is published" in lines[0]
    assert "hidden" not in warning + lines[0]
