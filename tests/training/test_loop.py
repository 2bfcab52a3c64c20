"""The training loop: losses, early stopping, schedules, resumption, and NaN losses."""

import math
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from torch import Tensor, nn

from captionlab.config import TrainingParams
from captionlab.core.results import Epoch
from captionlab.core.tokens import PAD
from captionlab.errors import CaptionlabError
from captionlab.inference.decoding import beam_search
from captionlab.models.attention.regions import Attention
from captionlab.models.base import Decoder, Features, Outputs
from captionlab.models.build import build_model
from captionlab.models.params import SystemParams
from captionlab.training import loop
from captionlab.training.loop import ResumeFile, Splits, Trained, train
from captionlab.training.step import measure, packed_loss, teacher_forced_logits

if TYPE_CHECKING:
    from conftest import World

Tiny = Callable[..., SystemParams]
Settings = Callable[..., TrainingParams]
SYSTEMS = ("baseline", "modified", "attention")


class Setup:
    """The data and models of a small training."""

    def __init__(self, world: "World", tiny: Tiny, settings: Settings, resume: Path) -> None:
        self.world, self.tiny, self.settings, self.resume = world, tiny, settings, resume
        self.epochs: list[Epoch] = []

    def model(self, system: str = "baseline", **changes: Any) -> Decoder:
        torch.manual_seed(1)
        model = build_model(self.tiny(system, **changes), vocab=len(self.world.vocab), pooled=10, channels=7)
        grid = isinstance(model, Attention)
        model.standardise.fit(self.world.split("train", grid).feature_blocks())
        return model

    def train(
        self, model: Decoder, *, val: str = "val", grid: bool = False, key: str = "key",
        on_epoch: Callable[[Epoch], None] | None = None, **changes: Any,
    ) -> Trained:  # fmt: skip
        self.epochs = []
        return train(
            model, Splits(self.world.split("train", grid), self.world.split(val, grid)),  # type: ignore[arg-type]
            self.settings(**changes), resume_file=ResumeFile(self.resume, key), on_epoch=on_epoch or self.epochs.append,
        )  # fmt: skip


@pytest.fixture
def setup(world: "World", tiny: Tiny, settings: Settings, tmp_path: Path) -> Setup:
    return Setup(world, tiny, settings, tmp_path / "resume" / "tiny.pt")


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {key: tensor.clone() for key, tensor in model.state_dict().items()}


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)


def one_hot(hidden_XH: Tensor, words: int, favourite: int) -> Tensor:
    """Logits with all probability on one word."""
    logits_XV = torch.full((*hidden_XH.shape[:-1], words), -100.0)
    logits_XV[..., favourite] = 0.0
    return logits_XV


def stop_after(number: int) -> Callable[[Epoch], None]:
    def on_epoch(epoch: Epoch) -> None:
        if epoch.epoch == number:
            raise KeyboardInterrupt

    return on_epoch


@pytest.mark.parametrize(
    ("system", "changes"),
    [
        *((system, {}) for system in SYSTEMS),
        *(("baseline", {"image": image}) for image in ("init-inject", "par-inject", "merge")),
        ("modified", {"kind": "merge", "dense": 16}),
        ("attention", {"kind": "states", "dense": 16, "attention": 16}),
    ],
)
def test_a_tiny_set_is_overfitted(setup: Setup, system: str, changes: dict[str, Any]) -> None:
    setup.world, grid = setup.world.one_caption_each(), system == "attention" and not changes
    model = setup.model(system, embedding=16, hidden=16, **changes)
    trained = setup.train(model, val="train", grid=grid, epochs=90, learning_rate=0.02)
    assert trained.history[0].train_loss > 1.5
    assert trained.history[-1].train_loss < 0.1
    assert trained.history[-1].val_accuracy == 1.0
    data = setup.world.split("train", grid)
    said = beam_search(model, data.features(range(6)), beam=1, length_penalty=0.0, max_words=10)
    assert [[*photo[0].tokens] for photo in said] == [captions[0][1:-1] for captions in data.captions]


@pytest.mark.parametrize("system", SYSTEMS)
def test_the_best_epoch_is_returned(setup: Setup, system: str) -> None:
    grid = system == "attention"
    model = setup.model(system)
    trained = setup.train(model, grid=grid, epochs=40, patience=3, learning_rate=0.05)
    losses = [epoch.val_loss for epoch in trained.history]
    assert losses.index(min(losses)) == trained.best_epoch - 1
    assert len(losses) == trained.best_epoch + 3  # patience
    val = measure(model, setup.world.split("val", grid), 2, "cpu")
    best = trained.history[trained.best_epoch - 1]
    assert (val.loss, val.accuracy) == (best.val_loss, best.val_accuracy)
    assert best.val_perplexity == pytest.approx(math.exp(best.val_loss))
    assert [epoch.epoch for epoch in setup.epochs] == list(range(1, len(losses) + 1))


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("killed_after", [1, 3])
@pytest.mark.parametrize("changes", [{}, {"ema_decay": 0.9}, {"scheduled_sampling": 0.9}])
def test_a_killed_training_resumes_to_the_same_bits(
    setup: Setup, system: str, killed_after: int, changes: dict[str, float]
) -> None:
    how: dict[str, Any] = {"grid": system == "attention", "epochs": 3, "schedule": "cosine", **changes}
    unbroken = setup.model(system, dropout=0.3)
    expected = setup.train(unbroken, **how)
    setup.resume.unlink()
    with pytest.raises(KeyboardInterrupt):
        setup.train(setup.model(system, dropout=0.3), on_epoch=stop_after(killed_after), **how)
    torch.manual_seed(99)  # another process has another generator
    resumed = setup.model(system, dropout=0.3)
    assert setup.train(resumed, **how) == expected
    assert same(weights(resumed), weights(unbroken))
    assert setup.epochs == list(expected.history)


@pytest.mark.parametrize("system", SYSTEMS)
def test_training_with_fixed_shapes_gives_the_same_weights(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    """The loop as on a GPU, but without CUDA graphs."""
    how: dict[str, Any] = {"grid": system == "attention", "ema_decay": 0.9, "doubly_stochastic": 0.5}
    expected = setup.train(setup.model(system), **how)
    setup.resume.unlink()
    monkeypatch.setattr(Decoder, "uses_fixed_shapes", lambda self, tokens_BT: True)
    found = setup.train(setup.model(system), **how)
    for ours, theirs in zip(found.history, expected.history, strict=True):
        for field, value in asdict(theirs).items():
            assert asdict(ours)[field] == (None if value is None else pytest.approx(value, rel=1e-4)), field


def test_a_state_of_another_device_or_other_code_is_not_continued(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.train(setup.model())
    resume = ResumeFile(setup.resume, "key")
    assert resume.load("cpu") is not None
    assert resume.load("cuda") is None
    monkeypatch.setattr(loop, "code_digest", lambda names: "after an edit")
    assert resume.load("cpu") is None


def test_the_moving_average_is_validated_and_returned(setup: Setup) -> None:
    """Compared with the average of the weights after each step: two epochs of one step."""
    steps: list[dict[str, Tensor]] = []
    for epochs in (1, 2):  # the same first step, then one more
        setup.resume.unlink(missing_ok=True)
        model = setup.model()
        setup.train(model, val="train", epochs=epochs, batch_size=100)
        steps.append(weights(model))
    setup.resume.unlink()
    model = setup.model()
    trained = setup.train(model, val="train", epochs=2, batch_size=100, ema_decay=0.9)
    assert trained.best_epoch == 2
    keep = min(0.9, 2 / 11)  # the second update
    expected = {key: keep * first + (1 - keep) * steps[1][key] for key, first in steps[0].items()}
    for key, tensor in weights(model).items():
        torch.testing.assert_close(tensor, expected[key], msg=key)
    assert not same(weights(model), steps[1])
    measured = measure(model, setup.world.split("train"), 100, "cpu")
    assert measured.loss == trained.history[1].val_loss


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize(("share", "least", "most"), [(1.0, 1.0, 1.0), (0.5, 0.1, 0.9)])
def test_scheduled_sampling_reads_sampled_words(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, system: str, share: float, least: float, most: float
) -> None:
    """A system that always predicts one word reads that word, but its targets are the true words."""
    model, favourite = setup.model(system), len(setup.world.vocab) - 1
    batch = next(iter(setup.world.split("train", system == "attention").batches(100, None)))
    monkeypatch.setattr(model, "words", lambda hidden: one_hot(hidden, len(setup.world.vocab), favourite))
    inputs, outputs = list[Tensor](), model.outputs

    def listen(features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        inputs.append(tokens_BT)
        return outputs(features, tokens_BT, photo_B)

    monkeypatch.setattr(model, "outputs", listen)
    _, logits_NV, target_N = teacher_forced_logits(model, batch, share)
    true_BT, read_BT = inputs
    assert torch.equal(target_N, batch.tokens_BT[:, 1:][batch.tokens_BT[:, 1:] != PAD])
    assert len(logits_NV) == len(target_N)
    assert torch.equal(read_BT[:, 0], true_BT[:, 0])
    assert torch.equal(read_BT == PAD, true_BT == PAD)
    own_BT = read_BT != true_BT
    assert set(read_BT[own_BT].tolist()) == {favourite}
    candidates_BT = (true_BT != PAD) & (true_BT != favourite)
    assert least <= float(own_BT[:, 1:].sum() / candidates_BT[:, 1:].sum()) <= most


def test_a_killed_training_does_not_restart(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        setup.train(setup.model(), on_epoch=stop_after(2))
    batches = []
    clip = nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *given: batches.append(clip(*given)))
    setup.train(setup.model())
    assert len(batches) == 3  # one epoch of the three


def test_a_resumed_training_keeps_its_patience_and_its_best_epoch(setup: Setup) -> None:
    how: dict[str, Any] = {"epochs": 40, "patience": 3, "learning_rate": 0.05}
    unbroken = setup.model()
    expected = setup.train(unbroken, **how)
    setup.resume.unlink()
    with pytest.raises(KeyboardInterrupt):
        setup.train(setup.model(), on_epoch=stop_after(expected.best_epoch + 2), **how)
    resumed = setup.model()
    assert setup.train(resumed, **how) == expected
    assert same(weights(resumed), weights(unbroken))


@pytest.mark.parametrize("leftover", ["another key", "broken", "a list"])
def test_an_unusable_resume_file_is_ignored(setup: Setup, leftover: str) -> None:
    fresh = setup.model()
    expected = setup.train(fresh)
    if leftover == "another key":
        setup.resume.unlink()
        setup.train(setup.model(), key="another", learning_rate=0.5)
    elif leftover == "broken":
        setup.resume.write_bytes(setup.resume.read_bytes()[:1000])
    else:
        torch.save([1, 2], setup.resume)
    model = setup.model()
    assert setup.train(model) == expected
    assert same(weights(model), weights(fresh))


def test_the_seed_determines_the_training(setup: Setup) -> None:
    models = [setup.model(dropout=0.3) for _ in range(3)]
    for model, seed in zip(models, (1, 1, 2), strict=True):
        setup.resume.unlink(missing_ok=True)
        setup.train(model, seed=seed)
    assert same(weights(models[0]), weights(models[1]))
    assert not same(weights(models[0]), weights(models[2]))


def test_a_nan_loss_is_one_error_line_and_keeps_the_last_state(setup: Setup) -> None:
    unbroken = setup.model()
    expected = setup.train(unbroken)
    setup.resume.unlink()
    model = setup.model()

    def poison(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            next(model.parameters()).data.fill_(math.nan)

    with pytest.raises(CaptionlabError, match=r"the loss is nan in epoch 3, step 1; lower training\.") as caught:
        setup.train(model, on_epoch=poison)
    assert "\n" not in str(caught.value)
    again = setup.model()
    assert setup.train(again) == expected
    assert same(weights(again), weights(unbroken))


@pytest.mark.parametrize("steps", [2, 100])
def test_a_loss_that_is_checked_later_stops_the_training_before_it_is_saved(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    """As on a GPU; the error names the step where the loss became NaN."""
    monkeypatch.setitem(loop.STEPS_A_CHECK, "cpu", steps)
    with pytest.raises(KeyboardInterrupt):
        setup.train(setup.model(), on_epoch=stop_after(1))
    good = setup.resume.read_bytes()
    model = setup.model()

    def poison(epoch: Epoch) -> None:
        next(model.parameters()).data.fill_(math.nan)

    with pytest.raises(CaptionlabError, match=r"the loss is nan in epoch 2, step 1; lower training\."):
        setup.train(model, on_epoch=poison)
    assert setup.resume.read_bytes() == good


def test_weights_lost_in_an_epochs_last_step_do_not_reach_the_resume_file(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(KeyboardInterrupt):
        setup.train(setup.model(), on_epoch=stop_after(1))
    good = setup.resume.read_bytes()
    monkeypatch.setattr(loop, "_schedule", lambda *_: 1e41)  # the factor of the learning rate
    with pytest.raises(CaptionlabError, match="in the validation of epoch 2; lower"):
        setup.train(setup.model(), batch_size=100)
    assert setup.resume.read_bytes() == good


def test_cosine_schedule(setup: Setup) -> None:
    history = setup.train(setup.model(), schedule="cosine", epochs=4, learning_rate=0.1).history
    # 3 steps per epoch, 12 in total; an epoch reports the rate of its last step
    expected = [0.05 * (1 + math.cos(math.pi * step / 12)) for step in (2, 5, 8, 11)]
    assert [epoch.learning_rate for epoch in history] == pytest.approx(expected)


@pytest.mark.parametrize(
    ("patience", "factor", "rates"),
    [(3, 0.2, [1e-3] * 4 + [2e-4] * 3 + [4e-5] * 2), (2, 0.5, [1e-3] * 3 + [5e-4] * 2 + [25e-5] * 2 + [125e-6] * 2)],
)
def test_plateau_schedule(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, patience: int, factor: float, rates: list[float]
) -> None:
    """The rate falls after ``patience`` epochs without improvement."""
    losses = iter([5.0, 6.0, 6.0, 6.0, 6.0, 6.0, 6.0, 4.0, 6.0])
    monkeypatch.setattr(loop, "measure", lambda *_: SimpleNamespace(loss=next(losses), accuracy=0.0))
    trained = setup.train(
        setup.model(), schedule="plateau", epochs=9, patience=20, learning_rate=1e-3, plateau_patience=patience,
        plateau_factor=factor,
    )  # fmt: skip
    assert [epoch.learning_rate for epoch in trained.history] == pytest.approx(rates)
    assert trained.best_epoch == 8


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rmsprop"])
def test_every_optimizer_lowers_the_loss(setup: Setup, optimizer: str) -> None:
    history = setup.train(setup.model(), optimizer=optimizer, epochs=4).history
    assert history[-1].train_loss < history[0].train_loss
    assert {epoch.learning_rate for epoch in history} == {0.01}


def step_loss(setup: Setup, model: Decoder, padding: int = 0, smoothing: float = 0.0) -> tuple[Tensor, Tensor]:
    """The training loss of one batch, and PyTorch's loss of the full logits."""
    (batch,) = setup.world.split("train").batches(100)
    tokens_BT = torch.nn.functional.pad(batch.tokens_BT, (0, padding), value=PAD)
    loss, _, _ = packed_loss(model, batch._replace(tokens_BT=tokens_BT), setup.settings(label_smoothing=smoothing))
    logits_BTV = model(batch.features, batch.tokens_BT[:, :-1], batch.photo_B)
    said_BT = batch.tokens_BT[:, 1:]
    return loss, nn.functional.cross_entropy(
        logits_BTV.flatten(0, 1), said_BT.flatten(), ignore_index=PAD, label_smoothing=smoothing
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("padding", [0, 7])
@pytest.mark.parametrize("system", ["baseline", "modified"])
def test_the_loss_ignores_padding(setup: Setup, system: str, padding: int, smoothing: float) -> None:
    loss, expected = step_loss(setup, setup.model(system), padding, smoothing)
    torch.testing.assert_close(loss, expected, atol=1e-5, rtol=1e-5)


def test_reported_losses_have_no_label_smoothing(setup: Setup) -> None:
    history = setup.train(setup.model(), label_smoothing=0.5, learning_rate=1e-9, batch_size=100, epochs=1).history
    loss, _ = step_loss(setup, setup.model())
    assert history[0].train_loss == pytest.approx(loss.item(), rel=1e-5)


def test_measure_does_not_depend_on_the_batch(setup: Setup) -> None:
    one, many = (measure(setup.model(), setup.world.split("train"), photos, "cpu") for photos in (1, 100))
    assert one.loss == pytest.approx(many.loss, rel=1e-5)
    assert one.accuracy == many.accuracy


def test_the_doubly_stochastic_term(setup: Setup) -> None:
    model = setup.model("attention")
    (batch,) = setup.world.split("train", grid=True).batches(100)
    plain, with_term = (packed_loss(model, batch, setup.settings(doubly_stochastic=weight))[0] for weight in (0.0, 0.7))
    term = 0.0
    for b in range(len(batch.tokens_BT)):
        words = int((batch.tokens_BT[b] != PAD).sum()) - 1
        read_1T = batch.tokens_BT[b : b + 1, :words]
        attention_BTR = model.outputs(batch.features, read_1T, batch.photo_B[b : b + 1]).attention_BTR
        assert attention_BTR is not None
        term += (1 - attention_BTR[0].sum(0)).square().mean().item() / len(batch.tokens_BT)
    assert term > 0.01
    assert (with_term - plain).item() == pytest.approx(0.7 * term, rel=1e-4)


def test_free_running_training_lowers_the_loss(setup: Setup) -> None:
    history = setup.train(setup.model("attention", teacher_forcing=False), grid=True, epochs=6).history
    assert history[-1].train_loss < history[0].train_loss
