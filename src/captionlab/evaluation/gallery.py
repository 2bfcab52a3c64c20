"""Which test photos the gallery shows: by score, not by hand. Scores in, photos out; knows no file and no system."""

import math
from collections.abc import Mapping
from typing import Literal

Third = Literal["good", "middling", "failed"]


def choose(scores: Mapping[str, float], photos: int) -> dict[Third, list[str]]:
    """About ``photos`` photos: as many from each third of the ranking, at even steps, best first.

    Photos of equal score stand in the order of ``scores``.
    """
    ranking = sorted(scores, key=lambda image: -scores[image])
    names: tuple[Third, ...] = ("good", "middling", "failed")
    chosen: dict[Third, list[str]] = {}
    for number, name in enumerate(names):
        third = ranking[math.ceil(number * len(ranking) / 3) : math.ceil((number + 1) * len(ranking) / 3)]
        count = min(photos // 3 + (number < photos % 3), len(third))
        chosen[name] = [third[int((step + 0.5) * len(third) / count)] for step in range(count)]
    return chosen
