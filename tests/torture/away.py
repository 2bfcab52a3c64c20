"""MLflow unavailable during a training: no server, a server that never answers or dies, a locked database.

The training has to end with the same bytes, and ``track`` has to publish every system once when MLflow is
available again.
"""

import os
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path

from servers import kill, serving
from torture.kill import swap_mlflow
from torture.project import Project, warm
from torture.tally import Tally

PART = "MLflow away"
LONGEST = 60.0  # seconds that a training may take longer than with MLflow there
TRACK = ("track",)


def away(folder: Path, points: int, *, short: bool) -> list[Tally]:
    """Every training without MLflow, in each way; a server dies at several points of each."""
    warm()
    project = Project(folder / "away")
    database = f"sqlite:///{project.folder / 'mlflow.db'}"  # its tables are not made here: the stages are forks of this
    subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", database], check=True, capture_output=True)
    empty = folder / "empty"
    swap_mlflow(project.folder, empty, keep=True)
    seconds = {stage: project.whole(stage).seconds for stage in project.stages}
    trainings = [stage for stage in project.stages if stage[0].startswith("train_")][: 1 if short else None]
    whole = {stage: project.outs(stage) for stage in trainings}
    once = {name: 1 for name in project.repository.mlflow_runs()}

    def tried(
        fault: str, begin: Callable[[float], AbstractContextManager[str]], times: int = 1, restarts: bool = False
    ) -> Tally:
        tally, longest = Tally(part=PART, fault=fault), 0.0
        for stage in trainings:
            for point in range(times):
                swap_mlflow(project.folder, empty)
                project.clear(stage)
                with begin((point + 0.5) / times * seconds[stage]) as uri:
                    ended = project.run(stage, prepare=partial(_use, uri))
                with _back(project, uri) if restarts else nullcontext(""):
                    home = partial(_use, uri if restarts else "")
                    published = [project.run(("track",), prepare=home) for _ in range(2)]
                found = {name: len(tags) for name, tags in project.repository.mlflow_runs().items()}
                held = {
                    "trained": ended.code == 0 and project.outs(stage) == whole[stage],
                    "in time": ended.seconds < seconds[stage] + LONGEST,
                    "published once": found == once and f"{len(once)} already there" in published[1].said,
                }
                tally.check(
                    all(held.values()),
                    f"{stage}, point {point}: {held}; {ended.said[-300:]!r}; {published[0].said[-300:]!r}; {found}",
                )
                longest = max(longest, ended.seconds - seconds[stage])
        tally.note = f"a training takes up to {longest:.1f} s longer; `track` publishes each system once"
        return tally

    tallies = [tried("no server at the address", lambda _: nullcontext(f"http://127.0.0.1:{_free()}"))]
    if not short:
        tallies += [
            tried("a server that never answers", lambda _: _silent()),
            tried("a server killed during a training", lambda after: _dying(project, after), points, restarts=True),
            tried("the database locked by another program", lambda _: _locked(project)),
        ]
    return tallies


def _use(uri: str) -> None:
    if uri:
        os.environ["MLFLOW_TRACKING_URI"] = uri


def _back(project: Project, uri: str) -> AbstractContextManager[object]:
    """Start the server again at its former address, which the stored runs refer to."""
    return serving(project.folder, int(uri.rpartition(":")[2]))


def _free() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _silent() -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def _locked(project: Project) -> Iterator[str]:
    with closing(sqlite3.connect(project.folder / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield ""


@contextmanager
def _dying(project: Project, after: float) -> Iterator[str]:
    port = _free()
    with serving(project.folder, port) as server:
        timer = threading.Timer(after, kill, [server])
        timer.start()
        yield f"http://127.0.0.1:{port}"
        timer.join()
