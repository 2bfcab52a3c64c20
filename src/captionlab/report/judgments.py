"""The table of each score's agreement with human judgments. Formats stored results; computes nothing."""

from captionlab.core.results.further_scores import NEEDS
from captionlab.core.results.judgments import Judges, Tau
from captionlab.report.further_scores import FURTHER_NAMES
from captionlab.report.results import Results
from captionlab.report.table import Column, Line, Table
from captionlab.report.tables import SCORE_NAMES

_JUDGES: dict[Judges, str] = {"experts": "Experts", "crowd": "Crowd"}
_NOTES: dict[Judges, str] = {
    "experts": "Experts: Kendall's tau-c between the score of a caption and every mark from 1 to 4 that three experts "
    "gave it ({pairs:,} pairs of photo and caption, {photos:,} photos). Captions that are among the photo's own "
    "references are left out.",
    "crowd": "Crowd: Kendall's tau-b between the score and the share of people who say that the caption describes the "
    "photo ({pairs:,} pairs, {photos:,} photos). Judged captions are not among the references.",
}
_NAMES = {**SCORE_NAMES, **FURTHER_NAMES, "photo_fit": "Photo fit"}
_NEEDS = {"meteor": "needs Java", **NEEDS}
_NOTE = (
    "A tau of 0 is no agreement, 1 the same order. The 95 % intervals come from {resamples:,} resamples of the photos. "
    "BLEU counts over a whole corpus; that of a single caption is computed as pycocoevalcap does, so that an order of "
    "n-grams without a match counts as nearly 0. CIDEr-D has the idf of the judged photos. Photo fit reads "
    "no reference: it is the cosine between the meaning of a caption and that which a ridge regression, learnt on the "
    "training split, predicts from the photo's features (the encoder of retrieval, or else the first one)."
)


def tables(results: Results) -> list[Table]:
    """The table, if the dataset has judgments: a row for each score, columns for each group of judges."""
    found = results.agreements
    if not found:
        return []
    columns = [Column(label="Score")]
    for judges, own in found.items():
        label = f"{_JUDGES[judges]}, tau-{own.variant}"
        columns += [Column(label=label, kind="score"), Column(label=f"{label}, 95 %")]
    first = next(iter(found.values()))
    lines = []
    for score in first.scores:
        cells = [cell for own in found.values() for cell in _cells(own.scores[score])]
        lines.append(Line(values=(_NAMES[score], *cells), missing=f"n/a ({_NEEDS.get(score, 'all are equal')})"))
    for score in (each for each in NEEDS if each not in first.scores):
        asked = "evaluate.spice" if score == "spice" else "evaluate.clip"
        lines.append(Line(values=(_NAMES[score], *[None] * (len(columns) - 1)), missing=f"n/a (needs {asked})"))
    notes = [_NOTES[judges].format(pairs=own.pairs, photos=own.photos) for judges, own in found.items()]
    notes.append(_NOTE.format(resamples=first.resamples))
    title = "How far the scores agree with people"
    return [Table(title=title, columns=tuple(columns), lines=tuple(lines), notes=tuple(notes))]


def _cells(tau: Tau | None) -> tuple[float | None, str | None]:
    return (None, None) if tau is None else (tau.tau, f"{tau.low:.3f} to {tau.high:.3f}")
