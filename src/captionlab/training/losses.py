"""The training loss over the word layer. Knows tensors only.

Shape letters: N words to be predicted, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn

from captionlab.core.tokens import PAD


class SmoothedCrossEntropy(torch.autograd.Function):
    """Cross-entropy in nats a word, with label smoothing (Szegedy et al. 2016), for a CPU.

    The logits are the largest tensor of a training step. Autograd passes over it a dozen times; with the gradient
    written out it is about five passes and one copy. ``smoothing`` is the share of the target that is spread evenly
    over all words. ``apply(logits_NV, target_N, smoothing)`` returns the loss, nats_N without smoothing and the most
    likely words_N; only the loss has a gradient.
    """

    @staticmethod
    def forward(ctx: Any, logits_NV: Tensor, target_N: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
        logits_NV = logits_NV.float()
        top_N, words_N = logits_NV.max(1)
        probs_NV = logits_NV.softmax(1)
        partition_N = top_N - probs_NV.gather(1, words_N.unsqueeze(1)).squeeze(1).log()
        nats_N = partition_N - logits_NV.gather(1, target_N.unsqueeze(1)).squeeze(1)
        loss = nats_N.mean()
        if smoothing:
            loss = (1 - smoothing) * loss + smoothing * (partition_N - logits_NV.mean(1)).mean()
        ctx.smoothing = smoothing
        ctx.save_for_backward(probs_NV, target_N)
        ctx.mark_non_differentiable(nats_N, words_N)
        return loss, nats_N, words_N

    @staticmethod
    def backward(ctx: Any, d_loss: Tensor, *_: Tensor) -> tuple[Tensor, None, None]:
        probs_NV, target_N = ctx.saved_tensors
        n, v = probs_NV.shape
        d_logits_NV = probs_NV * (d_loss / n)
        if ctx.smoothing:
            d_logits_NV -= d_loss * (ctx.smoothing / (n * v))
        d_target_N1 = (d_loss * (ctx.smoothing - 1) / n).expand(n, 1)
        return d_logits_NV.scatter_add_(1, target_N.unsqueeze(1), d_target_N1), None, None


def padded_cross_entropy(logits_NV: Tensor, target_N: Tensor, smoothing: float) -> tuple[Tensor, Tensor, Tensor]:
    """The same where some targets are PAD, which do not count: for a GPU, where it waits for nothing.

    nats_N is 0 where the target is PAD.
    """
    logits_NV = logits_NV.float()
    loss = nn.functional.cross_entropy(logits_NV, target_N, ignore_index=PAD, label_smoothing=smoothing)
    with torch.no_grad():
        nats_N = nn.functional.cross_entropy(logits_NV, target_N, ignore_index=PAD, reduction="none")
    return loss, nats_N, logits_NV.argmax(1)
