"""Damage to DVC's cache and remote: the results are restored, or the damage is reported."""

import hashlib
import shutil
from pathlib import Path

from torture.project import Project
from torture.tally import Tally

SHORT = "clean_captions"  # last stage of the short form


def caches(folder: Path, part: str, *, short: bool) -> list[Tally]:
    """Delete the cache, flip a byte in it and make the remote unreachable, with and without the workspace's files."""
    project = Project(folder / "cached")
    target = (SHORT,) if short else ()
    run = project.repository.run
    run("dvc", "repro", *target)
    project.repository.commit("results")
    cache = project.folder / ".dvc/cache"
    stages = [stage for stage in (project.upto(SHORT) if short else project.stages) if project.outs(stage)]
    expected = {stage: project.outs(stage) for stage in stages}

    def unchanged() -> bool:
        return all(project.outs(stage) == expected[stage] for stage in stages) and not run(
            "git", "status", "--porcelain"
        )

    deleted = Tally(part=part, fault="DVC's cache deleted")
    shutil.rmtree(cache)
    run("dvc", "repro", *target)
    deleted.check(unchanged(), "results differ with the workspace's files")
    shutil.rmtree(cache, ignore_errors=True)
    shutil.rmtree(project.folder / "artifacts")
    run("dvc", "repro", *target)
    deleted.check(unchanged(), "results differ without the workspace's files")

    writable = Tally(part=part, fault="one byte flipped in DVC's cache, in a writable file")
    for stage in stages if short else stages[:3] + stages[-2:]:
        name = next(name for name in expected[stage] if not name.endswith(".png"))
        _flip(cache, project.folder / name, 0o644)
        output = run("dvc", "repro", *target)
        writable.check(unchanged(), f"{name}: {output[-300:]}")

    read_only = Tally(part=part, fault="one byte flipped in DVC's cache, in a read-only file, as DVC leaves it")
    read_only.note = (
        "DVC does not notice; `captionlab doctor --cache` reports the file, `dvc repro --force` recreates it"
    )
    for without in (True,) if short else (False, True):
        (name,) = [name for name in expected[SHORT,] if name.endswith(".jsonl")]
        cached = _flip(cache, project.folder / name, 0o444)
        if without:
            shutil.rmtree(project.folder / "artifacts")
        run("dvc", "repro", *target)
        output = run("captionlab", "doctor", "--cache", ok=False)
        cached.unlink()
        run("dvc", "repro", "--force", *target)
        read_only.check(str(cached) in output and unchanged(), f"{name}: {output[-300:]}")

    remote = Tally(part=part, fault="DVC's remote unreachable")
    run("dvc", "remote", "add", "--default", "away", "http://127.0.0.1:9/nothing")
    shutil.rmtree(cache)
    shutil.rmtree(project.folder / "artifacts")
    output = run("dvc", "pull", *target, ok=False)
    remote.check("Traceback" not in output and "ERROR" in output, f"dvc pull: {output[-300:]}")
    run("dvc", "repro", *target)
    run("git", "checkout", "-q", "--", ".dvc/config")
    remote.check(unchanged(), "dvc repro gave other results")
    return [deleted, writable, read_only, remote]


def _flip(cache: Path, path: Path, mode: int) -> Path:
    """Flip a byte of a file's copy in the cache, in place, so that hard links to it change too; returns its path."""
    data = bytearray(path.read_bytes())
    digest = hashlib.md5(data).hexdigest()
    cached = cache / "files/md5" / digest[:2] / digest[2:]
    data[len(data) // 2] ^= 1
    cached.chmod(0o644)
    with cached.open("r+b") as out:
        out.write(data)
    cached.chmod(mode)
    return cached
