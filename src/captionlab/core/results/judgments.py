"""What people think of captions, and how far each score agrees with them: typed records and their files.

Computes nothing. A dataset without judgments has neither file.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from captionlab.core.files import read_jsonl, write_json, write_jsonl
from captionlab.core.records import DATASET, EVALUATION
from captionlab.core.typed import read_record, typed

Judges = Literal["experts", "crowd"]
_JUDGED = "judgments.jsonl"  # in the dataset's folder
_AGREEMENT = "judgments.json"  # in the evaluation's folder


@dataclass(frozen=True, kw_only=True)
class JudgedCaption:
    """A caption that people judged beside a photo; it may have been written for another photo."""

    judges: Judges
    image: str
    caption: str  # as written
    marks: tuple[float, ...]  # of experts three, from 1 to 4; of the crowd one, the share of yes
    is_reference: bool  # whether its text is one of the photo's own references


@dataclass(frozen=True, kw_only=True)
class Tau:
    """Kendall's tau, from -1 to 1, with its 95 % interval."""

    tau: float
    low: float
    high: float


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far scores agree with one group of judges; ``scores`` has None for a score that could not be computed."""

    variant: Literal["b", "c"]
    pairs: int  # of photo and caption
    photos: int
    resamples: int  # of the photos, for the intervals
    scores: dict[str, Tau | None]


Agreements = Mapping[Judges, Agreement]


def write_judged(folder: Path, judged: Iterable[JudgedCaption]) -> None:
    """Write judgments.jsonl into the dataset's folder."""
    write_jsonl(folder / _JUDGED, map(dataclasses.asdict, judged))


def read_judged(root: Path) -> list[JudgedCaption]:
    """The judged captions of artifacts/dataset; none where the dataset has no judgments."""
    path = root / DATASET / _JUDGED
    return typed(read_jsonl(path), list[JudgedCaption], str(path)) if path.exists() else []


def write_agreements(folder: Path, agreements: Agreements) -> None:
    """Write judgments.json into the evaluation's folder."""
    write_json(folder / _AGREEMENT, as_plain(agreements))


def read_agreements(root: Path) -> Agreements:
    """The agreements of artifacts/evaluation; empty where the dataset has no judgments."""
    return read_record(root / EVALUATION / _AGREEMENT, dict[Judges, Agreement])


def as_plain(agreements: Agreements) -> dict[str, dict[str, object]]:
    """As JSON has them."""
    return {judges: dataclasses.asdict(own) for judges, own in agreements.items()}
