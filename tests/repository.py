"""A small copy of this project, in which DVC, git and MLflow run for real."""

import copy
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Self

from ruamel.yaml import YAML

from captionlab.config import SYSTEMS

ROOT = Path(__file__).parents[1]


class Repository:
    """A copy of this project in a folder of its own, with parameters for a few seconds' work."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        listed = subprocess.run(
            ["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT, capture_output=True, check=True
        )
        for name in listed.stdout.decode().split("\0"):
            if name and name != "dvc.lock" and not name.startswith("reports/") and (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        self._write_params()
        self.run("git", "init", "-q")
        self.commit("start")

    def _write_params(self) -> None:
        path = self.folder / "params.yaml"
        yaml = YAML()
        params = yaml.load(path)
        params["dataset"]["scenes"] |= {"train": 24, "val": 8, "test": 8}
        params["build_vocab"]["min_count"] = 1
        params["extract_features"]["encoders"] = {"efficientnet_lite0": {"grid": 3}}
        params["training"] |= {"epochs": 2, "batch_size": 8}
        small = {"encoder": "efficientnet_lite0", "embedding": 16, "hidden": 16}
        for system in SYSTEMS:
            first = next(iter(params[system].values())) | small
            params[system] = {"tiny": first}
        params["attention"]["tiny"] |= {"attention": 8, "memory": 8}
        params["retrieval"] = {"tiny": {"encoder": "efficientnet_lite0", "neighbours": [1, 3], "consensus_k": 5}}
        params["evaluate"] |= {"beams": [1, 3], "max_words": 12}
        params["report"]["gallery"] = 4
        yaml.dump(params, path)

    def copy(self, folder: Path) -> Self:
        """The same project in another folder."""
        copied = copy.copy(self)
        copied.folder = shutil.copytree(self.folder, folder)
        return copied

    def run(self, *command: str, ok: bool = True) -> str:
        hidden = {"DVC_ROOT", "DVC_STAGE", "DVC_EXP_NAME", "DVC_EXP_BASELINE_REV", "MLFLOW_TRACKING_URI"}
        environment = {key: value for key, value in os.environ.items() if key not in hidden}
        environment["PYTHONPATH"] = str(self.folder / "src")  # this copy's code, not that of the installed project
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        environment |= {"GIT_AUTHOR_NAME": "t", "GIT_AUTHOR_EMAIL": "t@t", "GIT_COMMITTER_NAME": "t"}
        environment |= {"GIT_COMMITTER_EMAIL": "t@t"}
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, f"{command} exited with {done.returncode}:\n{said}"
        return said

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def mlflow_runs(self) -> dict[str, list[dict[str, str]]]:
        """The tags and ``name`` of the runs of each configuration, read from MLflow's database."""
        runs: dict[str, list[dict[str, str]]] = {}
        with sqlite3.connect(self.folder / "mlflow.db") as database:
            query = "SELECT name, run_uuid FROM runs WHERE lifecycle_stage = 'active'"
            for name, run in database.execute(query).fetchall():
                tags = database.execute("SELECT key, value FROM tags WHERE run_uuid = ?", (run,)).fetchall()
                configuration = name.partition(" (")[0]  # an experiment's name may follow
                runs.setdefault(configuration, []).append({**dict(tags), "name": name})
        return runs

    def ran(self, said: str) -> set[str]:
        """The stages that DVC ran, according to its output."""
        return {line.split("'")[1] for line in said.splitlines() if line.startswith("Running stage '")}
