"""The table of CLIPScore, RefCLIPScore and SPICE. Formats stored results; computes nothing."""

from captionlab.core.results.further_scores import NEEDS
from captionlab.report.results import Results
from captionlab.report.table import ABOVE_PEOPLE, Column, Line, Table
from captionlab.report.tables import ranked

FURTHER_NAMES = {"clip_score": "CLIPScore", "ref_clip_score": "RefCLIPScore", "spice": "SPICE"}
_NOTE = (
    "Means over the test photos, in the decoding that validation chose. CLIPScore sees the photo and no reference; "
    "RefCLIPScore sees both; SPICE compares the objects, attributes and relations of a caption with those of the "
    "references."
)
_PEOPLE_NOTE = (
    "People: each reference caption of a photo is scored as a caption, against the others, as the mean of the ways of "
    f"leaving one out. {ABOVE_PEOPLE} marks a score that is above people's when both have the same references; the "
    "score shown is against all of them."
)


def tables(results: Results) -> list[Table]:
    """The table, if one of the scores was asked for; people are its first row where they could be scored."""
    found = results.further
    if not found.scores:
        return []
    scores = [
        Column(label=FURTHER_NAMES[score], kind="score", missing=f"n/a ({NEEDS[score]})") for score in found.scores
    ]
    lines = [
        Line(
            values=(run.name, run.best_decoding, *(found.configurations[run.name][score] for score in found.scores)),
            system=run.system,
            above_people=frozenset(FURTHER_NAMES[score] for score in found.above_people(run.name)),
        )
        for run in ranked(results.runs)
    ]
    notes = [_NOTE]
    if found.people:
        values = (found.people[score] for score in found.scores)
        lines.insert(0, Line(values=("people", None, *values), competes=False))
        notes.append(_PEOPLE_NOTE)
    columns = (Column(label="Configuration"), Column(label="Decoding"), *scores)
    return [Table(title="CLIPScore and SPICE", columns=columns, lines=tuple(lines), notes=tuple(notes))]
