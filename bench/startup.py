"""Start-up time of the commands, compared with importing the libraries they need.

    python bench/startup.py [--root .] [--rounds 5] [--smoke]

Each measurement starts a new process whose files are in the page cache. Reads a checkpoint of a finished ``dvc repro``
under ``--root``.
"""

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from captionlab.core.records import RELEASED
from common import ROOT, Rates, Workload, interleave, load, options, publish, section
from decoding import trained
from extraction import draw_photos

PYTHON, TORCH, MLFLOW, HELP, CAPTION = "python -c pass", "import torch", "import mlflow", "captionlab --help", "caption"
HEAVY = ("torch", "mlflow", "matplotlib", "onnxruntime", "nltk", "sklearn", "pandas", "starlette")


def process(*arguments: str) -> Workload:
    """A new Python process with these arguments."""

    def run() -> float:
        subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
        return 1

    return run


def _imported_by(command: Sequence[str]) -> set[str]:
    """Which of the heavy libraries a command imports."""
    code = (
        "import sys\nfrom captionlab.cli import app\n"
        f"try:\n    app({list(command)!r})\nexcept SystemExit:\n    pass\n"
        f"print(*(name for name in {HEAVY!r} if name in sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return set(done.stderr.split())


def main() -> None:
    """Measure the start-up times and check which libraries are imported."""
    parser = options(__doc__)
    parser.add_argument("--root", type=Path, default=ROOT, help="a project with a finished dvc repro")
    arguments = parser.parse_args()
    before, rounds = load(), 1 if arguments.smoke else max(5, arguments.rounds)
    name, checkpoint = trained(arguments.root, "attention")
    model = RELEASED if RELEASED.exists() else checkpoint
    cli = ("-m", "captionlab.cli")
    with tempfile.TemporaryDirectory() as folder:
        (photo,) = draw_photos(Path(folder), 1)
        caption = ["caption", str(photo), "--model", str(model)]
        workloads = {
            PYTHON: process("-c", "pass"),
            TORCH: process("-c", "import torch"),
            MLFLOW: process("-c", "import mlflow"),
            HELP: process(*cli, "--help"),
            CAPTION: process(*cli, *caption),
        }
        rates = interleave(workloads, rounds)
        imported = {HELP: _imported_by(["--help"]), CAPTION: _imported_by(caption)}
    assert not imported[HELP], f"captionlab --help imports {imported[HELP]}"
    assert "mlflow" not in imported[CAPTION], "captionlab caption imports mlflow"
    seconds = {name: Rates(tuple(1 / value for value in rates[name].rounds)) for name in workloads}
    targets = {HELP: "0.4 s", CAPTION: "4 s"}
    others = {HELP: PYTHON, TORCH: PYTHON, MLFLOW: PYTHON, CAPTION: TORCH}
    rows = [
        [
            "captionlab caption, one photo" if name == CAPTION else name,
            seconds[name].text(" s"),
            f"{seconds[name].over(seconds[others[name]]).text('x')} {others[name]}" if name in others else "",
            targets.get(name, ""),
        ]
        for name in workloads
    ]
    notes = [
        f"`captionlab --help` imports none of {', '.join(HEAVY)}; `captionlab caption` imports "
        f"{', '.join(sorted(imported[CAPTION])) or 'none'} of them. The photo is captioned by "
        f"{'the released captioner' if model == RELEASED else f'attention.{name}'}."
    ]
    publish(
        section("startup", "Start-up", ["command", "seconds", "compared with", "target"], rows, notes, load=before),
        arguments,
    )


if __name__ == "__main__":
    main()
