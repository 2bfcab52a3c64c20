"""The configurations' CLIPScore, RefCLIPScore and SPICE: their typed record and its file. Computes nothing."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from captionlab.core.files import write_json
from captionlab.core.records import EVALUATION
from captionlab.core.results import scores_above
from captionlab.core.typed import read_record

NEEDS = {  # what a machine may lack
    "clip_score": "needs CLIP's weights and the photos",
    "ref_clip_score": "needs CLIP's weights and the photos",
    "spice": "needs Java 8 and Stanford CoreNLP",
}
_FILE = "further_scores.json"  # in the evaluation's folder


@dataclass(frozen=True, kw_only=True)
class FurtherScores:
    """Means over the test photos, each configuration in the decoding that validation chose. None: see NEEDS.

    ``people`` and ``fewer_references`` are against all references of a photo but one, as the mean over the ways of
    leaving one out, which is people's caption; empty where nothing could be computed or a photo has one reference.
    """

    scores: tuple[str, ...] = ()  # those that were asked for
    configurations: Mapping[str, Mapping[str, float | None]] = dataclasses.field(default_factory=dict)
    people: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    fewer_references: Mapping[str, Mapping[str, float | None]] = dataclasses.field(default_factory=dict)

    def above_people(self, key: str) -> list[str]:
        """The scores in which a configuration is above people."""
        return scores_above(self.fewer_references.get(key, {}), self.people)


def write_further_scores(folder: Path, found: FurtherScores) -> None:
    """Write further_scores.json into the evaluation's folder."""
    write_json(folder / _FILE, dataclasses.asdict(found))


def read_further_scores(root: Path) -> FurtherScores:
    """The further scores of artifacts/evaluation."""
    return read_record(root / EVALUATION / _FILE, FurtherScores)
