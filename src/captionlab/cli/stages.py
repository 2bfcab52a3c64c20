"""The commands of the pipeline, one for each stage. Imports what a stage needs only when it runs."""

import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from captionlab.cli.app import app, together, use_own_source


def _run(stage: str, *items: str) -> None:
    """Run a stage in the current folder, print what it reports, and write its time and memory beside the artifacts.

    Of several processes that torchrun started, only the first one prints and writes.
    """
    use_own_source()
    from captionlab.config import load_params
    from captionlab.core.timings import write_timing

    root = Path.cwd()
    params = load_params(root / "params.yaml")
    work: Callable[..., list[str]] = getattr(import_module(f"captionlab.stages.{stage}"), stage)
    start = time.perf_counter()
    with together() as first:
        lines = work(params, root, *items)
    if not first:
        return
    write_timing(root, stage, ".".join(items), time.perf_counter() - start)
    for line in lines:
        print(line)


@app.command("check_params")
def check_params() -> None:
    """Check params.yaml.

    Example: captionlab check_params
    """
    _run("check_params")


@app.command("download")
def download() -> None:
    """Collect and check the dataset named in params.yaml.

    Example: captionlab download
    """
    _run("download")


@app.command("clean_captions")
def clean_captions() -> None:
    """Split the captions into words.

    Example: captionlab clean_captions
    """
    _run("clean_captions")


@app.command("build_vocab")
def build_vocab() -> None:
    """Build the vocabulary from the training captions.

    Example: captionlab build_vocab
    """
    _run("build_vocab")


@app.command("extract_features")
def extract_features(encoder: Annotated[str, typer.Argument(help="One of extract_features.encoders.")]) -> None:
    """Extract every photo's features with one encoder.

    Example: captionlab extract_features efficientnet_lite0
    """
    _run("extract_features", encoder)


_Configuration = Annotated[str, typer.Argument(help="A configuration's name in params.yaml.")]


@app.command("train_baseline")
def train_baseline(config: _Configuration) -> None:
    """Train the baseline, report A's System 1.

    Example: captionlab train_baseline lite0
    """
    _run("train_baseline", config)


@app.command("train_modified")
def train_modified(config: _Configuration) -> None:
    """Train report A's System 1 Modified or report B's merge.

    Example: captionlab train_modified lite2
    """
    _run("train_modified", config)


@app.command("train_attention")
def train_attention(config: _Configuration) -> None:
    """Train report A's attention or report B's over states.

    Example: captionlab train_attention lite2
    """
    _run("train_attention", config)


@app.command("finetune")
def finetune(name: Annotated[str, typer.Argument(help="An entry of finetune in params.yaml.")]) -> None:
    """Train a trained configuration further.

    Example: captionlab finetune lite2
    """
    _run("finetune", name)


@app.command("guests")
def guests(name: Annotated[str, typer.Argument(help="An entry of guests in params.yaml.")]) -> None:
    """Read captions of another captioner.

    Example: captionlab guests blip
    """
    _run("guests", name)


@app.command("guest_models")
def guest_models(name: Annotated[str, typer.Argument(help="An entry of guest_models in params.yaml.")]) -> None:
    """Caption the photos with a Hugging Face model.

    Example: captionlab guest_models blip
    """
    _run("guest_models", name)


@app.command("evaluate")
def evaluate() -> None:
    """Caption and score with every configuration.

    Example: captionlab evaluate
    """
    _run("evaluate")


@app.command("report")
def report() -> None:
    """Render the comparison table, figures and gallery.

    Example: captionlab report
    """
    _run("report")


@app.command("track")
def track() -> None:
    """Publish the runs that MLflow does not have yet.

    Example: captionlab track
    """
    _run("track")
