"""The application that all commands belong to, its global options, and what commands of several processes share."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from captionlab import __version__
from captionlab.errors import CaptionlabError

PARALLEL = {"extract_features", "train_baseline", "train_modified", "train_attention", "finetune", "caption"}

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
    context: typer.Context,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error occurred.")] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """Train, compare and use image-captioning systems. `dvc repro` runs the whole pipeline.

    Example: captionlab doctor
    """
    # main() reads --traceback from the arguments: errors can occur before a callback.
    if "TORCHELASTIC_RUN_ID" in os.environ and context.invoked_subcommand not in PARALLEL:
        raise CaptionlabError(
            "torchrun is for extract_features, train_*, finetune and caption; run this command without it"
        )


def use_own_source() -> None:
    """Start again with the source in the current folder, if another copy of captionlab runs.

    DVC stores the results as those of the source there. Without this a queued experiment, which runs in a clone, and a
    copied project would use the source that is installed.
    """
    source = Path("src").resolve()
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if not (source / "captionlab/cli").is_dir() or paths[0] == str(source):
        return
    if not (source / "captionlab").samefile(Path(__file__).parents[1]):
        os.environ["PYTHONPATH"] = os.pathsep.join([str(source), *filter(None, paths)])
        os.execv(sys.executable, [sys.executable, "-m", "captionlab.cli", *sys.argv[1:]])


@contextmanager
def together() -> Iterator[bool]:
    """Join the other processes that torchrun started, if any; yields whether this is the first of them."""
    if "TORCHELASTIC_RUN_ID" not in os.environ:
        yield True
        return
    from captionlab.core import distributed

    with distributed.process_group():
        yield distributed.is_main()
