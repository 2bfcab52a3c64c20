"""The bootstrap, compared with scores computed from the sampled photos."""

import random
from collections.abc import Sequence

import numpy as np
import pytest

from captionlab.metrics.bootstrap import compare, draw, interval
from captionlab.metrics.cider import CiderD
from captionlab.metrics.scorer import Scorer

WORDS = "a man in red dog runs over the grass two girls sit on beach".split()


def made_up(photos: int, seed: int) -> tuple[dict[str, list[str]], dict[str, str]]:
    """References of random words and overlapping captions; one caption is empty and one is a single word."""
    chance = random.Random(seed)

    def sentence() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randint(3, 9)))

    references = {f"{i:03}": [sentence() for _ in range(chance.randint(1, 4))] for i in range(photos)}
    captions = {image: chance.choice([sentence(), own[0], own[-1]]) for image, own in references.items()}
    return references, captions | {"000": "", "001": "dog"}


def rescored(
    references: dict[str, list[str]], captions: dict[str, str], counts: Sequence[float], idf: CiderD
) -> dict[str, float | None]:
    """The scores of a resample by the scorer, with repeated photos under different names."""
    drawn = [image for image, times in zip(sorted(references), counts, strict=True) for _ in range(int(times))]
    scores = Scorer({f"{i:04}": references[image] for i, image in enumerate(drawn)}).score(
        {f"{i:04}": captions[image] for i, image in enumerate(drawn)}
    )
    own = [[tuple(raw.split()) for raw in references[image]] for image in drawn]
    cider = idf.scores([tuple(captions[image].split()) for image in drawn], own).mean()
    found = {key: getattr(scores, key) for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l")}
    return found | {"cider": float(cider)}


def test_resampled_scores_equal_the_scores_of_the_sampled_photos() -> None:
    references, captions = made_up(40, seed=1)
    photos = Scorer(references).per_photo(captions)
    weights_RN = draw(40, 5, seed=2)
    assert (weights_RN.sum(1) == 40).all()
    assert len({tuple(row) for row in weights_RN}) == 5
    drawn = photos.scores(weights_RN)
    idf = CiderD([[tuple(raw.split()) for raw in references[image]] for image in sorted(references)])
    for number, counts in enumerate(weights_RN):
        expected = rescored(references, captions, counts.tolist(), idf)
        assert {key: values[number] for key, values in drawn.items()} == pytest.approx(expected, abs=1e-12)


def test_sampling_every_photo_once_gives_the_corpus_score() -> None:
    references, captions = made_up(30, seed=3)
    scorer = Scorer(references)
    scores = scorer.score(captions)
    expected = {key: getattr(scores, key) for key in ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider")}
    assert scorer.per_photo(captions).corpus() == pytest.approx(expected, abs=1e-12)


def test_without_a_match_the_score_is_0() -> None:
    corpus = Scorer({"a": ["one two three"]}).per_photo({"a": "four"}).corpus()
    assert corpus == dict.fromkeys(corpus, 0.0)
    assert Scorer({"a": ["one two three"]}).per_photo({"a": ""}).corpus() == corpus


def test_only_the_strict_protocol_has_scores_per_photo() -> None:
    with pytest.raises(ValueError, match="strict"):
        Scorer({"a": ["one"]}, "report_b").per_photo({"a": "one"})


def test_the_interval_contains_the_score_and_narrows_with_more_photos() -> None:
    widths = []
    for photos in (30, 300):
        references, captions = made_up(photos, seed=4)
        found = Scorer(references).per_photo(captions)
        low, high = interval(found.scores(draw(photos, 400, seed=1))["cider"])
        assert low < found.corpus()["cider"] < high
        widths.append(high - low)
    assert widths[1] < widths[0] / 2


def test_a_system_against_itself_is_never_significant() -> None:
    references, captions = made_up(50, seed=5)
    drawn = Scorer(references).per_photo(captions).scores(draw(50, 200, seed=1))
    for values in drawn.values():
        assert compare(values, values) == {"wins": 0.5, "p": 1.0}


def test_a_better_system_is_significant_with_p_above_0() -> None:
    references, captions = made_up(80, seed=6)
    scorer, weights_RN = Scorer(references), draw(80, 999, seed=1)
    right = scorer.per_photo({image: own[0] for image, own in references.items()}).scores(weights_RN)["cider"]
    wrong = scorer.per_photo(captions).scores(weights_RN)["cider"]
    assert compare(right, wrong) == {"wins": 1.0, "p": pytest.approx(0.002)}
    assert compare(wrong, right) == {"wins": 0.0, "p": pytest.approx(0.002)}


def test_p_is_uniform_without_a_difference() -> None:
    """For two systems that differ at random, p is below 0.1 in about a tenth of cases."""
    chance = np.random.default_rng(1)
    weights_RN = draw(60, 300, seed=1)
    ps = [compare(weights_RN @ chance.normal(size=60), weights_RN @ chance.normal(size=60))["p"] for _ in range(300)]
    assert 0.06 < np.mean(np.array(ps) < 0.1) < 0.16
