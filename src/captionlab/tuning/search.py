"""Hyperparameter search over one configuration; reports the best parameters as overrides for DVC.

Optuna stores the study in ``tune.db`` and prunes trials. Trials use the pipeline's training loop and features; their
state is in ``.resume/tune`` until they end. The pipeline's inputs and outputs are not changed.

All points of a study are sampled in advance from a seed and enqueued in Optuna, so workers never run the same point,
and a killed search resumes to the same result. A trial belongs to the worker that holds its file lock, which the
operating system releases when the process ends. See docs/decisions/0009-tuning.md.
"""

import dataclasses
import multiprocessing
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import optuna
import torch
from filelock import FileLock, Timeout
from optuna.trial import FrozenTrial, TrialState

from captionlab.config import SYSTEMS, Params, load_params
from captionlab.core.devices import choose_device
from captionlab.core.files import digest_of
from captionlab.core.records import FEATURES
from captionlab.core.results import Epoch
from captionlab.data.store import open_store
from captionlab.errors import CaptionlabError, one_line
from captionlab.tracking import runs
from captionlab.tracking.store import TrackingError
from captionlab.training.fit import Material, fresh_model, settings_of, training_key
from captionlab.training.logged import dataset_of
from captionlab.training.loop import ResumeFile, Splits, train
from captionlab.tuning.ranges import Space, changed, corners, draw, grid, overrides, read_ranges

TRIALS = 10  # default, as in report B's random search
FACTOR = 5  # reduction factor, as in report B's Hyperband
DATABASE = "tune.db"
LOCK_SECONDS = 60  # timeout of the database's lock

Sampler = Literal["grid", "random", "hyperband"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Search:
    """The settings of a search, shared by its workers."""

    root: Path
    params: Params
    system: str
    config: str
    sampler: Sampler
    space: Space
    trials: int  # maximum, including those of earlier calls

    @property
    def row(self) -> str:
        """The configuration's name in the report."""
        return f"{self.system}.{self.config}"

    @property
    def experiment(self) -> str:
        """The trials' experiment in MLflow."""
        return f"captionlab/{self.params.dataset.name}/tune"

    def study_name(self) -> str:
        """The study's name, with a digest of everything that the results depend on."""
        first = {keys: corners(distribution)[0] for keys, distribution in self.space.items()}
        base = training_key(changed(self.params, self.system, self.config, first), self.root, self.system, self.config)
        ranges = {keys: optuna.distributions.distribution_to_json(one) for keys, one in self.space.items()}
        return f"{self.row} {self.sampler} {digest_of([base, ranges])}"

    def unfinished(self, study: optuna.Study, number: int, kind: str) -> Path:
        """The path of a running trial's lock or of its saved state."""
        return self.root / ".resume/tune" / f"{study.study_name.replace(' ', '.')}.{number}.{kind}"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """The lock of the study's database. CaptionlabError where another process keeps it for LOCK_SECONDS."""
        path = self.root / f"{DATABASE}.lock"
        try:
            held = FileLock(path).acquire(timeout=LOCK_SECONDS)
        except Timeout:
            raise CaptionlabError(f"{path} stayed locked for {LOCK_SECONDS} s; end the process that holds it") from None
        with held:
            yield


def tune(
    root: Path, row: str, sampler: Sampler, ranges: Sequence[str], trials: int | None, workers: int
) -> dict[str, Any]:
    """Run the missing trials of a search; returns the study's name, all trials, the best one and its overrides.

    Raises CaptionlabError for an unknown system or parameter, an invalid range or missing features, and if no trial
    completes.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    params = load_params(root / "params.yaml")
    system, _, config = row.partition(".")
    if system not in SYSTEMS:
        raise CaptionlabError(f"{row!r} cannot be tuned; name a system and its configuration, such as baseline.lite0")
    params.system(system, config)
    space = read_ranges(ranges, row)
    for keys, distribution in space.items():
        for value in corners(distribution):
            one = changed(params, system, config, {keys: value}).system(system, config)
            open_store(root / FEATURES / one.encoder)
    if sampler == "grid":
        points = grid(space)[:trials]
    else:
        points = draw(space, params.training_of(params.system(system, config)).seed, trials or TRIALS)
    search = Search(
        root=root, params=params, system=system, config=config, sampler=sampler, space=space, trials=len(points)
    )
    study = _open(search)
    with search.lock():
        for point in points[len(study.get_trials(deepcopy=False)) :]:
            study.enqueue_trial(dict(point))
    left = sum(not trial.state.is_finished() for trial in _trials(search, study))
    if min(workers, left) <= 1:
        _work(search, study)
    else:
        _start_workers(search, study, min(workers, left))
    finished = _trials(search, study)
    _publish(search, study, finished)
    return _found(search, study, finished)


def lines(found: Mapping[str, Any]) -> list[str]:
    """The trials as a table, best first, and the command that trains the best one."""
    order = {"complete": 0, "pruned": 1}
    rows = sorted(found["trials"], key=lambda t: (order.get(t["state"], 2), t["validation_loss"] or 0, t["trial"]))
    table = [["trial", "state", "epochs", "validation loss", *found["ranges"]]]
    for row in rows:
        loss = "" if row["validation_loss"] is None else f"{row['validation_loss']:.4f}"
        values = [str(row["values"].get(keys, "")) for keys in found["ranges"]]
        table.append([str(row["trial"]), row["state"], str(row["epochs"] or ""), loss, *values])
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    best = found["best"]
    unfinished = sum(row["state"] in ("running", "waiting") for row in rows)
    return [
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in table),
        *(f"trial {row['trial']} failed: {row['error']}" for row in rows if row["error"]),
        *([f"{unfinished} trials are still running in another process"] if unfinished else []),
        f"best is trial {best['trial']}: validation loss {best['validation_loss']:.4f}; to train and compare it:",
        found["command"],
    ]


def _open(search: Search) -> optuna.Study:
    training = search.params.training_of(search.params.system(search.system, search.config))
    pruner: optuna.pruners.BasePruner = optuna.pruners.NopPruner()
    if search.sampler == "hyperband":
        pruner = optuna.pruners.HyperbandPruner(max_resource=training.epochs, reduction_factor=FACTOR)
    with search.lock():
        return optuna.create_study(
            storage=_storage(search), study_name=search.study_name(), sampler=optuna.samplers.RandomSampler(),
            pruner=pruner, load_if_exists=True,
        )  # fmt: skip


def _storage(search: Search) -> optuna.storages.RDBStorage:
    from sqlalchemy.exc import SQLAlchemyError

    path = search.root / DATABASE
    try:
        return optuna.storages.RDBStorage(
            f"sqlite:///{path.as_posix()}", engine_kwargs={"connect_args": {"timeout": LOCK_SECONDS}}
        )
    except (SQLAlchemyError, optuna.exceptions.StorageInternalError, RuntimeError) as error:
        said = one_line(error)[:200]
        raise CaptionlabError(f"{path} cannot be used ({said}); move it away to start a new one") from error


def _trials(search: Search, study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False)[: search.trials]


def _start_workers(search: Search, study: optuna.Study, workers: int) -> None:
    """Run the trials in several processes that share the cores; the others take over the trial of a killed one.

    If no other is left, this process does.
    """
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // workers)
    processes = [context.Process(target=_worker, args=(search, threads), daemon=True) for _ in range(workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode and process.exitcode < 0 for process in processes):  # killed by a signal
        _work(search, study)


def _worker(search: Search, threads: int) -> None:
    """The main function of a worker process."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    torch.set_num_threads(threads)
    try:
        _work(search, _open(search))
    except CaptionlabError as error:
        print(f"captionlab: a worker ended: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _work(search: Search, study: optuna.Study) -> None:
    while claimed := _claim(search, study):
        trial, lock = claimed
        try:
            _run(search, study, trial)
        finally:
            lock.release()


def _claim(search: Search, study: optuna.Study) -> tuple[optuna.Trial, FileLock] | None:
    """Claim the first trial that no process has locked; interrupted trials come before new ones."""
    with search.lock():
        for trial in _trials(search, study):
            if trial.state == TrialState.RUNNING and _is_free(search.unfinished(study, trial.number, "lock")):
                _requeue(search, study, trial)
        for waiting in _trials(search, study):
            if waiting.state == TrialState.WAITING:
                path = search.unfinished(study, waiting.number, "lock")
                path.parent.mkdir(parents=True, exist_ok=True)
                lock = FileLock(path)
                lock.acquire()
                return study.ask(search.space), lock  # ask() returns the first waiting trial
        return None


def _is_free(path: Path) -> bool:
    try:
        with FileLock(path, timeout=0):
            return True
    except Timeout:
        return False


def _requeue(search: Search, study: optuna.Study, trial: FrozenTrial) -> None:
    """Enqueue the trial again under its number, which determines its Hyperband bracket."""
    storage = _storage(search)
    number = storage.get_trial_id_from_study_id_trial_number(
        storage.get_study_id_from_name(study.study_name), trial.number
    )
    storage.set_trial_state_values(number, TrialState.WAITING)


def _run(search: Search, study: optuna.Study, trial: optuna.Trial) -> None:
    """Train one trial and report the result to the study. An OSError such as a full disk ends the worker instead."""
    try:
        params = changed(search.params, search.system, search.config, trial.params)
    except CaptionlabError as error:  # values that do not go together
        trial.set_user_attr("error", str(error))
        study.tell(trial, None, TrialState.FAIL)
        return
    config = params.system(search.system, search.config)
    training = params.training_of(config)
    values = ", ".join(f"{keys}={value}" for keys, value in trial.params.items())
    reported = _trials(search, study)[trial.number].last_step or 0  # epochs reported before the trial was killed
    history: list[dict[str, float]] = []
    resume = search.unfinished(study, trial.number, "pt")

    def on_epoch(epoch: Epoch) -> None:
        parent = multiprocessing.parent_process()
        if parent and not parent.is_alive():
            raise KeyboardInterrupt  # the parent process has ended
        history.append(epoch.rounded())
        tracker.log_epoch(epoch.epoch, {**_figures(history[-1]), "best_val_loss": _best_loss(history)})
        print(
            f"trial {trial.number} ({values}) epoch {epoch.epoch}/{training.epochs}: validation {epoch.val_loss:.3f}",
            file=sys.stderr, flush=True,
        )  # fmt: skip
        if epoch.epoch > reported:
            trial.report(epoch.val_loss, epoch.epoch)
        if epoch.epoch < training.epochs and trial.should_prune():
            raise runs.Pruned

    state, value = TrialState.COMPLETE, None
    try:
        with runs.open_tracker(
            search.root, search.experiment,
            runs.Start(
                name=f"{search.row} {trial.number}", training_key=_key(study, trial.number),
                params=settings_of(config, training), tags=_tags(search, study, trial.number, config.encoder),
                dataset=dataset_of(search.root, search.params.dataset.source),
            ),
        ) as tracker:  # fmt: skip
            material = Material.of(search.root, config)
            device = choose_device(params.device)
            model = fresh_model(config, training, material, f"{search.row}, trial {trial.number},", device)
            train(
                model.to(device), Splits(material.train_set, material.val_set), training,
                resume_file=ResumeFile(resume, _key(study, trial.number)), on_epoch=on_epoch,
            )  # fmt: skip
        value = _best_loss(history)
    except runs.Pruned:
        state = TrialState.PRUNED
    except CaptionlabError as error:
        if isinstance(error.__cause__, OSError):
            raise
        state = TrialState.FAIL
        trial.set_user_attr("error", str(error))
    trial.set_user_attr("history", history)
    study.tell(trial, value, state)
    resume.unlink(missing_ok=True)


def _figures(row: Mapping[str, float]) -> dict[str, float]:
    return {key: value for key, value in row.items() if key != "epoch"}


def _best_loss(history: Sequence[Mapping[str, float]]) -> float:
    return min(row["val_loss"] for row in history)


def _key(study: optuna.Study, number: int) -> str:
    """The key of a trial in MLflow and in its saved state."""
    return digest_of([study.study_name, number])


def _tags(search: Search, study: optuna.Study, number: int, encoder: str) -> dict[str, str]:
    return {
        "system": search.system, "configuration": search.config, "encoder": encoder,
        "dataset": search.params.dataset.name, "sampler": search.sampler, "study": study.study_name,
        "trial": str(number),
    }  # fmt: skip


def _publish(search: Search, study: optuna.Study, trials: Sequence[FrozenTrial]) -> None:
    """Publish the finished trials that are missing or incomplete in MLflow; only warns if MLflow is unavailable."""
    results = []
    for trial in trials:
        history = trial.user_attrs.get("history")
        if trial.state not in (TrialState.COMPLETE, TrialState.PRUNED) or not history:
            continue
        params = changed(search.params, search.system, search.config, trial.params)
        config = params.system(search.system, search.config)
        key, pruned = _key(study, trial.number), trial.state == TrialState.PRUNED
        results.append(
            runs.Result(
                name=f"{search.row} {trial.number}",
                training_key=key,
                result_key=digest_of([key, history]),
                params=settings_of(config, params.training_of(config)),
                history=history,
                metrics={"best_val_loss": _best_loss(history), "epochs": len(history)},
                tags={
                    **_tags(search, study, trial.number, config.encoder),
                    **({runs.PRUNED: "true"} if pruned else {}),
                },
                dataset=dataset_of(search.root, search.params.dataset.source),
                files=[],
                texts={},
                status="KILLED" if pruned else "FINISHED",
            )
        )
    shown = [f"params.{key}" for keys in search.space for key in keys.split(",")]
    try:
        runs.publish(search.root, search.experiment, results, ["metrics.best_val_loss", "metrics.epochs", *shown])
    except TrackingError as error:
        print(f"warning: {error}; the same command publishes the trials later", file=sys.stderr)


def _found(search: Search, study: optuna.Study, trials: Sequence[FrozenTrial]) -> dict[str, Any]:
    rows: list[dict[str, Any]] = [
        {
            "trial": trial.number,
            "state": trial.state.name.lower(),
            "validation_loss": trial.value,
            "epochs": len(trial.intermediate_values),
            "values": trial.params,
            "error": trial.user_attrs.get("error"),
        }
        for trial in trials
    ]
    left = sum(row["state"] == "waiting" for row in rows)
    if left:
        raise CaptionlabError(
            f"{left} of {len(rows)} trials have not run, because their workers ended; run the command again"
        )
    complete = [row for row in rows if row["state"] == "complete"]
    if not complete:
        errors = [row["error"] for row in rows if row["error"]]
        raise CaptionlabError(f"no trial is complete; the first error: {errors[0] if errors else 'still running'}")
    best = min(complete, key=lambda row: (row["validation_loss"], row["trial"]))
    best_overrides = overrides(search.root / "params.yaml", search.row, best["values"])
    return {
        "study": study.study_name,
        "ranges": list(search.space),
        "trials": rows,
        "best": best,
        "overrides": best_overrides,
        "command": " ".join(["dvc exp run", *(f"-S {shlex.quote(override)}" for override in best_overrides)]),
    }
