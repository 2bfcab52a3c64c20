"""captionlab tune on a tiny tree, with a SQLite study, MLflow runs and killed processes."""

import contextlib
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
import pytest
from mlflow import MlflowClient

from builders import write_params, write_tree
from captionlab.config import load_params
from captionlab.errors import CaptionlabError
from captionlab.tuning import search as searching
from captionlab.tuning.ranges import draw, overrides, read_ranges
from captionlab.tuning.search import Sampler, lines, tune
from servers import wait_until

if TYPE_CHECKING:
    from conftest import World

HIDDEN = "hidden=4,8,12"
OPTIMIZER = "training.optimizer=adam,rmsprop"
RATE = "training.learning_rate=0.0001..0.1:log"


@pytest.fixture(scope="module", autouse=True)
def _one_database(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        database = shutil.copy(empty_database, tmp_path_factory.mktemp("mlflow"))
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{database}")
        yield


@pytest.fixture
def root(tmp_path: Path, world: "World") -> Path:
    write_tree(tmp_path, world)
    return write_params(
        tmp_path, {"tiny": 2}, {"epochs": 5, "patience": 9, "batch_size": 2}, name=tmp_path.name,
        baseline={"tiny": {"encoder": "tiny", "embedding": 8, "hidden": 8, "layers": 1, "dropout": 0.1}},
    )  # fmt: skip


Find = Callable[..., dict[str, Any]]


@pytest.fixture
def find(root: Path) -> Find:
    def search(
        sampler: Sampler, *ranges: str, trials: int | None = None, row: str = "baseline.tiny", workers: int = 1
    ) -> dict[str, Any]:
        return tune(root, row, sampler, ranges, trials, workers)

    return search


def values(found: dict[str, Any]) -> list[tuple[Any, ...]]:
    return [tuple(trial["values"].values()) for trial in found["trials"]]


def figures(found: dict[str, Any]) -> list[Any]:
    return [(t["trial"], t["state"], t["epochs"], t["validation_loss"], t["values"]) for t in found["trials"]]


def runs(root: Path) -> list[Any]:
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name(f"captionlab/{root.name}/tune")
    assert experiment is not None
    return sorted(client.search_runs([experiment.experiment_id]), key=lambda run: int(run.data.tags["trial"]))


@contextlib.contextmanager
def begin(root: Path, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """A search in a process of its own, which is killed at the end of the block, with its workers."""
    command = [sys.executable, "-m", "captionlab.cli", "tune", "baseline.tiny", *arguments, "--json"]
    with (
        (root / "said").open("w") as said,
        subprocess.Popen(
            command, cwd=root, stdout=subprocess.PIPE, stderr=said, text=True, start_new_session=True
        ) as process,
    ):
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def said(root: Path) -> str:
    return (root / "said").read_text()


@pytest.mark.slow
def test_a_grid_tries_every_point_and_prints_the_best_command(root: Path, find: Find) -> None:
    found = find("grid", HIDDEN, OPTIMIZER)
    assert values(found) == list(itertools.product((4, 8, 12), ("adam", "rmsprop")))
    assert {trial["state"] for trial in found["trials"]} == {"complete"}
    assert found["best"]["validation_loss"] == min(trial["validation_loss"] for trial in found["trials"])
    before = (root / "tune.db").stat().st_mtime_ns
    assert find("grid", HIDDEN, OPTIMIZER) == found
    assert (root / "tune.db").stat().st_mtime_ns == before, "a completed search changes nothing"
    assert not (root / "artifacts/models").exists()
    assert not list((root / ".resume").rglob("*.pt"))
    *_, said, command = lines(found)
    assert f"best is trial {found['best']['trial']}" in said
    assert shlex.split(command)[:3] == ["dvc", "exp", "run"]
    of_each = runs(root)
    assert [run.info.status for run in of_each] == ["FINISHED"] * 6
    for run, trial in zip(of_each, found["trials"], strict=True):
        assert run.data.metrics["best_val_loss"] == pytest.approx(trial["validation_loss"], abs=1e-6)
        assert run.data.params["hidden"] == str(trial["values"]["hidden"])


def test_overrides_give_dvc_the_same_parameters(root: Path) -> None:
    from dvc.utils.hydra import apply_overrides

    point = {"embedding,hidden": 12, "training.learning_rate": 1e-05, "training.optimizer": "rmsprop", "image": "merge"}
    apply_overrides(root / "params.yaml", overrides(root / "params.yaml", "baseline.tiny", point))
    params = load_params(root / "params.yaml")
    config = params.baseline["tiny"]
    training = params.training_of(config)
    assert (config.embedding, config.hidden, config.image) == (12, 12, "merge")
    assert (training.learning_rate, training.optimizer) == (1e-05, "rmsprop")
    assert params.training.optimizer == "adamw", "other systems train as before"


@pytest.mark.slow
def test_hyperband_prunes_and_logs_to_mlflow(root: Path, find: Find) -> None:
    found = find("hyperband", RATE, trials=8)
    states = Counter(trial["state"] for trial in found["trials"])
    assert states.keys() == {"complete", "pruned"}
    assert all(trial["epochs"] == 1 for trial in found["trials"] if trial["state"] == "pruned")
    assert all(trial["epochs"] == 5 for trial in found["trials"] if trial["state"] == "complete")
    for run, trial in zip(runs(root), found["trials"], strict=True):
        pruned = trial["state"] == "pruned"
        assert run.info.status == ("KILLED" if pruned else "FINISHED")
        assert run.data.tags.get("captionlab.pruned") == ("true" if pruned else None)


@pytest.mark.slow
def test_a_higher_total_continues_and_a_lower_one_does_nothing(find: Find) -> None:
    three, five = find("random", RATE, trials=3), find("random", RATE, trials=5)
    assert figures(five)[:3] == figures(three)
    assert len(set(values(five))) == 5
    assert figures(find("random", RATE, trials=3)) == figures(three)


def test_sampled_points_are_distinct() -> None:
    space = read_ranges(["hidden=1,2", "layers=1..3"], "baseline.tiny")
    points = [tuple(point.values()) for point in draw(space, 1, 50)]
    assert sorted(points) == sorted(itertools.product((1, 2), (1, 2, 3)))
    assert [tuple(point.values()) for point in draw(space, 1, 4)] == points[:4]
    assert read_ranges(["baseline.tiny.hidden=1,2"], "baseline.tiny").keys() == {"hidden"}
    assert read_ranges([], "baseline.tiny").keys() == {"embedding,hidden", "training.optimizer"}


@pytest.mark.slow
@pytest.mark.parametrize("sampler", ["random", "hyperband"])
def test_a_search_killed_in_a_trial_resumes_to_the_same_result(
    root: Path, find: Find, sampler: Sampler, capsys: pytest.CaptureFixture[str]
) -> None:
    with begin(root, "--sampler", sampler, "--trials", "5", "--range", RATE) as process:
        wait_until(lambda: list((root / ".resume/tune").glob("*.1.pt")))
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
    assert "A new study" not in said(root), "Optuna's own messages are left out"
    (name,) = optuna.get_all_study_names(f"sqlite:///{root / 'tune.db'}")
    study = optuna.load_study(study_name=name, storage=f"sqlite:///{root / 'tune.db'}")
    assert [trial.state.name for trial in study.trials[:3]] == [study.trials[0].state.name, "RUNNING", "WAITING"]
    found = find(sampler, RATE, trials=5)
    printed = capsys.readouterr().err
    assert "trial 2 " in printed
    assert "trial 0 " not in printed, "a completed trial is not repeated"
    (root / "tune.db").unlink()
    shutil.rmtree(root / ".resume")
    unbroken = find(sampler, RATE, trials=5)
    assert figures(found) == figures(unbroken)
    assert found["best"] == unbroken["best"]
    assert [run.info.status for run in runs(root)].count("RUNNING") == 0


@pytest.mark.slow
@pytest.mark.parametrize("last", [False, True])
def test_workers_share_the_trials_even_if_one_is_killed(root: Path, find: Find, last: bool) -> None:
    """Also the ``last`` one, when the other has nothing left to do."""
    with begin(root, "--sampler", "grid", "--workers", "2", "--range", HIDDEN, "--range", OPTIMIZER) as process:
        wait_until(lambda: "trial 1 " in said(root))
        one, _ = children(process.pid)
        if last:
            freeze(one, until=lambda: children(process.pid) == [one])
        os.kill(one, signal.SIGKILL)
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0, said(root)
    found = json.loads(out)
    assert values(found) == list(itertools.product((4, 8, 12), ("adam", "rmsprop")))
    epochs = Counter(re.findall(r"^trial (\d+) .* epoch (\d+)/", said(root), re.MULTILINE))
    assert {trial for trial, _ in epochs} == set("012345")
    assert max(epochs.values()) <= 2, "only the trial of the killed worker is repeated"
    (root / "tune.db").unlink()
    assert figures(find("grid", HIDDEN, OPTIMIZER)) == figures(found)


def freeze(worker: int, until: Callable[[], bool]) -> None:
    """Stop a worker until the other has ended; at a later moment if it holds a lock that the other waits for."""
    for _ in range(5):
        os.kill(worker, signal.SIGSTOP)
        try:
            return wait_until(until, seconds=40)
        except TimeoutError:
            os.kill(worker, signal.SIGCONT)
            time.sleep(0.05)
    raise TimeoutError("the other worker does not end")


def children(parent: int) -> list[int]:
    """The spawned worker processes, found by the name that multiprocessing gives them."""
    listed = subprocess.run(["ps", "-wweo", "pid=,ppid=,args="], capture_output=True, text=True, check=True).stdout
    rows = (line.split(None, 2) for line in listed.splitlines())
    return [int(pid) for pid, ppid, command in rows if int(ppid) == parent and "spawn_main" in command]


def test_an_unavailable_server_is_a_warning_and_gets_the_trials_later(
    root: Path, find: Find, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        found = find("random", RATE, trials=2)
    assert len(found["trials"]) == 2
    assert "warning: MLflow at http://127.0.0.1:9 cannot be used" in capsys.readouterr().err
    find("random", RATE, trials=2)
    assert [run.info.status for run in runs(root)] == ["FINISHED", "FINISHED"]


def test_a_failed_trial_does_not_stop_the_others(root: Path, find: Find) -> None:
    found = find("grid", "hidden=8,4000")
    assert [trial["state"] for trial in found["trials"]] == ["complete", "fail"]
    assert "more than training.max_megabytes" in found["trials"][1]["error"]
    assert any(line.startswith("trial 1 failed: baseline.tiny, trial 1, has ") for line in lines(found))
    with pytest.raises(CaptionlabError, match=r"no trial is complete; the first error: .*max_megabytes"):
        find("grid", "hidden=4000,5000")


def test_values_that_do_not_go_together_fail_their_trial_alone(root: Path, find: Find) -> None:
    """Each of them is possible with the other values of params.yaml."""
    own = {"encoder": "tiny", "embedding": 8, "hidden": 8, "layers": 1, "dropout": 0.1, "attention": 6, "memory": 0}
    write_params(
        root, {"tiny": 2}, {"epochs": 1}, name=root.name,
        attention={"tiny": own | {"teacher_forcing": True, "tied": False}},
    )  # fmt: skip
    ranges = ("teacher_forcing=true,false", "training.scheduled_sampling=0,0.2")
    for _ in range(2):  # the second call finds all trials finished
        found = find("grid", *ranges, row="attention.tiny")
        assert Counter(trial["state"] for trial in found["trials"]) == {"complete": 3, "fail": 1}
        (error,) = (trial["error"] for trial in found["trials"] if trial["state"] == "fail")
        assert "training.scheduled_sampling needs teacher_forcing: true" in error


@pytest.mark.parametrize(("row", "sampler", "ranges", "message"), [
    ("baseline", "grid", [], "baseline has no configuration ''"),
    ("ensemble.both", "grid", [], "'ensemble.both' cannot be tuned; name a system and its configuration"),
    ("baseline.lite9", "grid", [], "baseline has no configuration 'lite9'; params.yaml has tiny"),
    ("baseline.tiny", "grid", ["hiden=1,2"], "unknown key baseline.hiden; known: encoder, embedding, hidden"),
    ("baseline.tiny", "grid", ["training.rate=1,2"], "unknown key baseline.tiny.training.rate"),
    ("baseline.tiny", "grid", ["hidden=4,x"], "baseline.hidden must be an integer, not 'x'"),
    ("baseline.tiny", "random", ["hidden=1..2.5"], "baseline.hidden must be an integer, not 1.0"),
    ("baseline.tiny", "random", ["hidden=0..8"], "baseline.hidden must be at least 1, not 0"),
    ("baseline.tiny", "random", ["dropout=0.5..0.2"], "must have two numbers, the lower first"),
    ("baseline.tiny", "random", ["dropout=0..0.2:log"], "above zero with :log"),
    ("baseline.tiny", "random", ["dropout=a..b"], "must have two numbers"),
    ("baseline.tiny", "random", ["hidden"], "invalid --range 'hidden'; write KEY=VALUE,VALUE or KEY=LOW..HIGH"),
    ("baseline.tiny", "random", ["hidden=4,[8"], "'\\[8' is not a valid value in params.yaml"),
    ("baseline.tiny", "random", ["hidden=4,4"], "has a value twice"),
    ("baseline.tiny", "random", ["hidden=4,8", "embedding,hidden=4,8"], "hidden has two ranges"),
    ("baseline.tiny", "grid", ["dropout=0.1..0.2"], "a grid needs values instead of bounds"),
    ("baseline.tiny", "random", ["encoder=tiny,vgg16"], "'vgg16' is not in extract_features.encoders"),
])  # fmt: skip
def test_an_invalid_search_is_one_error_line(
    root: Path, find: Find, row: str, sampler: Sampler, ranges: Sequence[str], message: str
) -> None:
    with pytest.raises(CaptionlabError, match=message) as caught:
        find(sampler, *ranges, row=row)
    assert "\n" not in str(caught.value)
    assert not (root / "tune.db").exists()


def test_a_damaged_database_is_one_error_line(root: Path, find: Find) -> None:
    (root / "tune.db").write_text("no database at all, but long enough to look at" * 100)
    with pytest.raises(CaptionlabError, match=r"tune\.db cannot be used \(.*\); move it away"):
        find("random", RATE, trials=1)


def test_a_lock_that_another_process_keeps_is_one_error_line(
    root: Path, find: Find, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "LOCK_SECONDS", 0.1)
    holder = (
        "import sys, time; from filelock import FileLock\n"
        "with FileLock(sys.argv[1]): print('held', flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", holder, str(root / "tune.db.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(
            CaptionlabError, match=r"tune\.db\.lock stayed locked for 0\.1 s; end the process that hold"
        ):
            find("random", RATE, trials=1)
        process.kill()
    assert len(find("random", RATE, trials=1)["trials"]) == 1


def test_missing_optuna_is_reported_with_the_package_to_install(root: Path) -> None:
    script = (
        "import sys; sys.modules['optuna'] = None; from captionlab.cli import main\n"
        "sys.argv = ['captionlab', 'tune', 'baseline.tiny']; main()"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "captionlab: captionlab tune needs Optuna: pip install 'captionlab[tune]'\n"
