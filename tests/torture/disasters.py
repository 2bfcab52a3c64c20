"""Faults of the machine: a full disk, a read-only folder, a clock that jumps."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torture.caches import caches
from torture.project import Project, Stage, warm
from torture.tally import Tally

PART = "Full disks, clocks, caches"
_ROOM = 64 << 20  # what a stage of the small project may write and more
SHORT = ("clean_captions", "extract_features", "train_baseline")
_JUMPS = (10 * 365 * 86_400.0, -10 * 365 * 86_400.0)


def disasters(folder: Path, points: int, *, short: bool) -> list[Tally]:
    """Each stage on a disk that fills up at several points and on one that is read-only, and with a jumping clock."""
    warm()
    disk = folder / "disk"
    disk.mkdir()
    with _small_disk(disk) as mounted:
        project = Project(disk / "project")
        stages = project.upto(SHORT[-1]) if short else project.stages
        for stage in stages:
            project.whole(stage)
        kept = Tally(part=PART, fault="clock jumps ten years during a stage")
        full = Tally(part=PART, fault="disk full during a stage")
        sealed = Tally(part=PART, fault="read-only disk")
        for stage in stages:
            if short and stage[0] not in SHORT:
                continue
            whole = project.outs(stage)
            for jump in _JUMPS[: 1 if short else 2]:
                project.clear(stage)
                ended = project.run(stage, prepare=lambda jump=jump: _jump(jump))  # type: ignore[misc]
                kept.check(
                    ended.code == 0 and project.outs(stage) == whole, f"{stage} {jump:+g} s: {ended.said[-300:]}"
                )
            if mounted and stage != ("track",):  # its database is MLflow's, and its failure is a line, not an error
                _fill(project, stage, whole, disk, points, full)
                _seal(project, stage, whole, disk, sealed)
    for tally in (full, sealed):
        if not tally.tried:
            tally.note = "not tried: mounting a small disk needs root"
    return [full, sealed, kept, *caches(folder, PART, short=short)]


@contextmanager
def _small_disk(disk: Path) -> Iterator[bool]:
    """A file system of its own, or a plain folder if none can be mounted."""
    command = ["mount", "-t", "tmpfs", "-o", "size=512m", "tmpfs", str(disk)]
    mounted = not os.geteuid() and not subprocess.run(command, capture_output=True).returncode
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "-l", disk], check=True)


def _remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def _fill(project: Project, stage: Stage, whole: dict[str, str], disk: Path, points: int, tally: Tally) -> None:
    """Fill the disk after parts of what the stage writes; it must fail cleanly, and succeed when there is space."""
    size = sum((project.folder / name).stat().st_size for name in whole)
    for point in range(points):
        project.clear(stage)
        used = shutil.disk_usage(disk).used
        _remount(disk, f"size={used + int(size * (point + 0.5) / points) // 4096 * 4096}")
        ended = project.run(stage)
        torn = [name for name, digest in project.outs(stage).items() if whole.get(name) != digest]
        _remount(disk, f"size={used + size + _ROOM}")
        again = project.run(stage)
        right = again.code == 0 and project.outs(stage) == whole
        held = ended.refused and not torn and right
        tally.check(held, f"{stage}, point {point}: {ended.said[-300:]!r}, torn {torn}, then {again.said[-100:]!r}")


def _seal(project: Project, stage: Stage, whole: dict[str, str], disk: Path, tally: Tally) -> None:
    _remount(disk, "ro")
    ended = project.run(stage)
    _remount(disk, "rw")
    again = project.run(stage)
    held = ended.refused and again.code == 0 and project.outs(stage) == whole
    tally.check(held, f"{stage}: {ended.said[-300:]!r}, then {again.said[-100:]!r}")


def _jump(seconds: float) -> None:
    """In this process the clock jumps at its tenth reading and continues from there; monotonic clocks do not."""
    real, real_ns = time.time, time.time_ns
    looks = 0

    def off() -> float:
        nonlocal looks
        looks += 1
        return seconds if looks > 10 else 0.0

    time.time = lambda: real() + off()
    time.time_ns = lambda: real_ns() + int(1e9 * off())
