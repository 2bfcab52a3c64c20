"""Faults of the machine: a full disk, a read-only disk, clock jumps, damage to DVC's cache."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torture.caches import caches
from torture.project import Project, Stage, import_stages
from torture.tally import Tally

PART = "Full disks, clocks, caches"
_FREE_BYTES = 64 << 20  # more than a stage of the small project writes
SHORT = ("clean_captions", "extract_features", "train_baseline")
_JUMPS = (10 * 365 * 86_400.0, -10 * 365 * 86_400.0)


def disasters(folder: Path, points: int, *, short: bool) -> list[Tally]:
    """Run each stage on a disk that fills up at several points, on a read-only disk, and with a clock that jumps."""
    import_stages()
    disk = folder / "disk"
    disk.mkdir()
    with _small_disk(disk) as mounted:
        project = Project(disk / "project")
        stages = project.upto(SHORT[-1]) if short else project.stages
        for stage in stages:
            project.run_checked(stage)
        jumped = Tally(part=PART, fault="clock jumps ten years during a stage")
        full = Tally(part=PART, fault="disk full during a stage")
        read_only = Tally(part=PART, fault="read-only disk")
        for stage in stages:
            if short and stage[0] not in SHORT:
                continue
            expected = project.outs(stage)
            for jump in _JUMPS[: 1 if short else 2]:
                project.clear(stage)
                ended = project.run(stage, prepare=lambda jump=jump: _jump(jump))  # type: ignore[misc]
                jumped.check(
                    ended.code == 0 and project.outs(stage) == expected, f"{stage} {jump:+g} s: {ended.output[-300:]}"
                )
            if mounted and stage != ("track",):  # track only warns when MLflow's database cannot be written
                _run_on_full_disk(project, stage, expected, disk, points, full)
                _run_read_only(project, stage, expected, disk, read_only)
    for tally in (full, read_only):
        if not tally.tried:
            tally.note = "not tried: mounting a small disk needs root"
    return [full, read_only, jumped, *caches(folder, PART, short=short)]


@contextmanager
def _small_disk(disk: Path) -> Iterator[bool]:
    """Mount a small file system on ``disk`` if possible; yields whether it is mounted."""
    command = ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", str(disk)]
    mounted = not os.geteuid() and not subprocess.run(command, capture_output=True).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", disk], check=True)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def _run_on_full_disk(
    project: Project, stage: Stage, expected: dict[str, str], disk: Path, points: int, tally: Tally
) -> None:
    """Limit the free space to part of the stage's output: it must fail cleanly, and succeed with enough space."""
    size = sum((project.folder / name).stat().st_size for name in expected)
    for point in range(points):
        project.clear(stage)
        used = shutil.disk_usage(disk).used
        _remount(disk, f"size={used + int(size * (point + 0.5) / points) // 4096 * 4096}")
        ended = project.run(stage)
        incomplete = [name for name, digest in project.outs(stage).items() if expected.get(name) != digest]
        _remount(disk, f"size={used + size + _FREE_BYTES}")
        again = project.run(stage)
        recovered = again.code == 0 and project.outs(stage) == expected
        ok = ended.refused and not incomplete and recovered
        tally.check(
            ok,
            f"{stage}, point {point}: {ended.output[-300:]!r}, incomplete {incomplete}, then {again.output[-100:]!r}",
        )


def _run_read_only(project: Project, stage: Stage, expected: dict[str, str], disk: Path, tally: Tally) -> None:
    _remount(disk, "ro")
    ended = project.run(stage)
    _remount(disk, "rw")
    again = project.run(stage)
    ok = ended.refused and again.code == 0 and project.outs(stage) == expected
    tally.check(ok, f"{stage}: {ended.output[-300:]!r}, then {again.output[-100:]!r}")


def _jump(seconds: float) -> None:
    """Make the wall clock of this process jump after its tenth reading; monotonic clocks do not jump."""
    real, real_ns = time.time, time.time_ns
    readings = 0

    def offset() -> float:
        nonlocal readings
        readings += 1
        return seconds if readings > 10 else 0.0

    time.time = lambda: real() + offset()
    time.time_ns = lambda: real_ns() + int(1e9 * offset())
