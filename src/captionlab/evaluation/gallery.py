"""Which test photos the gallery shows: selected by score, not by hand.

Scores in, photos out; knows nothing of files or systems.
"""

import math
from collections.abc import Mapping
from typing import Literal

Tercile = Literal["best", "middle", "worst"]
TERCILES: tuple[Tercile, ...] = ("best", "middle", "worst")


def select(scores: Mapping[str, float], photos: int) -> dict[Tercile, list[str]]:
    """About ``photos`` photos: equally many from each third of the ranking, evenly spaced, best first.

    Photos of equal score keep the order of ``scores``.
    """
    ranking = sorted(scores, key=lambda image: -scores[image])
    selected: dict[Tercile, list[str]] = {}
    for number, name in enumerate(TERCILES):
        third = ranking[math.ceil(number * len(ranking) / 3) : math.ceil((number + 1) * len(ranking) / 3)]
        count = min(photos // 3 + (number < photos % 3), len(third))
        selected[name] = [third[int((step + 0.5) * len(third) / count)] for step in range(count)]
    return selected
