"""A small copy of this project whose stages run in separate processes, for fault injection.

Each stage runs as ``captionlab <stage>`` does, but in a fork of a process that has imported everything. So faults hit
the stage's work instead of Python's imports, and a thousand runs take minutes.
"""

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from ruamel.yaml import YAML

from captionlab import cli
from repository import Repository

Stage = tuple[str, ...]  # a command and its item

IGNORED = {".git", ".dvc", "__pycache__", "mlartifacts", "timings", "timings.csv"}
SECONDS = 300.0  # time limit of a stage, which takes a few seconds
_SIZES: dict[str, Any] = {"train": 12, "val": 4, "test": 4}


@dataclass(frozen=True)
class Ended:
    """The exit code of a run (None if a signal killed it), its output and its time."""

    code: int | None
    output: str
    seconds: float

    @property
    def refused(self) -> bool:
        """Whether it ended with a one-line error."""
        lines = self.output.strip().splitlines()
        one_line = bool(lines) and lines[-1].startswith("captionlab: ")
        return self.code == 1 and one_line and "unexpected error (" not in lines[-1] and "Traceback" not in self.output


class Project:
    """The stages of a small project in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.repository = Repository(folder)
        self.folder = folder
        path = folder / "params.yaml"
        yaml = YAML()
        params = yaml.load(path)
        further = {
            "system": "baseline",
            "config": "tiny",
            "samples": 2,
            "cross_entropy": 0.2,
            "training": {"epochs": 1},
        }
        params["finetune"] = {"tiny": further}
        params["dataset"]["scenes"] |= _SIZES
        params["evaluate"]["resamples"] = 50
        yaml.dump(params, path)
        shutil.copytree(folder / "assets/scenes", folder / "data/scenes", dirs_exist_ok=True)
        self.repository.commit("small")
        self.dataset: str = params["dataset"]["name"]
        self.stages: list[Stage] = []
        self._outs: dict[Stage, list[Path]] = {}
        for name, stage in YAML(typ="safe").load(folder / "dvc.yaml")["stages"].items():
            over = stage.get("foreach", "").removeprefix("${").removesuffix("}")
            items: Any = params
            for key in over.split(".") if over else ():
                items = items[key]
            for item in items if over else [None]:
                found = (name, item) if item else (name,)
                self.stages.append(found)
                plain = stage.get("do", stage)
                listed = [entry for kind in ("outs", "metrics", "plots") for entry in plain.get(kind, ())]
                texts = [next(iter(entry)) if isinstance(entry, dict) else entry for entry in listed]
                names = [t.replace("${key}", item or "").replace("${dataset.name}", self.dataset) for t in texts]
                self._outs[found] = [folder / name for name in names]

    def upto(self, last: str) -> list[Stage]:
        """The stages up to the one with this name."""
        names = [name for name, *_ in self.stages]
        return self.stages[: names.index(last) + 1]

    def outs(self, stage: Stage) -> dict[str, str]:
        """The digest of every finished output file of a stage."""
        found: dict[str, str] = {}
        for out in self._outs[stage]:
            for path in sorted(out.rglob("*")) if out.is_dir() else [out]:
                if path.is_file() and not _is_unfinished(path.relative_to(self.folder)):
                    found[str(path.relative_to(self.folder))] = hashlib.sha256(path.read_bytes()).hexdigest()
        return found

    def clear(self, stage: Stage) -> None:
        """Remove a stage's outputs, as DVC does before a run."""
        for out in self._outs[stage]:
            subprocess.run(["rm", "-rf", out], check=True)

    def files(self) -> set[str]:
        """Every file except those of git, DVC and MLflow, and the timings."""
        paths = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return {str(p) for p in paths if not IGNORED & set(p.parts) and not p.name.startswith("mlflow.db")}

    def run(self, stage: Stage, prepare: Callable[[], None] = lambda: None, kill_after: float | None = None) -> Ended:
        """Run a stage in a child process, after ``prepare`` there; kill it after ``kill_after`` seconds."""
        with tempfile.TemporaryFile() as output:  # not in the project, whose disk may be full
            return self._run(stage, output, prepare, kill_after)

    def _run(self, stage: Stage, output: IO[bytes], prepare: Callable[[], None], kill_after: float | None) -> Ended:
        began = time.perf_counter()
        pid = os.fork()
        if not pid:
            _exec_stage(stage, self.folder, output.fileno(), prepare)
        status, deadline = None, began + (SECONDS if kill_after is None else kill_after)
        while status is None:
            ended, code = os.waitpid(pid, os.WNOHANG)
            if ended:
                status = code
            elif time.perf_counter() >= deadline:
                os.kill(pid, signal.SIGKILL)
                status = os.waitpid(pid, 0)[1]
            else:
                time.sleep(min(0.002, max(0.0, deadline - time.perf_counter())))
        seconds = time.perf_counter() - began
        code_or_none = os.WEXITSTATUS(status) if os.WIFEXITED(status) else None
        output.seek(0)
        return Ended(code_or_none, output.read().decode("utf-8", "replace"), seconds)

    def run_checked(self, stage: Stage) -> Ended:
        """Run a stage; raises RuntimeError unless it succeeds."""
        ended = self.run(stage)
        if ended.code != 0:
            raise RuntimeError(f"{' '.join(stage)} ended with {ended.code}: {ended.output}")
        return ended


def _is_unfinished(path: Path) -> bool:
    return any(part.endswith(".partial") for part in path.parts)


def _exec_stage(stage: Stage, folder: Path, output: int, prepare: Callable[[], None]) -> None:
    """Run ``captionlab <stage>`` in ``folder`` and exit this process with its code."""
    code = 99
    try:
        os.chdir(folder)
        os.dup2(output, 1)
        os.dup2(output, 2)
        os.environ.pop("DVC_ROOT", None)
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        os.environ["PYTHONPATH"] = str(folder / "src")  # else a stage starts again, without ``prepare``
        sys.argv = ["captionlab", *stage]
        prepare()
        cli.main()
    except SystemExit as done:
        code = done.code if isinstance(done.code, int) else int(done.code is not None)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def import_stages() -> None:
    """Import the stages and their libraries, once for all runs."""
    import importlib

    for name in ("mlflow", "onnxruntime", "matplotlib.figure", "sklearn.model_selection", "torchvision"):
        try:
            importlib.import_module(name)
        except RuntimeError:
            continue  # torchvision built for another torch, which encoders handles
    for path in sorted((Path(cli.__file__).parents[1] / "stages").glob("*.py")):
        importlib.import_module(f"captionlab.stages.{path.stem}")
