"""Greedy and beam search and drawing by chance, batched over photos, for any system. Knows the decoder contract only.

Shape letters: P photos, K hypotheses a photo, B hypotheses of all photos, V words.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from captionlab.core.tokens import END, PAD, START, UNK
from captionlab.models.base import Decoder, Features

NEVER_SAID = (PAD, START, UNK)


class Hypothesis(NamedTuple):
    """One caption: its words' indices without START and END, and its natural log probability, END included."""

    tokens: tuple[int, ...]
    log_prob: float
    score: float  # log_prob / length ** length_penalty, END counted; what the search ranks by


@torch.inference_mode()
def beam_search(
    model: Decoder, features: Features, *, beam: int, length_penalty: float, max_words: int
) -> list[list[Hypothesis]]:
    """The best captions of each photo, best first; at least one and up to ``beam``. A beam of 1 is greedy.

    A photo is done when ``beam`` of its captions have ended. What has not ended after ``max_words`` counts as it
    stands, so that every photo gets a caption.
    """
    photos = len(features.pooled_PD)
    device = features.pooled_PD.device
    state = model.start(features)
    photo_P = list(range(photos))  # those still at work; P falls as photos are done
    tokens_B = torch.full((photos,), START, device=device)
    log_probs_PK = torch.zeros(photos, 1, device=device)
    said_PKT = torch.empty(photos, 1, 0, dtype=torch.long, device=device)
    done: list[list[Hypothesis]] = [[] for _ in range(photos)]
    for length in range(1, max_words + 1):
        log_probs_BV, state = model.step(tokens_B, state)
        log_probs_BV[:, NEVER_SAID] = -torch.inf
        k, v = log_probs_PK.shape[1], log_probs_BV.shape[1]
        total_PX = (log_probs_PK.unsqueeze(-1) + log_probs_BV.view(len(photo_P), k, v)).flatten(1)
        # Each hypothesis can end only once, so twice the beam always holds enough that go on.
        best_PX, index_PX = total_PX.topk(min(2 * beam, total_PX.shape[1]))
        parent_PX, word_PX = index_PX // v, index_PX % v
        ends_PX = word_PX == END
        for p, x in (ends_PX[:, :beam] & best_PX[:, :beam].isfinite()).nonzero().tolist():
            ended = done[photo_P[p]]
            if len(ended) < beam:
                tokens = said_PKT[p, parent_PX[p, x]].tolist()
                ended.append(_hypothesis(tokens, best_PX[p, x].item(), length, length_penalty))
        left = [p for p, photo in enumerate(photo_P) if len(done[photo]) < beam]
        if not left:
            return _ranked(done)
        going_PX = best_PX.masked_fill(ends_PX, -torch.inf)
        log_probs_PK, keep_PK = going_PX.topk(min(beam, going_PX.shape[1]))
        parent_PK, word_PK = parent_PX.gather(1, keep_PK), word_PX.gather(1, keep_PK)
        said_PKT = torch.cat([_take(said_PKT, parent_PK), word_PK.unsqueeze(-1)], -1)
        parent_PK += k * torch.arange(len(photo_P), device=device).unsqueeze(1)
        if len(left) < len(photo_P):
            photo_P = [photo_P[p] for p in left]
            left_P = torch.tensor(left, device=device)
            log_probs_PK, said_PKT, parent_PK, word_PK = (
                tensor[left_P] for tensor in (log_probs_PK, said_PKT, parent_PK, word_PK)
            )
            state = state.of_photos(left_P)
        state = state.reorder(parent_PK.flatten())
        tokens_B = word_PK.flatten()
    for p, photo in enumerate(photo_P):
        for x in range(log_probs_PK.shape[1]):
            if len(done[photo]) < beam and log_probs_PK[p, x].isfinite():
                tokens = said_PKT[p, x].tolist()
                done[photo].append(_hypothesis(tokens, log_probs_PK[p, x].item(), max_words, length_penalty))
    return _ranked(done)


@torch.no_grad()  # not inference_mode: what is drawn is trained on
def draw(model: Decoder, features: Features, *, count: int, max_words: int) -> Tensor:
    """``count`` captions a photo, drawn from the model's own probabilities with torch's generator: tokens_BT.

    A row is START, up to ``max_words`` words, END (unless that many were said) and PAD. A photo's rows stand together.
    """
    state = model.start(features).repeat(count)
    tokens_B = torch.full((len(features.pooled_PD) * count,), START, device=features.pooled_PD.device)
    said, ended_B = [tokens_B], torch.zeros_like(tokens_B, dtype=torch.bool)
    for _ in range(max_words):
        log_probs_BV, state = model.step(tokens_B, state)
        log_probs_BV[:, NEVER_SAID] = -torch.inf
        tokens_B = log_probs_BV.exp().multinomial(1).squeeze(1)
        said.append(tokens_B.masked_fill(ended_B, PAD))
        ended_B = ended_B | (tokens_B == END)
        if ended_B.all():
            break
    return torch.stack(said, 1)


def _ranked(done: list[list[Hypothesis]]) -> list[list[Hypothesis]]:
    return [sorted(ended, key=lambda hypothesis: -hypothesis.score) for ended in done]


def _hypothesis(tokens: list[int], log_prob: float, length: int, penalty: float) -> Hypothesis:
    return Hypothesis(tuple(tokens), log_prob, log_prob / length**penalty)


def _take(said_PKT: Tensor, parent_PK: Tensor) -> Tensor:
    return said_PKT.gather(1, parent_PK.unsqueeze(-1).expand(-1, -1, said_PKT.shape[2]))
