"""One batch of a training or a validation: teacher forcing, the loss, and the sums behind an epoch's figures.

Knows the decoder contract, batches and losses; nothing of optimizers or epochs. Shape letters as in ``models.base``;
N real words of a batch.
"""

from contextlib import AbstractContextManager, nullcontext
from itertools import count
from typing import Any

import torch
from torch import Tensor

from captionlab.config import TrainingParams
from captionlab.core import distributed
from captionlab.core.tokens import END, PAD, START
from captionlab.models.base import Decoder, Outputs
from captionlab.training.batches import Batch, CaptionedFeatures, prepared_for
from captionlab.training.losses import SmoothedCrossEntropy, padded_cross_entropy

GPU_PHOTOS = 64  # fewest photos in a validation batch on a GPU


class RunningMetrics:
    """Loss and accuracy over a pass: sums over the real words, on the device until ``read``, which waits for it."""

    def __init__(self) -> None:
        self.nats, self.right, self.words = 0.0, 0, 0
        self._steps = count(1)
        self._unread: list[Tensor] = []  # loss, nats, right and words of each step

    @property
    def unread(self) -> int:
        """How many steps have not been read."""
        return len(self._unread)

    @property
    def loss(self) -> float:
        """Nats a word."""
        return self.nats / self.words

    @property
    def accuracy(self) -> float:
        """Share of words."""
        return self.right / self.words

    def add(self, loss: Tensor, sums_3: Tensor) -> None:
        """Add one step: its loss, and nats, right words and all words."""
        self._unread.append(torch.cat([loss.detach().view(1), sums_3]))

    def read(self) -> list[tuple[int, float]]:
        """Add up the unread steps; returns their numbers, from 1, and losses."""
        losses = []
        for loss, nats, right, words in torch.stack(self._unread).tolist() if self._unread else []:
            losses.append((next(self._steps), loss))
            self.nats, self.right, self.words = self.nats + nats, self.right + int(right), self.words + int(words)
        self._unread = []
        return losses

    def gather(self) -> None:
        """Read the rest, and add up the sums of all ranks."""
        self.read()
        nats, right, words = distributed.all_reduce_sum(self.nats, self.right, self.words)
        self.nats, self.right, self.words = nats, int(right), int(words)


def teacher_forced_logits(model: Decoder, batch: Batch, sampling: float = 0.0) -> tuple[Outputs, Tensor, Tensor]:
    """Teacher forcing over a batch: the outputs, logits_NV of each real word to be predicted, and target_N.

    ``sampling`` is the scheduled-sampling probability that a word is sampled from the system before it is read.
    """
    outputs, target_BT = _outputs(model, batch, sampling)
    real_BT = target_BT != PAD
    return outputs, model.words(outputs.hidden_BTH[real_BT]), target_BT[real_BT]


def packed_loss(
    model: Decoder, batch: Batch, params: TrainingParams, sampling: float = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The loss of a batch, the sums of its metrics, and the logits_NV of its real words."""
    outputs, logits_NV, target_N = teacher_forced_logits(model, batch, sampling)
    loss: Tensor
    loss, nats_N, words_N = SmoothedCrossEntropy.apply(logits_NV, target_N, params.label_smoothing)  # type: ignore[no-untyped-call]
    loss = loss * batch.words_share  # the ranks' losses add up to the mean over all words
    if params.doubly_stochastic and outputs.attention_BTR is not None:
        uneven = (1 - outputs.attention_BTR.sum(1)).square().mean()
        loss = loss + params.doubly_stochastic * batch.captions_share * uneven
    return loss, _sums(nats_N, words_N, target_N), logits_NV


def padded_loss(
    model: Decoder, batch: Batch, params: TrainingParams, sampling: float | Tensor = 0.0
) -> tuple[Tensor, Tensor, Tensor]:
    """The same for a GPU, with logits of padding too: it is computed and masked, so that nothing waits for the device.

    All operations depend on shapes alone, and a CUDA graph can be recorded of them and of the gradient.
    """
    outputs, target_BT = _outputs(model, batch, sampling)
    target_N = target_BT.flatten()  # here with padding
    logits_NV = model.words(outputs.hidden_BTH.flatten(0, 1))
    loss, nats_N, words_N = padded_cross_entropy(logits_NV, target_N, params.label_smoothing)
    loss = loss * batch.words_share
    if params.doubly_stochastic and outputs.attention_BTR is not None:
        real_B = (batch.tokens_BT[:, 0] != PAD).float()
        uneven_B = (1 - outputs.attention_BTR.sum(1)).square().mean(1)
        loss = loss + params.doubly_stochastic * batch.captions_share * (uneven_B * real_B).sum() / real_B.sum()
    return loss, _sums(nats_N, words_N, target_N), logits_NV


def _sums(nats_N: Tensor, words_N: Tensor, target_N: Tensor) -> Tensor:
    """The sums of nats, of correct words and of all words, without padding."""
    real_N = target_N != PAD
    right_N = (words_N == target_N) & real_N
    return torch.stack([nats_N.sum(), right_N.sum().float(), real_N.sum().float()])


def _outputs(model: Decoder, batch: Batch, sampling: float | Tensor) -> tuple[Outputs, Tensor]:
    """The outputs under teacher forcing, and the words to be predicted, target_BT."""
    given_BT, target_BT = batch.tokens_BT[:, :-1], batch.tokens_BT[:, 1:]
    real_BT = target_BT != PAD
    read_BT = given_BT.where(real_BT, PAD)  # END is predicted, never read
    if isinstance(sampling, Tensor) or sampling:
        read_BT = _sampled(model, batch, read_BT, real_BT, sampling)
    return model.outputs(batch.features, read_BT, batch.photo_B), target_BT


@torch.no_grad()
def _sampled(model: Decoder, batch: Batch, read_BT: Tensor, real_BT: Tensor, probability: float | Tensor) -> Tensor:
    """The words read with scheduled sampling (Bengio et al. 2015), in two passes instead of one a word (Mihaylova and
    Martins 2019): they are sampled from what the system predicts after the true words.
    """
    hidden_BTH = model.outputs(batch.features, read_BT, batch.photo_B).hidden_BTH
    fixed = model.uses_fixed_shapes(read_BT)
    logits_XV = model.words(hidden_BTH.flatten(0, 1) if fixed else hidden_BTH[real_BT]).float()
    for word in (PAD, START, END):
        logits_XV[:, word].fill_(-torch.inf)  # never read after the first word
    probs_XV = logits_XV.softmax(1)
    if fixed:  # a race of exponentials samples as multinomial does, which would wait for the device
        sampled_BT = (probs_XV / torch.empty_like(probs_XV).exponential_()).argmax(1).view(read_BT.shape)
    else:
        sampled_BT = read_BT.masked_scatter(real_BT, probs_XV.multinomial(1))
    chosen_BT = real_BT[:, 1:] & (torch.rand(real_BT[:, 1:].shape, device=real_BT.device) < probability)
    return torch.cat([read_BT[:, :1], sampled_BT[:, :-1].where(chosen_BT, read_BT[:, 1:])], 1)


@torch.inference_mode()
def measure(
    model: Decoder, data: CaptionedFeatures, batch_size: int, device: str, bf16: bool = False
) -> RunningMetrics:
    """Loss in nats a word and accuracy under teacher forcing: ``loss`` and ``accuracy`` of the result."""
    model.eval()
    metrics = RunningMetrics()
    photos = batch_size if device == "cpu" else max(batch_size, GPU_PHOTOS)
    for batch in prepared_for(device, data.batches(photos, None, distributed.rank(), distributed.world_size())):
        if not batch.words_share:
            continue
        if model.uses_fixed_shapes(batch.tokens_BT):
            outputs, target_BT = _outputs(model, batch, 0.0)
            target_N = target_BT.flatten()
            losses = padded_cross_entropy(model.words(outputs.hidden_BTH.flatten(0, 1)), target_N, 0.0)
        else:
            with autocast(bf16):
                _, logits_NV, target_N = teacher_forced_logits(model, batch)
            losses = SmoothedCrossEntropy.apply(logits_NV, target_N, 0.0)  # type: ignore[no-untyped-call]
        loss, nats_N, words_N = losses
        metrics.add(loss, _sums(nats_N, words_N, target_N))
    metrics.gather()
    return metrics


def autocast(bf16: bool) -> AbstractContextManager[Any]:
    """Compute in bf16 where that is allowed; only on a CPU, and without it nothing is switched."""
    return torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext()
