"""The command line: a command for each stage, and commands that use the results.

Imports what a command needs only when it runs, so that help and completion are fast.
"""

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from captionlab.cli import sharing, stages  # noqa: F401 - the stages' commands stand first
from captionlab.cli.app import app, together
from captionlab.core.command_line import internal_error, refuse_empty
from captionlab.core.output import check_streams, escape_what_cannot_be_encoded, json_line
from captionlab.core.records import MAX_BEAM, MAX_LENGTH_PENALTY, MAX_WORDS
from captionlab.errors import CaptionlabError


@app.command("preset")
def preset(
    name: Annotated[str | None, typer.Argument(help="A preset; without one all are listed, with their time.")] = None,
) -> None:
    """Replace sections of params.yaml with a preset's.

    Example: captionlab preset report_b && dvc exp run
    """
    from captionlab.commands import preset as command

    for line in command.presets(Path.cwd()) if name is None else command.apply_preset(Path.cwd(), name):
        print(line)


@app.command("score")
def score(
    references: Annotated[Path, typer.Option(help='JSON {"id": ["reference"]}, COCO annotations or Karpathy\'s.')],
    hypotheses: Annotated[Path, typer.Option(help='JSON {"id": "caption"}, COCO results or caption --out\'s lines.')],
    meteor: Annotated[bool, typer.Option(help="METEOR needs Java and 5 to 10 seconds.")] = True,
    subset: Annotated[bool, typer.Option("--subset", help="Leave out photos that have no caption.")] = False,
    intervals: Annotated[bool, typer.Option("--intervals", help="Add 95 % intervals.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    mlflow_run: Annotated[
        str | None, typer.Option(help="Add the scores to this project's MLflow experiment as a run of this name.")
    ] = None,
) -> None:
    """Score captions from files under the strict protocol.

    Example: captionlab score --references refs.json --hypotheses captions.json

    \fIts parameters are the command's options.
    """
    from captionlab.commands.score import as_record, lines, score_files

    scored = score_files(references, hypotheses, meteor=meteor, subset=subset, intervals=intervals)
    for line in [json_line(as_record(scored))] if as_json else lines(scored, meteor):
        print(line)
    if mlflow_run is not None:
        from captionlab.commands.scored_run import add_to_mlflow

        print(add_to_mlflow(Path.cwd(), mlflow_run, scored.scores, references, hypotheses), file=sys.stderr)


@app.command("judgments")
def judgments(
    source: Annotated[Path, typer.Option(help="A folder with Flickr8k_text.zip, or with what is in it.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    clip: Annotated[
        str | None, typer.Option(help="CLIP for CLIPScore: a folder, or a name in the Hugging Face cache.")
    ] = None,
    resamples: Annotated[int, typer.Option(min=1, max=100_000, help="Resamples of the photos, for intervals.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the resamples.")] = 1,
) -> None:
    """Measure how far each score agrees with people.

    The judgments are Flickr8k's. It takes about two minutes.

    Example: captionlab judgments --source data/flickr8k
    """
    from captionlab.commands import judgments as command

    form: Literal["json", "csv", "table"] = "json" if as_json else "csv" if as_csv else "table"
    for line in command.judgments(source, form, clip, resamples, seed):
        print(line)


@app.command("caption")
def caption(
    photos: Annotated[list[str], typer.Argument(help="Photos, folders of photos, or - for one on standard input.")],
    model: Annotated[
        str | None,
        typer.Option(help="A row of the comparison, a checkpoint or an MLflow model; default: the released one."),
    ] = None,
    beam: Annotated[
        int | None, typer.Option(min=1, max=MAX_BEAM, help="1 is greedy decoding; default: selected on validation.")
    ] = None,
    length_penalty: Annotated[
        float | None,
        typer.Option(min=0, max=MAX_LENGTH_PENALTY, help="Above 0 prefers longer captions; default: as evaluated."),
    ] = None,
    min_words: Annotated[int | None, typer.Option(min=1, help="Fewest words; default: selected on validation.")] = None,
    max_words: Annotated[
        int | None, typer.Option(min=1, max=MAX_WORDS, help="Most words; default: as evaluated.")
    ] = None,
    no_repeat_ngram: Annotated[
        int | None, typer.Option(min=0, help="No n-gram of this length twice; 0 allows it.")
    ] = None,
    top: Annotated[int | None, typer.Option(min=1, help="Captions per photo; default: 1, with --json all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per photo.")] = False,
    attention: Annotated[Path | None, typer.Option(help="Write each word's attention as PNG; one photo only.")] = None,
    out: Annotated[Path | None, typer.Option(help="Append JSON lines to this file; skip the photos it has.")] = None,
) -> None:
    """Caption photos, one line each. An unreadable photo is reported on standard error, and the exit code is 1.

    Example: captionlab caption holiday.jpg
    \fIts parameters are the command's options.
    """
    if attention and len(photos) > 1:
        raise typer.BadParameter("needs exactly one photo", param_hint="--attention")
    if attention and out:
        raise typer.BadParameter(
            "cannot be used with --out, which leaves out photos that it has", param_hint="--attention"
        )
    if out and "-" in photos:
        raise typer.BadParameter("names its photos; a photo from standard input has no name", param_hint="--out")
    from captionlab.commands.caption import Options, caption_photos

    given: dict[str, float | None] = {"beam": beam, "length_penalty": length_penalty, "max_words": max_words}
    given |= {"min_words": min_words, "no_repeat_ngram": no_repeat_ngram}
    decoding = {key: value for key, value in given.items() if value is not None}
    options = Options(model=model, decoding=decoding, top=top, as_json=as_json, attention=attention, out=out)
    with together():
        all_read = caption_photos(photos, options)
    if not all_read:
        raise typer.Exit(1)


@app.command("tune")
def tune(
    system: Annotated[str, typer.Argument(help="SYSTEM.CONFIGURATION, such as baseline.lite0.")],
    sampler: Annotated[
        Literal["grid", "random", "hyperband"], typer.Option(help="hyperband: random points with early pruning.")
    ] = "random",
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
    row: Annotated[
        list[str] | None, typer.Option(help="A row of the comparison to show too: ensemble.NAME, retrieval.NAME.")
    ] = None,
) -> None:
    """Open a page where every system captions your photos.

    Example: captionlab demo --port 8001
    """
    from captionlab.demo.server import serve

    for line in serve(Path.cwd(), host=host, port=port, open_browser=open_browser, rows=row or []):
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


app.add_typer(sharing.app)


def main() -> None:
    """Run the command line. An error is one line and exit code 1; with ``--traceback`` it is raised."""
    escape_what_cannot_be_encoded()
    try:
        check_streams()
        refuse_empty(sys.argv)
        try:
            app()
        finally:
            sys.stdout.flush()
    except Exception as error:
        if "--traceback" in sys.argv:
            raise
        if isinstance(error, BrokenPipeError):  # whoever read the output has stopped, as head does
            sys.exit(1)
        message = str(error) if isinstance(error, CaptionlabError) else internal_error(error)
        print(f"captionlab: {message}", file=sys.stderr)
        sys.exit(1)
