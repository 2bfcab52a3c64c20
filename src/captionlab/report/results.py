"""What the report shows, read from the stages' files. Knows their shapes, not how anything is displayed.

The parameters say which configurations there are; files of a configuration that was dropped are never looked for.
"""

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from captionlab import files, records
from captionlab.config import Params
from captionlab.errors import CaptionlabError

Beside = Literal["report_a", "report_b", "literature"]

_REFERENCES = Path(__file__).parent / "reference_rows.json"
_PROTOCOLS = {"strict": 0, "report_a": 1, "report_b": 2}
_CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the comparison; the fields are the CSV's columns in its order. None is an empty cell.

    Scores and accuracy run from 0 to 1, CIDEr from 0 to 10; loss is in nats a word.
    """

    system: str
    configuration: str | None = None
    encoder: str | None = None
    input: int | None = None
    hidden: int | None = None
    layers: int | None = None
    parameters: int | None = None
    megabytes: float | None = None
    epochs: int | None = None
    decoding: str | None = None
    protocol: str = "own"
    bleu_1: float | None = None
    bleu_2: float | None = None
    bleu_3: float | None = None
    bleu_4: float | None = None
    rouge_l: float | None = None
    cider: float | None = None
    meteor: float | None = None
    loss: float | None = None
    accuracy: float | None = None
    source: str

    @property
    def measured(self) -> bool:
        """Whether the row is ours; the others are reference rows."""
        return self.source == "measured"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One trained and evaluated configuration."""

    system: str
    config: str
    best_decoding: str  # chosen on the validation split
    best_epoch: int
    rows: tuple[Row, ...]  # test split, every decoding and protocol
    history: Mapping[str, tuple[float, ...]]  # epoch and the curves, one value an epoch

    @property
    def name(self) -> str:
        """The configuration as params.yaml and the commands spell it."""
        return f"{self.system}.{self.config}"

    def row(self, protocol: str = "strict") -> Row:
        """The row of the best decoding."""
        return next(row for row in self.rows if (row.decoding, row.protocol) == (self.best_decoding, protocol))


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything but the photos and the captions."""

    manifest: dict[str, Any]
    signature: dict[str, Any]
    runs: tuple[Run, ...]  # in the order of params.yaml
    references: dict[Beside, tuple[Row, ...]]  # by what they stand beside


def load(params: Params, root: Path) -> Results:
    """Read what the report needs. Raises CaptionlabError when a file is missing or a configuration has no scores."""
    scores = files.read_json(root / records.EVALUATION / "scores.json")
    entries = {(entry["system"], entry["config"]): entry for entry in scores["systems"]}
    runs = []
    for system, config in params.rows():
        if (system, config) not in entries:
            raise CaptionlabError(f"{system}.{config} has no scores; run dvc repro, or captionlab evaluate")
        folders = [root / records.MODELS / own / name for own, name in params.members(system, config)]
        one = system != "ensemble"
        runs.append(_run(folders[0], entries[system, config]) if one else _ensemble(folders, entries[system, config]))
    if not runs:
        raise CaptionlabError("params.yaml names no configuration of any system; add one to baseline, say")
    return Results(
        manifest=files.read_json(root / records.DATASET / "manifest.json"),
        signature=scores["signature"],
        runs=tuple(runs),
        references=reference_rows(),
    )


def reference_rows() -> dict[Beside, tuple[Row, ...]]:
    """The two reports' and the literature's numbers, each with the place that states it."""
    return {beside: tuple(Row(**fields) for fields in rows) for beside, rows in files.read_json(_REFERENCES).items()}


def read_captions(root: Path, run: Run) -> list[dict[str, Any]]:
    """What one configuration said of each test photo, every decoding, beside the references."""
    return files.read_jsonl(root / records.EVALUATION / "captions" / f"{run.name}.jsonl")


def _run(folder: Path, entry: dict[str, Any]) -> Run:
    summary = files.read_json(folder / "summary.json")
    shape = ("encoder", "input", "hidden", "layers", "parameters", "megabytes", "epochs")
    common = {"system": entry["system"], "configuration": entry["config"], "source": "measured"}
    common |= {field: summary[field] for field in shape} | entry["test"]
    history = _history(folder / "history.csv")
    if summary["best_epoch"] not in history["epoch"]:
        raise CaptionlabError(
            f"{folder / 'history.csv'} lacks epoch {summary['best_epoch']}, which summary.json calls the best; "
            "train the system again"
        )
    return Run(
        system=entry["system"],
        config=entry["config"],
        best_decoding=entry["best_decoding"],
        best_epoch=summary["best_epoch"],
        rows=_rows(common, entry),
        history=history,
    )


def _ensemble(folders: Sequence[Path], entry: dict[str, Any]) -> Run:
    """What was put together, not trained: it has its members' sizes and no history."""
    summaries = [files.read_json(folder / "summary.json") for folder in folders]
    common = {"system": entry["system"], "configuration": entry["config"], "source": "measured"} | entry["test"]
    common["encoder"] = ", ".join(sorted({summary["encoder"] for summary in summaries}))
    common |= {size: sum(summary[size] for summary in summaries) for size in ("parameters", "megabytes")}
    return Run(
        system=entry["system"],
        config=entry["config"],
        best_decoding=entry["best_decoding"],
        best_epoch=0,
        rows=_rows(common, entry),
        history={column: () for column in ("epoch", *_CURVES)},
    )


def _rows(common: Mapping[str, Any], entry: Mapping[str, Any]) -> tuple[Row, ...]:
    """The test split's rows, one a decoding and protocol."""
    tested = [decoded for decoded in entry["decodings"] if decoded["split"] == "test"]
    tested.sort(key=lambda decoded: (_PROTOCOLS[decoded["protocol"]], decoded["beam"]))
    return tuple(
        Row(**common, decoding=decoded["decoding"], protocol=decoded["protocol"], **decoded["scores"])
        for decoded in tested
    )


def _history(path: Path) -> dict[str, tuple[float, ...]]:
    try:
        with path.open(encoding="utf-8", newline="") as source:
            epochs = list(csv.DictReader(source))
        return {column: tuple(float(epoch[column]) for epoch in epochs) for column in ("epoch", *_CURVES)}
    except FileNotFoundError:
        raise CaptionlabError(f"{path} does not exist; run the stage that writes it (dvc repro)") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CaptionlabError(f"{path} is not a training history ({error!r}); train the system again") from error
