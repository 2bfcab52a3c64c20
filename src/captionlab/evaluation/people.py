"""People as one more captioner: how well a reference caption of a photo scores against the others, and the systems too.

Captions in, scores out; knows no files and no models.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
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
    """Score people and every configuration against all references of each photo but one, the mean over the ways.

    A configuration has captions by image, of each of its decodings. None where a photo has only one reference.
    """
    ways = list(ways_to_leave_one_out(references))
    if not ways:
        return None
    of_all = [said for own in configurations.values() for said in own]
    found: list[list[Scores]] = [[] for _ in range(1 + len(of_all))]  # people first
    for people, left in ways:
        scored = Scorer(left).score_all({str(place): said for place, said in enumerate([people, *of_all])}, meteor)
        for scores, own in zip(scored.values(), found, strict=True):
            own.append(scores)
    people_scores, *means = (Scores(**mean_of_ways([dataclasses.asdict(own) for own in each])) for each in found)
    each = iter(means)
    return FewerReferences(
        ways=len(ways), people=people_scores,
        configurations={key: tuple(islice(each, len(own))) for key, own in configurations.items()},
    )  # fmt: skip


def ways_to_leave_one_out(
    references: Mapping[str, Sequence[str]],
) -> Iterator[tuple[dict[str, str], dict[str, list[str]]]]:
    """One reference of each photo, as people's captions, and its others.

    A way leaves out each photo's first reference, say; there are as many ways as the photo with the fewest references
    has. There is none where a photo has only one: then nothing is left to score against.
    """
    fewest = min(map(len, references.values()))
    for way in range(fewest if fewest > 1 else 0):
        people = {image: own[way] for image, own in references.items()}
        yield people, {image: [*own[:way], *own[way + 1 :]] for image, own in references.items()}


def mean_of_ways(ways: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean of each score by name; None where a way has none."""
    values = {name: [way[name] for way in ways] for name in ways[0]}
    return {name: None if None in own else round(fmean(own), 6) for name, own in values.items()}
