"""The training loop: epochs, early stopping, resume. Knows the decoder contract and batches; nothing of files' places.

Shape letters as in ``models.base``; N real words of a batch.
"""

import io
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any, Protocol, cast

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from captionlab.config import TrainingParams
from captionlab.core import distributed
from captionlab.core.devices import fp32_products, uses_bf16
from captionlab.core.files import atomic_file
from captionlab.core.results import Epoch
from captionlab.core.tokens import END, PAD, START
from captionlab.errors import CaptionlabError
from captionlab.models.base import Decoder, Outputs
from captionlab.training.batches import Batch, CaptionedFeatures
from captionlab.training.losses import SmoothedCrossEntropy

_Tensors = tuple[Tensor, ...] | list[Tensor]


@dataclass(frozen=True, kw_only=True)
class Trained:
    """How a training went; the model holds the weights of ``best_epoch``."""

    history: tuple[Epoch, ...]
    best_epoch: int


class Judge(Protocol):
    """Who says how good the captions are that a system writes alone."""

    def cider(self, model: Decoder, device: str) -> float:
        """CIDEr-D of the validation captions."""


class Finetuning(Protocol):
    """What the loop asks of a training by more than the true captions."""

    @property
    def judge(self) -> Judge:
        """By whom it stops."""

    def loss(
        self, model: Decoder, batch: Batch, logits_NV: Tensor, cross_entropy: Tensor
    ) -> tuple[Tensor, float | None]:
        """The loss of a batch, given its words' logits and their cross-entropy; the mean reward, if there is one."""


def train(
    model: Decoder,
    train_set: CaptionedFeatures,
    val_set: CaptionedFeatures,
    params: TrainingParams,
    *,
    device: str,
    resume: Path,
    key: str,
    on_epoch: Callable[[Epoch], None],
    finetuning: Finetuning | None = None,
) -> Trained:
    """Train until the validation loss stops falling, and leave the best epoch's weights in ``model``.

    With ``finetuning`` its loss is trained on, until the validation captions' CIDEr-D stops rising.
    With ``params.ema_decay`` it is the weights' moving average that is validated, and of which the best is kept.

    After each epoch the whole state goes to the file ``resume``; a run with the same ``key`` continues from it to
    the result of an unbroken one. ``on_epoch`` hears of every epoch, resumed ones included. Under torchrun all ranks
    call this, share each step's photos and get the same; the first one reads and writes ``resume``.
    Raises CaptionlabError when the loss is no longer a number; the last good state stays in ``resume``.
    """
    model.to(device)
    optimizer = _optimizer(model, params)
    averaged = AveragedModel(model, multi_avg_fn=_averaging(params.ema_decay)) if params.ema_decay else None
    judged = model if averaged is None else cast(Decoder, averaged.module)
    steps_per_epoch = -(-len(train_set.rows) // params.batch_size)
    history: list[Epoch] = []
    distributed.broadcast_weights(model)
    best = _copy(model)
    stopping = _Stopping(params)
    state = distributed.broadcast_object(_load_state(resume, key) if distributed.is_main() else None)
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if averaged is not None:
            averaged.load_state_dict(state["averaged"])
        best, history = state["best"], [Epoch(**row) for row in state["history"]]
        for epoch in history:
            stopping.hear(epoch)
            on_epoch(epoch)
    bf16 = uses_bf16(params.precision, device)
    fp32_products(device)
    while len(history) < params.epochs and not stopping.now:
        number = len(history) + 1
        seed = params.seed * 100_003 + number  # dropout depends on epoch and rank alone, so resuming is exact
        torch.manual_seed(seed + 1_000_000_007 * distributed.rank())
        model.train()
        meter, rewards = _Meter(), list[float]()
        batches = train_set.batches(params.batch_size, seed, distributed.rank(), distributed.world_size())
        quiet = None if distributed.is_main() else True
        bar = tqdm(batches, f"epoch {number}", steps_per_epoch, leave=False, unit="step", disable=quiet)
        for step, batch in enumerate(bar):
            done = (len(history) * steps_per_epoch + step) / (params.epochs * steps_per_epoch)
            for group in optimizer.param_groups:
                group["lr"] = params.learning_rate * _schedule(params, done, stopping)
            with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
                batch = batch.to(device)
                own_words = params.scheduled_sampling * done
                loss, logits_NV = _step_loss(model, batch, params, meter, own_words)
                if finetuning is not None:
                    loss, reward = finetuning.loss(model, batch, logits_NV, loss)
                    rewards += [] if reward is None else [reward]
            _check_finite(loss.item(), f"epoch {number}, step {step + 1}", params)
            optimizer.zero_grad()
            loss.backward()
            distributed.all_reduce_gradients(model)
            nn.utils.clip_grad_norm_(model.parameters(), params.clip_norm)
            optimizer.step()
            if averaged is not None:
                averaged.update_parameters(model)
        meter.gather()
        val = measure(judged, val_set, params.batch_size, device, bf16)
        _check_finite(val.loss, f"the validation of epoch {number}", params)  # before it reaches the resume file
        epoch = Epoch(
            epoch=number,
            train_loss=meter.loss,
            val_loss=val.loss,
            train_accuracy=meter.accuracy,
            val_accuracy=val.accuracy,
            train_perplexity=_perplexity(meter.loss),
            val_perplexity=_perplexity(val.loss),
            learning_rate=optimizer.param_groups[0]["lr"],
            train_reward=fmean(rewards) if rewards else None,
            val_cider=finetuning.judge.cider(judged, device) if finetuning is not None else None,
        )
        history.append(epoch)
        stopping.hear(epoch)
        if stopping.best_epoch == number:
            best = _copy(judged)
        if distributed.is_main():
            _save_state(resume, key, model, optimizer, averaged, best, history)
        on_epoch(epoch)
    model.load_state_dict(best)
    return Trained(history=tuple(history), best_epoch=stopping.best_epoch)


def _check_finite(loss: float, where: str, params: TrainingParams) -> None:
    if not math.isfinite(loss):
        raise CaptionlabError(
            f"the loss is {loss} in {where}; lower training.learning_rate ({params.learning_rate}) or "
            f"training.clip_norm ({params.clip_norm}) and run again"
        )


@dataclass
class _Meter:
    """Sums over real words."""

    nats: float = 0.0
    right: int = 0
    words: int = 0

    @property
    def loss(self) -> float:
        return self.nats / self.words

    @property
    def accuracy(self) -> float:
        return self.right / self.words

    def gather(self) -> None:
        """Add up what the ranks heard."""
        nats, right, words = distributed.all_reduce_sum(self.nats, self.right, self.words)
        self.nats, self.right, self.words = nats, int(right), int(words)

    def hear(self, nats_N: Tensor, words_N: Tensor, target_N: Tensor) -> None:
        self.nats += nats_N.sum().item()
        self.right += int((words_N == target_N).sum())
        self.words += len(target_N)


def spoken(model: Decoder, batch: Batch, own_words: float = 0.0) -> tuple[Outputs, Tensor, Tensor]:
    """Teacher forcing over a batch: the outputs, logits_NV of every real word to be said, and which it was.

    A word that is read is, with probability ``own_words``, not the true one but one that the system says there.
    """
    said_BT, target_BT = batch.tokens_BT[:, :-1], batch.tokens_BT[:, 1:]
    real_BT = target_BT != PAD
    read_BT = said_BT.where(real_BT, PAD)  # END is said, never read
    if own_words:
        read_BT = _with_own_words(model, batch, read_BT, real_BT, own_words)
    outputs = model.outputs(batch.features, read_BT, batch.photo_B)
    return outputs, model.words(outputs.hidden_BTH[real_BT]), target_BT[real_BT]


@torch.no_grad()
def _with_own_words(model: Decoder, batch: Batch, read_BT: Tensor, real_BT: Tensor, share: float) -> Tensor:
    """What is read in scheduled sampling (Bengio et al. 2015), in two passes instead of a word at a time (Mihaylova and
    Martins 2019): the words are drawn from what the system says after the true ones.
    """
    outputs = model.outputs(batch.features, read_BT, batch.photo_B)
    logits_NV = model.words(outputs.hidden_BTH[real_BT]).float()
    logits_NV[:, [PAD, START, END]] = -torch.inf  # never read after the first word
    drawn_BT = read_BT.masked_scatter(real_BT, logits_NV.softmax(1).multinomial(1))
    own_BT = real_BT[:, 1:] & (torch.rand(real_BT[:, 1:].shape, device=real_BT.device) < share)
    return torch.cat([read_BT[:, :1], drawn_BT[:, :-1].where(own_BT, read_BT[:, 1:])], 1)


def _step_loss(
    model: Decoder, batch: Batch, params: TrainingParams, meter: _Meter, own_words: float = 0.0
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The loss of a batch, and logits_NV of its words."""
    outputs, logits_NV, target_N = spoken(model, batch, own_words)
    loss: Tensor
    loss, nats_N, words_N = SmoothedCrossEntropy.apply(logits_NV, target_N, params.label_smoothing)  # type: ignore[no-untyped-call]
    if batch.words_share:
        meter.hear(nats_N, words_N, target_N)
    loss = loss * batch.words_share  # the ranks' losses add up to the mean over all words
    if params.doubly_stochastic and outputs.attention_BTR is not None:
        looked_BR = outputs.attention_BTR.sum(1)
        loss = loss + params.doubly_stochastic * batch.captions_share * (1 - looked_BR).square().mean()
    return loss, logits_NV


@torch.inference_mode()
def measure(model: Decoder, data: CaptionedFeatures, batch_size: int, device: str, bf16: bool = False) -> Any:
    """Loss in nats a word and accuracy under teacher forcing: an object with ``loss`` and ``accuracy``."""
    model.eval()
    meter = _Meter()
    for batch in data.batches(batch_size, None, distributed.rank(), distributed.world_size()):
        if not batch.words_share:
            continue
        with torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16):
            _, logits_NV, target_N = spoken(model, batch.to(device))
        _, nats_N, words_N = SmoothedCrossEntropy.apply(logits_NV, target_N, 0.0)  # type: ignore[no-untyped-call]
        meter.hear(nats_N, words_N, target_N)
    meter.gather()
    return meter


class _Stopping:
    """Early stopping, and what the plateau schedule needs to know."""

    def __init__(self, params: TrainingParams) -> None:
        self._patience, self._plateau_patience = params.patience, params.plateau_patience
        self._best = math.inf
        self._waited = 0
        self.best_epoch = 0
        self.reductions = 0

    def hear(self, epoch: Epoch) -> None:
        falls = epoch.val_loss if epoch.val_cider is None else -epoch.val_cider
        if falls < self._best:
            self._best, self._waited, self.best_epoch = falls, 0, epoch.epoch
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
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if params.optimizer == "rmsprop":
        return torch.optim.RMSprop(trained, params.learning_rate, weight_decay=params.weight_decay)
    kind = torch.optim.AdamW if params.optimizer == "adamw" else torch.optim.Adam
    return kind(trained, params.learning_rate, weight_decay=params.weight_decay, fused=True)


def _averaging(decay: float) -> Callable[[_Tensors, _Tensors, Tensor | int], None]:
    """An exponential moving average that forgets sooner in its first steps, when the weights are still far off."""

    @torch.no_grad()
    def update(averages: _Tensors, weights: _Tensors, updates: Tensor | int) -> None:
        done = int(updates)
        torch._foreach_lerp_(averages, weights, 1 - min(decay, (1 + done) / (10 + done)))

    return update


def _copy(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


def _perplexity(loss: float) -> float:
    return math.exp(min(loss, 50.0))


def _save_state(
    path: Path, key: str, model: nn.Module, optimizer: torch.optim.Optimizer, averaged: nn.Module | None,
    best: dict[str, Tensor], history: list[Epoch],
) -> None:  # fmt: skip
    state = {
        "key": key,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "averaged": None if averaged is None else averaged.state_dict(),
        "best": best,
        "history": [asdict(epoch) for epoch in history],
    }
    content = io.BytesIO()  # torch's own writer does not say that a disk is full
    torch.save(state, content)
    with atomic_file(path) as temporary:
        temporary.write_bytes(content.getbuffer())


def _load_state(path: Path, key: str) -> dict[str, Any] | None:
    """The state a killed run left, if it is of this very training; of another, or unreadable, it is not used."""
    if not path.exists():
        return None
    try:
        state = torch.load(path, weights_only=True)
    except Exception:  # whatever a broken file raises, the training begins anew
        return None
    return state if isinstance(state, dict) and state.get("key") == key else None
