"""What the scores do not show: how much of them the photo earns, what is wrong with the captions, and which
differences between systems would hold for other photos. Captions in, numbers out.

Knows nothing of files, features or models.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from captionlab.data.text import clean
from captionlab.metrics.bootstrap import PerPhoto, compare, draw, interval
from captionlab.metrics.cider import Words
from captionlab.metrics.scorer import Scorer

COMPARED = ("bleu_4", "cider")
# The basic colour terms of English (Berlin and Kay 1969), and the other spelling of one.
COLOURS = {
    word: word for word in "black white red green yellow blue brown purple pink orange gray".split()
} | {"grey": "gray"}  # fmt: skip
# From two on: "one" is as often a pronoun, and "a" says little.
COUNTS = {word: word for word in "two three four five six seven eight nine ten".split()}
_AGREEING = 2  # references that must hold a word before a caption is expected to


@dataclass(frozen=True, kw_only=True)
class Said:
    """One system's captions under its best decoding, by image, and its caption when there is no photo to look at."""

    captions: Mapping[str, str]
    without_photo: str

    @property
    def words(self) -> dict[str, Words]:
        """The captions as words."""
        return {image: tuple(caption.split()) for image, caption in self.captions.items()}


def diagnose(
    systems: Mapping[str, Said],
    references: Mapping[str, Sequence[str]],
    training: Iterable[Words],
    *,
    shuffles: int,
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Everything of this module for every system by name; the references and captions are those of one split.

    ``training`` holds the captions, as words, that a system may have copied.
    """
    scorer = Scorer(references)
    cleaned = {image: [clean(raw, "standard") for raw in own] for image, own in references.items()}
    learnt = frozenset(training)
    found = {
        name: {
            "language_bias": language_bias(said, scorer, shuffles, seed),
            "complaints": complaints(said.words, cleaned, learnt),
        }
        for name, said in systems.items()
    }
    photos = {name: scorer.per_photo(said.captions) for name, said in systems.items()}
    return {"systems": found, **uncertainty(photos, resamples, seed)}


def language_bias(said: Said, scorer: Scorer, shuffles: int, seed: int) -> dict[str, dict[str, float | None]]:
    """The scores with the ``right`` photo, with a ``wrong`` one and ``without`` one, and the share of the right one's
    score that the photo ``earned``: (right - wrong) / right. None where right is 0.

    A wrong photo costs no decoding: when photos are shuffled, their captions are. Each shuffle leaves no photo in its
    place; ``wrong`` is the mean over ``shuffles`` of them. A system that ignores its photo earns exactly 0.
    """
    images = sorted(said.captions)
    right = scorer.per_photo(said.captions).corpus()
    wrongs = []
    for order in _derangements(len(images), shuffles, seed):
        swapped = {images[place]: said.captions[images[other]] for place, other in order.items()}
        wrongs.append(scorer.per_photo(swapped).corpus())
    without = scorer.per_photo(dict.fromkeys(images, said.without_photo)).corpus()
    # a mean of equal numbers may miss them by a rounding
    wrong = {key: right[key] + sum(each[key] - right[key] for each in wrongs) / shuffles for key in COMPARED}
    earned = {key: (right[key] - wrong[key]) / right[key] if right[key] else None for key in COMPARED}
    found: dict[str, Mapping[str, float | None]] = {"right": right, "wrong": wrong, "without": without}
    return {
        way: {key: None if (value := own[key]) is None else round(value, 6) for key in COMPARED}
        for way, own in {**found, "earned": earned}.items()
    }


def _derangements(count: int, number: int, seed: int) -> list[dict[int, int]]:
    """Shuffles that are one great circle each, so that nothing stays in its place (unless there is but one photo)."""
    random = np.random.default_rng(seed)
    orders = [random.permutation(count) for _ in range(number)]
    return [dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True)) for order in orders]


def complaints(
    captions: Mapping[str, Words], references: Mapping[str, Sequence[Words]], training: frozenset[Words]
) -> dict[str, Any]:
    """What report B complains of, counted: ``distinct`` captions, those with a word or a pair of words ``repeated`` at
    once and those ``copied`` word for word from training, as shares; different words used; mean length; and whether
    the colours and counts are those that people saw."""
    said = list(captions.values())
    return {
        "distinct": _share(len(set(said)), len(said)),
        "repeated": _share(sum(map(repeats, said)), len(said)),
        "copied": _share(sum(words in training for words in said), len(said)),
        "words": len({word for words in said for word in words}),
        "length": round(sum(map(len, said)) / len(said), 6),
        "colours": agreement(captions, references, COLOURS),
        "counts": agreement(captions, references, COUNTS),
    }


def repeats(words: Words) -> bool:
    """Whether a word, or a pair of words, stands twice in a row."""
    twice = any(words[i] == words[i + 1] for i in range(len(words) - 1))
    return twice or any(words[i : i + 2] == words[i + 2 : i + 4] for i in range(len(words) - 3))


def agreement(
    captions: Mapping[str, Words], references: Mapping[str, Sequence[Words]], meaning: Mapping[str, str]
) -> dict[str, Any]:
    """Words of one sort against the references, each counted once a photo.

    ``precision``: of those said, the share that some reference of the photo holds. ``recall``: of those that two or
    more references of a photo hold, the share that its caption says. Which thing has the colour is not asked.
    """
    said_count = right = expected = found = 0
    for image, words in captions.items():
        said = {meaning[word] for word in words if word in meaning}
        seen = Counter(sort for own in references[image] for sort in {meaning[word] for word in own if word in meaning})
        agreed = {sort for sort, times in seen.items() if times >= _AGREEING}
        said_count += len(said)
        right += len(said & set(seen))
        expected += len(agreed)
        found += len(said & agreed)
    return {
        "said": said_count,
        "precision": _share(right, said_count),
        "expected": expected,
        "recall": _share(found, expected),
    }


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def uncertainty(systems: Mapping[str, PerPhoto], count: int, seed: int) -> dict[str, Any]:
    """95 % ``intervals`` of every score of every system, and every ``pairs`` of systems compared on the same resamples.

    ``pairs[one][other][score]`` has ``wins`` and ``p`` of ``one`` against ``other``, for BLEU-4 and CIDEr-D.
    """
    photos = len(next(iter(systems.values())).words_N)  # the same for all
    weights_RN = draw(photos, count, seed)
    drawn = {name: each.scores(weights_RN) for name, each in systems.items()}
    return {
        "intervals": {
            name: {key: _rounded(interval(scores_R)) for key, scores_R in own.items()} for name, own in drawn.items()
        },
        "pairs": {
            one: {
                other: {
                    key: {name: round(value, 6) for name, value in compare(drawn[one][key], drawn[other][key]).items()}
                    for key in COMPARED
                }
                for other in drawn
                if other != one
            }
            for one in drawn
        },
    }


def _rounded(values: tuple[float, ...]) -> list[float]:
    return [round(value, 6) for value in values]
