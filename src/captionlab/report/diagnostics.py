"""The diagnostic tables: confidence intervals, significance, language bias, caption statistics, attribute accuracy.

In each, the configuration with the best CIDEr on validation is first.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from captionlab.report.results import Results, Run, span
from captionlab.report.table import Kind, Table, Value, table
from captionlab.report.tables import PEOPLE_NOTE, p_value, ranked

_SCORES = {f"bleu_{n}": f"BLEU-{n}" for n in (1, 2, 3, 4)} | {"rouge_l": "ROUGE-L", "cider": "CIDEr"}
_COMPARED = ("cider", "bleu_4")
_ATTRIBUTES = ("kind", "colour", "count", "place", "action")


def tables(results: Results) -> list[Table]:
    """All diagnostic tables; attribute accuracy only for drawn scenes."""
    runs = ranked(results.runs)
    found = [_intervals(results, runs), _differences(results, runs), _language_bias(results, runs)]
    found.append(_caption_statistics(results, runs))
    if all(results.diagnostics.configurations[run.name].attributes for run in runs):
        found.append(_attribute_accuracy(results, runs))
    return found


def _intervals(results: Results, runs: Sequence[Run]) -> Table:
    columns: dict[str, Kind] = {"Configuration": "text", "Decoding": "text"}
    columns |= {f"{label}, 95 %": "text" for label in _SCORES.values()}
    count = results.diagnostics.settings["resamples"]
    made = table(
        "Confidence intervals",
        columns,
        [
            [run.name, run.best_decoding, *(span(*results.diagnostics.intervals[run.name][key]) for key in _SCORES)]
            for run in runs
        ],
        notes=(
            f"95 % intervals over {count:,} resamples of the test photos, for each best decoding under the strict "
            "protocol. METEOR has no interval, because its Java program would have to score each resample.",
        ),
    )
    return _marked(made, runs, {score: f"{label}, 95 %" for score, label in _SCORES.items()})


def _marked(made: Table, runs: Sequence[Run], columns: Mapping[str, str]) -> Table:
    """The table with the scores above people's marked; ``columns`` has the label of each score that it shows."""
    above = [frozenset(columns[score] for score in run.row().above_people.split() if score in columns) for run in runs]
    lines = [dataclasses.replace(line, above_people=own) for line, own in zip(made.lines, above, strict=True)]
    notes = (*made.notes, PEOPLE_NOTE) if any(above) else made.notes
    return dataclasses.replace(made, lines=tuple(lines), notes=notes)


def _differences(results: Results, runs: Sequence[Run]) -> Table:
    baseline = next((run for run in runs if run.system == "baseline"), None)
    retrieval = next((run for run in runs if run.system == "retrieval"), None)
    rows = []
    for place, run in enumerate(runs):
        row: list[Value] = [run.name]
        for other in (runs[place - 1] if place else None, baseline, retrieval):
            for score in _COMPARED:
                shown = other is not None and other is not run
                row.append(_comparison(results, run, other, score) if shown and other else None)
        rows.append(row)
    others = ("row above", "best baseline", "best retrieval")
    labels = [f"{_SCORES[score]}, {other}" for other in others for score in _COMPARED]
    return table(
        "Significance of differences",
        {"Configuration": "text", **dict.fromkeys(labels, "text")},
        rows,
        notes=(
            "Each row against the row above, the best baseline and the best retrieval: the share of resamples in which "
            "the row has the higher score, and p (paired bootstrap, two-sided; a star marks p < 0.05).",
        ),
    )


def _comparison(results: Results, one: Run, other: Run, score: str) -> str:
    found = results.diagnostics.pairs[one.name][other.name][score]
    return f"{found.wins:.0%} / {p_value(found.p)}"


def _language_bias(results: Results, runs: Sequence[Run]) -> Table:
    columns: dict[str, Kind] = {"Configuration": "text"}
    for score in _COMPARED:
        label = _SCORES[score]
        columns |= {f"{label}, right photo": "score", f"{label}, wrong photo": "share", f"{label}, no photo": "share"}
        columns |= {f"{label}, image contribution": "score"}
    rows = []
    for run in runs:
        found = results.diagnostics.configurations[run.name].language_bias
        row: list[Value] = [run.name]
        for score in _COMPARED:
            row += [found.right[score], found.wrong[score], found.without[score]]
            row.append(found.image_contribution[score])
        rows.append(row)
    shuffles = results.diagnostics.settings["shuffles"]
    made = table(
        "Language bias: how much of the score depends on the photo",
        columns,
        rows,
        notes=(
            f"Wrong photo: each caption is scored against the references of another photo, as the mean of {shuffles} "
            "shuffles in which no photo keeps its caption. No photo: every photo gets the one caption that is "
            "generated from the mean features of the training photos (for retrieval, a caption of the training "
            "photos nearest to that mean). Image contribution: (right - wrong) / right, which is 0 for a system that "
            "ignores the photo.",
        ),
    )
    return _marked(made, runs, {score: f"{_SCORES[score]}, right photo" for score in _COMPARED})


def _caption_statistics(results: Results, runs: Sequence[Run]) -> Table:
    columns: dict[str, Kind] = {
        "Configuration": "text", "Distinct": "score", "Repeated": "loss", "Copied": "loss", "Words used": "count",
        "Mean length": "count", "Length ratio": "share", "Colours, precision": "score", "Colours, recall": "score",
        "Counts, precision": "score", "Counts, recall": "score",
    }  # fmt: skip
    rows = []
    for run in runs:
        found = results.diagnostics.configurations[run.name].caption_statistics
        row: list[Value] = [run.name, found.distinct, found.repeated, found.copied, found.words]
        row += [round(found.length, 1), found.length_ratio]
        rows.append(
            [*row, *(share for sort in (found.colours, found.counts) for share in (sort.precision, sort.recall))]
        )
    several = {1: "one", 2: "two"}.get(results.recall_references, results.recall_references)
    return table(
        "Caption statistics",
        columns,
        rows,
        notes=(
            "Distinct, repeated and copied are shares of the test captions: distinct ones, those that repeat a word "
            "or a pair of words in direct succession, and those that equal a training caption (all of a retrieval's). "
            "Words used is the number of different words. Length ratio: words of all captions by words of the "
            "references closest in length; below 1 the brevity penalty of BLEU applies.",
            "Colours and counts (two to ten): precision is the share of those in captions that some reference of the "
            f"photo has; recall is the share of those in {several} or more references that the caption has. Whether a "
            "colour belongs to the right object is not checked.",
        ),
    )


def _attribute_accuracy(results: Results, runs: Sequence[Run]) -> Table:
    columns: dict[str, Kind] = {"Configuration": "text", "Pairs": "text", "Scenes": "count"}
    columns |= dict.fromkeys(map(str.capitalize, _ATTRIBUTES), "score")
    columns["Mentioned"] = "share"
    rows = []
    for run in runs:
        for part, found in (results.diagnostics.configurations[run.name].attributes or {}).items():
            row: list[Value] = [run.name, part, found["scenes"]]
            rows.append([*row, *(found[attribute]["right"] for attribute in _ATTRIBUTES), _mentioned(found)])
    return table(
        "Attribute accuracy on the drawn scenes",
        columns,
        rows,
        notes=(
            "The content of a drawn scene is known. The first object of each caption is parsed with the words of the "
            "scenes' grammar: of the captions that mention its kind, colour, count or action, or the place, the share "
            "that is correct. Mentioned: the mean share of these five attributes that a caption mentions. Unseen "
            "pairs: scenes with a pair of colour and kind, or of kind and place, that is in no training scene.",
        ),
    )


def _mentioned(found: dict[str, Any]) -> float | None:
    shares = [found[attribute]["said"] for attribute in _ATTRIBUTES]
    return None if None in shares else sum(shares) / len(shares)
