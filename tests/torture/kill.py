"""SIGKILL at points spread over every stage: after a time, or just before a file operation."""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torture.project import Ended, Project, Stage, import_stages
from torture.tally import Tally

PART = "Killed at many points"
_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink"}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
SHORT = ("download", "clean_captions", "extract_features", "train_baseline")  # stages up to the last of these run


def kill_anywhere(folder: Path, points: int, *, short: bool) -> list[Tally]:
    """Kill each stage at several points and run it again; without ``short``, also check DVC and ``track``."""
    import_stages()
    project = Project(folder / "killed")
    if not short:
        project.repository.run("dvc", "repro")
        project.repository.commit("results")
    tallies = []
    for stage in project.upto(SHORT[-1]) if short else project.stages:
        if stage == ("track",):
            tallies += [] if short else [_kill_track(project, points)]
        else:
            tries = points if not short or stage[0] in SHORT else 0
            tallies += _kill_stage(project, stage, tries)
            print(f"killed {' '.join(stage)}", file=sys.stderr, flush=True)
    if not short:
        tally = Tally(part=PART, fault="`dvc status` afterwards")
        said = project.repository.run("dvc", "status")
        changed = [
            line for line in said.splitlines() if line and not line.startswith((" ", "\t", "check_params", "track"))
        ]
        tally.check(not [line for line in changed if "up to date" not in line], f"dvc status says {said!r}")
        tally.check(project.repository.run("git", "status", "--porcelain") == "", "git status is not clean")
        tallies.append(tally)
    return tallies


def _kill_stage(project: Project, stage: Stage, points: int) -> list[Tally]:
    project.clear(stage)
    seconds, operations = _measure(project, stage)
    expected, files = project.outs(stage), project.files()
    if not points:
        return []
    tally = Tally(part=PART, fault=" ".join(stage))
    left = 0
    for point in range(points):
        if point // 2 % 2 == 0:  # as DVC does; the others overwrite the results of an earlier run
            project.clear(stage)
        where, killed = _killed(project, stage, point, points, seconds, operations)
        if killed.code is not None:
            tally.lost.append(f"{where}: not killed, ended with {killed.code}: {killed.output[-200:]}")
            tally.tried += 1
            continue
        incomplete = [name for name, digest in project.outs(stage).items() if expected.get(name) != digest]
        left = max(left, len(project.files() - files))
        again = project.run(stage)
        remaining = sorted(project.files() - files)
        different = [name for name in expected if project.outs(stage).get(name) != expected[name]]
        faults = [f"incomplete file {incomplete}" * bool(incomplete), f"left over {remaining}" * bool(remaining)]
        faults += [f"other bytes in {different}" * bool(different), f"then: {again.output[-300:]}" * (again.code != 0)]
        tally.check(not any(faults), f"{where}: {'; '.join(filter(None, faults))}")
        for name in remaining:
            (project.folder / name).unlink()
    tally.note = (
        f"{seconds:.2g} s, {operations} file operations; at most {left} temporary files, removed by the next run"
    )
    return [tally]


def _killed(
    project: Project, stage: Stage, point: int, points: int, seconds: float, operations: int
) -> tuple[str, Ended]:
    """Kill the stage: even points before a file operation, odd points after a time."""
    share = (point + 0.5) / points
    if point % 2 == 0:
        number = int(share * operations)
        return f"before operation {number}", project.run(stage, prepare=lambda: _on_operation(number, _die))
    for _ in range(8):  # a run faster than the measured one ends before the kill
        ended = project.run(stage, kill_after=share * seconds)
        if ended.code is None:
            break
        share *= 0.8
        if point // 2 % 2 == 0:
            project.clear(stage)
    return f"after {share:.0%}", ended


def _measure(project: Project, stage: Stage) -> tuple[float, int]:
    """Seconds and number of file operations of an undisturbed run."""
    counter = project.folder.with_name("operations")
    counter.write_bytes(b"")

    def count() -> None:
        _watch(lambda: os.write(out, b"."))
        out = os.open(counter, os.O_WRONLY | os.O_APPEND)

    ended = project.run(stage, prepare=count)
    if ended.code != 0:
        raise RuntimeError(f"{' '.join(stage)} ended with {ended.code}: {ended.output}")
    operations = counter.stat().st_size
    if not operations:
        raise RuntimeError(f"the file operations of {' '.join(stage)} are not seen: it runs in another process")
    return ended.seconds, operations


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _on_operation(number: int, act: Callable[[], object]) -> None:
    """Call ``act`` just before the file operation with this number, counted from 0."""
    seen = 0

    def count() -> None:
        nonlocal seen
        if seen == number:
            act()
        seen += 1

    _watch(count)


def _watch(act: Callable[[], object]) -> None:
    """Call ``act`` before each file is opened for writing, renamed or removed in the working directory."""
    folder = os.getcwd()

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _CHANGES or (event == "open" and isinstance(args[2], int) and args[2] & _WRITES):
            name = os.fspath(args[0]) if isinstance(args[0], str | os.PathLike) else ""
            if (
                isinstance(name, str)
                and name
                and (name.startswith(folder) or not os.path.isabs(name))
                and "mlflow" not in name
            ):
                act()

    sys.addaudithook(hook)


def _kill_track(project: Project, points: int) -> Tally:
    """Kill ``track`` and run it again; then every system has one MLflow run and the model one version."""
    tally = Tally(part=PART, fault="track")
    database, artifacts = project.folder / "mlflow.db", project.folder / "mlartifacts"
    for path in (database, artifacts):
        path.rename(path.with_name(f"{path.name}.full"))
    for system in ("baseline", "modified", "attention"):
        project.run_checked((f"train_{system}", "tiny"))  # so that MLflow has their runs, as after a training
    before = project.folder.with_name("before_track")
    swap_mlflow(project.folder, before, keep=True)
    ended = project.run_checked(("track",))
    once = {name: len(tags) for name, tags in project.repository.mlflow_runs().items()}
    for point in range(points):
        swap_mlflow(project.folder, before)
        killed = project.run(("track",), kill_after=(point + 0.5) / points * ended.seconds)
        again = project.run(("track",))
        found = {name: len(tags) for name, tags in project.repository.mlflow_runs().items()}
        ok = again.code == 0 and found == once and set(found.values()) == {1} and "version 1 " in again.output
        tally.check(ok, f"point {point} (killed: {killed.code is None}): {found}; {again.output[-300:]}")
    tally.note = f"{ended.seconds:.2g} s; one run per system and one model version each time"
    for path in (database, artifacts):
        shutil.rmtree(path, ignore_errors=True)
        path.unlink(missing_ok=True)
        path.with_name(f"{path.name}.full").rename(path)
    return tally


def swap_mlflow(folder: Path, kept: Path, *, keep: bool = False) -> None:
    """Restore a project's MLflow files from a copy; with ``keep``, make the copy."""
    source, target = (folder, kept) if keep else (kept, folder)
    for path in [*target.glob("mlflow.db*"), target / "mlartifacts"]:
        if not path.name.endswith(".full"):
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    target.mkdir(exist_ok=True)
    for path in source.glob("mlflow.db*"):
        if not path.name.endswith(".full"):
            shutil.copy(path, target / path.name)
    if (source / "mlartifacts").exists():
        shutil.copytree(source / "mlartifacts", target / "mlartifacts")
