"""Knowledge distillation: the loss, its gradient, and the teacher's cached outputs."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

from captionlab.config import TrainingParams
from captionlab.core.records import Decoding
from captionlab.finetuning import distillation
from captionlab.finetuning.distillation import Distillation
from captionlab.finetuning.validation import by_beam_search, references_of
from captionlab.models.base import Decoder
from captionlab.models.build import build_model
from captionlab.models.ensemble import Ensemble
from captionlab.models.params import SystemParams
from captionlab.training.batches import Batch, with_fixed_shape
from captionlab.training.loop import Finetuning, ResumeFile, Splits, train
from captionlab.training.step import autocast, packed_loss, padded_loss, teacher_forced_logits
from captionlab.training.validation import ValidationCider

if TYPE_CHECKING:
    from conftest import World


class Setup:
    """Systems with the same vocabulary, and photos."""

    def __init__(self, world: "World", tiny: Callable[..., SystemParams]) -> None:
        self.train_set, self.val_set = world.split("train", grid=True), world.split("val", grid=True)
        self._world, self._config = world, tiny("attention")

    def model(self, seed: int) -> Decoder:
        torch.manual_seed(seed)
        model = build_model(self._config, vocab=len(self._world.vocab), pooled=10, channels=7)
        model.standardise.fit(self.train_set.feature_blocks())
        return model.eval()

    def cider(self) -> ValidationCider:
        references = references_of(self._world.captions, "val")
        return ValidationCider(self._world.vocab, self.val_set, references, by_beam_search(Decoding()))

    def distillation(self, teacher: Decoder, cross_entropy: float = 0.0, top_k: int = 32) -> Distillation:
        return Distillation(teacher, self.train_set, cross_entropy=cross_entropy, top_k=top_k)


@pytest.fixture
def setup(world: "World", tiny: Callable[..., SystemParams]) -> Setup:
    return Setup(world, tiny)


def loss_of(distillation: Distillation, model: Decoder, batch: Batch) -> Tensor:
    _, logits_NV, _ = teacher_forced_logits(model, batch)
    loss, reward = distillation.loss(model, batch, logits_NV, torch.tensor(8.0))
    assert reward is None
    return loss


def test_the_loss_is_the_cross_entropy_with_the_teachers_probabilities(setup: Setup) -> None:
    """With a vocabulary no larger than top_k."""
    model, teacher = setup.model(1), Ensemble([setup.model(2), setup.model(3)], [0, 0])
    (batch,) = setup.train_set.batches(100)
    _, ours_NV, _ = teacher_forced_logits(model, batch)
    _, theirs_NV, _ = teacher_forced_logits(teacher, batch)
    expected = -(theirs_NV.softmax(-1) * ours_NV.log_softmax(-1)).sum(1).mean()
    torch.testing.assert_close(loss_of(setup.distillation(teacher), model, batch), expected, rtol=1e-3, atol=0)
    mixed = loss_of(setup.distillation(teacher, cross_entropy=0.25), model, batch)
    torch.testing.assert_close(mixed, 0.25 * 8 + 0.75 * expected, rtol=1e-3, atol=0)


def test_a_batch_of_fixed_shape_has_the_same_loss_and_gradients(
    setup: Setup, settings: Callable[..., TrainingParams], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CUDA trains: padding counts neither in the cross-entropy nor in the teacher's part."""
    model, teacher, params = setup.model(1), Ensemble([setup.model(2), setup.model(3)], [0, 0]), settings()
    (batch,) = setup.train_set.batches(100)
    batch = batch._replace(words_share=0.5)

    def gradients(loss: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        loss.backward()
        return {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}

    distillation = setup.distillation(teacher, cross_entropy=0.25, top_k=4)
    loss, _, logits_NV = packed_loss(model, batch, params)
    packed, _ = distillation.loss(model, batch, logits_NV, loss)
    expected = gradients(packed)
    monkeypatch.setattr(Decoder, "uses_fixed_shapes", lambda self, tokens_BT: True)
    for prepared in (distillation, setup.distillation(teacher, cross_entropy=0.25, top_k=4)):  # the second has none yet
        filled = prepared.prepare(with_fixed_shape(batch, photos=9))
        assert filled.taught_BTK is not None
        assert filled.taught_BTK[0].shape == (*filled.tokens_BT[:, 1:].shape, 4)
        assert len(filled.tensors()) == len(batch.tensors()) + 2
        loss, _, logits_NV = padded_loss(model, filled, params)
        found, _ = prepared.loss(model, filled, logits_NV, loss)
        torch.testing.assert_close(found, packed)
        slopes = gradients(found)
        assert slopes.keys() == expected.keys()
        for key in expected:
            torch.testing.assert_close(slopes[key], expected[key], atol=1e-5, rtol=1e-4, msg=key)


def test_the_loss_in_bf16_is_that_in_fp32(setup: Setup) -> None:
    model, teacher = setup.model(1), Ensemble([setup.model(2), setup.model(3)], [0, 0])
    (batch,) = setup.train_set.batches(100)
    expected = loss_of(setup.distillation(teacher), model, batch)
    with autocast(True):
        found = loss_of(setup.distillation(teacher), model, batch)
    assert found != expected
    torch.testing.assert_close(found, expected, rtol=0.01, atol=0)


def test_only_the_teachers_most_probable_words_are_used(setup: Setup) -> None:
    model, teacher = setup.model(1), setup.model(2)
    (batch,) = setup.train_set.batches(100)
    _, ours_NV, _ = teacher_forced_logits(model, batch)
    _, theirs_NV, _ = teacher_forced_logits(teacher, batch)
    expected = torch.nn.functional.cross_entropy(ours_NV, theirs_NV.argmax(1))
    torch.testing.assert_close(loss_of(setup.distillation(teacher, top_k=1), model, batch), expected)


def test_a_system_as_its_own_teacher_has_no_gradient(setup: Setup) -> None:
    model = setup.model(1)
    (batch,) = setup.train_set.batches(100)
    slopes = []
    for teacher in (setup.model(1), setup.model(2)):
        model.zero_grad()
        loss_of(setup.distillation(teacher), model, batch).backward()
        slopes.append(sum(p.grad.abs().sum().item() for p in model.parameters() if p.grad is not None))
    assert slopes[0] < 0.01 * slopes[1]


def test_the_teacher_computes_each_caption_once(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    """In any batching, and from the features of its own encoder."""
    model, teacher = setup.model(1), setup.model(2)
    once, asked = setup.distillation(teacher), 0

    def count(decoder: Decoder, batch: Batch) -> object:
        nonlocal asked
        asked += 1
        return teacher_forced_logits(decoder, batch)

    monkeypatch.setattr(distillation, "teacher_forced_logits", count)
    for batch in setup.train_set.batches(2, 5):
        loss_of(once, model, batch)
    assert asked == 3
    for batch in setup.train_set.batches(4, 7):
        blind = batch._replace(features=batch.features._replace(grid_PRC=torch.zeros_like(batch.features.grid_PRC)))  # type: ignore[arg-type]
        torch.testing.assert_close(loss_of(once, model, blind), loss_of(setup.distillation(teacher), model, blind))
    assert asked == 3 + 2


def test_the_distillation_loss_falls(setup: Setup, settings: Callable[..., TrainingParams], tmp_path: Path) -> None:
    model, teacher = setup.model(1), setup.model(2)
    (batch,) = setup.train_set.batches(100)
    before = loss_of(setup.distillation(teacher), model, batch)
    trained = train(
        model, Splits(setup.train_set, setup.val_set, setup.cider()),
        settings(epochs=15, patience=15, learning_rate=0.02),
        resume_file=ResumeFile(tmp_path / "resume.pt", "key"), on_epoch=lambda _: None,
        finetuning=Finetuning(setup.distillation(teacher).loss),
    )  # fmt: skip
    assert all(epoch.val_cider is not None and epoch.train_reward is None for epoch in trained.history)
    itself = loss_of(setup.distillation(teacher), teacher, batch)  # as low as it gets
    assert loss_of(setup.distillation(teacher), model.eval(), batch) - itself < 0.5 * (before - itself)
