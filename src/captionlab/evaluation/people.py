"""People as one more captioner: how well a reference caption of a photo scores against the others, and the systems too.

Captions in, scores out; knows no files and no models.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from itertools import islice
from statistics import fmean
from typing import Any

from captionlab.core.records import Scores
from captionlab.core.results import FewerReferences
from captionlab.metrics.meteor import Meteor
from captionlab.metrics.scorer import Scorer


def against_fewer(
    references: Mapping[str, Sequence[str]], configurations: Mapping[str, Sequence[Mapping[str, str]]],
    meteor: Meteor | None = None,
) -> FewerReferences | None:  # fmt: skip
    """Score people and every configuration against all references of each photo but one.

    A configuration has captions by image, of each of its decodings.

    A way leaves out the same number of each photo's references, its first, say; there are as many ways as the photo
    with the fewest references has. None where a photo has only one: then nothing is left to score against.
    """
    ways = min(map(len, references.values()))
    if ways < 2:
        return None
    of_all = [said for own in configurations.values() for said in own]
    found: list[list[Scores]] = [[] for _ in range(1 + len(of_all))]  # people first
    for way in range(ways):
        left = {image: [*own[:way], *own[way + 1 :]] for image, own in references.items()}
        people = {image: own[way] for image, own in references.items()}
        scored = Scorer(left).score_all({str(place): said for place, said in enumerate([people, *of_all])}, meteor)
        for scores, own in zip(scored.values(), found, strict=True):
            own.append(scores)
    people_scores, *means = map(_mean, found)
    each = iter(means)
    return FewerReferences(
        ways=ways, people=people_scores,
        configurations={key: tuple(islice(each, len(own))) for key, own in configurations.items()},
    )  # fmt: skip


def _mean(found: Sequence[Scores]) -> Scores:
    """The mean of each score; METEOR is None without Java."""
    each = [dataclasses.asdict(scores) for scores in found]
    values = {key: [own[key] for own in each] for key in each[0]}
    means: dict[str, Any] = {key: None if None in own else round(fmean(own), 6) for key, own in values.items()}
    return Scores(**means)
