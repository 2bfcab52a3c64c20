"""People as one more captioner: how well a reference caption of a photo scores against the others, and the systems too.

Captions in, scores out; knows no files and no models.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from captionlab.core.records import Scores
from captionlab.core.results import FewerReferences
from captionlab.metrics.scorer import Scorer


def against_fewer(
    references: Mapping[str, Sequence[str]], configurations: Mapping[str, Mapping[str, str]]
) -> FewerReferences | None:
    """Score people and every configuration (caption by image) against all references of each photo but one.

    A way leaves out the same number of each photo's references, its first, say; there are as many ways as the photo
    with the fewest references has. None where a photo has only one: then nothing is left to score against.
    """
    ways = min(map(len, references.values()))
    if ways < 2:
        return None
    found: dict[str, list[Scores]] = {key: [] for key in ("", *configurations)}  # "" for people
    for way in range(ways):
        left = {image: [*own[:way], *own[way + 1 :]] for image, own in references.items()}
        said = {"": {image: own[way] for image, own in references.items()}, **configurations}
        for key, scores in Scorer(left).score_all(said, meteor=False).items():
            found[key].append(scores)
    means = {key: _mean(own) for key, own in found.items()}
    return FewerReferences(
        ways=ways, people=means[""], configurations={key: means[key] for key in configurations}
    )  # fmt: skip


def _mean(found: Sequence[Scores]) -> Scores:
    """The mean of each score; METEOR stays None."""
    each = [dataclasses.asdict(scores) for scores in found]
    means: dict[str, Any] = {
        key: None if value is None else round(fmean(own[key] for own in each), 6) for key, value in each[0].items()
    }
    return Scores(**means)
