"""Greedy search, beam search and sampling, batched over photos, for any system. Knows the decoder contract only.

A caption has at least one word: END is impossible at the first step. Shape letters: P photos, K hypotheses a photo,
B hypotheses of all photos, T words so far, V words, X candidates, N candidates of all steps.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from captionlab.core.tokens import END, PAD, START
from captionlab.models.base import Decoder, Features, State, forbid_tokens


class Hypothesis(NamedTuple):
    """One caption: its word indices without START and END, and its natural log probability, END included."""

    tokens: tuple[int, ...]
    log_prob: float
    score: float  # log_prob / length ** length_penalty, END counted; what the search ranks by


class _Ended(NamedTuple):
    """Candidates of one step, on the device; those with a finite log_prob are finished captions."""

    photo_P: Tensor
    tokens_PKT: Tensor
    log_probs_PK: Tensor
    length: int  # END counted


@torch.inference_mode()
def beam_search(
    model: Decoder,
    features: Features,
    *,
    beam: int,
    length_penalty: float,
    max_words: int,
    min_words: int = 1,
    no_repeat_ngram: int = 0,
    start: State | None = None,
) -> list[list[Hypothesis]]:
    """The best captions of each photo, best first: at least one and up to ``beam``. A beam of 1 is greedy search.

    A photo is finished when ``beam`` of its captions have ended. A caption that has not ended after ``max_words`` is
    returned as it is, so that every photo gets a caption. No caption ends before ``min_words``, at least 1, or holds
    the same sequence of ``no_repeat_ngram`` words twice; 0 allows that. The parameters are those of ``Decoding``, and
    ``start``, what ``model.start(features)`` returned where several searches share it.
    """
    photos = len(features.pooled_PD)
    device = features.pooled_PD.device
    state = start or model.start(features)
    photo_P = torch.arange(photos, device=device)  # photos that are not finished
    count_P = torch.zeros(photos, dtype=torch.long, device=device)  # of their captions that have ended
    tokens_B = torch.full((photos,), START, device=device)
    log_probs_PK = torch.zeros(photos, 1, device=device)
    words_PKT = torch.empty(photos, 1, 0, dtype=torch.long, device=device)
    ended: list[_Ended] = []
    for length in range(1, max_words + 1):
        log_probs_BV, state = _next_word(model, tokens_B, state, may_end=length > min_words)
        if no_repeat_ngram:
            _forbid_repeats(log_probs_BV, words_PKT.flatten(0, 1), no_repeat_ngram)
        k, v = log_probs_PK.shape[1], log_probs_BV.shape[1]
        total_PX = (log_probs_PK.unsqueeze(-1) + log_probs_BV.view(len(photo_P), k, v)).flatten(1)
        # Each hypothesis can end only once, so 2 * beam candidates always contain `beam` that continue.
        best_PX, index_PX = total_PX.topk(min(2 * beam, total_PX.shape[1]))
        parent_PX, word_PX = index_PX // v, index_PX % v
        ends_PX = word_PX == END
        ends_PK = best_PX.masked_fill(~ends_PX, -torch.inf)[:, :beam]
        ended.append(_Ended(photo_P, _take(words_PKT, parent_PX[:, :beam]), ends_PK, length))
        count_P = count_P + ends_PK.isfinite().sum(1)
        going_PX = best_PX.masked_fill(ends_PX, -torch.inf)
        log_probs_PK, keep_PK = going_PX.topk(min(beam, going_PX.shape[1]))
        parent_PK, word_PK = parent_PX.gather(1, keep_PK), word_PX.gather(1, keep_PK)
        words_PKT = torch.cat([_take(words_PKT, parent_PK), word_PK.unsqueeze(-1)], -1)
        parent_PK += k * torch.arange(len(photo_P), device=device).unsqueeze(1)
        left_P = (count_P < beam).nonzero().squeeze(1)  # the only operation of a step that waits for the device
        if len(left_P) < len(photo_P):
            photo_P, count_P, log_probs_PK, words_PKT, parent_PK, word_PK = (
                tensor[left_P] for tensor in (photo_P, count_P, log_probs_PK, words_PKT, parent_PK, word_PK)
            )
            if not len(photo_P):
                break
            state = state.select_photos(left_P)
        state = state.reorder(parent_PK.flatten())
        tokens_B = word_PK.flatten()
    ended.append(_Ended(photo_P, words_PKT, log_probs_PK, max_words))
    return _ranked(ended, photos, beam, length_penalty)


@torch.no_grad()  # not inference_mode: the captions are trained on
def sample(model: Decoder, features: Features, *, count: int, max_words: int) -> Tensor:
    """``count`` captions for each photo, sampled from the model's probabilities with torch's generator: tokens_BT.

    A row is START, up to ``max_words`` words, END (unless ``max_words`` are reached) and PAD. The captions of a photo
    are consecutive rows.
    """
    state = model.start(features).repeat(count)
    tokens_B = torch.full((len(features.pooled_PD) * count,), START, device=features.pooled_PD.device)
    steps, ended_B = [tokens_B], torch.zeros_like(tokens_B, dtype=torch.bool)
    for length in range(1, max_words + 1):
        log_probs_BV, state = _next_word(model, tokens_B, state, may_end=length > 1)
        # As torch.multinomial draws one, without its checks of the probabilities, which wait for the device.
        tokens_B = (log_probs_BV.exp() / torch.empty_like(log_probs_BV).exponential_()).argmax(1)
        steps.append(tokens_B.masked_fill(ended_B, PAD))
        ended_B = ended_B | (tokens_B == END)
        if ended_B.all():  # the only operation of a step that waits for the device
            break
    return torch.stack(steps, 1)


def _next_word(model: Decoder, tokens_B: Tensor, state: State, *, may_end: bool) -> tuple[Tensor, State]:
    """The model's step, with probability 0 for tokens that cannot occur here."""
    log_probs_BV, state = model.step(tokens_B, state)
    forbid_tokens(log_probs_BV, may_end)
    return log_probs_BV, state


def _forbid_repeats(log_probs_BV: Tensor, words_BT: Tensor, n: int) -> None:
    """Probability 0 for each word that would end a sequence of ``n`` words that the caption already has."""
    if words_BT.shape[1] < n:
        return
    ngrams_BXN = words_BT.unfold(1, n, 1)
    begun_BX = (ngrams_BXN[..., :-1] == words_BT[:, None, words_BT.shape[1] - n + 1 :]).all(-1)
    log_probs_BV.scatter_(1, ngrams_BXN[..., -1].where(begun_BX, PAD), -torch.inf)


def _ranked(ended: list[_Ended], photos: int, beam: int, penalty: float) -> list[list[Hypothesis]]:
    """Each photo's first ``beam`` finished captions in the order they ended, then sorted by score."""
    longest = max(step.tokens_PKT.shape[2] for step in ended)
    photo_N = torch.cat([step.photo_P.unsqueeze(1).expand_as(step.log_probs_PK).flatten() for step in ended]).cpu()
    log_prob_N = torch.cat([step.log_probs_PK.flatten() for step in ended]).cpu()
    tokens_NT = torch.cat([
        torch.nn.functional.pad(step.tokens_PKT, (0, longest - step.tokens_PKT.shape[2]), value=PAD).flatten(0, 1)
        for step in ended
    ]).cpu()  # fmt: skip
    length_N = torch.cat([torch.full((step.log_probs_PK.numel(),), step.length) for step in ended])
    real_N = log_prob_N.isfinite()
    found: list[list[Hypothesis]] = [[] for _ in range(photos)]
    columns = (column[real_N].tolist() for column in (photo_N, tokens_NT, log_prob_N, length_N))
    for photo, tokens, log_prob, length in zip(*columns, strict=True):
        if len(found[photo]) < beam:
            words = tuple(token for token in tokens if token != PAD)
            found[photo].append(Hypothesis(words, log_prob, log_prob / length**penalty))
    return [sorted(captions, key=lambda hypothesis: -hypothesis.score) for captions in found]


def _take(words_PKT: Tensor, parent_PK: Tensor) -> Tensor:
    return words_PKT.gather(1, parent_PK.unsqueeze(-1).expand(-1, -1, words_PKT.shape[2]))
