"""The results that the report shows, read from the outputs of the stages. Knows nothing of the display.

params.yaml defines the configurations; files of removed configurations are ignored.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from captionlab.config import Params
from captionlab.core.files import digest_of, read_json
from captionlab.core.records import MODELS, PROTOCOLS, Decoding, Protocol
from captionlab.core.results import (
    ConfigurationScores,
    Diagnostics,
    Evaluation,
    FewerReferences,
    Manifest,
    read_diagnostics,
    read_evaluation,
    read_manifest,
    read_members,
    read_training,
    recipe,
)
from captionlab.core.results.further_scores import FurtherScores, read_further_scores
from captionlab.core.results.guests import read_guest
from captionlab.core.results.judgments import Agreements, read_agreements

Stated = Literal["report_a", "report_b", "literature"]  # where reference rows come from

_REFERENCES = Path(__file__).parent / "reference_rows.json"
_SHAPE = ("embedding", "encoder", "hidden", "layers", "parameters", "megabytes", "epochs")
_CURVES = ("train_loss", "val_loss", "train_accuracy", "val_accuracy")


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the comparison; the fields are the CSV's columns in order, and None is an empty cell.

    Scores and accuracy are from 0 to 1, CIDEr from 0 to 10; loss is in nats per word.
    """

    system: str
    configuration: str | None = None
    encoder: str | None = None
    embedding: int | None = None  # size of a word's embedding; report A's input size
    hidden: int | None = None
    layers: int | None = None
    image: str | None = None  # position where the image enters a baseline
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
    val_cider: float | None = None  # CIDEr-D on validation, which selects decodings and ranks configurations
    bleu_4_low: float | None = None  # 95 % interval; only of best decodings under the strict protocol
    bleu_4_high: float | None = None
    cider_low: float | None = None
    cider_high: float | None = None
    above_people: str = ""  # scores above those of people with equally many references, separated by spaces

    @property
    def bleu_4_interval(self) -> str | None:
        """The 95 % interval of BLEU-4 as text."""
        return span(self.bleu_4_low, self.bleu_4_high)

    @property
    def cider_interval(self) -> str | None:
        """The 95 % interval of CIDEr as text."""
        return span(self.cider_low, self.cider_high)

    @property
    def measured(self) -> bool:
        """Whether this pipeline measured the row; otherwise it is a reference row."""
        return self.source == "measured"


def span(low: float | None, high: float | None) -> str | None:
    """An interval as text."""
    return None if low is None or high is None else f"{low:.3f} to {high:.3f}"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One evaluated configuration."""

    system: str
    config: str
    scores: ConfigurationScores
    best_epoch: int | None  # None if not trained
    recipe: str  # equal for configurations that differ only in their seed
    rows: tuple[Row, ...]  # test split, every decoding and protocol
    history: Mapping[str, tuple[float, ...]]  # epoch and the curves, one value per epoch; empty if not trained
    val_cider: tuple[float | None, ...] = ()  # of each epoch

    @property
    def name(self) -> str:
        """The configuration's name in params.yaml and on the command line."""
        return f"{self.system}.{self.config}"

    @property
    def best_decoding(self) -> str:
        """The decoding that validation chose."""
        return self.scores.best.decoding.label

    @property
    def quotes(self) -> bool:
        """Whether its captions are quoted from the dataset; only those of the built-in dataset may be published."""
        return self.system == "retrieval"

    def row(self, protocol: Protocol | Literal["fewer_references"] = "strict") -> Row:
        """The row of the chosen decoding."""
        return next(row for row in self.rows if (row.decoding, row.protocol) == (self.best_decoding, protocol))


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that tables and figures show, without photos and captions."""

    manifest: Manifest
    idf: str
    decoding: Decoding  # length penalty and maximum length, which are the same for all beams
    recall_references: int  # of a photo, that have what recall expects
    diagnostics: Diagnostics
    agreements: Agreements  # of each score with human judgments; empty if the dataset has none
    further: FurtherScores
    runs: tuple[Run, ...]  # in the order of params.yaml
    people: Row | None  # reference captions scored against the others of their photo; None if photos have only one
    ways: int  # number of choices of the reference that is left out
    references: dict[Stated, tuple[Row, ...]]


def load(params: Params, root: Path) -> Results:
    """Read all results. Raises CaptionlabError if a file is missing or a configuration has no scores."""
    evaluation, diagnostics = read_evaluation(root), read_diagnostics(root)
    fewer = evaluation.fewer_references
    return Results(
        manifest=read_manifest(root),
        idf=evaluation.idf,
        decoding=params.evaluate.decodings[0],
        recall_references=params.evaluate.recall_references,
        diagnostics=diagnostics,
        agreements=read_agreements(root),
        further=read_further_scores(root),
        runs=tuple(_run(params, root, evaluation, diagnostics, f"{system}.{name}") for system, name in params.rows()),
        people=Row(system="people", source="people", protocol="fewer_references", **asdict(fewer.people))
        if fewer
        else None,
        ways=fewer.ways if fewer else 0,
        references=reference_rows(),
    )


def reference_rows() -> dict[Stated, tuple[Row, ...]]:
    """The published numbers of the two reports and of the literature."""
    return {stated: tuple(Row(**fields) for fields in rows) for stated, rows in read_json(_REFERENCES).items()}


def _run(params: Params, root: Path, evaluation: Evaluation, diagnostics: Diagnostics, key: str) -> Run:
    scores = evaluation[key]
    system, name = scores.system, scores.name
    best_epoch, history, val_cider = None, dict[str, tuple[float, ...]](), tuple[float | None, ...]()
    shape: dict[str, Any]
    if system == "retrieval":
        shape = {"encoder": params.retrieval[name].encoder, "parameters": 0, "megabytes": 0.0}
        own_recipe = scores.key
    elif system == "guests":
        guest, own_recipe = read_guest(root, name), scores.key
        shape = {"parameters": guest.parameters, "megabytes": guest.megabytes}
    elif system == "ensemble":
        members, ensemble = params.members(system, name), params.ensemble[name]
        shape = asdict(read_members(root, members))
        reranking = [ensemble.neighbours, ensemble.consensus_weight]
        own_recipe = digest_of([sorted(recipe(root, *member) for member in members), *reranking])
    else:
        training = read_training(root / MODELS / system / name)
        summary, best_epoch, own_recipe = training.summary, training.summary.best_epoch, recipe(root, system, name)
        shape = {key: getattr(summary, key) for key in _SHAPE}
        shape["image"] = summary.params.get("image")
        history = {key: tuple(getattr(epoch, key) for epoch in training.history) for key in ("epoch", *_CURVES)}
        val_cider = tuple(epoch.val_cider for epoch in training.history)
    return Run(
        system=system, config=name, scores=scores, best_epoch=best_epoch, recipe=own_recipe,
        rows=_rows(scores, shape, diagnostics.intervals[key], evaluation.fewer_references), history=history,
        val_cider=val_cider,
    )  # fmt: skip


def _rows(
    scores: ConfigurationScores, shape: Mapping[str, Any], intervals: Mapping[str, tuple[float, float]],
    fewer: FewerReferences | None,
) -> tuple[Row, ...]:  # fmt: skip
    """All protocols and decodings on the test split; only the chosen decoding has intervals."""
    ends = {
        f"{score}_{end}": value
        for score in ("bleu_4", "cider")
        for end, value in zip(("low", "high"), intervals[score], strict=True)
    }
    fixed: dict[str, Any] = {
        "system": scores.system, "configuration": scores.name, "source": "measured", "loss": scores.loss,
        "accuracy": scores.accuracy, **shape,
    }  # fmt: skip
    above = [" ".join(fewer.above_people(scores.key, place)) if fewer else "" for place in range(len(scores.decodings))]
    rows = []
    for protocol in PROTOCOLS:
        for place, decoded in enumerate(scores.decodings):
            strict: dict[str, Any] = {"above_people": above[place]} if protocol == "strict" else {}
            strict |= {"val_cider": decoded.val.cider} if protocol == "strict" and decoded.val else {}
            strict |= ends if protocol == "strict" and place == scores.chosen else {}
            own = asdict(decoded.test[protocol])
            rows.append(Row(**fixed, decoding=decoded.decoding.label, protocol=protocol, **own, **strict))
    if fewer:
        labels = [decoded.decoding.label for decoded in scores.decodings]
        for label, means, marks in zip(labels, fewer.configurations[scores.key], above, strict=True):
            row = Row(**fixed, decoding=label, protocol="fewer_references", **asdict(means), above_people=marks)
            rows.append(row)
    return tuple(rows)
