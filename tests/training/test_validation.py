"""The captions generated after each epoch of a training, and their score."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from captionlab.config import TrainingParams
from captionlab.finetuning.validation import references_of
from captionlab.inference.decoding import beam_search
from captionlab.metrics.scorer import Scorer
from captionlab.models.base import Decoder
from captionlab.models.build import build_model
from captionlab.models.params import SystemParams
from captionlab.training.loop import Finetuning, ResumeFile, Splits, train
from captionlab.training.validation import ValidationCider, greedy

if TYPE_CHECKING:
    from conftest import World

LONGEST, EPOCHS = 9, 40


@pytest.fixture
def fresh(world: "World", tiny: Callable[..., SystemParams]) -> Callable[[str], Decoder]:
    def build(system: str) -> Decoder:
        torch.manual_seed(3)
        model = build_model(tiny(system), vocab=len(world.vocab), pooled=10, channels=7)
        model.standardise.fit(world.split("train", system == "attention").feature_blocks())
        return model

    return build


@pytest.fixture
def tracked(world: "World", settings: Callable[..., TrainingParams], tmp_path: Path) -> Callable[..., Any]:
    def run(model: Decoder, system: str, cider: ValidationCider | None, **changes: Any) -> Any:
        train_set, val_set = (world.split(split, system == "attention") for split in ("train", "val"))
        return train(
            model, Splits(train_set, val_set, cider),
            settings(**{"epochs": 20, "learning_rate": 0.02, "patience": 40} | changes),
            resume_file=ResumeFile(tmp_path / f"{id(model)}.pt", "key"), on_epoch=lambda _: None,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("system", ["baseline", "modified", "attention"])
def test_greedy_is_a_beam_search_of_width_1(
    world: "World", fresh: Callable[[str], Decoder], tracked: Callable[..., Any], system: str
) -> None:
    model, data = fresh(system), world.split("val", system == "attention")
    features = data.features(range(len(data.images)))
    for _ in range(2):  # with random weights, which never end a caption, and with trained ones
        model.eval()
        found = beam_search(model, features, beam=1, length_penalty=0.7, max_words=LONGEST)
        assert greedy(model, features, LONGEST) == [list(captions[0].tokens) for captions in found]
        tracked(model, system, None)
    assert min(map(len, greedy(model.eval(), features, LONGEST))) < LONGEST


@pytest.mark.parametrize("photos", [2, None])
def test_each_epoch_has_the_cider_of_its_captions(
    world: "World", fresh: Callable[[str], Decoder], tracked: Callable[..., Any], photos: int | None
) -> None:
    """It changes nothing else: not the weights, and not when the training stops. Of photos that are learnt by heart."""
    data, references = world.split("train"), references_of(world.captions, "train")
    cider = ValidationCider(world.vocab, data, references, partial(greedy, max_words=LONGEST), photos)
    model, other = fresh("baseline"), fresh("baseline")
    scored = tracked(model, "baseline", cider, epochs=EPOCHS)
    assert len({epoch.val_cider for epoch in scored.history}) > 1
    said = greedy(model.eval(), data.features(range(len(data.images))), LONGEST)
    captions = {image: world.vocab.decode(tokens) for image, tokens in zip(data.images, said, strict=True)}
    images = data.images[:photos]
    scorer = Scorer({image: [" ".join(words) for words in references[image]] for image in images})
    expected = scorer.score({image: captions[image] for image in images}).cider
    assert scored.history[scored.best_epoch - 1].val_cider == pytest.approx(expected)
    plain = tracked(other, "baseline", None, epochs=EPOCHS)
    assert [epoch.val_cider for epoch in plain.history] == [None] * EPOCHS
    assert [epoch.val_loss for epoch in plain.history] == [epoch.val_loss for epoch in scored.history]
    assert plain.best_epoch == scored.best_epoch
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_finetuning_needs_the_score_that_stops_it(
    world: "World", fresh: Callable[[str], Decoder], settings: Callable[..., TrainingParams], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="stopped by the score"):
        train(
            fresh("baseline"), Splits(world.split("train"), world.split("val")), settings(),
            resume_file=ResumeFile(tmp_path / "resume.pt", "key"), on_epoch=lambda _: None, finetuning=Finetuning(),
        )  # fmt: skip
