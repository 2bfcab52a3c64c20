"""The command line: a command for each stage, and commands that use the results.

Imports what a command needs only when it runs, so that help and completion are fast.
"""

import dataclasses
import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Literal

import typer

from captionlab import __version__, cli_sharing
from captionlab.core.output import escape_what_cannot_be_encoded, json_line
from captionlab.errors import CaptionlabError

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"captionlab {__version__}")
        raise typer.Exit


@app.callback()
def options(
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error occurred.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train, compare and use image-captioning systems. `dvc repro` runs the whole pipeline.

    Example: captionlab doctor
    """
    # main() reads --traceback from the arguments: errors can occur before a callback.


def _run(stage: str, *items: str) -> None:
    """Run a stage in the current folder, print what it reports, and write its time and memory beside the artifacts.

    Of several processes that torchrun started, only the first one prints and writes.
    """
    from captionlab.config import load_params
    from captionlab.core.timings import write_timing

    root = Path.cwd()
    params = load_params(root / "params.yaml")
    work: Callable[..., list[str]] = getattr(import_module(f"captionlab.stages.{stage}"), stage)
    start = time.perf_counter()
    with _together(shared=stage == "extract_features" or stage.startswith("train_")) as first:
        lines = work(params, root, *items)
    if not first:
        return
    write_timing(root, stage, ".".join(items), time.perf_counter() - start)
    for line in lines:
        print(line)


@contextmanager
def _together(shared: bool) -> Iterator[bool]:
    """Join the other processes that torchrun started, if any; yields whether this is the first of them."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield True
        return
    if not shared:
        raise CaptionlabError("torchrun is for extract_features, train_* and caption; run this command without it")
    from captionlab.core import distributed

    with distributed.process_group():
        yield distributed.is_main()


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
    """Fine-tune a trained system by CIDEr-D or distillation.

    Example: captionlab finetune lite2
    """
    _run("finetune", name)


@app.command("evaluate")
def evaluate() -> None:
    """Caption and score the test photos with every system.

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


@app.command("preset")
def preset(name: Annotated[str, typer.Argument(help="The name of a file in presets/, without .yaml.")]) -> None:
    """Replace sections of params.yaml with a preset's.

    Example: captionlab preset report_b && dvc exp run
    """
    from captionlab.commands.preset import apply_preset

    for line in apply_preset(Path.cwd(), name):
        print(line)


@app.command("score")
def score(
    references: Annotated[Path, typer.Option(help='JSON {"id": ["reference"]}, COCO annotations or Karpathy\'s.')],
    hypotheses: Annotated[Path, typer.Option(help='JSON {"id": "caption"}, COCO results or caption --out\'s lines.')],
    meteor: Annotated[bool, typer.Option(help="METEOR needs Java and 5 to 10 seconds.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Score captions from files under the strict protocol.

    Example: captionlab score --references refs.json --hypotheses captions.json
    """
    from captionlab.commands.score import lines, score_files

    scores = score_files(references, hypotheses, meteor)
    for line in [json_line(dataclasses.asdict(scores))] if as_json else lines(scores, meteor):
        print(line)


@app.command("caption")
def caption(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders of photos, or - for one on standard input.")],
    model: Annotated[
        str | None, typer.Option(help="A row of the table, a checkpoint or an MLflow model; default: the released one.")
    ] = None,
    beam: Annotated[
        int | None, typer.Option(min=1, max=50, help="1 is greedy search; default: selected on validation.")
    ] = None,
    min_words: Annotated[int | None, typer.Option(min=1, help="Fewest words; default: selected on validation.")] = None,
    no_repeat_ngram: Annotated[int | None, typer.Option(min=0, help="No n words in a row twice; 0 allows it.")] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Captions per photo; default: 1, with --json all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per photo.")] = False,
    attention: Annotated[Path | None, typer.Option(help="Write each word's attention as PNG; one photo only.")] = None,
    out: Annotated[Path | None, typer.Option(help="Append JSON lines to this file; skip the photos it has.")] = None,
) -> None:
    """Caption photos, one line each. An unreadable photo is reported on standard error, and the exit code is 1.

    Example: captionlab caption holiday.jpg
    \fIts parameters are the command's options.
    """
    if attention and (len(photos) > 1 or Path(photos[0]).is_dir()):
        raise typer.BadParameter("needs exactly one photo", param_hint="--attention")
    from captionlab.commands.caption import Options, caption_photos

    given = {"beam": beam, "min_words": min_words, "no_repeat_ngram": no_repeat_ngram}
    decoding = {key: value for key, value in given.items() if value is not None}
    options = Options(model=model, decoding=decoding, top=top, as_json=as_json, attention=attention, out=out)
    with _together(shared=True):
        all_read = caption_photos(photos, options)
    if not all_read:
        raise typer.Exit(1)


@app.command("tune")
def tune(
    system: Annotated[str, typer.Argument(help="system.config, such as baseline.lite0.")],
    sampler: Annotated[
        Literal["grid", "random", "hyperband"], typer.Option(help="hyperband: random points with early pruning.")
    ] = ("random"),
    ranges: Annotated[
        list[str] | None,
        typer.Option("--range", help="KEY=VALUE,VALUE or KEY=LOW..HIGH[:log]; KEY,KEY share a value. Repeatable."),
    ] = None,
    trials: Annotated[
        int | None, typer.Option(min=1, help="In total, including earlier calls; default: 10, or a whole grid.")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Processes that share the trials and the cores.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Search a configuration's parameters by validation loss. The same command resumes a search.

    Example: captionlab tune baseline.lite0 --sampler grid --range hidden=128,256,512
    """
    try:
        from captionlab.tuning import search
    except ModuleNotFoundError as error:
        if error.name != "optuna":
            raise
        raise CaptionlabError("captionlab tune needs Optuna: pip install 'captionlab[tune]'") from error
    found = search.tune(Path.cwd(), system, sampler, ranges or [], trials, workers)
    for line in [json_line(found)] if as_json else search.lines(found):
        print(line)


@app.command("demo")
def demo(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 admits other machines.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 selects a free port.")] = 8000,
    open_browser: Annotated[bool, typer.Option("--open/--no-open", help="Open the browser.")] = True,
) -> None:
    """Open a page where every system captions your photos.

    Example: captionlab demo --port 8001
    """
    from captionlab.demo.server import serve

    for line in serve(Path.cwd(), host=host, port=port, open_browser=open_browser):
        print(line)


@app.command("ui")
def ui(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port; only this machine can connect.")] = 5000,
) -> None:
    """Serve the MLflow UI of this project's runs.

    Example: captionlab ui --port 5001
    """
    from captionlab.config import load_params
    from captionlab.tracking import ui as pages

    dataset = load_params(Path("params.yaml")).dataset.name
    for line in pages.ui(Path.cwd(), f"captionlab/{dataset}", port):
        print(line)


@app.command("doctor")
def doctor(
    cache: Annotated[bool, typer.Option("--cache", help="Also verify every file in DVC's cache.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the installation and this project. The exit code is 1 if a check fails.

    Example: captionlab doctor
    """
    from captionlab.commands.doctor import examine

    findings = list(examine(Path.cwd(), cache=cache))
    if as_json:
        print(json_line([dataclasses.asdict(finding) for finding in findings]))
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            print(finding.line(width))
    raise typer.Exit(int(any(finding.verdict == "fail" for finding in findings)))


app.add_typer(cli_sharing.app)


def main() -> None:
    """Run the command line. An error is one line and exit code 1; with ``--traceback`` it is raised."""
    escape_what_cannot_be_encoded()
    try:
        _refuse_empty(sys.argv)
        try:
            app()
        finally:
            sys.stdout.flush()
    except Exception as error:
        if "--traceback" in sys.argv:
            raise
        if isinstance(error, BrokenPipeError):  # whoever read the output has stopped, as head does
            sys.exit(1)
        message = str(error) if isinstance(error, CaptionlabError) else _internal(error)
        print(f"captionlab: {message}", file=sys.stderr)
        sys.exit(1)


def _refuse_empty(arguments: list[str]) -> None:
    """An unset variable of the shell must not mean the current folder, or no option at all."""
    for before, argument in pairwise(arguments):
        if argument == "":
            raise CaptionlabError(f"the argument after {before} is empty; is a variable unset?")
        if argument.startswith("--") and argument.endswith("="):
            raise CaptionlabError(f"{argument.removesuffix('=')} is empty; is a variable unset?")


def _internal(error: Exception) -> str:
    """One line for an error that no command expects: standard output on a full disk, or a fault of captionlab."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"cannot write the output: {error.strerror}; free space"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    command = " ".join(["captionlab", "--traceback", *sys.argv[1:]])
    return f"unexpected error ({what}); `{command}` shows where it occurred"


if __name__ == "__main__":
    main()
