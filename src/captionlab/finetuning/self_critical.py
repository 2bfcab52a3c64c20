"""Self-critical sequence training (Rennie et al. 2017): reinforcement learning with CIDEr-D as the reward.

The baseline is the mean reward of a photo's other samples (Luo 2020). Knows the decoder contract, words and scores;
nothing of files. Shape letters as in ``models.base``; S sampled captions a photo, N words of all sampled captions.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from captionlab.core.tokens import END, NEVER_GENERATED, PAD
from captionlab.data.vocab import Vocabulary
from captionlab.inference.decoding import sample
from captionlab.metrics.cider import CiderD, Words
from captionlab.models.base import Decoder
from captionlab.training.batches import Batch, CaptionedFeatures
from captionlab.training.step import teacher_forced_logits


class SelfCritical:
    """The loss of ``training.loop.train`` in self-critical training.

    ``samples`` captions, at least 2, of up to ``max_words`` words are sampled for each photo. ``cross_entropy`` is the
    share (0 to 1) of the loss that is cross-entropy of the reference captions, which keeps the captions fluent.
    ``train_references`` holds the words of each training photo's captions; the reward's idf comes from them. In the
    reward the end of a caption counts as a word; without it the system learns to stop in mid-sentence, after "in a".
    """

    def __init__(
        self, vocab: Vocabulary, train_set: CaptionedFeatures, train_references: Mapping[str, Sequence[Words]],
        *, samples: int, max_words: int, cross_entropy: float,
    ) -> None:  # fmt: skip
        self._words = vocab.words
        self._references = [
            [(*words, vocab.words[END]) for words in train_references[image]] for image in train_set.images
        ]
        self._reward = CiderD(self._references)
        self._samples, self._max_words, self._cross_entropy = samples, max_words, cross_entropy

    def rewards(self, tokens_BT: Tensor, positions: Sequence[int]) -> Tensor:
        """CIDEr-D (0 to 10) of each sampled caption against its photo's references, ends included: (P, S)."""
        sampled = [
            tuple(self._words[token] for token in tokens if token != PAD) for tokens in tokens_BT[:, 1:].tolist()
        ]
        owners = [position for position in positions for _ in range(self._samples)]
        scores = self._reward.scores(sampled, [self._references[position] for position in owners])
        return torch.tensor(scores, dtype=torch.float32).view(len(positions), self._samples)

    def loss(self, model: Decoder, batch: Batch, logits_NV: Tensor, cross_entropy: Tensor) -> tuple[Tensor, float]:
        """The mixed loss of a batch, given its cross-entropy, and the mean reward of the sampled captions.

        The captions are sampled without dropout and made more likely with it.
        """
        model.eval()
        tokens_BT = sample(model, batch.features, count=self._samples, max_words=self._max_words)
        model.train()
        reward_PS = self.rewards(tokens_BT, batch.positions)
        # A sample's reward above the mean of the others; equals S / (S - 1) times that above the mean of all.
        advantage_PS = (reward_PS - reward_PS.mean(1, keepdim=True)) * (self._samples / (self._samples - 1))
        advantage_B = advantage_PS.flatten().to(tokens_BT.device)
        photo_B = torch.arange(len(reward_PS), device=tokens_BT.device).repeat_interleave(self._samples)
        _, sampled_NV, target_N = teacher_forced_logits(model, batch._replace(tokens_BT=tokens_BT, photo_B=photo_B))
        row_N, step_N = (tokens_BT[:, 1:] != PAD).nonzero(as_tuple=True)
        impossible_NV = torch.zeros_like(sampled_NV, dtype=torch.bool)
        impossible_NV[:, NEVER_GENERATED] = True
        impossible_NV[:, END] = step_N == 0  # as in sampling: a caption has at least one word
        sampled_NV = sampled_NV.float().masked_fill(impossible_NV, -torch.inf)
        nats_N = nn.functional.cross_entropy(sampled_NV, target_N, reduction="none")
        sampled = (advantage_B[row_N] * nats_N).mean()
        return self._cross_entropy * cross_entropy + (1 - self._cross_entropy) * sampled, reward_PS.mean().item()
