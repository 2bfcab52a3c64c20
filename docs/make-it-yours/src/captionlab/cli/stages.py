"""The commands of the pipeline, one for each stage. Imports what a stage needs only when it runs."""

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from captionlab.cli.app import app, use_own_source


def _run(stage: str) -> None:
    """Run a stage in the current folder, print what it reports, and write its time and memory beside the artifacts."""
    use_own_source()
    from captionlab.config import load_params
    from captionlab.core.timings import write_timing

    root = Path.cwd()
    params = load_params(root / "params.yaml")
    work: Callable[..., list[str]] = getattr(import_module(f"captionlab.stages.{stage}"), stage)
    start = time.perf_counter()
    lines = work(params, root)
    write_timing(root, stage, "", time.perf_counter() - start)
    for line in lines:
        print(line)


@app.command("check_params")
def check_params() -> None:
    """Check params.yaml."""
    _run("check_params")


@app.command("download")
def download() -> None:
    """Write the dataset's three splits."""
    _run("download")


@app.command("train")
def train() -> None:
    """Train the classifier."""
    _run("train")


@app.command("evaluate")
def evaluate() -> None:
    """Score the test split."""
    _run("evaluate")


@app.command("report")
def report() -> None:
    """Write the table of scores and the curves."""
    _run("report")


@app.command("track")
def track() -> None:
    """Publish the run that MLflow does not have yet."""
    _run("track")
