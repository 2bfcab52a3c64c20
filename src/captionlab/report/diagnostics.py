"""The tables of what the scores do not show: how sure they are, how much the photo earns, what is wrong with the
captions and, on drawn scenes, what is true of them. Best CIDEr first in each.
"""

from collections.abc import Sequence
from typing import Any

from captionlab.report.results import Results, Run, span
from captionlab.report.tables import Kind, Table, Value, against, ranked, table

_SCORES = {f"bleu_{n}": f"BLEU-{n}" for n in (1, 2, 3, 4)} | {"rouge_l": "ROUGE-L", "cider": "CIDEr"}
_COMPARED = ("cider", "bleu_4")
_ATTRIBUTES = ("kind", "colour", "count", "place", "action")


def tables(results: Results) -> list[Table]:
    """All of them; what is true is known of drawn scenes only."""
    runs = ranked(results.runs)
    found = [_intervals(results, runs), _differences(results, runs), _language_bias(results, runs)]
    found.append(_complaints(results, runs))
    if all(results.diagnostics.configurations[run.name].attributes for run in runs):
        found.append(_truth(results, runs))
    return found


def _intervals(results: Results, runs: Sequence[Run]) -> Table:
    columns: dict[str, Kind] = {"Configuration": "text", "Decoding": "text"}
    columns |= {f"{label}, 95 %": "text" for label in _SCORES.values()}
    count = results.diagnostics.settings["resamples"]
    return table(
        "How sure the scores are",
        columns,
        [
            [run.name, run.best_decoding, *(span(*results.diagnostics.intervals[run.name][key]) for key in _SCORES)]
            for run in runs
        ],
        notes=(
            f"From where to where 95 % of {count:,} resamples of the test photos lie, for each best decoding under the "
            "strict protocol. METEOR's program gives no score a photo, so it has no interval.",
        ),
    )


def _differences(results: Results, runs: Sequence[Run]) -> Table:
    baseline = next((run for run in runs if run.system == "baseline"), None)
    retrieval = next((run for run in runs if run.system == "retrieval"), None)
    rows = []
    for place, run in enumerate(runs):
        row: list[Value] = [run.name]
        for other in (runs[place - 1] if place else None, baseline, retrieval):
            for score in _COMPARED:
                shown = other is not None and other is not run
                row.append(" / ".join(against(results, run, other, score)) if shown and other else None)
        rows.append(row)
    others = ("row above", "best baseline", "best retrieval")
    labels = [f"{_SCORES[score]}, {other}" for other in others for score in _COMPARED]
    return table(
        "Which differences would hold for other photos",
        {"Configuration": "text", **dict.fromkeys(labels, "text")},
        rows,
        notes=(
            "Against the row above, the best configuration of the baseline and the best retrieval: the share of "
            "resamples in which this row is ahead, and p (two-sided, paired bootstrap; a star marks those below 0.05).",
        ),
    )


def _language_bias(results: Results, runs: Sequence[Run]) -> Table:
    columns: dict[str, Kind] = {"Configuration": "text"}
    for score in _COMPARED:
        label = _SCORES[score]
        columns |= {f"{label}, right photo": "score", f"{label}, wrong": "count", f"{label}, none": "count"}
        columns |= {f"{label}, earned by the photo": "score"}
    rows = []
    for run in runs:
        found = results.diagnostics.configurations[run.name].language_bias
        row: list[Value] = [run.name]
        for score in _COMPARED:
            row += [found.right[score], _three(found.wrong[score]), _three(found.without[score])]
            row.append(found.image_contribution[score])
        rows.append(row)
    shuffles = results.diagnostics.settings["shuffles"]
    return table(
        "Language bias: how much of the score the photo earns",
        columns,
        rows,
        notes=(
            f"Wrong: every photo's caption is scored as if it were another photo's, the mean of {shuffles} shuffles in "
            "which no photo keeps its place; a caption depends on its photo alone, so nothing is decoded again. None: "
            "the one caption for the mean of the training photos' features (for retrieval, of the most ordinary "
            "training photos). Earned: (right - wrong) / right; 0 for a system that ignores its photo.",
        ),
    )


def _complaints(results: Results, runs: Sequence[Run]) -> Table:
    columns: dict[str, Kind] = {
        "Configuration": "text", "Distinct": "score", "Repeated": "loss", "Copied": "loss", "Words used": "count",
        "Mean length": "count", "Colours, precision": "score", "Colours, recall": "score",
        "Counts, precision": "score", "Counts, recall": "score",
    }  # fmt: skip
    rows = []
    for run in runs:
        found = results.diagnostics.configurations[run.name].caption_statistics
        row: list[Value] = [run.name, found.distinct, found.repeated, found.copied, found.words]
        row.append(round(found.length, 1))
        rows.append(
            [*row, *(share for sort in (found.colours, found.counts) for share in (sort.precision, sort.recall))]
        )
    return table(
        "What is wrong with the captions",
        columns,
        rows,
        notes=(
            "Shares of the test captions: different ones, those with a word or pair of words twice in a row, and those "
            "that are a training caption word for word (all of a retrieval's). Words used are different words.",
            "Colours and counts (two to ten): of those said, the share that some reference of the photo has; of those "
            "that two references or more agree on, the share that is said. Whether the colour belongs to the right "
            "thing is not asked.",
        ),
    )


def _truth(results: Results, runs: Sequence[Run]) -> Table:
    columns: dict[str, Kind] = {"Configuration": "text", "Pairs": "text", "Scenes": "count"}
    columns |= dict.fromkeys(map(str.capitalize, _ATTRIBUTES), "score")
    columns["Said"] = "count"
    rows = []
    for run in runs:
        for part, found in (results.diagnostics.configurations[run.name].attributes or {}).items():
            row: list[Value] = [run.name, part, found["scenes"]]
            rows.append([*row, *(found[attribute]["right"] for attribute in _ATTRIBUTES), _said(found)])
    return table(
        "What is true of the captions",
        columns,
        rows,
        notes=(
            "The drawn scenes know what they show. Each caption's first thing is read with the grammar's own words: of "
            "the captions that say its kind, colour, count or action, or the place, the share that is right. Said: the "
            "share of these five that a caption says, on average. Unseen: scenes with a pair of colour and kind, or of "
            "kind and place, that no training scene shows.",
        ),
    )


def _said(found: dict[str, Any]) -> float | None:
    shares = [found[attribute]["said"] for attribute in _ATTRIBUTES]
    return None if None in shares else round(sum(shares) / len(shares), 3)


def _three(score: float | None) -> float | None:
    return None if score is None else round(score, 3)
