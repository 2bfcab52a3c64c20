"""MLflow unavailable during training: no server, a server that never answers or is killed, a locked database.

The training must end with the same bytes, and ``track`` must publish every system once when MLflow is available again.
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
from torture.project import Project, import_stages
from torture.tally import Tally

PART = "MLflow unavailable"
MAX_DELAY = 60.0  # seconds that a training may take longer than with MLflow
TRACK = ("track",)


def away(folder: Path, points: int, *, short: bool) -> list[Tally]:
    """Run every training under each of these faults; the server is killed at several points of each training."""
    import_stages()
    project = Project(folder / "away")
    database = f"sqlite:///{project.folder / 'mlflow.db'}"
    # In a subprocess, because the stages are forked from this process, which must not open the database.
    subprocess.run([sys.executable, "-m", "mlflow", "db", "upgrade", database], check=True, capture_output=True)
    empty = folder / "empty"
    swap_mlflow(project.folder, empty, keep=True)
    seconds = {stage: project.run_checked(stage).seconds for stage in project.stages}
    trainings = [stage for stage in project.stages if stage[0].startswith("train_")][: 1 if short else None]
    expected = {stage: project.outs(stage) for stage in trainings}
    once = {name: 1 for name in project.repository.mlflow_runs()}

    def inject(
        fault: str, outage: Callable[[float], AbstractContextManager[str]], times: int = 1, restart: bool = False
    ) -> Tally:
        tally, max_delay = Tally(part=PART, fault=fault), 0.0
        for stage in trainings:
            for point in range(times):
                swap_mlflow(project.folder, empty)
                project.clear(stage)
                with outage((point + 0.5) / times * seconds[stage]) as uri:
                    ended = project.run(stage, prepare=partial(_use, uri))
                with _restarted(project, uri) if restart else nullcontext(""):
                    use_server = partial(_use, uri if restart else "")
                    published = [project.run(TRACK, prepare=use_server) for _ in range(2)]
                found = {name: len(tags) for name, tags in project.repository.mlflow_runs().items()}
                checks = {
                    "trained": ended.code == 0 and project.outs(stage) == expected[stage],
                    "in time": ended.seconds < seconds[stage] + MAX_DELAY,
                    "published once": found == once and f"{len(once)} already there" in published[1].output,
                }
                tally.check(
                    all(checks.values()),
                    f"{stage}, point {point}: {checks}; {ended.output[-300:]!r}; {published[0].output[-300:]!r}; "
                    f"{found}",
                )
                max_delay = max(max_delay, ended.seconds - seconds[stage])
        tally.note = f"a training takes up to {max_delay:.1f} s longer; `track` publishes each system once"
        return tally

    tallies = [inject("no server at the address", lambda _: nullcontext(f"http://127.0.0.1:{_free_port()}"))]
    if not short:
        tallies += [
            inject("a server that never answers", lambda _: _silent_server()),
            inject(
                "a server killed during a training", lambda after: _killed_server(project, after), points, restart=True
            ),
            inject("the database locked by another program", lambda _: _locked_database(project)),
        ]
    return tallies


def _use(uri: str) -> None:
    if uri:
        os.environ["MLFLOW_TRACKING_URI"] = uri


def _restarted(project: Project, uri: str) -> AbstractContextManager[object]:
    """Restart the server at its address, to which the stored runs refer."""
    return serving(project.folder, int(uri.rpartition(":")[2]))


def _free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return int(listener.getsockname()[1])


@contextmanager
def _silent_server() -> Iterator[str]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"


@contextmanager
def _locked_database(project: Project) -> Iterator[str]:
    with closing(sqlite3.connect(project.folder / "mlflow.db", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield ""


@contextmanager
def _killed_server(project: Project, after: float) -> Iterator[str]:
    port = _free_port()
    with serving(project.folder, port) as server:
        timer = threading.Timer(after, kill, [server])
        timer.start()
        yield f"http://127.0.0.1:{port}"
        timer.join()
