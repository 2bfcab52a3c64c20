"""Agreement with human judgments: Kendall's tau compared with scipy, and the published figures on the real Flickr8k."""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from pycocoevalcap.bleu.bleu import Bleu
from scipy.stats import kendalltau

from captionlab.core.results.judgments import Agreement, JudgedCaption, Judges
from captionlab.datasets.flickr8k import read_texts
from captionlab.metrics.agreement import Variant, agreements, resampled_tau, tau
from captionlab.metrics.bootstrap import draw
from captionlab.metrics.scorer import Scorer

REAL = Path(__file__).parents[2] / "../shared/flickr8k"
VARIANTS: tuple[Variant, ...] = ("b", "c")
# Hessel et al. 2021, tables 1 and 2: times 100.
EXPERTS = {"bleu_1": 32.3, "bleu_4": 30.8, "rouge_l": 32.3, "meteor": 41.8, "cider": 43.9}
CROWD = {"bleu_4": 16.9, "rouge_l": 19.9, "cider": 24.6}


def judgments(count: int, photos: int, marks: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores with ties, correlated marks, and the photo of each."""
    random = np.random.default_rng(count)
    scores_N = random.integers(0, 30, count) / 7
    marks_N = np.clip(np.round(scores_N + random.normal(0, 2, count)), 0, marks - 1)
    return scores_N, marks_N, random.integers(0, photos, count)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("marks", [2, 4])
def test_resampled_tau_equals_scipys_on_repeated_judgments(variant: Variant, marks: int) -> None:
    scores_N, marks_N, photos_N = judgments(700, 40, marks)
    weights_RP = np.concatenate([np.ones((1, 40)), draw(40, 6, seed=1)])
    found_R = resampled_tau(scores_N, marks_N, photos_N, variant, weights_RP)
    for weights_P, found in zip(weights_RP, found_R, strict=True):
        repeats = weights_P[photos_N].astype(int)
        expected = kendalltau(np.repeat(scores_N, repeats), np.repeat(marks_N, repeats), variant=variant).statistic
        assert found == pytest.approx(expected, abs=1e-12)


def test_the_interval_contains_tau_and_narrows_with_more_photos() -> None:
    widths = []
    for photos in (20, 400):
        found = tau(*judgments(20 * photos, photos, 4), "c", draw(photos, 200, seed=1))
        assert found is not None
        assert found.low < found.tau < found.high
        widths.append(found.high - found.low)
    assert widths[1] < widths[0] / 2


def test_equal_marks_have_no_tau() -> None:
    scores_N, marks_N, photos_N = judgments(50, 5, 4)
    assert tau(scores_N, np.ones_like(marks_N), photos_N, "c", draw(5, 20, seed=1)) is None
    lone = np.arange(50) % 5 == 0  # only one photo has a different mark, and some resamples lack it
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert tau(scores_N, lone.astype(float), np.arange(50) % 5, "b", draw(5, 50, seed=1)) is not None


def judged(judges: str, image: str, caption: str, *marks: float, own: bool = False) -> JudgedCaption:
    return JudgedCaption(judges=judges, image=image, caption=caption, marks=marks, is_reference=own)  # type: ignore[arg-type]


def test_captions_are_not_scored_against_themselves(no_java: None) -> None:
    references = {
        "a": ["a red dog runs", "a dog on grass"],
        "b": ["two cats sleep here", "cats on a bed"],
        "c": ["a bus"],
    }
    pairs = [("a", "a dog on grass"), ("a", "a dog runs"), ("b", "a bus"), ("b", "two cats on a bed"), ("c", "a bus")]
    all_judged = [judged("crowd", "unknown", "a dog", 1.0)]
    for n, (image, said) in enumerate(pairs):
        own = said in references[image]
        all_judged += [judged("experts", image, said, 1 + n, own=own), judged("crowd", image, said, n / 4, own=own)]
    found = agreements(references, all_judged, resamples=20, seed=1)
    assert (found["experts"].variant, found["experts"].pairs) == ("c", 3)  # "a dog on grass" and "a bus" are left out
    assert (found["crowd"].variant, found["crowd"].pairs) == ("b", 4)  # photo c has no other reference
    parts, _ = Scorer({"a": ["a red dog runs"], "b": references["b"]}).per_caption(pairs[:4])
    expected = kendalltau(parts.by_caption()["rouge_l"], [0, 0.25, 0.5, 0.75]).statistic
    rouge = found["crowd"].scores["rouge_l"]
    assert rouge is not None
    assert rouge.tau == pytest.approx(expected, abs=1e-6)


def test_without_judgments_there_is_no_agreement() -> None:
    assert agreements({"a": ["a dog"]}, [], resamples=10, seed=1) == {}


def test_bleu_of_one_caption_equals_pycocoevalcap() -> None:
    references = {"a": ["a red dog runs on the grass", "the dog runs"], "b": ["two cats sleep"], "c": ["a bus"]}
    pairs = [("a", "a dog runs fast"), ("a", "the dog runs"), ("b", "a man"), ("b", "two cats sleep now"), ("c", "a")]
    parts, _ = Scorer(references).per_caption(pairs)
    numbered = {str(n): references[image] for n, (image, _) in enumerate(pairs)}
    _, expected = Bleu(4).compute_score(numbered, {str(n): [said] for n, (_, said) in enumerate(pairs)}, verbose=0)
    for n in (1, 2, 3, 4):
        assert parts.by_caption()[f"bleu_{n}"] == pytest.approx(expected[n - 1], rel=1e-6)


def assert_published(judges: Judges, published: Mapping[str, float]) -> Agreement:
    """Flickr8k's judgments, read from its zip, give the published figures."""
    if not REAL.is_dir():
        pytest.skip(f"{REAL} is not here")
    texts = read_texts(REAL)
    own_judged = [each for each in texts.judged if each.judges == judges]
    found = agreements(texts.references, own_judged, resamples=20, seed=1)[judges]
    for name, expected in published.items():
        own = found.scores[name]
        if own is None:
            assert name == "meteor"
            assert shutil.which("java") is None
        else:
            assert 100 * own.tau == pytest.approx(expected, abs=0.5), name
            assert own.low < own.tau < own.high
    return found


@pytest.mark.slow
def test_flickr8ks_experts_give_the_published_figures() -> None:
    assert assert_published("experts", EXPERTS).pairs == 5_664


@pytest.mark.slow
def test_flickr8ks_crowd_gives_the_published_figures(no_java: None) -> None:
    """Without METEOR, which takes a minute for so many captions."""
    assert assert_published("crowd", CROWD).pairs == 47_288
