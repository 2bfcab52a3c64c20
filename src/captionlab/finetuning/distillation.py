"""Distillation: a system learns to give each next word the probability that its teachers give it.

Hinton et al. 2015. What several systems found together one of them can say alone, and a whole distribution says more
than the one word that somebody wrote. Knows the decoder contract and batches; nothing of files. Shape letters as in
``models.base``; N words of a batch, K words that the teachers find likeliest.
"""

import torch
from torch import Tensor

from captionlab.core.tokens import PAD
from captionlab.finetuning.validation import CiderJudge
from captionlab.models.base import Decoder
from captionlab.training.batches import Batch, CaptionedFeatures
from captionlab.training.step import teacher_forced_logits


class Distilling:
    """What takes the place of plain cross-entropy in ``training.train``.

    ``teacher`` is one system or an ensemble, ``train_set`` the training photos as its encoders saw them: the same
    photos, in the same order, as those it teaches about. ``cross_entropy`` is the share (0 to 1) of the loss that stays
    cross-entropy of the true captions. The teacher is asked once about each caption; of its words the ``top_k`` most
    probable are kept, and their probabilities scaled to add up to 1.
    """

    def __init__(
        self, teacher: Decoder, train_set: CaptionedFeatures, judge: CiderJudge, *, cross_entropy: float, top_k: int
    ) -> None:
        self.judge = judge
        self._teacher = teacher.eval()
        self._train_set = train_set
        self._cross_entropy = cross_entropy
        self._top_k = top_k
        self._lessons: dict[int, tuple[Tensor, Tensor]] = {}  # by photo, in little memory

    def loss(self, model: Decoder, batch: Batch, logits_NV: Tensor, cross_entropy: Tensor) -> tuple[Tensor, None]:
        """The mixed loss of a batch, given the system's logits and their cross-entropy; there is no reward."""
        words_NK, shares_NK = self._lesson(batch)
        said_NK = logits_NV.float().log_softmax(-1).gather(1, words_NK)
        taught = -(shares_NK * said_NK).sum(1).mean() * batch.words_share
        return self._cross_entropy * cross_entropy + (1 - self._cross_entropy) * taught, None

    def _lesson(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """The teacher's likeliest words and their shares, of every word of the batch."""
        if any(position not in self._lessons for position in batch.positions):
            self._ask(batch)
        words, shares = zip(*(self._lessons[position] for position in batch.positions), strict=True)
        device = batch.tokens_BT.device
        return torch.cat(words).to(device, torch.long), torch.cat(shares).to(device, torch.float32)

    @torch.no_grad()
    def _ask(self, batch: Batch) -> None:
        features = self._train_set.features(batch.positions).to(str(batch.tokens_BT.device))
        _, logits_NV, _ = teacher_forced_logits(self._teacher, batch._replace(features=features))
        best = logits_NV.float().softmax(-1).topk(min(self._top_k, logits_NV.shape[1]))
        shares_NK = best.values / best.values.sum(1, keepdim=True)
        lengths_B = (batch.tokens_BT[:, 1:] != PAD).sum(1)
        words_P = torch.zeros(len(batch.positions), dtype=torch.long, device=lengths_B.device)
        own = words_P.index_add(0, batch.photo_B, lengths_B).tolist()  # a photo's captions stand together
        lessons = zip(best.indices.int().cpu().split(own), shares_NK.half().cpu().split(own), strict=True)
        self._lessons.update(zip(batch.positions, lessons, strict=True))
