"""Language bias, caption statistics and paired comparisons, on captions with known errors."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from captionlab.core.results import Compared, WordAgreement
from captionlab.evaluation.diagnostics import (
    COLOURS,
    COUNTS,
    Generated,
    Settings,
    agreement,
    caption_statistics,
    diagnose,
    language_bias,
    repeats,
)
from captionlab.inference.decoding import beam_search
from captionlab.metrics.scorer import Scorer
from captionlab.models.build import build_model
from captionlab.models.params import SystemParams

if TYPE_CHECKING:
    from conftest import World

REFERENCES = {
    "a": ["a black dog runs over the grass", "a dog runs on the grass", "the black dog runs"],
    "b": ["two red boats on the water", "two boats sail on a lake", "red boats on a lake"],
    "c": ["a woman in a white dress sits", "a woman sits on a green bench", "a lady on a bench"],
    "d": ["three boys play with a ball", "boys play football in the snow", "three boys in the snow"],
}
RIGHT = {image: own[0] for image, own in REFERENCES.items()}


@pytest.mark.parametrize("system", ["baseline", "modified", "attention"])
def test_a_model_that_ignores_the_photo_has_no_image_contribution(
    system: str, world: "World", tiny: Callable[..., SystemParams]
) -> None:
    torch.manual_seed(1)
    model = build_model(tiny(system), vocab=len(world.vocab), pooled=10, channels=7).eval()
    model.standardise.scale.zero_()  # every photo equals the mean photo
    test = world.split("test", grid=system == "attention")
    features = test.features(range(3))
    found_P = beam_search(model, features, beam=3, length_penalty=0.7, max_words=6)
    said = [world.vocab.decode(found[0].tokens) for found in found_P]
    references = {image: [caption.raw for caption in world.captions if caption.image == image] for image in test.images}
    captions = dict(zip(test.images, said, strict=True))
    # random words, and one word of the references so that the score is not 0
    found = language_bias(
        Generated(
            captions={image: f"{caption} black dog" for image, caption in captions.items()},
            without_photo=f"{said[0]} black dog",
        ),
        Scorer(references), shuffles=3, seed=1,
    )  # fmt: skip
    assert found.right["cider"]
    assert found.right == found.wrong == found.without
    assert found.image_contribution["cider"] == 0.0


def test_a_perfect_score_is_all_image_contribution() -> None:
    found = language_bias(Generated(captions=RIGHT, without_photo="a"), Scorer(REFERENCES), shuffles=4, seed=1)
    assert found.right["bleu_4"] == 1.0
    assert found.wrong["bleu_4"] == 0.0
    assert found.image_contribution["bleu_4"] == 1.0
    assert 0.9 < (found.image_contribution["cider"] or 0) <= 1.0


def test_shuffles_never_keep_a_photo() -> None:
    """With two photos there is only one shuffle, so the score of wrong photos is known."""
    references = {"a": ["a dog runs over grass"], "b": ["a boat sails over water"]}
    said = {"a": "a boat sails over water", "b": "a dog runs over grass"}
    scorer = Scorer(references)
    found = language_bias(Generated(captions=said, without_photo="a"), scorer, shuffles=3, seed=9)
    assert found.wrong["bleu_4"] == 1.0
    assert found.right["cider"] == pytest.approx(scorer.score(said).cider, abs=1e-6)


def test_a_score_of_0_has_no_image_contribution() -> None:
    said = Generated(captions=dict.fromkeys(REFERENCES, "zebra"), without_photo="zebra")
    found = language_bias(said, Scorer(REFERENCES), shuffles=1, seed=1)
    assert found.image_contribution == {"bleu_4": None, "cider": None}


@pytest.mark.parametrize(("caption", "expected"), [
    ("a dog dog runs", True), ("a dog and a dog", False), ("in the in the snow", True), ("a b a c a b", False),
    ("", False), ("dog", False), ("the the", True),
])  # fmt: skip
def test_repetitions_are_counted(caption: str, expected: bool) -> None:
    assert repeats(tuple(caption.split())) is expected


def test_caption_statistics_are_counted() -> None:
    captions = {
        "a": ("a", "dog", "runs"), "b": ("a", "dog", "runs"), "c": ("a", "a", "woman", "sits"), "d": ("boys",)
    }  # fmt: skip
    references = {image: [tuple(raw.split()) for raw in own] for image, own in REFERENCES.items()}
    found = caption_statistics(captions, references, frozenset({("a", "dog", "runs"), ("dog",)}), 2)
    assert (found.distinct, found.repeated, found.copied, found.words, found.length) == (0.75, 0.25, 0.5, 6, 2.75)


def test_colours_and_counts_are_compared_with_the_references() -> None:
    references = {image: [tuple(raw.split()) for raw in own] for image, own in REFERENCES.items()}
    captions = {
        "a": ("a", "black", "black", "dog", "and", "a", "white", "cat"),  # black right, white wrong
        "b": ("three", "boats"),  # red missed, two missed
        "c": ("a", "woman", "on", "a", "green", "bench"),  # right, although only one reference has it
        "d": ("three", "boys"),
    }
    colours = agreement(captions, references, COLOURS, 2)
    assert colours == WordAgreement(said=3, precision=0.666667, expected=2, recall=0.5)
    assert agreement(captions, references, COUNTS, 2) == WordAgreement(said=2, precision=0.5, expected=2, recall=0.5)
    assert agreement(captions, references, COLOURS, 1).expected > colours.expected
    nothing = agreement({"a": ()}, {"a": [()]}, COLOURS, 2)
    assert nothing == WordAgreement(said=0, precision=None, expected=0, recall=None)
    grey = agreement({"a": ("grey",)}, {"a": [("gray",)]}, COLOURS, 2)
    assert grey.precision == 1.0


def test_every_pair_is_compared_and_every_score_has_an_interval() -> None:
    systems = {
        "baseline.x": Generated(captions=RIGHT, without_photo="a"),
        "attention.y": Generated(captions=RIGHT, without_photo="a"),
        "modified.z": Generated(captions=dict.fromkeys(REFERENCES, "a dog"), without_photo="a dog"),
    }
    settings = Settings(shuffles=2, resamples=99, seed=1, recall_references=2)
    found = diagnose(systems, REFERENCES, [("a", "dog")], settings)
    alike = Compared(wins=0.5, p=1.0)
    assert found.pairs["baseline.x"]["attention.y"] == {"bleu_4": alike, "cider": alike}
    assert found.pairs["baseline.x"]["modified.z"]["bleu_4"] == Compared(wins=1.0, p=0.02)
    assert set(found.intervals["modified.z"]) == {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"}
    assert all(low <= high for own in found.intervals.values() for low, high in own.values())
    assert found.configurations["modified.z"].caption_statistics.copied == 1.0
    assert found == diagnose(systems, REFERENCES, [("a", "dog")], settings)
