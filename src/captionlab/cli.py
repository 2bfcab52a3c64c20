"""The command line: one command a stage, and what a person does with the results.

Imports the work only when a command runs, so that help and completion are quick.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Annotated, Literal

import typer

from captionlab import __version__
from captionlab.errors import CaptionlabError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
_STAGES = "Stages of the pipeline, as dvc repro runs them"
_USE = "Use"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"captionlab {__version__}")
        raise typer.Exit


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error arose.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train, compare and use image-captioning systems. The whole pipeline: dvc repro.

    Example: captionlab doctor
    """
    # --traceback is read by main() from the arguments: an error can come before a callback.


def _run(stage: str, *items: str) -> None:
    """Run a stage in the current folder, say what it found, and keep what it cost beside the artifacts.

    Of several processes that torchrun started, the first one does what is to be done once.
    """
    from captionlab.config import load_params
    from captionlab.core.files import write_json
    from captionlab.core.records import TIMINGS

    root = Path.cwd()
    params = load_params(root / "params.yaml")
    work: Callable[..., list[str]] = getattr(import_module(f"captionlab.stages.{stage}"), stage)
    began = time.perf_counter()
    with _together(shared=stage == "extract_features" or stage.startswith("train_")) as first:
        lines = work(params, root, *items)
    if not first:
        return
    timing = {"stage": stage, "item": ".".join(items), "seconds": round(time.perf_counter() - began, 1)}
    write_json(root / TIMINGS / f"{'.'.join([stage, *items])}.json", {**timing, "peak_megabytes": _peak_megabytes()})
    for line in lines:
        print(line)


@contextmanager
def _together(shared: bool) -> Iterator[bool]:
    """Join the other processes, if torchrun started this one; yields whether it is the first of them."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield True
        return
    if not shared:
        raise CaptionlabError("torchrun is for extract_features, train_* and caption; run this by itself")
    from captionlab.core import distributed

    with distributed.process_group():
        yield distributed.is_main()


def _peak_megabytes() -> float | None:
    """The most memory this process has held, where the system tells."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)


@app.command("check_params", rich_help_panel=_STAGES)
def check_params() -> None:
    """Check params.yaml.

    Example: captionlab check_params
    """
    _run("check_params")


@app.command("download", rich_help_panel=_STAGES)
def download() -> None:
    """Collect and check the dataset named in params.yaml.

    Example: captionlab download
    """
    _run("download")


@app.command("clean_captions", rich_help_panel=_STAGES)
def clean_captions() -> None:
    """Turn raw captions into words.

    Example: captionlab clean_captions
    """
    _run("clean_captions")


@app.command("build_vocab", rich_help_panel=_STAGES)
def build_vocab() -> None:
    """Choose the words the systems can say. They come from the training captions.

    Example: captionlab build_vocab
    """
    _run("build_vocab")


@app.command("extract_features", rich_help_panel=_STAGES)
def extract_features(encoder: Annotated[str, typer.Argument(help="One of extract_features.encoders.")]) -> None:
    """Let one encoder look at every photo.

    Example: captionlab extract_features efficientnet_lite0
    """
    _run("extract_features", encoder)


_Configuration = Annotated[str, typer.Argument(help="A configuration's name in params.yaml.")]


@app.command("train_baseline", rich_help_panel=_STAGES)
def train_baseline(config: _Configuration) -> None:
    """Train report A's System 1. The image stands at one of four places.

    Example: captionlab train_baseline lite0
    """
    _run("train_baseline", config)


@app.command("train_modified", rich_help_panel=_STAGES)
def train_modified(config: _Configuration) -> None:
    """Train report A's System 1 Modified, or report B's merge.

    Example: captionlab train_modified lite2
    """
    _run("train_modified", config)


@app.command("train_attention", rich_help_panel=_STAGES)
def train_attention(config: _Configuration) -> None:
    """Train report A's attention, or report B's over states.

    Example: captionlab train_attention lite2
    """
    _run("train_attention", config)


@app.command("finetune", rich_help_panel=_STAGES)
def finetune(name: Annotated[str, typer.Argument(help="An entry of finetune in params.yaml.")]) -> None:
    """Train a trained system further, CIDEr-D its reward.

    Example: captionlab finetune lite2
    """
    _run("finetune", name)


@app.command("evaluate", rich_help_panel=_STAGES)
def evaluate() -> None:
    """Caption and score the test photos with every system.

    Example: captionlab evaluate
    """
    _run("evaluate")


@app.command("report", rich_help_panel=_STAGES)
def report() -> None:
    """Render the comparison table, figures and gallery.

    Example: captionlab report
    """
    _run("report")


@app.command("track", rich_help_panel=_STAGES)
def track() -> None:
    """Complete in MLflow what is missing there.

    Example: captionlab track
    """
    _run("track")


@app.command("preset", rich_help_panel=_USE)
def preset(name: Annotated[str, typer.Argument(help="A file's name in presets/, without .yaml.")]) -> None:
    """Lay a preset over params.yaml.

    Example: captionlab preset report_b && dvc exp run
    """
    from captionlab.commands.preset import apply_preset

    for line in apply_preset(Path.cwd(), name):
        print(line)


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

    from captionlab.commands.score import score_files

    scores = dataclasses.asdict(score_files(references, hypotheses))
    if as_json:
        print(json.dumps(scores))
        return
    for name, value in scores.items():
        print(f"{name:8} {'n/a (needs Java and the extra captionlab[meteor])' if value is None else f'{value:.4f}'}")


@app.command("caption", rich_help_panel=_USE)
def caption(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders of photos, or - for one on standard input.")],
    model: Annotated[Path | None, typer.Option(help="A checkpoint or an MLflow model; without it what ships.")] = None,
    beam: Annotated[int | None, typer.Option(min=1, max=50, help="1 is greedy; without it as it was scored.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Best captions a photo: 1 unless said, in JSON all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON object a photo.")] = False,
    attention: Annotated[Path | None, typer.Option(help="Draw where each word looked, as PNG; one photo.")] = None,
    out: Annotated[Path | None, typer.Option(help="Add JSON lines to this file; photos it has are left out.")] = None,
) -> None:
    """Describe photos, a line each. One that cannot be read is a line on standard error, and exit code 1 in the end.

    Example: captionlab caption holiday.jpg
    """
    if attention and (len(photos) > 1 or Path(photos[0]).is_dir()):
        raise typer.BadParameter("wants one photo", param_hint="--attention")
    from captionlab.commands.caption import describe

    with _together(shared=True):
        whole = describe(photos, model=model, beam=beam, top=top, as_json=as_json, attention=attention, out=out)
    if not whole:
        raise typer.Exit(1)


@app.command("release", rich_help_panel=_USE)
def release(
    system: Annotated[str | None, typer.Argument(help="system.config; without it the best on validation.")] = None,
) -> None:
    """Make a trained system the captioner that ships.

    Example: captionlab release attention.lite2
    """
    from captionlab.commands.release import release as make

    for line in make(Path.cwd(), system):
        print(line)


@app.command("tune", rich_help_panel=_USE)
def tune(
    system: Annotated[str, typer.Argument(help="system.config, such as baseline.lite0.")],
    sampler: Annotated[Literal["grid", "random", "hyperband"], typer.Option(help="Hyperband draws and prunes.")] = (
        "random"
    ),
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", help="KEY=VALUE,VALUE or KEY=LOW..HIGH[:log]; KEY,KEY take one value. Repeatable."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="In all, earlier calls' too; without it 10, of a grid every point.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the trials and the cores.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search a configuration's parameters by validation loss. A killed search goes on where it stopped.

    Example: captionlab tune baseline.lite0 --sampler grid --range hidden=128,256,512
    """
    from captionlab.config import load_params

    try:
        from captionlab.tuning import search
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise CaptionlabError("captionlab tune needs Optuna: pip install 'captionlab[tune]'") from error
    params = load_params(Path.cwd() / "params.yaml")
    found = search.tune(params, Path.cwd(), system, sampler, ranges or [], trials, workers)
    for line in [json.dumps(found)] if as_json else search.lines(found):
        print(line)


@app.command("demo", rich_help_panel=_USE)
def demo(
    host: Annotated[str, typer.Option(help="Where it listens; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 is any free one.")] = 8000,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
) -> None:
    """Open a page where every system describes your photos.

    Example: captionlab demo --port 8001
    """
    from captionlab.demo.server import serve

    for line in serve(Path.cwd(), host=host, port=port, open_browser=open_browser):
        print(line)


@app.command("ui", rich_help_panel=_USE)
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Where it listens, on this machine only.")] = 5000,
) -> None:
    """Open the MLflow UI on the runs of this project.

    Example: captionlab ui --port 5001
    """
    from captionlab.config import load_params
    from captionlab.tracking import ui as pages

    dataset = load_params(Path("params.yaml")).dataset.name
    for line in pages.ui(Path.cwd(), f"captionlab/{dataset}", port):
        print(line)


@app.command("doctor", rich_help_panel=_USE)
def doctor(
    cache: Annotated[bool, typer.Option("--cache", help="Compare DVC's whole cache with its digests, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Look at what is installed, at hand and whole. Says what to do about the rest; exit code 1 where something fails.

    Example: captionlab doctor
    """
    import dataclasses

    from captionlab.commands.doctor import examine

    findings = list(examine(Path.cwd(), cache=cache))
    if as_json:
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], ensure_ascii=False))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(finding.line(width))
    raise typer.Exit(int(any(finding.verdict == "fail" for finding in findings)))


def main() -> None:
    """Run the command line; an error is one line and exit code 1, with ``--traceback`` it is the whole story."""
    try:
        app()
    except Exception as error:
        if "--traceback" in sys.argv:
            raise
        message = str(error) if isinstance(error, CaptionlabError) else _fault(error)
        print(f"captionlab: {message}", file=sys.stderr)
        sys.exit(1)


def _fault(error: Exception) -> str:
    """One line on an error that is captionlab's own."""
    what = " ".join(f"{type(error).__name__}: {error}".split())
    command = " ".join(["captionlab", "--traceback", *sys.argv[1:]])
    return f"this should not have happened ({what}); `{command}` shows where it did"


if __name__ == "__main__":
    main()
