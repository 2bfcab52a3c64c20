"""What the report shows, read from the stages' files. Knows their shapes, not how anything is displayed.

The parameters say which configurations there are; files of a configuration that was dropped are never looked for.
"""

import csv
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from captionlab.config import EnsembleParams, Params
from captionlab.core import files, records
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
    input: int | None = None  # size of the word embedding, as report A names it
    hidden: int | None = None
    layers: int | None = None
    image: str | None = None  # where it enters a baseline
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
    bleu_4_low: float | None = None  # the 95 % interval, of best decodings under the strict protocol
    bleu_4_high: float | None = None
    cider_low: float | None = None
    cider_high: float | None = None

    @property
    def bleu_4_interval(self) -> str | None:
        """From where to where, as a reader sees it."""
        return span(self.bleu_4_low, self.bleu_4_high)

    @property
    def cider_interval(self) -> str | None:
        """From where to where, as a reader sees it."""
        return span(self.cider_low, self.cider_high)

    @property
    def measured(self) -> bool:
        """Whether the row is ours; the others are reference rows."""
        return self.source == "measured"


def span(low: float | None, high: float | None) -> str | None:
    """An interval in words."""
    return None if low is None or high is None else f"{low:.3f} to {high:.3f}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One evaluated configuration."""

    system: str
    config: str
    best_decoding: str  # chosen on the validation split
    best_epoch: int | None  # None of what was not trained
    recipe: str  # equal where configurations differ in their seed alone
    rows: tuple[Row, ...]  # test split, every decoding and protocol
    history: Mapping[str, tuple[float, ...]]  # epoch and the curves, one value an epoch; empty if not trained

    @property
    def name(self) -> str:
        """The configuration as params.yaml and the commands spell it."""
        return f"{self.system}.{self.config}"

    @property
    def quotes(self) -> bool:
        """Whether its captions are people's: only the project's own may be published."""
        return self.system == "retrieval"

    def row(self, protocol: str = "strict") -> Row:
        """The row of the best decoding."""
        return next(row for row in self.rows if (row.decoding, row.protocol) == (self.best_decoding, protocol))


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything but the photos and the captions."""

    manifest: dict[str, Any]
    signature: dict[str, Any]
    diagnostics: dict[str, Any]
    runs: tuple[Run, ...]  # in the order of params.yaml
    references: dict[Beside, tuple[Row, ...]]  # by what they stand beside


def load(params: Params, root: Path) -> Results:
    """Read what the report needs. Raises CaptionlabError when a file is missing or a configuration has no scores."""
    scores = files.read_json(root / records.EVALUATION / "scores.json")
    diagnostics = files.read_json(root / records.EVALUATION / "diagnostics.json")
    entries = {(entry["system"], entry["config"]): entry for entry in scores["systems"]}
    runs = []
    for system, config in [*params.rows(), *(("retrieval", name) for name in params.retrieval)]:
        if (system, config) not in entries:
            raise CaptionlabError(f"{system}.{config} has no scores; run dvc repro, or captionlab evaluate")
        entry, intervals = entries[system, config], diagnostics["intervals"][f"{system}.{config}"]
        if system == "retrieval":
            shape = {"encoder": params.retrieval[config].encoder, "parameters": 0, "megabytes": 0.0}
            runs.append(_run(entry, intervals, shape))
            continue
        folders = [root / records.MODELS / own / name for own, name in params.members(system, config)]
        if system == "ensemble":
            runs.append(_ensemble(folders, params.ensemble[config], entry, intervals))
        else:
            runs.append(_trained(folders[0], entry, intervals))
    if not params.rows():
        raise CaptionlabError("params.yaml names no configuration of any system; add one to baseline, say")
    return Results(
        manifest=files.read_json(root / records.DATASET / "manifest.json"),
        signature=scores["signature"],
        diagnostics=diagnostics,
        runs=tuple(runs),
        references=reference_rows(),
    )


def reference_rows() -> dict[Beside, tuple[Row, ...]]:
    """The two reports' and the literature's numbers, each with the place that states it."""
    return {beside: tuple(Row(**fields) for fields in rows) for beside, rows in files.read_json(_REFERENCES).items()}


def read_captions(root: Path, run: Run) -> list[dict[str, Any]]:
    """What one configuration said of each test photo, every decoding, beside the references."""
    return files.read_jsonl(root / records.EVALUATION / "captions" / f"{run.name}.jsonl")


def _trained(folder: Path, entry: dict[str, Any], intervals: Mapping[str, Sequence[float]]) -> Run:
    summary = files.read_json(folder / "summary.json")
    shape = ("encoder", "hidden", "layers", "parameters", "megabytes", "epochs")
    history = _history(folder / "history.csv")
    if summary["best_epoch"] not in history["epoch"]:
        raise CaptionlabError(
            f"{folder / 'history.csv'} lacks epoch {summary['best_epoch']}, which summary.json calls the best; "
            "train the system again"
        )
    sizes = {field: summary[field] for field in shape}
    sizes |= {"input": summary["embedding"], "image": summary["params"].get("image")}
    run = _run(entry, intervals, sizes)
    return dataclasses.replace(run, best_epoch=summary["best_epoch"], recipe=_recipe(folder), history=history)


def _recipe(folder: Path) -> str:
    """Everything that was set but the seed; what a finetuning began with and its teachers by their own recipes."""
    summary = files.read_json(folder / "summary.json")
    told = {key: value for key, value in summary["params"].items() if key != "training.seed"}
    if summary["system"] == "finetune":
        models = folder.parents[1] / told["finetune.system"]
        told["finetune.config"] = _recipe(models / told["finetune.config"])
        told["finetune.teachers"] = sorted(_recipe(models / teacher) for teacher in told["finetune.teachers"])
    return files.digest_of([summary["system"], told])


def _run(entry: dict[str, Any], intervals: Mapping[str, Sequence[float]], shape: Mapping[str, Any]) -> Run:
    common = {"system": entry["system"], "configuration": entry["config"], "source": "measured"}
    common |= {**shape, **entry["test"]}
    tested = [decoded for decoded in entry["decodings"] if decoded["split"] == "test"]
    tested.sort(key=lambda decoded: (_PROTOCOLS[decoded["protocol"]], decoded["beam"] or 0))
    ends: dict[str, Any] = {
        f"{score}_{end}": value
        for score in ("bleu_4", "cider")
        for end, value in zip(("low", "high"), intervals[score], strict=True)
    }
    return Run(
        system=entry["system"],
        config=entry["config"],
        best_decoding=entry["best_decoding"],
        best_epoch=None,
        recipe=f"{entry['system']}.{entry['config']}",  # shared with no other, until one is known
        rows=tuple(
            Row(
                **common,
                **{key: decoded[key] for key in ("decoding", "protocol")},
                **decoded["scores"],
                **(ends if (decoded["decoding"], decoded["protocol"]) == (entry["best_decoding"], "strict") else {}),
            )
            for decoded in tested
        ),
        history={},
    )


def _ensemble(
    folders: Sequence[Path], params: EnsembleParams, entry: dict[str, Any], intervals: Mapping[str, Sequence[float]]
) -> Run:
    """What was put together, not trained: it has its members' sizes and no history."""
    summaries = [files.read_json(folder / "summary.json") for folder in folders]
    sizes = {size: sum(summary[size] for summary in summaries) for size in ("parameters", "megabytes")}
    run = _run(entry, intervals, {"encoder": ", ".join(sorted({each["encoder"] for each in summaries})), **sizes})
    recipe = files.digest_of([sorted(map(_recipe, folders)), params.neighbours, params.consensus_weight])
    return dataclasses.replace(run, recipe=recipe)


def _history(path: Path) -> dict[str, tuple[float, ...]]:
    try:
        with path.open(encoding="utf-8", newline="") as source:
            epochs = list(csv.DictReader(source))
        return {column: tuple(float(epoch[column]) for epoch in epochs) for column in ("epoch", *_CURVES)}
    except FileNotFoundError:
        raise CaptionlabError(f"{path} does not exist; run the stage that writes it (dvc repro)") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CaptionlabError(f"{path} is not a training history ({error!r}); train the system again") from error
