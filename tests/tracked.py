"""A pipeline of two configurations ready for ``track``, and its runs in MLflow."""

import dataclasses
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from captionlab.config import Params, load_params
from captionlab.core.files import write_json
from captionlab.core.records import TIMINGS
from captionlab.core.timings import Timing
from captionlab.tracking import runs as tracking
from results_tree import history, write_results

REPOSITORY = Path(__file__).parents[1]
EXPERIMENT = "captionlab/scenes"
CURVES = ("train_loss", "val_loss", "learning_rate")
CONFIGS = ("lite0", "lite1")


def _two_baselines() -> Params:
    everything = load_params(REPOSITORY / "params.yaml")
    baseline = dict.fromkeys(CONFIGS, next(iter(everything.baseline.values())))
    return dataclasses.replace(everything, baseline=baseline, modified={}, attention={}, retrieval={})


PARAMS = _two_baselines()  # the repository's parameters with two configurations of one system


def epoch_metrics(name: str, epoch: int) -> dict[str, float]:
    """The metrics of an epoch."""
    row = history(3, CONFIGS.index(name))[epoch - 1].rounded()
    return {key: value for key, value in row.items() if key != "epoch"}


def write_pipeline(root: Path, bleu: float = 0.2, key: str = "key") -> None:
    """Write the outputs of the stages before ``track``. lite0 is better on validation, lite1 on test."""
    quality = {"baseline.lite0": (bleu + 0.01, bleu), "baseline.lite1": (bleu, bleu + 0.01)}
    write_results(root, PARAMS, quality, epochs=3, key=key)
    (root / "reports/scenes").mkdir(parents=True, exist_ok=True)
    (root / "reports/scenes/comparison.csv").write_text("system\nbaseline\n")
    timing = Timing(stage="train_baseline", item="lite1", seconds=1.5, peak_megabytes=900.0)
    write_json(root / TIMINGS / "train_baseline.lite1.json", dataclasses.asdict(timing))


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


def start(name: str = "lite0", key: str = "key") -> tracking.Start:
    """The start of a configuration's run."""
    dataset = tracking.Dataset(
        name="scenes", digest="0123456789abcdef", source="data/scenes", splits={"train": 40, "val": 8, "test": 12}
    )
    return tracking.Start(
        name=f"baseline.{name}", training_key=f"{key}-{name}", params={"hidden": 256}, tags={"system": "baseline"},
        dataset=dataset,
    )  # fmt: skip


def train(root: Path, name: str = "lite0", *, first: int = 1, last: int = 3, dies_in: int = 0) -> None:
    with tracking.open_tracker(root, EXPERIMENT, start(name)) as tracker:
        for epoch in range(first, last + 1):
            if epoch == dies_in:
                raise MemoryError
            tracker.log_epoch(epoch, epoch_metrics(name, epoch))


# A process like a queue worker: it trains one system with live tracking and publishes all.
_WORKER = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import tracked
from captionlab.stages import track
from captionlab.tracking import runs
track.RELEASED = Path("nothing")
runs.LIVE_SECONDS = 60  # on a busy machine others may hold the database for longer than a training waits
tracked.train(Path({root!r}))
print(track.track(tracked.PARAMS, Path({root!r}))[0])
"""


def worker(root: Path) -> list[str]:
    """The command of a process that trains lite0 live and publishes both configurations."""
    return [sys.executable, "-c", _WORKER.format(tests=str(REPOSITORY / "tests"), root=str(root))]


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
            with suppress(OSError):  # the client has closed the connection
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
