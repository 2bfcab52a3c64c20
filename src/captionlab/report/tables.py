"""The readable tables: which rows stand in which, in what order, and how a value is written. Knows no file format.

A further table is one more ``table(title, columns, rows)`` in ``further_tables``: Markdown and HTML then both show it.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean, stdev
from typing import Literal

from captionlab.config import SECTIONS
from captionlab.report.results import Results, Row, Run

SYSTEM_NAMES = {system: system.replace("_", " ").capitalize() for system in SECTIONS}
MAIN_ROWS = 20  # that one table or figure holds and a reader takes in

Value = str | int | float | None
Kind = Literal["text", "count", "millions", "megabytes", "score", "loss"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column of a table. The greatest ``score`` of a column is its best, the least ``loss``; others have none."""

    label: str
    kind: Kind = "text"
    missing: str = "–"  # noqa: RUF001 (a dash is meant)

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers, to be aligned and sorted as such."""
        return self.kind != "text"

    def text(self, value: Value) -> str:
        """The value as a reader sees it."""
        if value is None:
            return self.missing
        match self.kind:
            case "millions":
                return f"{float(value) / 1e6:.2f} M"
            case "megabytes":
                return f"{float(value):.1f}"
            case "score" | "loss":
                return f"{float(value):.3f}"
        return str(value)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a table: a value a column, and what a reader may filter by."""

    values: tuple[Value, ...]
    system: str | None = None  # of ours; None for a row that others state
    rival: bool = True  # whether its scores compete for the best of their columns

    @property
    def measured(self) -> bool:
        """Whether the row is ours."""
        return self.system is not None


@dataclass(frozen=True, kw_only=True)
class Table:
    """Lines under columns, with the sentences that a reader needs to judge them."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    sorted_by: str | None = None  # label of the column whose greatest value stands first
    _best: dict[str, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        best: dict[str, float] = {}
        for place, column in enumerate(self.columns):
            if column.kind not in ("score", "loss"):
                continue
            values = (line.values[place] for line in self.lines if line.rival)
            rivals = {float(value) for value in values if value is not None}
            if len(rivals) > 1:  # where all are equal, none leads
                best[column.label] = max(rivals) if column.kind == "score" else min(rivals)
        object.__setattr__(self, "_best", best)

    def is_best(self, line: Line, column: Column) -> bool:
        """Whether this value leads its column among the rows that compete."""
        return line.rival and line.values[self.columns.index(column)] == self._best.get(column.label, math.nan)


def table(
    title: str,
    columns: Mapping[str, Kind],
    rows: Iterable[Sequence[Value]],
    notes: Sequence[str] = (),
) -> Table:
    """A table from plain values. ``columns`` maps each label to its kind; a row starts with its configuration's name.

    >>> table("Language bias", {"Configuration": "text", "Right photo": "score"}, [("attention.lite2", 0.55)]).title
    'Language bias'
    """
    return Table(
        title=title,
        columns=tuple(Column(label=label, kind=kind) for label, kind in columns.items()),
        lines=tuple(Line(values=tuple(row), system=str(row[0]).partition(".")[0]) for row in rows),
        notes=tuple(notes),
    )


_COLUMNS = {  # by field of Row; "name" is system and configuration together
    "name": Column(label="Configuration"),
    "decoding": Column(label="Decoding"),
    **{f"bleu_{n}": Column(label=f"BLEU-{n}", kind="score") for n in (1, 2, 3, 4)},
    "rouge_l": Column(label="ROUGE-L", kind="score"),
    "cider": Column(label="CIDEr", kind="score"),
    "val_cider": Column(label="CIDEr, val", kind="score"),
    "meteor": Column(label="METEOR", kind="score"),
    "bleu_4_interval": Column(label="BLEU-4, 95 %"),
    "cider_interval": Column(label="CIDEr, 95 %"),
    "loss": Column(label="Loss", kind="loss"),
    "accuracy": Column(label="Accuracy", kind="score"),
    "encoder": Column(label="Encoder"),
    "image": Column(label="Image"),
    "input": Column(label="Input", kind="count"),
    "hidden": Column(label="Hidden", kind="count"),
    "layers": Column(label="Layers", kind="count"),
    "parameters": Column(label="Parameters", kind="millions"),
    "megabytes": Column(label="MB", kind="megabytes"),
    "epochs": Column(label="Epochs", kind="count"),
    "protocol": Column(label="Protocol"),
    "source": Column(label="Stated in"),
}
_BLEU = ("bleu_1", "bleu_2", "bleu_3", "bleu_4")
_SCORES = (*_BLEU, "rouge_l", "cider", "meteor")
_SHAPE = ("encoder", "input", "hidden", "layers")
_INTERVALS = ("bleu_4_interval", "cider_interval")
_MAIN = (
    "name",
    "decoding",
    "val_cider",
    *_SCORES,
    *_INTERVALS,
    "loss",
    "accuracy",
    *_SHAPE,
    "parameters",
    "megabytes",
    "epochs",
)
_PROTOCOLS = {
    "report_a": "torchtext's BLEU, start and end words counted",
    "report_b": "nltk's BLEU, startseq and endseq counted, one-letter words dropped",
    "literature": "its own; tokenisation and brevity penalty may differ",
}
_STRICT = (
    "The decoding was chosen by CIDEr on the validation split, never on the test split. Strict protocol: every "
    "reference, lowercase, no punctuation, corpus level, no start, end or unknown word counted.",
    "All scores stand on the scale from 0 to 1 (papers often print them times 100), CIDEr-D on 0 to 10. Loss "
    "(nats a word) and accuracy are of the next word, given the true words before it.",
)
_SIGNIFICANT = 0.05
_ABOVE = (
    "The intervals are of a bootstrap over the test photos, with the idf of them all. p is that of the difference in "
    "CIDEr to the row above, by a paired bootstrap over the photos; a star marks those below 0.05. It knows the luck "
    "of the photos, not that of the training's seed, and the best of many rows is partly the luckiest."
)
_EVERY = "Best decoding of every configuration"
_SEEDS = (
    "Of configurations that differ in nothing but the seed of their training the first stands here, not the best; "
    "behind its intervals, mean and standard deviation over all of them."
)


def head(results: Results) -> list[tuple[str, str]]:
    """What was scored, and how: label and value."""
    manifest = results.manifest
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    return [
        ("Dataset", manifest.name),
        ("Photos", f"{manifest.images:,} with {manifest.captions:,} captions"),
        ("Digest", manifest.digest),
        ("Splits", splits),
        ("Scored", f"test split, strict protocol, at most {results.decoding.max_words} words"),
        ("Beam search", f"by log probability / words ^ {results.decoding.length_penalty}"),
        ("CIDEr idf", results.idf),
    ]


def ranked(runs: Sequence[Run]) -> list[Run]:
    """Best first: by CIDEr-D on the validation split, never on the test split."""
    return sorted(runs, key=lambda run: -run.scores.val_cider)


def headline(runs: Sequence[Run]) -> list[Run]:
    """The best configurations, best on validation first; of those that differ in their seed alone the first one."""
    return ranked([seeds[0] for seeds in _by_recipe(runs).values()])[:MAIN_ROWS]


def main_table(results: Results) -> Table:
    """The best decoding of the best configurations, with mean and deviation where there are several seeds."""
    runs = headline(results.runs)
    left_out = len(results.runs) - len(runs)
    title = f"{len(runs)} of {len(results.runs)} configurations, best first" if left_out else _EVERY
    made = _against_the_next(results, title, runs)
    seeds = _by_recipe(results.runs)
    if not any(len(seeds[run.recipe]) > 1 for run in runs):
        return made
    means = [_means(seeds[run.recipe], ("bleu_4", "cider")) for run in runs]
    return _inserted(made, [Column(label="BLEU-4, seeds"), Column(label="CIDEr, seeds")], means, notes=(_SEEDS,))


def every_table(results: Results) -> Table:
    """The best decoding of every configuration, seeds and all."""
    return _against_the_next(results, _EVERY, ranked(results.runs))


def _against_the_next(results: Results, title: str, runs: Sequence[Run]) -> Table:
    """The best decodings of these configurations, each compared with the one above."""
    made = _of_rows(title, _MAIN, [run.row() for run in runs], notes=(*_STRICT, _ABOVE))
    ps = [None, *(against(results, below, above, "cider")[1] for above, below in itertools.pairwise(runs))]
    return _inserted(made, [Column(label="p, row above")], [[p] for p in ps])


def _inserted(
    made: Table, columns: Sequence[Column], values: Sequence[Sequence[Value]], notes: tuple[str, ...] = ()
) -> Table:
    """The table with further columns behind the intervals, and notes on them."""
    place = made.columns.index(_COLUMNS["cider_interval"]) + 1
    lines = [
        dataclasses.replace(line, values=(*line.values[:place], *own, *line.values[place:]))
        for line, own in zip(made.lines, values, strict=True)
    ]
    return dataclasses.replace(
        made,
        columns=(*made.columns[:place], *columns, *made.columns[place:]),
        lines=tuple(lines),
        notes=(*made.notes, *notes),
    )


def against(results: Results, one: Run, other: Run, score: str) -> tuple[str, str]:
    """How one configuration stands against another: the share of resamples that it wins, and p, in words."""
    found = results.diagnostics.pairs[one.name][other.name][score]
    return f"{found.wins:.0%}", f"{found.p:.3f}{' *' if found.p < _SIGNIFICANT else ''}"


def decodings_table(results: Results) -> Table:
    """Every decoding of every configuration, best on validation first; the chosen ones compete for the best score."""
    rows = [row for run in results.runs for row in run.rows if row.protocol == "strict"]
    rows.sort(key=lambda row: -_number(row.val_cider))
    chosen = [run.row() for run in results.runs]
    made = _of_rows("Every decoding of every configuration", _MAIN, rows, notes=_STRICT, rivals=chosen)
    return dataclasses.replace(made, sorted_by="CIDEr, val")


def further_tables(results: Results) -> list[Table]:
    """Means over seeds; the image's places; each report's protocol beside its own numbers; the literature."""
    stated = ("name", "decoding", *_BLEU, "loss", "accuracy", *_SHAPE, "epochs", "protocol", "source")
    return [
        *_seeds(results),
        *_places(results),
        _of_rows(
            "Under report A's protocol",
            stated,
            _beside(results, "report_a"),
            notes=(
                "Our captions scored as report A scored its own, with start and end words counted, beside the numbers "
                "that it states. It prints one BLEU without its order; its function's default is BLEU-4. Its photos, "
                "split and number of references are partly unstated, its losses have another vocabulary, and its "
                "System 1 is our baseline.",
            ),
        ),
        _of_rows(
            "Under report B's protocol",
            stated,
            _beside(results, "report_b"),
            notes=(
                "Our captions scored as report B scored its own, beside the numbers that it states: the words startseq "
                "and endseq counted, one-letter words dropped, and BLEU-3 with weights that sum to 0.9. Its loss has "
                "another vocabulary.",
            ),
        ),
        _of_rows(
            "What the literature states for Flickr8k",
            ("name", "encoder", "decoding", *_SCORES, "protocol", "source"),
            _noted(results.references["literature"], "literature"),
            notes=(
                "On Flickr8k's 1,000 test photos, each under its own protocol, so not to be ranked against the strict "
                "scores above. Early papers differ in tokenisation, and some leave out BLEU's brevity penalty; the "
                "encoders differ too. CIDEr depends on the references that its idf is taken from.",
            ),
        ),
    ]


def _seeds(results: Results) -> list[Table]:
    """Mean and deviation of configurations that differ in their seed alone, if there are such."""
    groups = [runs for runs in _by_recipe(ranked(results.runs)).values() if len(runs) > 1]
    rows = [(", ".join(sorted(run.name for run in runs)), *_means(runs, _SCORES)) for runs in groups]
    columns: dict[str, Kind] = {"Configurations": "text", **{_COLUMNS[score].label: "text" for score in _SCORES}}
    notes = (
        "Configurations that differ in nothing but the seed of their training: mean and standard deviation (of the "
        "sample) of the test scores, each with the decoding that was chosen for it on validation.",
    )
    return [table("The luck of the seed", columns, rows, notes)] if rows else []


def _by_recipe(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Configurations that differ in their seed alone, together and in their order."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    return groups


def _means(runs: Sequence[Run], scores: Sequence[str]) -> list[str | None]:
    """Mean and standard deviation of the best decodings' scores; none of a single run's."""
    of_all = [[getattr(run.row(), score) for run in runs] for score in scores]
    return [
        f"{fmean(numbers):.3f} ± {stdev(numbers):.3f}" if len(numbers) > 1 and None not in numbers else None
        for numbers in of_all
    ]


def _places(results: Results) -> list[Table]:
    """The places to put the image, if the configurations differ in them."""
    rows = [run.row() for run in results.runs if run.system == "baseline"]
    places = ("init-inject", "pre-inject", "par-inject", "merge")
    by_place = [row for place in places for row in rows if row.image == place]
    if len({row.image for row in by_place}) < 2:
        return []
    fields = ("name", "image", *_SHAPE, "parameters", "decoding", *_SCORES, "loss", "accuracy")
    notes = (
        "The four places of Tanti et al. 2017 in one decoder: the LSTM's first state (init-inject), its first "
        "input (pre-inject, report A's System 1), a part of every input (par-inject), or beside its output "
        "(merge). Compare rows of equal encoder and sizes; the place decides the number of parameters. Test "
        "split, strict protocol, the decoding chosen on validation.",
    )
    return [_of_rows("Where the image enters", fields, by_place, notes)]


def _of_rows(
    title: str, fields: Sequence[str], rows: Sequence[Row], notes: tuple[str, ...], rivals: Sequence[Row] | None = None
) -> Table:
    """A table of these fields of Row. Measured rows compete, or the ``rivals`` alone."""
    columns = {key: _COLUMNS[key] for key in fields}
    if all(row.measured for row in rows) and "meteor" in columns:
        columns["meteor"] = dataclasses.replace(columns["meteor"], missing="n/a (needs Java)")
    return Table(
        title=title,
        columns=tuple(columns.values()),
        lines=tuple(
            Line(
                values=tuple(_name(row) if key == "name" else getattr(row, key) for key in fields),
                system=row.system if row.measured else None,
                rival=row.measured if rivals is None else row in rivals,
            )
            for row in rows
        ),
        notes=notes,
    )


def _name(row: Row) -> str:
    if row.measured:
        return f"{row.system}.{row.configuration}"
    return f"{row.system}, {row.configuration}" if row.configuration else row.system


def _beside(results: Results, protocol: Literal["report_a", "report_b"]) -> list[Row]:
    ours = sorted((run.row(protocol) for run in results.runs), key=lambda row: -_number(row.bleu_4))
    return _noted((*ours, *results.references[protocol]), protocol)


def _noted(rows: Sequence[Row], protocol: str) -> list[Row]:
    """The rows with the protocol in words."""
    return [dataclasses.replace(row, protocol=_PROTOCOLS[protocol]) for row in rows]


def _number(score: float | None) -> float:
    return -math.inf if score is None else score


def all_rows(results: Results) -> Sequence[Row]:
    """Every row of the CSV: ours in the order of params.yaml, then the reference rows."""
    ours = [row for run in results.runs for row in run.rows]
    return ours + [row for rows in results.references.values() for row in rows]
