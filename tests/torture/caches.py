"""Damage to DVC's cache and remote: the results are restored, or an error or `captionlab doctor` reports it."""

import hashlib
import shutil
from pathlib import Path

from torture.project import Project
from torture.tally import Tally

SHORT = "clean_captions"  # to this stage


def caches(folder: Path, part: str, *, short: bool) -> list[Tally]:
    """Delete the cache, flip one byte in it, use no remote; with the workspace's files and without."""
    project = Project(folder / "cached")
    target = (SHORT,) if short else ()
    run = project.repository.run
    run("dvc", "repro", *target)
    project.repository.commit("results")
    cache = project.folder / ".dvc/cache"
    stages = [stage for stage in (project.upto(SHORT) if short else project.stages) if project.outs(stage)]
    whole = {stage: project.outs(stage) for stage in stages}

    def right() -> bool:
        return all(project.outs(stage) == whole[stage] for stage in stages) and not run("git", "status", "--porcelain")

    gone = Tally(part=part, fault="DVC's cache deleted")
    shutil.rmtree(cache)
    run("dvc", "repro", *target)
    gone.check(right(), "results differ with the workspace still there")
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(project.folder / "artifacts")
    run("dvc", "repro", *target)
    gone.check(right(), "results differ with the workspace gone too")

    noticed = Tally(part=part, fault="one byte flipped in DVC's cache, in a writable file")
    for stage in stages if short else stages[:3] + stages[-2:]:
        name = next(name for name in whole[stage] if not name.endswith(".png"))
        _flip(cache, project.folder / name, 0o644)
        said = run("dvc", "repro", *target)
        noticed.check(right(), f"{name}: {said[-300:]}")

    trusted = Tally(part=part, fault="one byte flipped in DVC's cache, in a read-only file, as DVC leaves it")
    trusted.note = "DVC does not notice; `captionlab doctor --cache` reports the file, `dvc repro --force` recreates it"
    for without in (True,) if short else (False, True):
        (name,) = [name for name in whole[SHORT,] if name.endswith(".jsonl")]
        kept = _flip(cache, project.folder / name, 0o444)
        if without:
            shutil.rmtree(project.folder / "artifacts")
        run("dvc", "repro", *target)
        said = run("captionlab", "doctor", "--cache", ok=False)
        kept.unlink()
        run("dvc", "repro", "--force", *target)
        trusted.check(str(kept) in said and right(), f"{name}: {said[-300:]}")

    remote = Tally(part=part, fault="DVC's remote unreachable")
    run("dvc", "remote", "add", "--default", "away", "http://127.0.0.1:9/nothing")
    shutil.rmtree(cache)
    shutil.rmtree(project.folder / "artifacts")
    said = run("dvc", "pull", *target, ok=False)
    remote.check("Traceback" not in said and "ERROR" in said, f"dvc pull: {said[-300:]}")
    run("dvc", "repro", *target)
    run("git", "checkout", "-q", "--", ".dvc/config")
    remote.check(right(), "dvc repro gave other results")
    return [gone, noticed, trusted, remote]


def _flip(cache: Path, path: Path, mode: int) -> Path:
    """Change a byte of what the cache holds for a file: in place, so that a hard link of it changes, too."""
    data = bytearray(path.read_bytes())
    digest = hashlib.md5(data).hexdigest()
    kept = cache / "files/md5" / digest[:2] / digest[2:]
    data[len(data) // 2] ^= 1
    kept.chmod(0o644)
    with kept.open("r+b") as same:
        same.write(data)
    kept.chmod(mode)
    return kept
