"""MLflow for real: SQLite files, processes, a server that is killed. No mocks."""

import dataclasses
import json
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run, ViewType

from captionlab.config import Params, load_params
from captionlab.core.files import write_json
from captionlab.core.records import MODELS, TIMINGS, Decoding
from captionlab.core.results import read_evaluation, read_training
from captionlab.serving import registry
from captionlab.stages.track import track
from captionlab.tracking import runs as tracking
from captionlab.tracking import store
from captionlab.tracking.ui import ui
from captionlab.training.checkpoint import load_checkpoint
from results_tree import history, write_results
from servers import kill, serving, wait_for

REPOSITORY = Path(__file__).parents[2]
EXPERIMENT = "captionlab/scenes"
CURVES = ("train_loss", "val_loss", "learning_rate")
CONFIGS = ("lite0", "lite1")


@pytest.fixture(autouse=True)
def _no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path, empty_database: Path) -> Path:
    """A repository after a whole pipeline with two configurations, before ``track``."""
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    write_pipeline(tmp_path)
    return tmp_path


def two_baselines() -> Params:
    """The repository's parameters with two configurations of one system."""
    everything = load_params(REPOSITORY / "params.yaml")
    baseline = {name: everything.baseline[name] for name in CONFIGS}
    return dataclasses.replace(everything, baseline=baseline, modified={}, attention={}, retrieval={})


@pytest.fixture(scope="session")
def params() -> Params:
    return two_baselines()


@pytest.fixture(autouse=True)
def _nothing_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """The captioner that ships is large, and one test registers it."""
    monkeypatch.setattr("captionlab.stages.track.RELEASED", Path("nothing"))


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A locked database is given up after a fifth of a second."""
    for module in (tracking, store):
        monkeypatch.setattr(module, "LIVE_SECONDS", 0.2)


def epoch_metrics(name: str, epoch: int) -> dict[str, float]:
    """What a training logs of an epoch."""
    row = history(3, CONFIGS.index(name))[epoch - 1].rounded()
    return {key: value for key, value in row.items() if key != "epoch"}


def write_pipeline(root: Path, bleu: float = 0.2, key: str = "key") -> None:
    """The files that the stages before ``track`` leave. On validation lite0 is better, on test lite1."""
    quality = {"baseline.lite0": (bleu + 0.01, bleu), "baseline.lite1": (bleu, bleu + 0.01)}
    write_results(root, two_baselines(), quality, epochs=3, key=key)
    (root / "reports/scenes").mkdir(parents=True, exist_ok=True)
    (root / "reports/scenes/comparison.csv").write_text("system\nbaseline\n")
    timing = {"stage": "train_baseline", "seconds": 1.5, "peak_megabytes": 900}
    write_json(root / TIMINGS / "train_baseline.lite1.json", timing)


def runs(root: Path, uri: str = "") -> dict[str, list[Run]]:
    """The experiment's runs by name, oldest first."""
    client = MlflowClient(uri or f"sqlite:///{root / 'mlflow.db'}")
    found: dict[str, list[Run]] = {}
    for run in client.search_runs([experiment_id(client)], order_by=["attributes.start_time ASC"]):
        found.setdefault(run.info.run_name, []).append(run)
    return found


def experiment_id(client: MlflowClient) -> str:
    experiment = client.get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    return str(experiment.experiment_id)


def points(root: Path, run: Run, key: str) -> list[tuple[int, float]]:
    history = MlflowClient(f"sqlite:///{root / 'mlflow.db'}").get_metric_history(run.info.run_id, key)
    return sorted((point.step, point.value) for point in history)


def expected(name: str, key: str, epochs: int = 3) -> list[tuple[int, Any]]:
    return [(epoch, pytest.approx(epoch_metrics(name, epoch)[key], abs=1e-6)) for epoch in range(1, epochs + 1)]


def train(root: Path, name: str = "lite0", *, first: int = 1, last: int = 3, dies_in: int = 0) -> None:
    params, tags = {"hidden": 256}, {"system": "baseline"}
    with tracking.open_tracker(root, EXPERIMENT, f"baseline.{name}", f"key-{name}", params, tags) as tracker:
        for epoch in range(first, last + 1):
            if epoch == dies_in:
                raise MemoryError
            tracker.log_epoch(epoch, epoch_metrics(name, epoch))


def test_a_pipeline_without_live_tracking_is_published_from_its_files(root: Path, params: Params) -> None:
    lines = track(params, root)
    assert "2 created, 0 completed, 0 already there" in lines[0]
    found = runs(root)
    assert sorted(found) == ["baseline.lite0", "baseline.lite1"]
    (run,) = found["baseline.lite1"]
    assert run.info.status == "FINISHED"
    decoding = {"decoding": "beam 3", "evaluate.length_penalty": "0.7", "evaluate.max_words": "30"}
    settings = read_training(root / MODELS / "baseline/lite1").summary.params
    assert run.data.params == {key: str(value) for key, value in settings.items()} | decoding
    assert (settings["hidden"], settings["training.seed"]) == (256, 1)
    scores = read_evaluation(root)["baseline.lite1"]
    expected_scores = {
        "": scores.best.test["strict"], "val/": scores.best.val, "with_greedy/": scores.decodings[0].test["strict"],
        "with_beam_3/": scores.decodings[1].test["strict"], "with_beam_5/": scores.decodings[2].test["strict"],
        "report_a/": scores.best.test["report_a"], "report_b/": scores.best.test["report_b"],
    }  # fmt: skip
    expected_metrics = {
        f"{prefix}{key}": value
        for prefix, of in expected_scores.items()
        for key, value in dataclasses.asdict(of).items()
        if value is not None
    }
    expected_metrics |= {"parameters": 256_000, "megabytes": 4.8, "epochs": 3, "test_loss": 2.79, "test_accuracy": 0.51}
    found_metrics = {key: value for key, value in run.data.metrics.items() if key not in epoch_metrics("lite1", 1)}
    assert found_metrics == pytest.approx(expected_metrics, abs=1e-4)
    assert found_metrics["bleu_4"] == 0.21
    for key in CURVES:
        assert points(root, run, key) == expected("lite1", key)
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith(("mlflow.", "captionlab."))}
    assert tags == {
        "system": "baseline",
        "configuration": "lite1",
        "encoder": "efficientnet_lite1",
        "dataset": "scenes",
        "dataset_digest": "0123456789abcdef",
        "decoding": "beam 3",
    }
    stored = root / "mlartifacts" / EXPERIMENT / run.info.run_id / "artifacts"
    names = sorted(path.name for path in stored.iterdir())
    assert names == ["captions.csv", "comparison.csv", "history.csv", "summary.json"]
    captions = (stored / "captions.csv").read_text().splitlines()
    assert captions[:2] == ["image,caption", "00.jpg,a dog is outside"]
    assert len(captions) == 1 + 12
    timings = (root / "reports/scenes/timings.csv").read_text()
    assert timings == "stage,item,seconds,peak_megabytes\ntrain_baseline,lite1,1.5,900\n"


def test_publishing_again_changes_nothing(root: Path, params: Params) -> None:
    track(params, root)
    before = {name: [run.to_dictionary() for run in group] for name, group in runs(root).items()}
    lines = track(params, root)
    assert "0 created, 0 completed, 2 already there" in lines[0]
    assert lines[1].startswith("baseline.lite0 is version 1 of the model captionlab (present)")
    assert {name: [run.to_dictionary() for run in group] for name, group in runs(root).items()} == before


def test_retrieval_is_a_run_and_what_it_beats_is_not_the_best_model(root: Path, params: Params) -> None:
    with_retrieval = dataclasses.replace(params, retrieval=load_params(REPOSITORY / "params.yaml").retrieval)
    write_results(root, with_retrieval, {"retrieval.lite2": (0.3, 0.3)}, epochs=3)
    lines = track(with_retrieval, root)
    assert "3 created, 0 completed, 0 already there" in lines[0]
    assert lines[1].endswith(f"{registry.best_model('scenes')}: none is better than retrieval")
    (run,) = runs(root)["retrieval.lite2"]
    assert (run.data.tags["decoding"], run.data.metrics["bleu_4"]) == ("3 neighbours", 0.3)
    assert "test_loss" not in run.data.metrics
    stored = root / "mlartifacts" / EXPERIMENT / run.info.run_id / "artifacts"
    names = [path.name for path in stored.iterdir()]
    assert names == ["comparison.csv"]  # no captions: it quotes those of others

    write_results(root, with_retrieval, {"retrieval.lite2": (0.1, 0.1)}, epochs=3)
    assert track(with_retrieval, root)[1].endswith(f"{registry.best_model('scenes')} is version 1")


def test_the_captioner_that_ships_has_a_version_and_an_alias_of_its_own(
    root: Path, params: Params, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captionlab.stages.track.RELEASED", released)
    assert track(params, root)[2] == "models:/captionlab@released is version 2"
    with registry.local_checkpoint(root, "models:/captionlab@released") as path:
        registered = load_checkpoint(path)
    shipped = load_checkpoint(released)
    assert (registered.identity, registered.decoding) == (shipped.identity, shipped.decoding)
    assert track(params, root)[2] == "models:/captionlab@released is version 2"


def test_a_killed_training_and_its_publication_share_one_run(root: Path, params: Params) -> None:
    with pytest.raises(MemoryError):
        train(root, dies_in=3)
    (killed,) = runs(root)["baseline.lite0"]
    assert killed.info.status == "FAILED"
    train(root, first=2)  # resumes from the checkpoint before the last logged epoch
    (resumed,) = runs(root)["baseline.lite0"]
    assert (resumed.info.run_id, resumed.info.status) == (killed.info.run_id, "FINISHED")
    assert points(root, resumed, "val_loss") == expected("lite0", "val_loss")
    lines = track(params, root)
    assert "1 created, 1 completed, 0 already there" in lines[0]
    (published,) = runs(root)["baseline.lite0"]
    assert published.info.run_id == killed.info.run_id
    assert published.info.end_time == resumed.info.end_time  # the training's, not the publication's
    assert published.data.metrics["bleu_4"] == 0.2
    for key in CURVES:
        assert points(root, published, key) == expected("lite0", key)


def test_epochs_that_could_not_be_logged_live_are_filled_in(root: Path, params: Params) -> None:
    train(root, last=1)
    track(params, root)
    (run,) = runs(root)["baseline.lite0"]
    assert points(root, run, "val_loss") == expected("lite0", "val_loss")


def test_a_new_evaluation_of_the_same_training_is_a_second_run(root: Path, params: Params) -> None:
    train(root)
    track(params, root)
    write_pipeline(root, bleu=0.25)
    assert "2 created, 0 completed, 0 already there" in track(params, root)[0]
    first, second = runs(root)["baseline.lite0"]
    assert (first.data.metrics["bleu_4"], second.data.metrics["bleu_4"]) == (0.2, 0.25)
    for run in (first, second):
        assert points(root, run, "train_loss") == expected("lite0", "train_loss")
    assert "0 created, 0 completed, 2 already there" in track(params, root)[0]


def test_a_repeated_training_with_the_same_result_leaves_one_run(root: Path, params: Params) -> None:
    track(params, root)
    (published,) = runs(root)["baseline.lite0"]
    train(root)
    assert len(runs(root)["baseline.lite0"]) == 2  # its curves are there to be watched
    assert "0 created, 0 completed, 2 already there" in track(params, root)[0]
    assert [run.info.run_id for run in runs(root)["baseline.lite0"]] == [published.info.run_id]


@pytest.mark.parametrize("repeated", [False, True])
def test_a_training_that_another_process_publishes_meanwhile_goes_on_in_silence(
    root: Path, params: Params, capsys: pytest.CaptureFixture[str], repeated: bool
) -> None:
    if repeated:
        track(params, root)
    with tracking.open_tracker(root, EXPERIMENT, "baseline.lite0", "key-lite0", {}, {}) as tracker:
        tracker.log_epoch(1, epoch_metrics("lite0", 1))
        train(root)  # the same training, in the same run
        track(params, root)
        (published,) = runs(root)["baseline.lite0"]
        tracker.log_epoch(2, epoch_metrics("lite0", 2))
    assert capsys.readouterr().err == ""
    (run,) = runs(root)["baseline.lite0"]
    assert run.to_dictionary() == published.to_dictionary()
    assert points(root, run, "val_loss") == expected("lite0", "val_loss")


def test_curves_of_another_try_are_not_mixed_in(root: Path, params: Params) -> None:
    with tracking.open_tracker(root, EXPERIMENT, "baseline.lite0", "key-lite0", {}, {}) as tracker:
        tracker.log_epoch(1, {"train_loss": 9.0, "val_loss": 9.0})
    track(params, root)
    (run,) = runs(root)["baseline.lite0"]
    assert points(root, run, "val_loss") == expected("lite0", "val_loss")


def test_a_deleted_experiment_is_taken_from_the_trash(root: Path, params: Params) -> None:
    track(params, root)
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    client.delete_experiment(experiment_id(client))
    track(params, root)
    assert {name: len(group) for name, group in runs(root).items()} == {"baseline.lite0": 1, "baseline.lite1": 1}


def test_a_queued_experiment_lands_in_the_database_it_was_cloned_from(
    root: Path, params: Params, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path_factory.mktemp("clone")
    write_pipeline(clone)
    monkeypatch.setenv("DVC_ROOT", str(root))
    monkeypatch.setenv("DVC_EXP_NAME", "sly-newt")
    track(params, clone)
    assert not (clone / "mlflow.db").exists()
    (run,) = runs(root)["baseline.lite0"]
    assert run.data.tags["dvc_experiment"] == "sly-newt"
    assert run.info.artifact_uri.startswith((root / "mlartifacts").as_uri())


def test_a_moved_repository_keeps_its_runs(root: Path, params: Params, tmp_path: Path) -> None:
    track(params, root)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("mlflow.db", "mlartifacts", "artifacts", "reports"):
        shutil.move(root / name, moved / name)
    assert "0 created, 0 completed, 2 already there" in track(params, moved)[0]


# A whole process as a queue worker is one: it trains one system live and publishes all.
WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from captionlab.stages import track
from tracking import test_runs as t
track.RELEASED = Path("nothing")
t.train(Path({root!r}))
print(track.track(t.two_baselines(), Path({root!r}))[0])
"""


def test_three_processes_on_a_cold_database_make_one_run_a_result(tmp_path: Path) -> None:
    write_pipeline(tmp_path)
    code = WORKER.format(tests=str(REPOSITORY / "tests"), root=str(tmp_path))
    workers = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert worker.returncode == 0, err
        assert "2 runs" in out
        assert "warning" not in err
    found = runs(tmp_path)
    assert {name: len(group) for name, group in found.items()} == {"baseline.lite0": 1, "baseline.lite1": 1}
    for name in CONFIGS:
        for key in CURVES:
            assert points(tmp_path, found[f"baseline.{name}"][0], key) == expected(name, key)
    experiments = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments(view_type=ViewType.ALL)
    assert sorted(experiment.name for experiment in experiments) == ["Default", EXPERIMENT]


def test_a_kill_while_the_tables_are_made_spoils_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pipeline(tmp_path)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    code = WORKER.format(tests=str(REPOSITORY / "tests"), root=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "TMPDIR": str(scratch)}) as worker:
        while sum(path.stat().st_size for path in tmp_path.rglob("mlflow.db")) < 100_000:  # of 900,000
            assert worker.poll() is None
            time.sleep(0.01)
        worker.kill()
    train(tmp_path)
    assert capsys.readouterr().err == ""
    (run,) = runs(tmp_path)["baseline.lite0"]
    assert points(tmp_path, run, "val_loss") == expected("lite0", "val_loss")


def test_a_locked_database_costs_a_training_one_line(
    root: Path, params: Params, capsys: pytest.CaptureFixture[str], impatient: None
) -> None:
    with (
        closing(sqlite3.connect(root / "mlflow.db")) as other,
        tracking.open_tracker(root, EXPERIMENT, "baseline.lite0", "key-lite0", {}, {}) as tracker,
    ):
        tracker.log_epoch(1, epoch_metrics("lite0", 1))
        other.execute("BEGIN EXCLUSIVE")
        tracker.log_epoch(2, epoch_metrics("lite0", 2))
        tracker.log_epoch(3, epoch_metrics("lite0", 3))
        train(root, "lite1")  # starts when it is locked already
        lines = track(params, root)
    assert "not everything is published" in lines[0]
    warnings = capsys.readouterr().err.splitlines()
    assert [line.startswith("warning: MLflow at sqlite:") for line in warnings] == [True, True]
    track(params, root)
    (run,) = runs(root)["baseline.lite0"]
    assert points(root, run, "val_loss") == expected("lite0", "val_loss")


# Holds the database as a backup or a stuck program does, until its input ends.
LOCKER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1])
connection.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


def test_a_database_locked_by_another_program_in_mid_training_is_published_once_it_is_free(
    root: Path, params: Params, capsys: pytest.CaptureFixture[str], impatient: None
) -> None:
    command = [sys.executable, "-c", LOCKER, str(root / "mlflow.db")]
    with tracking.open_tracker(root, EXPERIMENT, "baseline.lite0", "key-lite0", {}, {}) as tracker:
        tracker.log_epoch(1, epoch_metrics("lite0", 1))
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as locker:
            assert locker.stdout is not None
            assert locker.stdout.readline() == b"locked\n"
            tracker.log_epoch(2, epoch_metrics("lite0", 2))
            assert "not everything is published" in track(params, root)[0]
            locker.kill()
        tracker.log_epoch(3, epoch_metrics("lite0", 3))
    (warning,) = capsys.readouterr().err.splitlines()
    assert "the training continues" in warning
    for published in ("1 created, 1 completed, 0 already there", "0 created, 0 completed, 2 already there"):
        assert published in track(params, root)[0]
    found = runs(root)
    assert {name: len(group) for name, group in found.items()} == {"baseline.lite0": 1, "baseline.lite1": 1}
    for key in CURVES:
        assert points(root, found["baseline.lite0"][0], key) == expected("lite0", key)


@pytest.mark.parametrize("answer", ["nobody", "silence", "another program"])
def test_a_server_that_is_down_or_no_mlflow_costs_a_training_one_line(
    answer: str, root: Path, params: Params, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
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
                cwd=root,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            wait_for(f"http://127.0.0.1:{port}/", 10)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://me:hidden@127.0.0.1:{port}")
        try:
            train(root)
            lines = track(params, root)
        finally:
            if other:
                other.kill()
                other.wait()
    assert "not everything is published" in lines[0]
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: MLflow at http://127.0.0.1:")
    assert "hidden" not in warning + lines[0]


@pytest.mark.parametrize("missing", ["mlflow", "psycopg", "pymysql"])
def test_a_package_that_is_missing_costs_a_training_one_line(
    missing: str, root: Path, params: Params, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    schemes = {"psycopg": "postgresql+psycopg", "pymysql": "mysql+pymysql"}
    if missing == "mlflow":
        for module in [name for name in sys.modules if name.split(".")[0] == "mlflow"]:
            monkeypatch.delitem(sys.modules, module)
        monkeypatch.setitem(sys.modules, "mlflow", None)
    else:
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{schemes[missing]}://me:hidden@127.0.0.1:1/runs")
    train(root)
    lines = track(params, root)
    (warning,) = capsys.readouterr().err.splitlines()
    assert warning.startswith("warning: MLflow")
    assert f"pip install {missing}" in warning
    assert "not everything is published" in lines[0]
    assert "hidden" not in warning + lines[0]


@pytest.fixture
def server(root: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with serving(root, port) as process:
        yield f"http://127.0.0.1:{port}", process


@contextmanager
def before(uri: str, *, delay: float = 0.0, loses: str = "") -> Iterator[str]:
    """A proxy before a server, which answers late, or not at all to the first request for an address that ends so."""
    lost: list[str] = []

    class Proxy(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            headers = {key: value for key, value in self.headers.items() if key != "Accept-Encoding"}
            request = urllib.request.Request(uri + self.path, body or None, headers, method=self.command)
            try:
                reply = urllib.request.urlopen(request)
            except HTTPError as refused:
                reply = refused
            with reply:
                answer = reply.read()
            time.sleep(delay)
            if loses and not lost and self.path.endswith(loses):
                lost.append(self.path)
                self.close_connection = True
                return
            with suppress(OSError):  # the client has given up
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.headers["Content-Type"])
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = pass_on

        def log_message(self, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
    assert bool(loses) == bool(lost)


def test_a_real_server_takes_runs_and_files_and_may_die_in_mid_training(
    server: tuple[str, subprocess.Popen[bytes]],
    root: Path,
    params: Params,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, process = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train(root, "lite0")
    lines = track(params, root)
    assert "1 created, 1 completed, 0 already there" in lines[0]
    found = runs(root, uri)
    assert sorted(found) == ["baseline.lite0", "baseline.lite1"]
    (run,) = found["baseline.lite0"]
    assert points(root, run, "val_loss") == expected("lite0", "val_loss")
    assert [path.name for path in (root / "served").rglob(f"{run.info.run_id}/artifacts/history.csv")]
    assert capsys.readouterr().err == ""

    client = MlflowClient(uri)
    page = (
        f"{uri}/#/experiments/{experiment_id(client)}/runs?workflowType=machine_learning&viewStateShareKey=captionlab"
    )
    assert ui(root, EXPERIMENT, port=0) == [f"the runs are at {page}"]  # nothing to start
    view = client.get_experiment(experiment_id(client)).tags["mlflow.sharedViewState.captionlab"]
    assert json.loads(view)["selectedColumns"][:2] == ["metrics.`bleu_4`", "metrics.`bleu_1`"]

    best = client.get_model_version_by_alias("captionlab", registry.best_alias("scenes"))
    assert best.run_id == found["baseline.lite0"][0].info.run_id
    with registry.local_checkpoint(root, registry.best_model("scenes")) as path:
        registered = load_checkpoint(path)
    assert (registered.identity.name, registered.decoding) == ("lite0", Decoding(beam=3))

    write_pipeline(root, bleu=0.3, key="again")
    with tracking.open_tracker(root, EXPERIMENT, "baseline.lite0", "again-lite0", {}, {}) as tracker:
        tracker.log_epoch(1, epoch_metrics("lite0", 1))
        kill(process)
        tracker.log_epoch(2, epoch_metrics("lite0", 2))
        tracker.log_epoch(3, epoch_metrics("lite0", 3))
    assert "not everything is published" in track(params, root)[0]
    (warning,) = capsys.readouterr().err.splitlines()
    assert "the training continues" in warning
    with serving(root, int(uri.rsplit(":", 1)[1])):
        for published in ("1 created, 1 completed, 0 already there", "0 created, 0 completed, 2 already there"):
            assert published in track(params, root)[0]
        _, second = runs(root, uri)["baseline.lite0"]
        assert (second.info.status, second.data.metrics["bleu_4"]) == ("FINISHED", 0.3)
        for key in CURVES:
            assert points(root, second, key) == expected("lite0", key)
        assert len(client.search_model_versions("name = 'captionlab'")) == 1  # the same checkpoint and code


def test_two_clones_a_slow_line_and_a_lost_answer_leave_one_run_a_result(
    server: tuple[str, subprocess.Popen[bytes]],
    root: Path,
    params: Params,
    tmp_path_factory: pytest.TempPathFactory,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uri, _ = server
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    clones = [root, tmp_path_factory.mktemp("clone")]  # on two machines: no lock of files between them
    write_pipeline(clones[1])
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER.format(tests=str(REPOSITORY / "tests"), root=str(clone))],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for clone in clones
    ]  # fmt: skip
    for worker in workers:
        out, err = worker.communicate(timeout=120)
        assert (worker.returncode, "2 runs" in out) == (0, True), out + err  # each may be the one that goes on
    assert {name: len(group) for name, group in runs(root, uri).items()} == {"baseline.lite0": 1, "baseline.lite1": 1}
    assert len(MlflowClient(uri).search_model_versions("name = 'captionlab'")) == 1

    write_pipeline(root, key="slow")
    for name, delay, warnings in (("lite0", 0.2, 0), ("lite1", 1.5, 1)):
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
        with before(uri, delay=delay) as slow:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", slow)
            with tracking.open_tracker(root, EXPERIMENT, f"baseline.{name}", f"slow-{name}", {}, {}) as tracker:
                for epoch in (1, 2, 3):
                    tracker.log_epoch(epoch, epoch_metrics(name, epoch))
        assert capsys.readouterr().err.count("the training continues") == warnings
    monkeypatch.delenv("MLFLOW_HTTP_REQUEST_TIMEOUT")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # so it asks again, and the server makes a second run
    with before(uri, loses="runs/create") as losing:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", losing)
        with tracking.open_tracker(root, EXPERIMENT, "baseline.lite1", "slow-lite1", {}, {}) as tracker:
            tracker.log_epoch(1, epoch_metrics("lite1", 1))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for published in ("2 completed, 0 already there", "0 completed, 2 already there"):
        assert published in track(params, root)[0]
    found = runs(root, uri)
    assert {name: len(group) for name, group in found.items()} == {"baseline.lite0": 2, "baseline.lite1": 2}
    assert {run.info.status for group in found.values() for run in group} == {"FINISHED"}
    for name in CONFIGS:
        assert points(root, found[f"baseline.{name}"][-1], "val_loss") == expected(name, "val_loss")
