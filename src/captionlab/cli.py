"""The command line: one command a stage, and what a person does with the results.

Imports the work only when a command runs, so that help and completion are quick.
"""

import json
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from captionlab.errors import CaptionlabError

app = typer.Typer(
    help="Train, compare and use image-captioning systems. The whole pipeline: dvc repro",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_STAGES = "Stages of the pipeline, as dvc repro runs them"
_USE = "Use"


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
) -> None:
    """Train, compare and use image-captioning systems. The whole pipeline: dvc repro."""
    # Read by main() from the arguments: an error can come before a callback.


def _run(stage: str, *items: str) -> None:
    """Run a stage in the current folder, say what it found, and keep what it cost beside the artifacts."""
    from captionlab.config import load_params
    from captionlab.files import write_json
    from captionlab.records import TIMINGS

    root = Path.cwd()
    params = load_params(root / "params.yaml")
    work: Callable[..., list[str]] = getattr(import_module(f"captionlab.stages.{stage}"), stage)
    began = time.perf_counter()
    lines = work(params, root, *items)
    timing = {"stage": stage, "item": ".".join(items), "seconds": round(time.perf_counter() - began, 1)}
    write_json(root / TIMINGS / f"{'.'.join([stage, *items])}.json", {**timing, "peak_megabytes": _peak_megabytes()})
    for line in lines:
        print(line)


def _peak_megabytes() -> float | None:
    """The most memory this process has held, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


@app.command("download", rich_help_panel=_STAGES)
def download() -> None:
    """Collect and check the dataset named in params.yaml."""
    _run("download")


@app.command("clean_captions", rich_help_panel=_STAGES)
def clean_captions() -> None:
    """Turn raw captions into words."""
    _run("clean_captions")


@app.command("build_vocab", rich_help_panel=_STAGES)
def build_vocab() -> None:
    """Choose the words the systems can say, from the training captions."""
    _run("build_vocab")


@app.command("extract_features", rich_help_panel=_STAGES)
def extract_features(encoder: Annotated[str, typer.Argument(help="One of extract_features.encoders.")]) -> None:
    """Let one encoder look at every photo.  Example: captionlab extract_features efficientnet_lite0"""
    _run("extract_features", encoder)


_Configuration = Annotated[str, typer.Argument(help="A configuration's name in params.yaml.")]


@app.command("train_baseline", rich_help_panel=_STAGES)
def train_baseline(config: _Configuration) -> None:
    """Train report A's System 1.  Example: captionlab train_baseline lite0"""
    _run("train_baseline", config)


@app.command("train_modified", rich_help_panel=_STAGES)
def train_modified(config: _Configuration) -> None:
    """Train report A's System 1 Modified.  Example: captionlab train_modified lite2"""
    _run("train_modified", config)


@app.command("train_attention", rich_help_panel=_STAGES)
def train_attention(config: _Configuration) -> None:
    """Train report A's attention.  Example: captionlab train_attention lite2"""
    _run("train_attention", config)


@app.command("finetune", rich_help_panel=_STAGES)
def finetune(name: Annotated[str, typer.Argument(help="An entry of finetune in params.yaml.")]) -> None:
    """Train a trained system further, CIDEr-D its reward.  Example: captionlab finetune lite2"""
    _run("finetune", name)


@app.command("evaluate", rich_help_panel=_STAGES)
def evaluate() -> None:
    """Caption the test photos with every system and score the captions."""
    _run("evaluate")


@app.command("report", rich_help_panel=_STAGES)
def report() -> None:
    """Render the comparison table, figures and gallery."""
    _run("report")


@app.command("track", rich_help_panel=_STAGES)
def track() -> None:
    """Complete in MLflow what is missing there."""
    _run("track")


@app.command("score", rich_help_panel=_USE)
def score(
    references: Annotated[Path, typer.Option(help='JSON: {"image id": ["reference", ...], ...}')],
    hypotheses: Annotated[Path, typer.Option(help='JSON: {"image id": "caption", ...}')],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score any captions under the strict protocol.

    Example: captionlab score --references refs.json --hypotheses captions.json
    """
    import dataclasses

    from captionlab.scoring import score_files

    scores = dataclasses.asdict(score_files(references, hypotheses))
    if as_json:
        print(json.dumps(scores))
        return
    for name, value in scores.items():
        print(f"{name:8} {'n/a (needs Java and the extra captionlab[meteor])' if value is None else f'{value:.4f}'}")


@app.command("caption", rich_help_panel=_USE)
def caption(
    photos: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos.")],
    model: Annotated[Path, typer.Option(help="A checkpoint of the pipeline.")] = Path(
        "artifacts/models/attention/lite2/checkpoint.safetensors"
    ),
    beam: Annotated[int, typer.Option(min=1, max=50, help="1 is greedy.")] = 5,
) -> None:
    """Describe photos with a trained system.  Example: captionlab caption holiday.jpg"""
    from captionlab.captioner import Captioner
    from captionlab.datasets.folder import SUFFIXES

    files = [
        file
        for photo in photos
        for file in (sorted(p for p in photo.iterdir() if p.suffix.lower() in SUFFIXES)
                     if photo.is_dir() else [photo])
    ]  # fmt: skip
    if not files:
        raise CaptionlabError(f"no photos in {', '.join(map(str, photos))}; known are {', '.join(sorted(SUFFIXES))}")
    captioner = Captioner.load(model)
    for file, sentences in zip(files, captioner.caption(files, beam=beam), strict=True):
        print(f"{file}: {sentences[0].caption}")


@app.command("ui", rich_help_panel=_USE)
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens, on this machine only.")] = 5000,
) -> None:
    """Open the MLflow UI on the runs of this project."""
    from captionlab import ui as pages
    from captionlab.config import load_params

    dataset = load_params(Path("params.yaml")).dataset.name
    for line in pages.ui(Path.cwd(), f"captionlab/{dataset}", port):
        print(line)


def main() -> None:
    """Run the command line; an error of the user's is one line and exit code 1."""
    try:
        app()
    except CaptionlabError as error:
        if "--traceback" in sys.argv:
            raise
        print(f"captionlab: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
