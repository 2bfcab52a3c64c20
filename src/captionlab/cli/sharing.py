"""The command line, continued: commands that take a captioner out of the project."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer()

_Model = Annotated[
    str | None, typer.Option(help="A trained configuration, a checkpoint or an MLflow model; default: released.")
]


@app.command("release")
def release(
    system: Annotated[str | None, typer.Argument(help="SYSTEM.CONFIGURATION, such as attention.lite2.")] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Release the best on validation without naming it.")] = False,
) -> None:
    """Make a trained configuration the released captioner. Git keeps the former one.

    Example: captionlab release attention.lite2
    """
    from captionlab.commands.release import release as make

    for line in make(Path.cwd(), system, unnamed=yes):
        print(line)


@app.command("export")
def export(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    model: _Model = None,
    int8: Annotated[bool, typer.Option("--int8", help="Less than half the size; changes 4 % of captions.")] = False,
    web_runtime: Annotated[
        Path | None, typer.Option(help="Folder dist/ of onnxruntime-web, copied for the page; default: from a CDN.")
    ] = None,
) -> None:
    """Write a captioner as ONNX files with a web page.

    Example: captionlab export exported
    """
    from captionlab.commands.export import export as write

    for line in write(folder, model, int8=int8, web_runtime=web_runtime):
        print(line)


@app.command("publish")
def publish(
    folder: Annotated[Path, typer.Argument(help="A new or empty folder.")],
    model: Annotated[str | None, typer.Option(help="A released checkpoint; default: the released captioner.")] = None,
    repository: Annotated[
        str | None, typer.Option("--repo", help="OWNER/NAME on the Hugging Face Hub; without it nothing is uploaded.")
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="A new repository is private instead of public.")] = False,
) -> None:
    """Write a captioner for the Hugging Face Hub.

    Example: captionlab publish hub --repo me/captioner
    """
    from captionlab.commands.publish import publish as write

    for line in write(folder, model, repository, private=private):
        print(line)
