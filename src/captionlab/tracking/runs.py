"""Runs in MLflow: live curves while a system trains, and one complete run for every result.

Imports mlflow late, because that takes seconds. Knows runs, parameters, metrics, tags, datasets and files; nothing of
systems, stages or the origin of the files.

A run has two tags. ``captionlab.training_key`` identifies its training: a killed or repeated training continues in the
same run. ``captionlab.result_key`` is set last, when the run is complete, and never changes: a trained system that is
evaluated in another way is another result, so it gets another run with the same curves. Runs of superseded results
stay, as history. A run of a repeated training whose result another run already shows is moved to MLflow's trash, and so
is the younger of two runs that two machines made of one result at once.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import isclose
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Protocol

from captionlab.tracking.address import shown
from captionlab.tracking.store import LIVE_SECONDS, TRAINING_KEY, Store, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

RESULT_KEY = "captionlab.result_key"
PRUNED = "captionlab.pruned"
_SHOWN = 3  # parameters in a run's name
_DIGITS = 6  # of a digest, in a run's name
DVC_EXPERIMENT = "DVC_EXP_NAME"  # set by `dvc exp run` for its stages
NOTE = "mlflow.note.content"  # the description on the run's page
VIEW = "captionlab"
MAIN = "Model metrics"  # MLflow's name for the charts of metrics without a prefix
METRICS_A_BATCH, PARAMS_A_BATCH = 1000, 100  # MLflow's limits

Outcome = Literal["created", "completed", "present"]
Point = tuple[str, float, int]  # a metric's name, its value, the step (epoch)


class Pruned(Exception):  # noqa: N818 - not an error, like KeyboardInterrupt
    """Raised inside ``open_tracker`` to end a training that is worse than others: its run is KILLED and tagged."""


class Tracker(Protocol):
    """What a training loop uses. Failures of the tracker itself never raise."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Log one epoch's metrics in one call; an epoch that is already logged is left as it is."""


class NullTracker(Tracker):
    """A tracker that logs nothing."""

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        """Do nothing."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What a system learns from or is scored on. Runs with the same name and digest share one entry of MLflow."""

    name: str
    digest: str  # 36 characters at most
    source: str  # a folder
    splits: Mapping[str, int]  # their sizes
    context: Literal["training", "evaluation"] = "training"


@dataclass(frozen=True, kw_only=True)
class Start:
    """What is known of a run when its training starts."""

    name: str  # MLflow shows it with the name of DVC's experiment, if one is running
    training_key: str
    params: Mapping[str, object]
    tags: Mapping[str, str]
    dataset: Dataset


@dataclass(frozen=True, kw_only=True)
class Result(Start):
    """Everything that is published of one trained and evaluated system."""

    result_key: str  # a digest of everything here but files and texts
    history: Sequence[Mapping[str, float]]  # a row an epoch, with the key "epoch"
    metrics: Mapping[str, float]
    files: Sequence[Path]
    texts: Mapping[str, str]  # by file name
    status: Literal["FINISHED", "KILLED"] = "FINISHED"


@contextmanager
def open_tracker(root: Path, experiment: str, start: Start) -> Iterator[Tracker]:
    """A tracker for one training. It never stops the training and delays it by a few seconds at most.

    When MLflow fails, at the start or later, one line on standard error says so and the training continues without it.
    """
    tracker: Tracker
    try:
        tracker = _RunTracker(Store(root, experiment), start)
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


def publish(root: Path, experiment: str, results: Sequence[Result], columns: Sequence[str] = ()) -> list[Outcome]:
    """See that every result has one complete run; returns for each whether it was created, completed or present.

    Safe to repeat after a kill, and to run at once in several processes of one machine or of several that share a
    server. ``columns`` ("metrics.bleu_4", "params.hidden") are shown on the experiment's page, which is sorted by the
    first one, a loss ascending; the charts of the metrics among them come first, of those without a prefix ("val/").
    Without any the page stays as it is.
    Raises TrackingError when the server or the database cannot be used.
    """
    store = Store(root, experiment)
    outcomes = [_publish(store, result) for result in results]
    if columns:
        with store.session() as client:
            # MLflow's pages show no scores by default; their own "share view" keeps the choice of columns in this tag.
            view = _view(columns, results)
            client.set_experiment_tag(store.experiment_id, f"mlflow.sharedViewState.{VIEW}", view)
    return outcomes


def comparison_page(root: Path, experiment: str) -> str:
    """The page of the tracking server that compares the experiment's runs: what follows the server's address.

    Raises TrackingError when the server or the database cannot be used.
    """
    page = f"/#/experiments/{Store(root, experiment).experiment_id}/runs"
    return f"{page}?workflowType=machine_learning&viewStateShareKey={VIEW}"


class _RunTracker(Tracker):
    """Logs one training into one run, until that fails for the first time."""

    def __init__(self, store: Store, start: Start) -> None:
        self._store = store
        self._over = False
        self._monitored = False  # whether its start has been tried
        self._monitor: SystemMetricsMonitor | None = None
        with store.session() as client:
            runs = [run for run in store.runs_of(client, start.training_key) if RESULT_KEY not in run.data.tags]
            self._run = runs[0] if runs else _create(client, store, start)
            client.update_run(self._run.info.run_id, status="RUNNING")
            _log_start(client, store, self._run, start)

    def log_epoch(self, epoch: int, metrics: Mapping[str, float]) -> None:
        def log(client: "MlflowClient") -> None:
            if epoch not in _logged(client, self._run.info.run_id, min(metrics)):
                _log(client, self._run, [(key, value, epoch) for key, value in metrics.items()])

        self._attempt(log)
        if not self._monitored and not self._over:  # MLflow's pages open on the metric that was logged first
            self._monitored = True
            try:
                self._monitor = _monitor(self._store, self._run)
            except Exception as error:  # a setting of MLflow's that it refuses, for example
                print(f"warning: no system metrics of this training: {error}", file=sys.stderr)

    def end(self, status: str, tags: Mapping[str, str]) -> None:
        if self._monitor:
            self._monitor.finish()
        self._attempt(lambda client: _log(client, self._run, [], tags=tags))
        self._attempt(lambda client: client.set_terminated(self._run.info.run_id, status))

    def _attempt(self, action: "Callable[[MlflowClient], None]") -> None:
        if self._over:
            return
        began = time.monotonic()
        try:
            with self._store.session(LIVE_SECONDS) as client:
                run = client.get_run(self._run.info.run_id)
                # Two queue workers may train the same; when one has published it, the other has nothing to add.
                self._over = RESULT_KEY in run.data.tags or run.info.lifecycle_stage == "deleted"
                if not self._over:
                    action(client)
            if time.monotonic() - began > 2 * LIVE_SECONDS:
                raise TrackingError(f"MLflow at {shown(self._store.uri)} is too slow")
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
            run = run or _create(client, store, result)
            unfinished = [other for other in unfinished if other.info.run_id != run.info.run_id]
            _complete(client, store, run, result)
            runs = store.runs_of(client, result.training_key)  # newest first
            for other in [run for run in runs if run.data.tags.get(RESULT_KEY) == result.result_key][:-1]:
                client.delete_run(other.info.run_id)
        for run in unfinished:
            if run.info.status != "RUNNING" or not run.data.metrics:  # one with epochs may still be training
                client.delete_run(run.info.run_id)
        return outcome


def _view(columns: Sequence[str], results: Sequence[Result]) -> str:
    """The shared view: which columns the table shows, and which charts come first."""
    quoted = [re.sub(r"\.(.*)", r".`\1`", column) for column in columns]
    prefixes = sorted({key.split("/")[0] for result in results for key in result.metrics if "/" in key})
    # Without a section of its own, the charts of names without a prefix come last.
    shown = (MAIN, *prefixes)
    sections = [{"uuid": name, "name": name, "display": name == MAIN, "isReordered": True} for name in shown]
    metrics = [column.removeprefix("metrics.") for column in columns if column.startswith("metrics.")]
    first = [key for key in metrics if "/" not in key]  # those with a prefix have their charts in its section
    charts: list[dict[str, object]] = [  # MLflow adds the others; of a metric with several steps it makes a curve
        {"uuid": key, "type": "BAR", "metricSectionId": MAIN, "metricKey": key, "displayName": key}
        | {"isGenerated": True, "deleted": False}
        for key in first
    ]
    charts.append(  # a table of the parameters that differ between the runs
        {"uuid": "differences", "type": "DIFFERENCE", "metricSectionId": MAIN, "compareGroups": ["Parameters"]}
        | {"chartName": "Parameters that differ", "showDifferencesOnly": True, "showChangeFromBaseline": False}
        | {"baselineColumnUuid": "", "isGenerated": False, "deleted": False}
    )
    table = {"selectedColumns": quoted, "orderByKey": quoted[0], "orderByAsc": "loss" in columns[0]}
    return json.dumps(
        {**table, "compareRunSections": sections, "compareRunCharts": charts, "isAccordionReordered": True}
    )


def _missing(client: "MlflowClient", run: "Run", history: Sequence[Mapping[str, float]]) -> list[Point] | None:
    """The points of the curves that the run does not have; None when it has others, of another run of this training."""
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
    # The scores first: MLflow's comparison opens with the metric that was logged first.
    points = [(key, value, 0) for key, value in result.metrics.items() if run.data.metrics.get(key) != value]
    points += _missing(client, run, result.history) or []
    _log_start(client, store, run, result)
    _log(client, run, points)
    for path in result.files:
        client.log_artifact(run_id, str(path))
    for name, text in result.texts.items():
        client.log_text(run_id, text, name)
    pages = [path.name for path in result.files if path.suffix == ".html"]
    if pages:
        address = f"#/experiments/{store.experiment_id}/runs/{run_id}/artifacts"
        client.set_tag(run_id, NOTE, "\n".join(f"Report: [{page}]({address}/{page})" for page in pages))
    if run.info.status != result.status:
        client.set_terminated(run_id, result.status)
    client.set_tag(run_id, RESULT_KEY, result.result_key)  # last: it means that the run is complete


def _create(client: "MlflowClient", store: Store, start: Start) -> "Run":
    """A new run whose name tells it from others of the configuration.

    Under ``dvc exp run`` it is ``baseline.lite0 (dandy-hues)``; else ``baseline.lite0 hidden=128``, with what differs
    from the first run of that name.
    """
    experiment = os.environ.get(DVC_EXPERIMENT)
    name = f"{start.name} ({experiment})" if experiment else start.name + _differences(client, store, start)
    return client.create_run(store.experiment_id, run_name=name, tags={TRAINING_KEY: start.training_key})


def _differences(client: "MlflowClient", store: Store, start: Start) -> str:
    """What differs from the first run with the configuration's name; empty without one.

    Parameters and the dataset, or else the key: an ensemble has the parameters of before when a member was trained
    again.
    """
    quote = '"' if "'" in start.name else "'"  # MLflow's filters have no escape
    if quote in start.name:
        return ""
    first = client.search_runs(
        [store.experiment_id], f"attributes.run_name = {quote}{start.name}{quote}", max_results=1,
        order_by=["attributes.start_time ASC"],
    )  # fmt: skip
    if not first:
        return ""
    before, used = first[0].data, first[0].inputs
    changed = [
        f"{key}={value}" for key, value in start.params.items() if before.params.get(key, str(value)) != str(value)
    ]
    known = [each.dataset.digest for each in used.dataset_inputs] if used else []  # none if it was killed at once
    if known and start.dataset.digest not in known:
        changed.append(f"data={start.dataset.digest[:_DIGITS]}")
    if not changed and before.tags.get(TRAINING_KEY) != start.training_key:
        changed.append(f"key={start.training_key[:_DIGITS]}")
    return "".join(f" {change:.40}" for change in changed[:_SHOWN]) + (" …" if len(changed) > _SHOWN else "")


def _monitor(store: Store, run: "Run") -> "SystemMetricsMonitor | None":
    """MLflow's own sampling of CPU, memory and GPU in a thread, until ``finish``; None where it is switched off."""
    from mlflow.environment_variables import MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING
    from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

    if not MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING.get():
        return None
    monitor = SystemMetricsMonitor(run.info.run_id, resume_logging=True, tracking_uri=store.uri)
    monitor.start()
    return monitor


def _log_start(client: "MlflowClient", store: Store, run: "Run", start: Start) -> None:
    """Log parameters, tags and the dataset; what the run has already is not logged twice."""
    from mlflow import entities
    from mlflow.exceptions import MlflowException

    tags = {**start.tags, **_origin(store.root)}
    if "dvc_experiment" in tags:  # MLflow's own colour, not that of the configuration's other runs
        tags.pop("mlflow.runColor", None)
    _log(client, run, [], start.params, tags)
    dataset = start.dataset
    entry = entities.Dataset(
        name=dataset.name, digest=dataset.digest,
        source_type="local", source=json.dumps({"uri": dataset.source}), profile=json.dumps(dict(dataset.splits)),
    )  # fmt: skip
    inputs = [entities.DatasetInput(entry, [entities.InputTag("mlflow.data.context", dataset.context)])]
    try:
        client.log_inputs(run.info.run_id, inputs)
    except MlflowException as error:
        if error.error_code != "BAD_REQUEST":
            raise
        used = client.get_run(run.info.run_id).inputs
        if dataset.digest not in [each.dataset.digest for each in (used.dataset_inputs if used else [])]:
            client.log_inputs(run.info.run_id, inputs)  # another machine has made the same entry meanwhile


def _logged(client: "MlflowClient", run_id: str, key: str) -> dict[int, float]:
    """The metric's values by step."""
    return {point.step: point.value for point in client.get_metric_history(run_id, key)}


def _log(
    client: "MlflowClient", run: "Run", points: Sequence[Point],
    params: Mapping[str, object] = MappingProxyType({}), tags: Mapping[str, str] = MappingProxyType({}),
) -> None:  # fmt: skip
    """Log in as few calls as MLflow's limits allow; parameters that the run has are not changed."""
    from mlflow.entities import Metric, Param, RunTag

    now = int(time.time() * 1000)
    metrics = [Metric(key, float(value), now, step) for key, value, step in points]
    settings = [Param(key, str(value)) for key, value in params.items() if key not in run.data.params]
    labels = [RunTag(key, value) for key, value in tags.items()]
    while metrics or settings or labels:
        client.log_batch(run.info.run_id, metrics[:METRICS_A_BATCH], settings[:PARAMS_A_BATCH], labels)
        metrics, settings, labels = metrics[METRICS_A_BATCH:], settings[PARAMS_A_BATCH:], []


def _origin(root: Path) -> dict[str, str]:
    """Tags of the code that ran: the commit, and DVC's experiment, whose own commit does not exist yet."""
    tags = {}
    try:
        command = ["git", "-C", str(root), "rev-parse", "HEAD"]
        tags["git_commit"] = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        pass  # no git, or nothing committed yet
    if name := os.environ.get(DVC_EXPERIMENT):
        tags["dvc_experiment"] = name
    return tags


def _warn(error: TrackingError) -> None:
    hint = "the training continues, and its curves stay on disk; `captionlab track` (or `tune`) publishes them"
    print(f"warning: {error}; {hint}", file=sys.stderr)
