"""Diagnostics beside the scores: language bias, caption statistics, and intervals and tests over the test photos.

Captions in, records out. Knows nothing of files, features or models.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from captionlab.core.results import (
    CaptionStatistics,
    Compared,
    ConfigurationDiagnostics,
    Diagnostics,
    LanguageBias,
    Shares,
    WordAgreement,
)
from captionlab.data.text import clean
from captionlab.metrics.bootstrap import compare, draw, interval
from captionlab.metrics.cider import Words
from captionlab.metrics.scorer import Scorer

COMPARED_SCORES = ("bleu_4", "cider")
# The basic colour terms of English (Berlin and Kay 1969), and the other spelling of one.
COLOURS = {
    word: word for word in "black white red green yellow blue brown purple pink orange gray".split()
} | {"grey": "gray"}  # fmt: skip
# From two on: "one" is often a pronoun, and "a" is an article.
COUNTS = {word: word for word in "two three four five six seven eight nine ten".split()}


@dataclass(frozen=True, kw_only=True)
class Generated:
    """One configuration's captions under its chosen decoding, by image, and its caption without a photo."""

    captions: Mapping[str, str]
    without_photo: str | None  # None where it is unknown

    @property
    def words(self) -> dict[str, Words]:
        """The captions as words."""
        return {image: tuple(caption.split()) for image, caption in self.captions.items()}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How often photos are shuffled and resampled, the seed of both, and what recall expects."""

    shuffles: int
    resamples: int
    seed: int
    recall_references: int  # references that must have a colour or count before recall expects it


def diagnose(
    configurations: Mapping[str, Generated],
    references: Mapping[str, Sequence[str]],
    training: Iterable[Words],
    settings: Settings,
) -> Diagnostics:
    """All diagnostics of every configuration; references and captions are those of one split.

    ``training`` holds the training captions as words, to find copied ones.
    """
    scorer = Scorer(references)
    cleaned = {image: [clean(raw, "characters") for raw in own] for image, own in references.items()}
    said = {words for own in configurations.values() for words in own.words.values()}
    known = said.intersection(training)  # the others are not kept
    drawn = draw(len(references), settings.resamples, settings.seed)
    resampled = {key: scorer.per_photo(own.captions).scores(drawn) for key, own in configurations.items()}
    return Diagnostics(
        settings={"shuffles": settings.shuffles, "resamples": settings.resamples, "seed": settings.seed},
        configurations={
            key: ConfigurationDiagnostics(
                language_bias=language_bias(own, scorer, settings.shuffles, settings.seed),
                caption_statistics=caption_statistics(own.words, cleaned, known, settings.recall_references),
            )
            for key, own in configurations.items()
        },
        intervals={
            key: {score: _rounded_pair(interval(values_R)) for score, values_R in own.items()}
            for key, own in resampled.items()
        },
        pairs={
            one: {
                other: {score: _compared(resampled[one][score], resampled[other][score]) for score in COMPARED_SCORES}
                for other in resampled
                if other != one
            }
            for one in resampled
        },
    )


def language_bias(own: Generated, scorer: Scorer, shuffles: int, seed: int) -> LanguageBias:
    """The scores with the right photo, with a wrong photo and without one, and the image contribution.

    Shuffling the captions is the same as shuffling the photos, so wrong photos need no decoding. No photo stays in its
    place; ``wrong`` is the mean over ``shuffles``. The contribution of a system that ignores its photo is exactly 0; it
    is None if the right score is 0.
    """
    images = sorted(own.captions)
    right = scorer.per_photo(own.captions).corpus()
    wrongs = []
    for order in _derangements(len(images), shuffles, seed):
        swapped = {images[place]: own.captions[images[other]] for place, other in order.items()}
        wrongs.append(scorer.per_photo(swapped).corpus())
    without: Shares = dict.fromkeys(COMPARED_SCORES)
    if own.without_photo is not None:
        without = scorer.per_photo(dict.fromkeys(images, own.without_photo)).corpus()
    # the mean of the differences is exactly 0 where all scores are equal
    wrong = {key: right[key] + sum(each[key] - right[key] for each in wrongs) / shuffles for key in COMPARED_SCORES}
    contribution = {key: (right[key] - wrong[key]) / right[key] if right[key] else None for key in COMPARED_SCORES}
    return LanguageBias(
        right=_rounded(right), wrong=_rounded(wrong), without=_rounded(without),
        image_contribution=_rounded(contribution),
    )  # fmt: skip


def _derangements(count: int, number: int, seed: int) -> list[dict[int, int]]:
    """Random permutations of one cycle each, so that no photo stays in its place (unless there is only one)."""
    random = np.random.default_rng(seed)
    orders = [random.permutation(count) for _ in range(number)]
    return [dict(zip(order.tolist(), np.roll(order, 1).tolist(), strict=True)) for order in orders]


def caption_statistics(
    captions: Mapping[str, Words],
    references: Mapping[str, Sequence[Words]],
    training: Collection[Words],
    recall_references: int,
) -> CaptionStatistics:
    """Counts of what report B observes in its captions."""
    said = list(captions.values())
    return CaptionStatistics(
        distinct=_share(len(set(said)), len(said)),
        repeated=_share(sum(map(repeats, said)), len(said)),
        copied=_share(sum(words in training for words in said), len(said)),
        words=len({word for words in said for word in words}),
        length=round(sum(map(len, said)) / len(said), 6),
        length_ratio=_length_ratio(captions, references),
        colours=agreement(captions, references, COLOURS, recall_references),
        counts=agreement(captions, references, COUNTS, recall_references),
    )


def _length_ratio(captions: Mapping[str, Words], references: Mapping[str, Sequence[Words]]) -> float:
    """Of two references equally close in length, the shorter counts."""
    closest = [
        min((len(own) for own in references[image]), key=lambda length: (abs(length - len(words)), length))
        for image, words in captions.items()
    ]
    return round(sum(map(len, captions.values())) / max(1, sum(closest)), 6)


def repeats(words: Words) -> bool:
    """Whether a word, or a pair of words, occurs twice in a row."""
    twice = any(words[i] == words[i + 1] for i in range(len(words) - 1))
    return twice or any(words[i : i + 2] == words[i + 2 : i + 4] for i in range(len(words) - 3))


def agreement(
    captions: Mapping[str, Words],
    references: Mapping[str, Sequence[Words]],
    meaning: Mapping[str, str],
    recall_references: int,
) -> WordAgreement:
    """Compare words of one kind, such as colours, with the references; each word counts once per photo.

    A word is right if any reference has it. Recall expects the words that ``recall_references`` references have.
    """
    said_count = right = expected = found = 0
    for image, words in captions.items():
        said = {meaning[word] for word in words if word in meaning}
        seen = Counter(sort for own in references[image] for sort in {meaning[word] for word in own if word in meaning})
        agreed = {sort for sort, times in seen.items() if times >= recall_references}
        said_count += len(said)
        right += len(said & set(seen))
        expected += len(agreed)
        found += len(said & agreed)
    return WordAgreement(
        said=said_count, precision=_share(right, said_count), expected=expected, recall=_share(found, expected)
    )


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 6) if whole else None


def _compared(one_R: np.ndarray, other_R: np.ndarray) -> Compared:
    found = compare(one_R, other_R)
    return Compared(wins=round(found["wins"], 6), p=round(found["p"], 6))


def _rounded(values: Shares) -> Shares:
    return {key: None if (value := values[key]) is None else round(value, 6) for key in COMPARED_SCORES}


def _rounded_pair(values: tuple[float, float]) -> tuple[float, float]:
    return round(values[0], 6), round(values[1], 6)
