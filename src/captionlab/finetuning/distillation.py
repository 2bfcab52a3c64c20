"""Knowledge distillation (Hinton et al. 2015): a system learns the next-word probabilities of its teachers.

The student alone comes close to an ensemble of teachers, and a distribution says more than the one reference word.
Knows the decoder contract and batches; nothing of files. Shape letters as in ``models.base``; N words of a batch,
K most probable words of the teachers.
"""

import torch
from torch import Tensor, nn

from captionlab.core.devices import gpu_arithmetic
from captionlab.core.tokens import PAD
from captionlab.models.base import Decoder
from captionlab.training.batches import Batch, CaptionedFeatures
from captionlab.training.step import teacher_forced_logits

_PHOTOS_AT_ONCE = 100


class Distillation:
    """The loss of ``training.loop.train`` when a system is distilled.

    ``teacher`` is one system or an ensemble. ``train_set`` has the features of its encoders, for the same photos in the
    same order as the student's training set. ``cross_entropy`` is the share (0 to 1) of the loss that is cross-entropy
    of the reference captions. The teacher computes each caption once; the ``top_k`` most probable words are kept, with
    their probabilities scaled to sum to 1. On CUDA that is done at once for all photos, in
    order: a product of a batch of another size may have other last bits, and a resumed training needs the same ones.
    """

    def __init__(self, teacher: Decoder, train_set: CaptionedFeatures, *, cross_entropy: float, top_k: int) -> None:
        self._teacher = teacher.eval()
        self._device = next(teacher.parameters()).device
        self._train_set = train_set
        self._cross_entropy = cross_entropy
        self._top_k = top_k
        self._targets: dict[int, tuple[Tensor, Tensor]] = {}  # words and shares by photo, in small types
        if self._device.type == "cuda":
            with gpu_arithmetic("cuda"):  # as in training
                for batch in train_set.batches(_PHOTOS_AT_ONCE):
                    self._compute_targets(batch)

    def loss(self, model: Decoder, batch: Batch, logits_NV: Tensor, cross_entropy: Tensor) -> tuple[Tensor, None]:
        """The mixed loss of a batch, given the system's logits and their cross-entropy; there is no reward.

        The logits are of real words, or, with what ``prepare`` adds to a batch, of padding too.
        """
        log_probs_NV = logits_NV.float().log_softmax(-1)
        if batch.taught_BTK is None:
            words_NK, shares_NK = (each.to(logits_NV.device) for each in self._teacher_targets(batch))
            distilled = -(shares_NK * log_probs_NV.gather(1, words_NK)).sum(1).mean()
        else:
            words_NK, shares_NK = (each.flatten(0, 1) for each in batch.taught_BTK)
            # Word by word, because the deterministic gradient of gather waits for the GPU.
            nats = [nn.functional.nll_loss(log_probs_NV, words_N, reduction="none") for words_N in words_NK.unbind(1)]
            distilled = (shares_NK * torch.stack(nats, 1)).sum() / (batch.tokens_BT[:, 1:] != PAD).sum()
        distilled = distilled * batch.words_share
        return self._cross_entropy * cross_entropy + (1 - self._cross_entropy) * distilled, None

    def prepare(self, batch: Batch) -> Batch:
        """Add the teacher's words and their shares to a batch on the CPU; the shares of padding are 0."""
        real_BT = batch.tokens_BT[:, 1:] != PAD
        words_NK, shares_NK = self._teacher_targets(batch)
        words_BTK, shares_BTK = (each.new_zeros(*real_BT.shape, each.shape[1]) for each in (words_NK, shares_NK))
        words_BTK[real_BT], shares_BTK[real_BT] = words_NK, shares_NK
        return batch._replace(taught_BTK=(words_BTK, shares_BTK))

    def _teacher_targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's most probable words at each word of the batch, and their shares, on the CPU."""
        if any(position not in self._targets for position in batch.positions):
            self._compute_targets(batch)
        words, shares = zip(*(self._targets[position] for position in batch.positions), strict=True)
        shares_NK = torch.cat([each.float() for each in shares])  # autocast to bf16 refuses to join fp16
        return torch.cat(words).long(), shares_NK

    @torch.no_grad()
    def _compute_targets(self, batch: Batch) -> None:
        batch = batch._replace(features=self._train_set.features(batch.positions)).to(self._device)
        _, logits_NV, _ = teacher_forced_logits(self._teacher, batch)
        best = logits_NV.float().softmax(-1).topk(min(self._top_k, logits_NV.shape[1]))
        shares_NK = best.values / best.values.sum(1, keepdim=True)
        lengths_B = (batch.tokens_BT[:, 1:] != PAD).sum(1)
        words_P = torch.zeros(len(batch.positions), dtype=torch.long, device=lengths_B.device)
        own = words_P.index_add(0, batch.photo_B, lengths_B).tolist()  # a photo's captions are consecutive
        targets = zip(best.indices.int().cpu().split(own), shares_NK.half().cpu().split(own), strict=True)
        self._targets.update(zip(batch.positions, targets, strict=True))
