"""The tables of the report: their rows, order and notes. Knows no file format.

To add a table, add a ``Table`` to ``further_tables``; Markdown and HTML both show it.
"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import Literal

from captionlab.config import SECTIONS
from captionlab.report.results import Results, Row, Run
from captionlab.report.table import ABOVE_PEOPLE, Column, Line, Table, Value

SYSTEM_NAMES = {system: system.replace("_", " ").capitalize() for system in SECTIONS}
MAIN_ROWS = 20  # of the main table and the figures

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
    "embedding": Column(label="Embedding", kind="count"),
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
SCORE_NAMES = {score: _COLUMNS[score].label for score in _SCORES}
_SHAPE = ("encoder", "embedding", "hidden", "layers")
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
    "Configurations are ranked by CIDEr on the validation split (CIDEr, val), which also chose each decoding. All "
    "other scores are of the test split, which chooses nothing.",
    "Strict protocol: corpus scores against all references of a photo, in lowercase and without punctuation; start, "
    "end and unknown tokens are not counted. Scores run from 0 to 1 (papers often print them times 100), CIDEr-D from "
    "0 to 10. Loss (nats per word) and accuracy are those of the next word, given the reference words before it. "
    "Embedding is the size of a word's embedding.",
)
PEOPLE_NOTE = (
    f"{ABOVE_PEOPLE} marks a score that is above that of people, when both are scored against equally many "
    "references: see the table of people's captions."
)
_SIGNIFICANT = 0.05
_ABOVE = (
    "The 95 % intervals come from a bootstrap over the test photos, with the idf of all of them. p tests the "
    "difference in CIDEr to the row above (paired bootstrap, two-sided); a star marks p < 0.05. The p-value covers "
    "the choice of test photos, not the training seed, and is not corrected for multiple comparisons."
)
_GUESTS = (
    "Rows named guests are other captioners: captions from a file, or by a model of transformers. One without "
    "captions of the validation split has no CIDEr, val, and comes last."
)
_EVERY = "Best decoding of every configuration"
_SEEDS = (
    "Of configurations that differ only in their training seed, the first is shown, not the best; the columns with "
    "seeds in their name give mean and standard deviation over all of them."
)
_REPORT_A = (
    "Report A: Hussnain Ashraf and Kunal (team 41), Visual Recognition: Report on Image Captioning with Flickr8K "
    "Dataset, undated."
)
_REPORT_B = "Report B: Hussein Mohamed, Marwan Essam and Mariam Hossam, Image Captioning Model Implementation, undated."


def head(results: Results) -> list[tuple[str, str]]:
    """The dataset and the scoring, as (label, value)."""
    manifest = results.manifest
    splits = ", ".join(f"{name} {count:,}" for name, count in manifest.splits.items())
    return [
        ("Dataset", manifest.name),
        ("Photos", f"{manifest.images:,} with {manifest.captions:,} captions"),
        ("Dataset digest", manifest.digest),
        ("Splits", splits),
        ("Scores", "test split, strict protocol"),
        ("Beam search", f"ranks by log probability / length ^ {results.decoding.length_penalty}"),
        ("Longest caption", f"{results.decoding.max_words} words"),
        ("CIDEr idf", results.idf),
    ]


def ranked(runs: Sequence[Run]) -> list[Run]:
    """The runs, best first, ranked by CIDEr-D on the validation split."""
    return sorted(runs, key=lambda run: -run.scores.val_cider)


def headline(runs: Sequence[Run]) -> list[Run]:
    """The best configurations, best first, and all guests; of those that differ only in their seed, only the first."""
    first = ranked([seeds[0] for seeds in _by_recipe(runs).values()])
    return [run for place, run in enumerate(first) if place < MAIN_ROWS or run.system == "guests"]


def main_table(results: Results) -> Table:
    """The best decoding of the best configurations, with mean and deviation over several seeds."""
    runs = headline(results.runs)
    left_out = len(results.runs) - len(runs)
    title = f"{len(runs)} of {len(results.runs)} configurations, best on validation first" if left_out else _EVERY
    made = _with_significance(results, title, runs)
    seeds = _by_recipe(results.runs)
    if not any(len(seeds[run.recipe]) > 1 for run in runs):
        return made
    means = [_means(seeds[run.recipe], ("bleu_4", "cider")) for run in runs]
    made = _inserted(made, [Column(label="BLEU-4, seeds"), Column(label="CIDEr, seeds")], means, notes=(_SEEDS,))
    above = [
        {f"{label}, seeds" for label in _above_people(results, seeds[run.recipe], ("bleu_4", "cider"))} for run in runs
    ]
    lines = [
        dataclasses.replace(line, above_people=line.above_people | own)
        for line, own in zip(made.lines, above, strict=True)
    ]
    return dataclasses.replace(made, lines=tuple(lines))


def every_table(results: Results) -> Table:
    """The best decoding of every configuration, including all seeds."""
    return _with_significance(results, _EVERY, ranked(results.runs))


def _with_significance(results: Results, title: str, runs: Sequence[Run]) -> Table:
    """The best decodings of these configurations, each with the p-value against the row above."""
    guests = (_GUESTS,) if any(run.system == "guests" for run in runs) else ()
    made = _of_rows(title, _MAIN, [run.row() for run in runs], notes=(*_STRICT, _ABOVE, *guests))
    compared = [results.diagnostics.pairs[below.name][above.name] for above, below in itertools.pairwise(runs)]
    ps = [None, *(p_value(pair["cider"].p) for pair in compared)]
    return _inserted(made, [Column(label="p, row above")], [[p] for p in ps])


def _inserted(
    made: Table, columns: Sequence[Column], values: Sequence[Sequence[Value]], notes: tuple[str, ...] = ()
) -> Table:
    """The table with further columns after the intervals, and further notes."""
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


def p_value(p: float) -> str:
    """A p-value rounded to three digits, with a star if the rounded value is significant.

    >>> [p_value(p) for p in (0.0499, 0.0494, 0.0002)]
    ['0.050', '0.049 *', '< 0.001 *']
    """
    rounded = round(p, 3)
    digits = f"{rounded:.3f}" if rounded else "< 0.001"
    return f"{digits} *" if rounded < _SIGNIFICANT else digits


def decodings_table(results: Results) -> Table:
    """Every decoding of every configuration, best on validation first; best values are among the chosen ones."""
    rows = [row for run in results.runs for row in run.rows if row.protocol == "strict"]
    rows.sort(key=lambda row: -_number(row.val_cider))
    chosen = [run.row() for run in results.runs]
    made = _of_rows("Every decoding of every configuration", _MAIN, rows, notes=_STRICT, competing=chosen)
    return dataclasses.replace(made, sorted_by="CIDEr, val")


def further_tables(results: Results) -> list[Table]:
    """The tables on people, seeds, image positions, both reports' protocols and published results."""
    stated = ("name", "decoding", *_BLEU, "loss", "accuracy", *_SHAPE, "epochs", "protocol", "source")
    return [
        *_people(results),
        *_seeds(results),
        *_image_positions(results),
        _of_rows(
            "Under report A's protocol",
            stated,
            _with_stated(results, "report_a"),
            notes=(
                _REPORT_A,
                "Our captions under the protocol of report A, which counts start and end words, beside the numbers "
                "that it states. It prints one BLEU and not its order; the default of its function is BLEU-4. Its "
                "photos, split and number of references are partly unstated, and its losses are over another "
                "vocabulary. Its System 1 is the baseline here. People are not scored under this protocol.",
            ),
        ),
        _of_rows(
            "Under report B's protocol",
            stated,
            _with_stated(results, "report_b"),
            notes=(
                _REPORT_B,
                "Our captions under the protocol of report B, beside the numbers that it states. It counts the words "
                "startseq and endseq, drops one-letter words, and its weights for BLEU-3 sum to 0.9. Its loss is over "
                "another vocabulary. People are not scored under this protocol.",
            ),
        ),
        _of_rows(
            "Published results on Flickr8k",
            ("name", "encoder", "decoding", *_SCORES, "protocol", "source"),
            _noted(results.references["literature"], "literature"),
            notes=(
                "On the 1,000 test photos of Flickr8k, each under its own protocol, so they cannot be ranked against "
                "the strict scores above. Tokenisation and encoders differ, some early papers leave out BLEU's "
                "brevity penalty, and CIDEr depends on the references of its idf.",
            ),
        ),
    ]


def _people(results: Results) -> list[Table]:
    """People and systems scored against equally many references; empty if photos have only one."""
    if results.people is None:
        return []
    rows = [results.people, *(run.row("fewer_references") for run in ranked(results.runs))]
    notes = (
        "People: each reference caption of a photo is scored against the others, as the mean of "
        f"{results.ways} ways of leaving one out. The systems' captions are scored against the same references, so "
        "BLEU, ROUGE-L and METEOR are lower here than in the other tables. Test split, strict protocol, the decoding "
        "that validation chose.",
    )
    return [
        _of_rows("People's captions against the others of their photo", ("name", "decoding", *_SCORES), rows, notes)
    ]


def _seeds(results: Results) -> list[Table]:
    """Mean and deviation of configurations that differ only in their training seed; empty if there are none."""
    groups = [runs for runs in _by_recipe(ranked(results.runs)).values() if len(runs) > 1]
    lines = [
        Line(
            values=(", ".join(sorted(run.name for run in runs)), *_means(runs, _SCORES)),
            system=runs[0].system,
            above_people=_above_people(results, runs, _SCORES),
        )
        for runs in groups
    ]
    columns = [Column(label="Configurations"), *(Column(label=_COLUMNS[score].label) for score in _SCORES)]
    notes = (
        "Configurations that differ only in their training seed: mean and sample standard deviation of the test "
        "scores, each under the decoding that validation chose for it.",
    )
    people = (PEOPLE_NOTE,) if any(line.above_people for line in lines) else ()
    made = Table(
        title="Mean and deviation over seeds", columns=tuple(columns), lines=tuple(lines), notes=(*notes, *people)
    )
    return [made] if lines else []


def _by_recipe(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Configurations grouped by recipe: those of a group differ only in their training seed."""
    groups: dict[str, list[Run]] = {}
    for run in runs:
        groups.setdefault(run.recipe, []).append(run)
    return groups


def _means(runs: Sequence[Run], scores: Sequence[str]) -> list[str | None]:
    """Mean and standard deviation of the best decodings' scores; None for a single run."""
    of_all = [[getattr(run.row(), score) for run in runs] for score in scores]
    return [
        f"{fmean(numbers):.3f} ± {stdev(numbers):.3f}" if len(numbers) > 1 and None not in numbers else None
        for numbers in of_all
    ]


def _above_people(results: Results, runs: Sequence[Run], scores: Sequence[str]) -> frozenset[str]:
    """The labels of the scores that in the mean over these configurations are above people's."""
    if results.people is None or len(runs) < 2:
        return frozenset()
    scored = [score for score in scores if getattr(results.people, score) is not None]  # METEOR needs Java
    rows = [run.row("fewer_references") for run in runs]
    means = {score: fmean(getattr(row, score) for row in rows) for score in scored}
    return frozenset(_COLUMNS[score].label for score in scored if means[score] > getattr(results.people, score))


def _image_positions(results: Results) -> list[Table]:
    """The baselines grouped by image position; empty if all have the same."""
    rows = [run.row() for run in results.runs if run.system == "baseline"]
    positions = ("init-inject", "pre-inject", "par-inject", "merge")
    by_position = [row for position in positions for row in rows if row.image == position]
    if len({row.image for row in by_position}) < 2:
        return []
    fields = ("name", "image", *_SHAPE, "parameters", "decoding", *_SCORES, "loss", "accuracy")
    notes = (
        "The four positions of Tanti et al. 2017 in one decoder: the first state of the LSTM (init-inject), its first "
        "input (pre-inject), a part of every input (par-inject), or beside its output (merge). Compare rows of equal "
        "encoder and sizes; the position changes the number of parameters. Test split, strict protocol, the decoding "
        "that validation chose.",
    )
    return [_of_rows("Where the image enters", fields, by_position, notes)]


def _of_rows(
    title: str, fields: Sequence[str], rows: Sequence[Row], notes: tuple[str, ...], competing: Sequence[Row] = ()
) -> Table:
    """A table of these fields of Row; the best values are among the measured rows, or only those in ``competing``."""
    columns = {key: _COLUMNS[key] for key in fields}
    stated = [row.source not in ("measured", "people") for row in rows]
    if "meteor" in columns and not any(stated):
        columns["meteor"] = dataclasses.replace(columns["meteor"], missing="n/a (needs Java)")
    above = [frozenset(_COLUMNS[key].label for key in row.above_people.split()) for row in rows]
    return Table(
        title=title,
        columns=tuple(columns.values()),
        lines=tuple(
            Line(
                values=tuple(_name(row) if key == "name" else getattr(row, key) for key in fields),
                system=row.system if row.measured else None,
                stated=published,
                competes=row in competing if competing else row.measured,
                above_people=own,
            )
            for row, published, own in zip(rows, stated, above, strict=True)
        ),
        notes=(*notes, PEOPLE_NOTE) if any(above) else notes,
    )


def _name(row: Row) -> str:
    if row.measured:
        return f"{row.system}.{row.configuration}"
    return f"{row.system}, {row.configuration}" if row.configuration else row.system


def _with_stated(results: Results, protocol: Literal["report_a", "report_b"]) -> list[Row]:
    ours = [run.row(protocol) for run in ranked(results.runs)]
    return _noted((*ours, *results.references[protocol]), protocol)


def _noted(rows: Sequence[Row], protocol: str) -> list[Row]:
    """The rows with a description of their protocol."""
    return [dataclasses.replace(row, protocol=_PROTOCOLS[protocol]) for row in rows]


def _number(score: float | None) -> float:
    return -math.inf if score is None else score
