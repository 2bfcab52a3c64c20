"""CUDA graphs of training steps, simulated on the CPU; test_training_on_gpu runs them on one."""

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from captionlab.config import TrainingParams
from captionlab.models.base import Decoder
from captionlab.models.build import build_model
from captionlab.models.params import SystemParams
from captionlab.training import graphs
from captionlab.training.batches import Batch, with_fixed_shape
from captionlab.training.graphs import GraphedStep, _Recorded
from captionlab.training.step import padded_loss

if TYPE_CHECKING:
    from conftest import World


class Replayed:
    """Simulates a CUDA graph: reruns the step on its recorded inputs and overwrites its results."""

    def __init__(self, run: Callable[[], tuple[Tensor, ...]], held: list[Tensor]) -> None:
        self._run, self._held = run, held
        self.count = 0

    def replay(self) -> None:
        self.count += 1
        for held, new in zip(self._held, self._run(), strict=True):
            held.copy_(new)


@pytest.fixture
def recording(monkeypatch: pytest.MonkeyPatch) -> list[Replayed]:
    """A GraphedStep that records without CUDA; the recordings in order."""
    recorded: list[Replayed] = []

    def record(self: Any, batch: Batch) -> _Recorded:
        held, numbers_3 = batch.map(torch.clone), torch.ones(3)
        held = held._replace(words_share=numbers_3[0], captions_share=numbers_3[1])
        parameters = [parameter for parameter in self._model.parameters() if parameter.requires_grad]

        def run() -> tuple[Tensor, ...]:
            results = self._step(held, numbers_3[2])
            return (*results, *(parameter.grad for parameter in parameters))

        kept = [tensor.clone() for tensor in run()]
        recorded.append(Replayed(run, kept))
        gradients = iter(kept[2:])
        in_place = [next(gradients) if p.requires_grad else None for p in self._model.parameters()]
        return _Recorded(recorded[-1], held, numbers_3, in_place, (kept[0], kept[1]))

    def prepare(self: Any, step: Any, model: nn.Module) -> None:
        self._step, self._model, self._recorded, self._fails = step, model, {}, False

    monkeypatch.setattr(GraphedStep, "__init__", prepare)
    monkeypatch.setattr(GraphedStep, "_record", record)
    monkeypatch.setattr(
        GraphedStep, "_try_to_record", lambda self, batch, shapes: self._recorded.update({shapes: record(self, batch)})
    )
    monkeypatch.setattr(Tensor, "pin_memory", lambda tensor: tensor)
    monkeypatch.setattr(Decoder, "uses_fixed_shapes", lambda self, tokens_BT: True)
    return recorded


def test_each_batch_gives_its_own_loss_and_gradients(
    world: "World", tiny: Callable[..., SystemParams], settings: Callable[..., TrainingParams],
    recording: list[Replayed],
) -> None:  # fmt: skip
    torch.manual_seed(1)
    model = build_model(tiny("attention"), vocab=len(world.vocab), pooled=10, channels=7).train()
    params = settings(doubly_stochastic=0.5)

    def step(batch: Batch, sampling: float | Tensor) -> tuple[Tensor, Tensor]:
        loss, sums_3, _ = padded_loss(model, batch, params)
        model.zero_grad()
        loss.backward()
        return loss.detach(), sums_3

    graphed = GraphedStep(step, model)
    batches = [with_fixed_shape(batch, 2) for batch in world.split("train", grid=True).batches(2, 3)]
    batches += [batch._replace(words_share=0.5, captions_share=0.25) for batch in batches]
    for batch in batches:
        loss, sums_3 = graphed(batch, 0.0)
        found = [loss.clone(), sums_3.clone(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
        expected = [*step(batch, 0.0), *(p.grad for p in model.parameters() if p.grad is not None)]
        assert len(found) == len(expected) > 10
        assert all(map(torch.equal, found, expected))
    shapes = {tuple(tensor.shape for tensor in batch.tensors()) for batch in batches}
    assert len(recording) == len(shapes) < len(batches)
    assert sum(replayed.count for replayed in recording) == len(batches)


def test_sync_debug_mode_is_reset_without_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    modes: list[str] = []

    def waits() -> None:
        with graphs._error_on_waiting():
            warnings.warn("a prototype", stacklevel=1)
            raise RuntimeError("called a synchronizing CUDA operation")

    monkeypatch.setattr(torch.cuda, "set_sync_debug_mode", modes.append)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeError, match="synchronizing"):
            waits()
    assert modes == ["error", "default"]
