"""Runs in MLflow: live curves while a system trains, and one complete run for every result.

Imports mlflow late, because that takes seconds; besides this module only ``registry`` and ``serving`` do. Knows runs,
parameters, metrics, tags and files; knows nothing of systems, stages or where the files come from.

A run carries two tags. ``captionlab.training_key`` says which training it shows: a killed or repeated training goes on
in the same run. ``captionlab.result_key`` is set last, when the run is complete, and never changes: a trained system
that is evaluated in another way is another result, so it gets another run with the same curves. Runs of results that
have been superseded stay, as history. A run whose training was repeated but whose result another run already shows is
moved to MLflow's trash, and so is the younger of two that two machines made of one result at once.
"""

import json
import logging
import os
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol
from urllib.parse import unquote, urlparse

from filelock import FileLock

from captionlab.errors import CaptionlabError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

TRAINING_KEY = "captionlab.training_key"
RESULT_KEY = "captionlab.result_key"
PRUNED = "captionlab.pruned"
VIEW = "captionlab"
LIVE_SECONDS = 5  # what one call may cost a training; a slower server is given up
TURN_SECONDS = 60  # how long to wait for the other processes at the start, when one of them makes the tables
METRICS_A_BATCH, PARAMS_A_BATCH = 1000, 100  # MLflow's limits

Outcome = Literal["created", "completed", "present"]
Point = tuple[str, float, int]  # a metric's name, its value, the step (epoch)


class TrackingError(CaptionlabError):
    """The tracking server or database cannot be used now; everything worth keeping is still on disk."""


class Pruned(Exception):  # noqa: N818 - no error, like KeyboardInterrupt
    """Raised inside ``open_tracker`` to end a training that others have outdone: its run is KILLED and tagged."""


class Tracker(Protocol):
    """What a training loop may ask of its tracker. Nothing here ever raises for the tracker's own sake."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log one epoch's metrics in one call; an epoch that is already there is left alone."""


class NullTracker(Tracker):
    """A tracker that keeps nothing."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """All that is known of one trained and evaluated system."""

    name: str  # of its run
    training_key: str
    result_key: str  # a digest of everything below but the files
    params: Mapping[str, object]
    history: Sequence[Mapping[str, float]]  # a row an epoch, with the key "epoch"
    metrics: Mapping[str, float]
    tags: Mapping[str, str]
    files: Sequence[Path]
    texts: Mapping[str, str]  # by file name
    status: Literal["FINISHED", "KILLED"] = "FINISHED"


def tracking_uri(root: Path) -> str:
    """MLFLOW_TRACKING_URI, or else the SQLite file at the repository's root."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{(_home(root) / 'mlflow.db').as_posix()}"


@contextmanager
def open_tracker(
    root: Path, experiment: str, run_name: str, training_key: str, params: Mapping[str, object], tags: Mapping[str, str]
) -> Iterator[Tracker]:
    """A tracker for one training, which never costs the training anything but a few seconds.

    When MLflow fails, at the start or later, one line on stderr says so and the training goes on without it.
    """
    tracker: Tracker
    try:
        tracker = _RunTracker(Store(root, experiment), run_name, training_key, params, tags)
    except TrackingError as error:
        _warn(error)
        tracker = NullTracker()
    status, labels = "FAILED", {}
    try:
        yield tracker
        status = "FINISHED"
    except (KeyboardInterrupt, Pruned) as why:
        status, labels = "KILLED", {PRUNED: "true"} if isinstance(why, Pruned) else {}
        raise
    finally:
        if isinstance(tracker, _RunTracker):
            tracker.end(status, labels)


def publish(root: Path, experiment: str, results: Sequence[Result], columns: Sequence[str]) -> list[Outcome]:
    """Give every result its one complete run, and say for each what that took.

    Does nothing for a result that has its run. Safe to repeat after a kill and to run in several processes at once,
    of one machine or of several that share a server. ``columns`` ("metrics.bleu_4", "params.hidden") are what the
    experiment's page shows; the first one sorts it, a loss upwards. Raises TrackingError when the server or the
    database cannot be used.
    """
    store = Store(root, experiment)
    outcomes = [_publish(store, result) for result in results]
    with store.session() as client:
        # MLflow's pages show no scores by themselves; this is how their own "share view" stores its choice.
        client.set_experiment_tag(store.experiment_id, f"mlflow.sharedViewState.{VIEW}", _view(columns))
    return outcomes


def comparison_page(root: Path, experiment: str) -> str:
    """Where the tracking server shows the experiment's runs side by side: what follows its address.

    Raises TrackingError when the server or the database cannot be used.
    """
    page = f"/#/experiments/{Store(root, experiment).experiment_id}/runs"
    return f"{page}?workflowType=machine_learning&viewStateShareKey={VIEW}"


def configure_mlflow() -> None:
    """Have mlflow keep quiet and give up soon in this process. Only counts before the first import of mlflow."""
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(LIVE_SECONDS))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    for name in ("mlflow.store.db.utils", "alembic", "urllib3.connectionpool"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # tracebacks and retries: the one warning is ours


@contextmanager
def translated(uri: str) -> Iterator[None]:
    """Whatever fails inside becomes a TrackingError that names the server or database."""
    try:
        from alembic.util.exc import CommandError
        from google.protobuf.json_format import ParseError  # type: ignore[import-untyped]
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError
    except ImportError as why:
        raise TrackingError(f"MLflow cannot be used; it needs: pip install {why.name}") from why
    try:
        yield
    except ImportError as why:  # the driver of a database, say
        raise TrackingError(_no_password(f"MLflow at {uri} cannot be used; it needs: pip install {why.name}")) from why
    # CommandError tells of half-made tables; OSError holds the lock's time-out and the network's errors;
    # ValueError and ParseError mean an answer that is not MLflow's.
    except (MlflowException, SQLAlchemyError, sqlite3.Error, CommandError, OSError, ValueError, ParseError) as why:
        reason = " ".join(str(why).split())[:200]
        raise TrackingError(_no_password(f"MLflow at {uri} cannot be used ({reason})")) from why


class Store:
    """One experiment in the tracking server or database; makes it when it is missing."""

    def __init__(self, root: Path, experiment: str) -> None:
        configure_mlflow()
        self.root = root
        self.uri = tracking_uri(root)
        self._home = _home(root)
        with self.session() as client:
            self.experiment_id = self._experiment(client, experiment)

    @contextmanager
    def session(self, patience: float = TURN_SECONDS) -> "Iterator[MlflowClient]":
        """A client, alone among this machine's processes; whatever fails inside becomes a TrackingError.

        MLflow itself neither makes its tables safely from two processes (making a client does) nor looks up and
        creates in one step.
        """
        with translated(self.uri), FileLock(self._home / "mlflow.db.lock", timeout=patience):
            from mlflow import MlflowClient

            self._prepare_sqlite()
            yield MlflowClient(tracking_uri=self.uri)

    def runs_of(self, client: "MlflowClient", training_key: str) -> "list[Run]":
        """The runs that show this training, newest first."""
        condition = f"tags.`{TRAINING_KEY}` = '{training_key}'"
        return list(client.search_runs([self.experiment_id], condition, order_by=["attributes.start_time DESC"]))

    def _experiment(self, client: "MlflowClient", name: str) -> str:
        from mlflow.exceptions import MlflowException

        served = self.uri.startswith(("http", "databricks"))  # a server chooses where its files lie
        # MLflow's own default is relative to a working directory that a queued experiment's clone takes with it.
        location = None if served else (self._home / "mlartifacts" / name).as_uri()
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location=location))
            except MlflowException as why:  # another machine was quicker
                if why.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                return self._experiment(client, name)
        there = urlparse(found.artifact_location)
        if there.scheme == "file" and found.artifact_location != location and not Path(unquote(there.path)).is_dir():
            raise TrackingError(
                f"the files of MLflow's experiment {name} should lie in {unquote(there.path)}, which is gone; if the "
                f"repository was moved, delete {self._home / 'mlflow.db'} and run `captionlab track`"
            )
        if found.lifecycle_stage != "active":  # deleted in the UI: its name cannot be used twice
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)

    def _prepare_sqlite(self) -> None:
        """Make the tables of a new file, all or none, and fail fast on a file that is locked or broken.

        MLflow, killed while it makes them, leaves a file that it refuses for ever; a locked one it retries for minutes.
        """
        from mlflow import MlflowClient
        from sqlalchemy.engine import make_url

        database = make_url(self.uri).database if self.uri.startswith("sqlite") else None
        if not database:
            return
        path = Path(database)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
                made = Path(folder) / path.name
                MlflowClient(tracking_uri=f"sqlite:///{made.as_posix()}")
                copy = shutil.copy(made, path.with_name(f"{path.name}.partial"))  # not renamed: MLflow keeps it open
            Path(copy).replace(path)
        with closing(sqlite3.connect(path, timeout=LIVE_SECONDS)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            connection.rollback()


class _RunTracker(Tracker):
    """Logs one training into one run, until that fails for the first time."""

    def __init__(
        self, store: Store, name: str, training_key: str, params: Mapping[str, object], tags: Mapping[str, str]
    ) -> None:
        self._store = store
        self._over = False
        with store.session() as client:
            runs = [run for run in store.runs_of(client, training_key) if RESULT_KEY not in run.data.tags]
            self._run = runs[0] if runs else _create(client, store, name, training_key)
            client.update_run(self._run.info.run_id, status="RUNNING")
            _log(client, self._run, [], params, {**tags, **_origin(store.root)})

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        def log(client: "MlflowClient") -> None:
            if epoch not in _logged(client, self._run.info.run_id, min(metrics)):
                _log(client, self._run, [(key, value, epoch) for key, value in metrics.items()])

        self._attempt(log)

    def end(self, status: str, tags: Mapping[str, str]) -> None:
        self._attempt(lambda client: _log(client, self._run, [], tags=tags))
        self._attempt(lambda client: client.set_terminated(self._run.info.run_id, status))

    def _attempt(self, action: "Callable[[MlflowClient], None]") -> None:
        if self._over:
            return
        began = time.monotonic()
        try:
            with self._store.session(LIVE_SECONDS) as client:
                run = client.get_run(self._run.info.run_id)
                # Two queue workers may train the very same; when one has published it, the other has nothing to add.
                self._over = RESULT_KEY in run.data.tags or run.info.lifecycle_stage == "deleted"
                if not self._over:
                    action(client)
            if time.monotonic() - began > 2 * LIVE_SECONDS:
                raise TrackingError(_no_password(f"MLflow at {self._store.uri} is too slow"))
        except TrackingError as error:
            self._over = True
            _warn(error)


def _publish(store: Store, result: Result) -> Outcome:
    with store.session() as client:
        runs = store.runs_of(client, result.training_key)
        unfinished = [run for run in runs if RESULT_KEY not in run.data.tags]
        outcome: Outcome = "present"
        if not any(run.data.tags.get(RESULT_KEY) == result.result_key for run in runs):
            run = next((run for run in unfinished if _missing(client, run, result.history) is not None), None)
            outcome = "completed" if run else "created"
            run = run or _create(client, store, result.name, result.training_key)
            unfinished = [other for other in unfinished if other.info.run_id != run.info.run_id]
            _complete(client, store, run, result)
            runs = store.runs_of(client, result.training_key)  # newest first
            for other in [run for run in runs if run.data.tags.get(RESULT_KEY) == result.result_key][:-1]:
                client.delete_run(other.info.run_id)
        for run in unfinished:
            if run.info.status != "RUNNING" or not run.data.metrics:  # one that shows epochs may be alive
                client.delete_run(run.info.run_id)
        return outcome


def _view(columns: Sequence[str]) -> str:
    quoted = [re.sub(r"\.(.*)", r".`\1`", column) for column in columns]
    # Without the section, the charts of the plain names come last.
    sections = [{"uuid": "main", "name": "Model metrics", "display": True, "isReordered": False}]
    charts = {"compareRunSections": sections, "compareRunCharts": [], "isAccordionReordered": True}
    return json.dumps(
        {"selectedColumns": quoted, "orderByKey": quoted[0], "orderByAsc": "loss" in columns[0], **charts}
    )


def _missing(client: "MlflowClient", run: "Run", history: Sequence[Mapping[str, float]]) -> list[Point] | None:
    """The curves' points that the run lacks; None when it shows others, of another try with the same key."""
    rows = {int(row["epoch"]): row for row in history}
    missing = []
    for key in sorted({key for row in history for key in row} - {"epoch"}):
        logged = _logged(client, run.info.run_id, key)
        for step, value in logged.items():
            if step not in rows or not isclose(rows[step][key], value, rel_tol=1e-3, abs_tol=1e-4):  # files are rounded
                return None
        missing += [(key, row[key], step) for step, row in rows.items() if step not in logged]
    return missing


def _complete(client: "MlflowClient", store: Store, run: "Run", result: Result) -> None:
    run_id = run.info.run_id
    points = _missing(client, run, result.history) or []
    points += [(key, value, 0) for key, value in result.metrics.items() if run.data.metrics.get(key) != value]
    _log(client, run, points, result.params, {**result.tags, **_origin(store.root)})
    for path in result.files:
        client.log_artifact(run_id, str(path))
    for name, text in result.texts.items():
        client.log_text(run_id, text, name)
    if run.info.status != result.status:
        client.set_terminated(run_id, result.status)
    client.set_tag(run_id, RESULT_KEY, result.result_key)  # last: it says that the rest is there


def _create(client: "MlflowClient", store: Store, name: str, training_key: str) -> "Run":
    return client.create_run(store.experiment_id, run_name=name, tags={TRAINING_KEY: training_key})


def _logged(client: "MlflowClient", run_id: str, key: str) -> dict[int, float]:
    """The metric's values by step."""
    return {point.step: point.value for point in client.get_metric_history(run_id, key)}


def _log(
    client: "MlflowClient", run: "Run", points: Sequence[Point],
    params: Mapping[str, object] = MappingProxyType({}), tags: Mapping[str, str] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Log in as few calls as MLflow's limits allow; parameters that the run has stay as they are."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    metrics = [Metric(key, float(value), now, step) for key, value, step in points]
    settings = [Param(key, str(value)) for key, value in params.items() if key not in run.data.params]
    labels = [RunTag(key, value) for key, value in tags.items()]
    while metrics or settings or labels:
        client.log_batch(run.info.run_id, metrics[:METRICS_A_BATCH], settings[:PARAMS_A_BATCH], labels)
        metrics, settings, labels = metrics[METRICS_A_BATCH:], settings[PARAMS_A_BATCH:], []


def _home(root: Path) -> Path:
    """The repository's root; for a queued experiment, which runs in a temporary clone, the root it was cloned from."""
    return Path(os.environ.get("DVC_ROOT") or root).resolve()


def _origin(root: Path) -> dict[str, str]:
    """Tags that say which code ran: the commit, and DVC's experiment, whose own commit does not exist yet."""
    tags = {}
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        tags["git_commit"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass  # no git, or nothing committed yet: nothing to tell
    if name := os.environ.get("DVC_EXP_NAME"):
        tags["dvc_experiment"] = name
    return tags


def _no_password(text: str) -> str:
    return re.sub(r"//[^/@\s]+@", "//", text)


def _warn(error: TrackingError) -> None:
    hint = "the training goes on, its curves stay on disk; `captionlab track` (or `tune`) publishes them"
    print(f"warning: {error}; {hint}", file=sys.stderr)
