"""The loss of a step: padded and unpadded batches agree, and no operation synchronises with the device."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from captionlab.config import TrainingParams
from captionlab.core.tokens import END, PAD, START
from captionlab.encoders.network import LastBlocks, Parts, PooledMap, pooling_matrix_on
from captionlab.finetuning.distillation import Distillation
from captionlab.models.base import Decoder, Features, Outputs, embedded
from captionlab.models.build import build_model
from captionlab.models.params import SystemParams
from captionlab.training.batches import Batch, with_fixed_shape
from captionlab.training.step import RunningMetrics, measure, packed_loss, padded_loss, teacher_forced_logits

if TYPE_CHECKING:
    from conftest import World

SYSTEMS: list[tuple[str, dict[str, Any]]] = [
    ("baseline", {"layers": 2}),
    ("baseline", {"image": "init-inject"}),
    ("baseline", {"image": "par-inject"}),
    ("baseline", {"image": "merge"}),
    ("modified", {}),
    ("modified", {"kind": "merge"}),
    ("attention", {}),
    ("attention", {"teacher_forcing": False}),
    ("attention", {"kind": "states"}),
]
# Operations whose result's shape or value the host has to ask the device for, or that copy from the host; and those
# that add in any order, or of which PyTorch's deterministic form waits.
WAITING = ("nonzero", "_local_scalar_dense", "masked_select", "lift_fresh", "multinomial", "is_nonzero", "unique")
UNORDERED = ("index_add", "index_put", "_index_put_impl_", "index_select", "scatter_add", "gather")


@pytest.fixture
def fixed_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Decoder, "uses_fixed_shapes", lambda self, tokens_BT: True)


@pytest.fixture
def build(world: "World", tiny: Callable[..., SystemParams]) -> Callable[..., Decoder]:
    def model(system: str, **changes: Any) -> Decoder:
        torch.manual_seed(1)
        return build_model(tiny(system, **changes), vocab=len(world.vocab), pooled=10, channels=7).train()

    return model


def batch_of(world: "World") -> Batch:
    (batch,) = world.split("train", grid=True).batches(100)
    return batch


def gradients(model: Decoder, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    loss.backward()
    return {key: parameter.grad for key, parameter in model.named_parameters() if parameter.grad is not None}


@pytest.mark.parametrize(("system", "changes"), SYSTEMS)
def test_padding_does_not_change_the_loss(
    world: "World", build: Any, settings: Callable[..., TrainingParams], monkeypatch: pytest.MonkeyPatch, system: str,
    changes: dict[str, Any],
) -> None:  # fmt: skip
    params = settings(label_smoothing=0.1, doubly_stochastic=0.7)
    model = build(system, **changes)
    batch = batch_of(world)._replace(words_share=0.25, captions_share=0.5)
    loss, sums_3, _ = packed_loss(model, batch, params)
    expected = {"loss": loss.detach(), "sums": sums_3, **gradients(model, loss)}
    monkeypatch.setattr(Decoder, "uses_fixed_shapes", lambda self, tokens_BT: True)
    shares = torch.tensor([0.25, 0.5])
    filled = with_fixed_shape(batch, photos=9)._replace(words_share=shares[0], captions_share=shares[1])
    assert filled.tokens_BT.shape == (16, 9)
    loss, sums_3, _ = padded_loss(model, filled, params)
    found = {"loss": loss.detach(), "sums": sums_3, **gradients(model, loss)}
    assert found.keys() == expected.keys()
    for key in expected:
        torch.testing.assert_close(found[key], expected[key], atol=1e-5, rtol=1e-5, msg=key)


class Recorder(TorchDispatchMode):
    """Records the executed operations, including those of the backward pass."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.names: set[str] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        # A mask as an index: its nonzero is below the dispatch mode.
        masked = name == "index.Tensor" and any(each is not None and each.dtype == torch.bool for each in args[1])
        self.names.add("nonzero" if masked else name)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("sampling", [False, True])
@pytest.mark.parametrize(("system", "changes"), SYSTEMS)
def test_a_step_with_fixed_shapes_does_not_synchronise(
    world: "World", build: Any, settings: Callable[..., TrainingParams], fixed_shapes: None,
    monkeypatch: pytest.MonkeyPatch, system: str, changes: dict[str, Any], sampling: bool,
) -> None:  # fmt: skip
    """All operations, including the backward pass, can be captured in a CUDA graph with deterministic algorithms.

    Four of its parameters are fixtures.
    """
    for module in ("regions", "states"):  # the operation for GPUs
        monkeypatch.setattr(f"captionlab.models.attention.{module}.of_captions", embedded)
    for name in ("baseline", "modified.bilstm", "modified.merge"):
        monkeypatch.setattr(f"captionlab.models.{name}.of_captions", embedded)
    model = build(system, dropout=0.3, **changes)
    batch = with_fixed_shape(batch_of(world), photos=8)
    params = settings(doubly_stochastic=0.7, label_smoothing=0.1)
    probability: float | Tensor = torch.tensor(0.5) if sampling else 0.0
    with Recorder() as recorder:
        loss, _, _ = padded_loss(model, batch, params, probability)
        loss.backward()
    assert "mm.default" in recorder.names
    found = sorted(name for name in recorder.names if name.startswith((*WAITING, *UNORDERED)))
    assert not found
    with Recorder() as recorder:  # as on a CPU, which shows that the list detects it
        packed_loss(model, batch_of(world), params)[0].backward()
    assert "nonzero" in recorder.names


def test_a_step_of_distillation_does_not_synchronise(
    world: "World", build: Any, settings: Callable[..., TrainingParams], fixed_shapes: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("captionlab.models.attention.regions.of_captions", embedded)
    model, train_set = build("attention"), world.split("train", grid=True)
    distillation = Distillation(build("attention"), train_set, cross_entropy=0.3, top_k=4)
    batch = distillation.prepare(with_fixed_shape(batch_of(world), photos=8))
    with Recorder() as recorder:
        loss, _, logits_NV = padded_loss(model, batch, settings())
        distillation.loss(model, batch, logits_NV, loss)[0].backward()
    assert "nll_loss_backward.default" in recorder.names
    assert not [name for name in recorder.names if name.startswith((*WAITING, *UNORDERED))]


def test_a_step_with_trained_blocks_does_not_synchronise(
    world: "World", tiny: Callable[..., SystemParams], settings: Callable[..., TrainingParams], fixed_shapes: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr("captionlab.models.attention.regions.of_captions", embedded)
    on_gpu = partial(pooling_matrix_on, torch.device("cpu"))
    monkeypatch.setattr("captionlab.encoders.network._pooling_matrix", on_gpu)
    blocks = LastBlocks(Parts(trunk=nn.Sequential(), last=nn.Conv2d(7, 7, 1), head=PooledMap()), 2)
    model = build_model(tiny("attention"), vocab=len(world.vocab), pooled=7, channels=7, blocks=lambda: blocks).train()
    batch = with_fixed_shape(batch_of(world), photos=8)
    with Recorder() as recorder:
        loss, _, _ = padded_loss(model, batch, settings())
        loss.backward()
    assert "convolution_backward.default" in recorder.names
    assert not [name for name in recorder.names if name.startswith((*WAITING, *UNORDERED))]


@pytest.mark.parametrize("probability", [1.0, 0.5])
def test_scheduled_sampling_with_fixed_shapes_samples_from_the_system(
    world: "World", build: Any, fixed_shapes: None, monkeypatch: pytest.MonkeyPatch, probability: float
) -> None:
    """Compared with the probabilities: in many equal captions, the second input word is sampled."""
    model, words = build("baseline").eval(), len(world.vocab)
    logits_V = torch.linspace(-1, 1, words)
    monkeypatch.setattr(model, "words", lambda hidden_XH: logits_V.expand(*hidden_XH.shape[:-1], -1).clone())
    heard, outputs = list[Tensor](), model.outputs

    def listen(features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        heard.append(tokens_BT)
        return outputs(features, tokens_BT, photo_B)

    monkeypatch.setattr(model, "outputs", listen)
    tokens_BT = torch.tensor([[START, 5, 6, END, PAD]]).repeat(4000, 1)
    features = world.split("train").features([0])
    torch.manual_seed(0)
    teacher_forced_logits(model, Batch(features, tokens_BT, torch.zeros(4000, dtype=torch.long), [0]), probability)
    true_BT, read_BT = heard
    assert torch.equal(true_BT, torch.tensor([[START, 5, 6, PAD]]).expand(4000, -1))
    assert (read_BT[:, 0] == START).all()
    assert (read_BT[:, 3] == PAD).all()
    possible_V = logits_V.clone()
    possible_V[[PAD, START, END]] = -torch.inf
    for step, true in ((1, 5), (2, 6)):
        expected = probability * possible_V.softmax(0)
        expected[true] += 1 - probability
        shares = torch.bincount(read_BT[:, step], minlength=words) / 4000
        torch.testing.assert_close(shares, expected, atol=0.03, rtol=0)  # about four standard errors


def test_fixed_shapes_do_not_change_validation(world: "World", build: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = build("attention")
    expected = measure(model, world.split("val", grid=True), 2, "cpu")
    monkeypatch.setattr(Decoder, "uses_fixed_shapes", lambda self, tokens_BT: True)
    found = measure(model, world.split("val", grid=True), 2, "cpu")
    assert found.loss == pytest.approx(expected.loss, rel=1e-6)
    assert (found.right, found.words) == (expected.right, expected.words)


def test_a_meter_counts_each_step_once() -> None:
    metrics = RunningMetrics()
    for loss in (1.0, 2.0, 3.0):
        metrics.add(torch.tensor(loss), torch.tensor([10 * loss, loss, 4.0]))
    assert metrics.unread == 3
    assert metrics.read() == [(1, 1.0), (2, 2.0), (3, 3.0)]
    metrics.add(torch.tensor(torch.nan), torch.tensor([40.0, 0.0, 4.0]))
    ((step, loss),) = metrics.read()
    assert (step, loss != loss) == (4, True)
    assert metrics.read() == []
    assert (metrics.loss, metrics.accuracy) == (100 / 16, 6 / 16)
