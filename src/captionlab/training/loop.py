"""The training loop: epochs, early stopping, resuming. Knows the decoder contract, steps and batches.

Nothing here knows where files belong. Shape letters as in ``models.base``; N real words of a batch.
"""

import copy
import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn
from tqdm import tqdm

from captionlab.config import TrainingParams
from captionlab.core import distributed
from captionlab.core.code import code_digest
from captionlab.core.devices import gpu_arithmetic, uses_bf16
from captionlab.core.files import atomic_file, digest_of
from captionlab.core.results import Epoch
from captionlab.errors import CaptionlabError
from captionlab.models.base import Decoder
from captionlab.models.build import WithEncoder
from captionlab.training.batches import Batch, CaptionedFeatures, prepared_ahead, prepared_for, with_fixed_shape
from captionlab.training.graphs import GraphedStep
from captionlab.training.step import RunningMetrics, autocast, measure, packed_loss, padded_loss
from captionlab.training.validation import ValidationCider

_CODE = (
    "core/devices.py",
    "core/tokens.py",
    "data",
    "encoders",
    "finetuning",
    "inference",
    "metrics",
    "models",
    "training",
)
STEPS_A_CHECK = {"cpu": 1, "cuda": 100, "mps": 100}  # reading a loss means to wait for a GPU


@dataclass(frozen=True, kw_only=True)
class Trained:
    """A training's history; the model has the weights of ``best_epoch``."""

    history: tuple[Epoch, ...]
    best_epoch: int


class Splits(NamedTuple):
    """The photos a system is trained on, those that decide when to stop, and the score of captions of some of them."""

    train: CaptionedFeatures
    val: CaptionedFeatures
    cider: ValidationCider | None = None


@dataclass(frozen=True)
class ResumeFile:
    """Where a training saves its state after each epoch. ``key`` tells the training apart from all others.

    Only the same code continues: the state has the shapes, and the history the losses, of the code that made it.
    """

    path: Path
    key: str

    @property
    def _stored_key(self) -> str:
        return digest_of([self.key, code_digest(_CODE)])

    def load(self, device: str) -> dict[str, Any] | None:
        """The state of an interrupted run; None if there is none, or if it is unreadable or another training's."""
        if not self.path.exists():
            return None
        try:
            content = torch.load(self.path, map_location="cpu", weights_only=True)
            same = (content["key"], content["device"]) == (self._stored_key, device)
            return content["state"] if same else None
        except Exception:  # whatever a broken file raises, the training starts again
            return None

    def save(self, state: dict[str, Any], device: str) -> None:
        """Write the state as a whole or not at all."""
        content = io.BytesIO()  # torch's own writer does not report a full disk
        torch.save({"key": self._stored_key, "device": device, "state": state}, content)
        with atomic_file(self.path) as temporary:
            temporary.write_bytes(content.getbuffer())


# The loss of a batch, given the system, its words' logits (N, V) and their cross-entropy; the mean reward, if any.
Loss = Callable[[Decoder, Batch, Tensor, Tensor], tuple[Tensor, float | None]]


@dataclass(frozen=True)
class Finetuning:
    """A training that is stopped by the CIDEr-D of validation captions, and may have a loss of its own."""

    loss: Loss | None = None  # None: the cross-entropy of the reference captions
    # Adds to a batch of fixed shape, on the CPU, what the loss reads. With it the loss depends on shapes alone, so that
    # a CUDA graph can be recorded of it.
    prepare: Callable[[Batch], Batch] | None = None


def train(
    model: Decoder,
    splits: Splits,
    params: TrainingParams,
    *,
    resume_file: ResumeFile,
    on_epoch: Callable[[Epoch], None],
    finetuning: Finetuning | None = None,
) -> Trained:
    """Train until the validation loss stops falling, and leave the best epoch's weights in ``model``.

    It runs on the model's device. With ``splits.cider`` validation captions are scored after each epoch.
    ``finetuning`` stops by that score instead of the validation loss, and may replace the loss. With
    ``params.ema_decay`` the moving average of the weights is validated and returned.

    After each epoch the whole state is saved; a run with the same key continues from it to the result of an
    uninterrupted one. ``on_epoch`` is called for every epoch, resumed ones included. Under torchrun all ranks call
    this, share each step's photos and get the same result; the first one reads and writes the resume file.
    Raises CaptionlabError when the loss is not finite; the last good state stays in the resume file. Raises ValueError
    for ``finetuning`` without ``splits.cider``.
    """
    if finetuning is not None and splits.cider is None:
        raise ValueError("fine-tuning is stopped by the score of splits.cider")
    device = next(model.parameters()).device.type
    bf16 = uses_bf16(params.precision, device)
    distributed.broadcast_weights(model)
    if isinstance(model, WithEncoder):
        model.crop = params.crop
    run = _Run(model, params, by_cider=finetuning is not None)
    state = distributed.broadcast_object(resume_file.load(device) if distributed.is_main() else None)
    if state is not None:
        run.load_state_dict(state)
        for epoch in run.history:
            on_epoch(epoch)
    with gpu_arithmetic(device):
        gradients = _Gradients(model, params, bf16, finetuning)
        while len(run.history) < params.epochs and not run.stopping.now:
            metrics, rewards = _train_epoch(run, splits.train, gradients)
            val = measure(run.validated, splits.val, params.batch_size, device, bf16)
            _check_finite(val.loss, f"the validation of epoch {run.number}", params)  # before it is saved
            epoch = Epoch(
                epoch=run.number,
                train_loss=metrics.loss,
                val_loss=val.loss,
                train_accuracy=metrics.accuracy,
                val_accuracy=val.accuracy,
                train_perplexity=_perplexity(metrics.loss),
                val_perplexity=_perplexity(val.loss),
                learning_rate=run.optimizer.param_groups[0]["lr"],
                train_reward=fmean(rewards) if rewards else None,
                # computed once: processors that round differently could disagree about when to stop
                val_cider=distributed.broadcast_object(
                    splits.cider.cider(run.validated, device) if splits.cider and distributed.is_main() else None
                ),
            )
            run.finish(epoch)
            if distributed.is_main():
                resume_file.save(run.state_dict(), device)
            on_epoch(epoch)
    model.load_state_dict(run.best)
    return Trained(history=tuple(run.history), best_epoch=run.stopping.best_epoch)


class _Run:
    """A training between two steps: everything that a resumed one needs."""

    def __init__(self, model: Decoder, params: TrainingParams, by_cider: bool = False) -> None:
        self.model, self.params = model, params
        self.optimizer = _optimizer(model, params)
        # "to" puts an LSTM's copied weights into one block again, without which cuDNN copies them at every call.
        self.ema = copy.deepcopy(model).to(next(model.parameters()).device) if params.ema_decay else None
        self.history: list[Epoch] = []
        self.stopping = _Stopping(params, by_cider)
        self.best = _copy(model)

    @property
    def number(self) -> int:
        """The present epoch's, from 1."""
        return len(self.history) + 1

    @property
    def validated(self) -> Decoder:
        """The system whose loss decides: the moving average, if there is one."""
        return self.model if self.ema is None else self.ema

    def finish(self, epoch: Epoch) -> None:
        """Record an epoch."""
        self.history.append(epoch)
        self.stopping.update(epoch)
        if self.stopping.best_epoch == epoch.epoch:
            self.best = _copy(self.validated)

    def state_dict(self) -> dict[str, Any]:
        """Everything, as torch saves it without pickling code."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "average": None if self.ema is None else self.ema.state_dict(),
            "best": self.best,
            "history": [asdict(epoch) for epoch in self.history],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from what ``state_dict`` returned."""
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.ema is not None:
            self.ema.load_state_dict(state["average"])
        self.best, self.history = state["best"], [Epoch(**row) for row in state["history"]]
        for epoch in self.history:
            self.stopping.update(epoch)


class _Gradients:
    """Computes the gradients of one batch: from a CUDA graph on CUDA, unless the loss needs the host."""

    def __init__(self, model: Decoder, params: TrainingParams, bf16: bool, finetuning: Finetuning | None) -> None:
        self._model, self._params, self._bf16 = model, params, bf16
        finetuning = finetuning or Finetuning()
        self._loss, self._prepare = finetuning.loss, finetuning.prepare
        self.device = next(model.parameters()).device
        graphs = self.device.type == "cuda" and (self._loss is None or self._prepare is not None)
        self.graphed = GraphedStep(partial(_padded_step, model, params, self._loss), model) if graphs else None

    def prepared(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """The batches as ``__call__`` takes them."""
        if self.graphed is None:
            return prepared_for(self.device.type, batches)
        photos = -(-self._params.batch_size // distributed.world_size())
        filled = (with_fixed_shape(batch, photos) for batch in batches)
        return prepared_ahead(map(self._prepare, filled) if self._prepare else filled)

    def __call__(self, batch: Batch, sampling: float) -> tuple[Tensor, Tensor, float | None]:
        """Leave the gradients in the model: the batch's loss, the sums of its metrics, and a fine-tuning's reward."""
        if self.graphed is not None:
            return *self.graphed(batch, sampling), None
        if self._loss is None and self._model.uses_fixed_shapes(batch.tokens_BT):
            return *_padded_step(self._model, self._params, None, batch, sampling), None
        reward = None
        with autocast(self._bf16):
            loss, sums_3, logits_NV = packed_loss(self._model, batch, self._params, sampling)
            if self._loss is not None:
                loss, reward = self._loss(self._model, batch, logits_NV, loss)
        return _backward(self._model, loss), sums_3, reward


def _padded_step(
    model: Decoder, params: TrainingParams, own_loss: Loss | None, batch: Batch, sampling: float | Tensor
) -> tuple[Tensor, Tensor]:
    loss, sums_3, logits_NV = padded_loss(model, batch, params, sampling if params.scheduled_sampling else 0.0)
    if own_loss is not None:
        loss, _ = own_loss(model, batch, logits_NV, loss)
    return _backward(model, loss), sums_3


def _backward(model: Decoder, loss: Tensor) -> Tensor:
    model.zero_grad()
    loss.backward()
    return loss.detach()


def _train_epoch(run: _Run, data: CaptionedFeatures, gradients: _Gradients) -> tuple[RunningMetrics, list[float]]:
    """One pass over the photos: its sums, and the rewards of a finetuning's steps."""
    model, params, rank, ranks = run.model, run.params, distributed.rank(), distributed.world_size()
    steps = -(-len(data.rows) // params.batch_size)
    seed = params.seed * 100_003 + run.number  # dropout depends on epoch and rank alone, so resuming is exact
    torch.manual_seed(seed + 1_000_000_007 * rank)
    model.train()
    metrics, rewards = RunningMetrics(), list[float]()
    batches = gradients.prepared(data.batches(params.batch_size, seed, rank, ranks))
    bar = tqdm(
        batches, f"epoch {run.number}", steps, leave=False, unit="step", disable=None if distributed.is_main() else True
    )
    for step, batch in enumerate(bar):
        number = (run.number - 1) * steps + step  # of all steps
        done = number / (params.epochs * steps)
        rates = (params.learning_rate, params.encoder_learning_rate)
        for group, rate in zip(run.optimizer.param_groups, rates, strict=False):
            group["lr"] = rate * _schedule(params, done, run.stopping)
        loss, sums_3, reward = gradients(batch, params.scheduled_sampling * done)
        metrics.add(loss, sums_3 if batch.words_share else torch.zeros_like(sums_3))
        if metrics.unread == STEPS_A_CHECK[gradients.device.type]:
            _check_losses(metrics, run)
        rewards += [] if reward is None else [reward]
        distributed.all_reduce_gradients(model)
        nn.utils.clip_grad_norm_(model.parameters(), params.clip_norm)
        run.optimizer.step()
        if run.ema is not None:
            _update_ema(run.ema, model, params.ema_decay, number)
    _check_losses(metrics, run)
    metrics.gather()
    return metrics, rewards


def _check_losses(metrics: RunningMetrics, run: _Run) -> None:
    for step, loss in metrics.read():
        _check_finite(loss, f"epoch {run.number}, step {step}", run.params)


def _check_finite(loss: float, where: str, params: TrainingParams) -> None:
    if not math.isfinite(loss):
        raise CaptionlabError(
            f"the loss is {loss} in {where}; lower training.learning_rate ({params.learning_rate}) or "
            f"training.clip_norm ({params.clip_norm}) and run again"
        )


class _Stopping:
    """Early stopping, and the plateau schedule's number of reductions."""

    def __init__(self, params: TrainingParams, by_cider: bool) -> None:
        self._by_cider = by_cider  # rather than by the loss
        self._patience, self._plateau_patience = params.patience, params.plateau_patience
        self._best = math.inf
        self._waited = 0
        self.best_epoch = 0
        self.reductions = 0

    def update(self, epoch: Epoch) -> None:
        value = epoch.val_loss
        if self._by_cider:
            assert epoch.val_cider is not None
            value = -epoch.val_cider
        if value < self._best:
            self._best, self._waited, self.best_epoch = value, 0, epoch.epoch
            return
        self._waited += 1
        if self._waited % self._plateau_patience == 0:
            self.reductions += 1

    @property
    def now(self) -> bool:
        return self._waited >= self._patience


def _schedule(params: TrainingParams, done: float, stopping: _Stopping) -> float:
    """The learning rate's factor after a share ``done`` of all steps."""
    if params.schedule == "cosine":
        return 0.5 * (1 + math.cos(math.pi * done))
    return float(params.plateau_factor**stopping.reductions) if params.schedule == "plateau" else 1.0


def _optimizer(model: Decoder, params: TrainingParams) -> torch.optim.Optimizer:
    encoder = model.encoder_parameters()
    for parameter in encoder:
        parameter.requires_grad_(params.encoder_learning_rate > 0)
    of_encoder = {id(parameter) for parameter in encoder}
    decoder = [each for each in model.parameters() if each.requires_grad and id(each) not in of_encoder]
    groups: list[dict[str, Any]] = [{"params": decoder}]
    if encoder and params.encoder_learning_rate:
        groups.append({"params": encoder, "lr": params.encoder_learning_rate})
    if params.optimizer == "rmsprop":
        return torch.optim.RMSprop(groups, params.learning_rate, weight_decay=params.weight_decay)
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, params.learning_rate, weight_decay=params.weight_decay, fused=True)


@torch.no_grad()
def _update_ema(average: nn.Module, model: nn.Module, decay: float, updates: int) -> None:
    """Update an exponential moving average whose decay is lower in the first steps, when the weights are far off.

    The warm-up, (1 + updates) / (10 + updates), is that of TensorFlow's ``tf.train.ExponentialMovingAverage``.
    """
    decay = min(decay, (1 + updates) / (10 + updates)) if updates else 0.0
    update = get_ema_multi_avg_fn(decay)
    update(list(average.parameters()), list(model.parameters()), None)


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 50.0))
