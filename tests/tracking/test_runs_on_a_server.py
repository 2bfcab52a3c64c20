"""Runs on a real MLflow server that is killed, slow, or loses a response."""

import json
import os
import re
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from mlflow import MlflowClient

from captionlab.core.records import Decoding
from captionlab.serving import registry
from captionlab.stages.track import track
from captionlab.tracking import runs as tracking
from captionlab.tracking.ui import ui
from captionlab.training.checkpoint import load_checkpoint
from servers import kill, serving
from tracked import (
    CONFIGS,
    CURVES,
    EXPERIMENT,
    PARAMS,
    before,
    epoch_metrics,
    expected,
    experiment_id,
    points,
    runs,
    start,
    train,
    worker,
    write_pipeline,
)


@pytest.fixture
def server(pipeline: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with serving(pipeline, port) as process:
        yield f"http://127.0.0.1:{port}", process


@pytest.mark.slow
def test_a_server_stores_runs_and_may_be_killed_during_training(
    server: tuple[str, subprocess.Popen[bytes]],
    pipeline: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, process = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(pipeline, "lite0")
    lines = track(PARAMS, pipeline)
    assert "1 created, 1 completed, 0 already there" in lines[0]
    found = runs(pipeline, uri)
    assert sorted(found) == ["baseline.lite0", "baseline.lite1"]
    (run,) = found["baseline.lite0"]
    assert points(pipeline, run, "val_loss") == expected("lite0", "val_loss")
    assert [path.name for path in (pipeline / "served").rglob(f"{run.info.run_id}/artifacts/history.csv")]
    assert capsys.readouterr().err == ""

    client = MlflowClient(uri)
    page = (
        f"{uri}/#/experiments/{experiment_id(client)}/runs?workflowType=machine_learning&viewStateShareKey=captionlab"
    )
    assert ui(pipeline, EXPERIMENT, port=0) == [f"the runs are at {page}"]  # nothing to start
    view = client.get_experiment(experiment_id(client)).tags["mlflow.sharedViewState.captionlab"]
    assert json.loads(view)["orderByKey"] == "metrics.`val/cider`"

    best = client.get_model_version_by_alias("captionlab", registry.best_alias("scenes"))
    assert best.run_id == found["baseline.lite0"][0].info.run_id
    with registry.local_checkpoint(pipeline, registry.best_model("scenes")) as path:
        registered = load_checkpoint(path)
    assert (registered.identity.name, registered.decoding) == ("lite0", Decoding(beam=3))

    write_pipeline(pipeline, bleu=0.3, key="again")
    with tracking.open_tracker(pipeline, EXPERIMENT, start(key="again")) as tracker:
        tracker.log_epoch(1, epoch_metrics("lite0", 1))
        kill(process)
        tracker.log_epoch(2, epoch_metrics("lite0", 2))
        tracker.log_epoch(3, epoch_metrics("lite0", 3))
    assert "not everything is published" in track(PARAMS, pipeline)[0]
    (warning,) = capsys.readouterr().err.splitlines()
    assert "the training continues" in warning
    with serving(pipeline, int(uri.rsplit(":", 1)[1])):
        for published in ("1 created, 1 completed, 0 already there", "0 created, 0 completed, 2 already there"):
            assert published in track(PARAMS, pipeline)[0]
        (second,) = runs(pipeline, uri)["baseline.lite0 key=again-"]
        assert (second.info.status, second.data.metrics["bleu_4"]) == ("FINISHED", 0.3)
        for key in CURVES:
            assert points(pipeline, second, key) == expected("lite0", key)
        assert len(client.search_model_versions("name = 'captionlab'")) == 1  # the same checkpoint and code


@pytest.mark.slow
def test_a_servers_bucket_without_keys_is_a_warning_and_gets_the_files_later(
    server: tuple[str, subprocess.Popen[bytes]],
    pipeline: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As of ``mlflow server --default-artifact-root s3://... --no-serve-artifacts``; with or without boto3 here."""
    uri, _ = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name in [name for name in os.environ if name.startswith(("AWS_", "MLFLOW_S3_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    client = MlflowClient(uri)
    number = client.create_experiment(EXPERIMENT, artifact_location="s3://no-such-bucket/runs")
    train(pipeline, "lite0")
    assert capsys.readouterr().err == ""
    for _ in range(2):
        said, advice = track(PARAMS, pipeline)
        assert re.match(rf"not everything is published: MLflow at {uri} cannot be used.*(credentials|boto3)", said)
        assert advice == "run `captionlab track` when MLflow is available; no result is lost"
    assert len(runs(pipeline, uri)["baseline.lite0"]) == 1
    folder = (tmp_path / "bucket").as_uri()  # in place of a bucket that can be written
    with closing(sqlite3.connect(pipeline / "mlflow.db")) as database, database:
        database.execute("UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?", (folder, number))
        database.execute("UPDATE runs SET artifact_uri = replace(artifact_uri, ?, ?)", ("s3://no-such-bucket", folder))
    (tmp_path / "bucket").mkdir()
    later = subprocess.run(
        worker(pipeline), capture_output=True, text=True, timeout=300
    )  # MLflow caches where files lie
    assert "1 created, 1 completed, 0 already there" in later.stdout, later.stderr
    assert len(list((tmp_path / "bucket").rglob("history.csv"))) == 2


@pytest.mark.slow
def test_two_clones_and_a_lost_response_leave_one_run_per_result(
    server: tuple[str, subprocess.Popen[bytes]],
    pipeline: Path,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, _ = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    clones = [pipeline, tmp_path_factory.mktemp("clone")]  # as on two machines, without a shared file lock
    write_pipeline(clones[1])
    workers = [
        subprocess.Popen(worker(clone), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for clone in clones
    ]
    for process in workers:
        out, err = process.communicate(timeout=300)
        assert (process.returncode, "2 runs" in out) == (0, True), out + err  # either may continue
    assert {name: len(group) for name, group in runs(pipeline, uri).items()} == {
        "baseline.lite0": 1,
        "baseline.lite1": 1,
    }
    assert len(MlflowClient(uri).search_model_versions("name = 'captionlab'")) == 1

    write_pipeline(pipeline, key="slow")
    for name, delay, warnings in (("lite0", 0.2, 0), ("lite1", 4, 1)):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "3")
        with before(uri, delay=delay) as slow:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", slow)
            with tracking.open_tracker(pipeline, EXPERIMENT, start(name, "slow")) as tracker:
                for epoch in (1, 2, 3):
                    tracker.log_epoch(epoch, epoch_metrics(name, epoch))
        assert capsys.readouterr().err.count("the training continues") == warnings
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    monkeypatch.setenv(
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1"
    )  # so the client retries, and the server creates a second run
    with before(uri, loses="runs/create") as losing:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", losing)
        with tracking.open_tracker(pipeline, EXPERIMENT, start("lite1", "slow")) as tracker:
            tracker.log_epoch(1, epoch_metrics("lite1", 1))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for published in ("2 completed, 0 already there", "0 completed, 2 already there"):
        assert published in track(PARAMS, pipeline)[0]
    found = runs(pipeline, uri)
    names = ["baseline.lite0", "baseline.lite0 key=slow-l", "baseline.lite1", "baseline.lite1 key=slow-l"]
    assert {name: len(group) for name, group in found.items()} == dict.fromkeys(names, 1)
    assert {run.info.status for group in found.values() for run in group} == {"FINISHED"}
    for name in CONFIGS:
        (run,) = found[f"baseline.{name} key=slow-l"]
        assert points(pipeline, run, "val_loss") == expected(name, "val_loss")
