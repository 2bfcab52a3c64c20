"""Beam search and sampling with table models whose best captions are known."""

import math
from collections.abc import Callable
from itertools import pairwise, product

import pytest
import torch
from hypothesis import assume, given
from hypothesis import settings as given_settings
from hypothesis import strategies as st
from torch import Tensor

from captionlab.core.tokens import END, PAD, START, UNK
from captionlab.inference.decoding import Hypothesis, beam_search, sample
from captionlab.models.base import Decoder, Features, State

A, B = 4, 5
Probabilities = dict[int, float]
Table = Callable[[int, tuple[int, ...]], Probabilities]  # from photo and prefix to the next word's probabilities


class TableModel(Decoder):
    """A model whose probabilities come from a table of all prefixes."""

    def __init__(self, table: Table, vocab: int = 6) -> None:
        super().__init__()
        self.table, self.vocab = table, vocab

    def start(self, features: Features) -> State:
        return State((features.pooled_PD[:, 0].long(),), (torch.empty(len(features.pooled_PD), 0, dtype=torch.long),))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        fed_BT = torch.cat([state.hidden[0], tokens_B.unsqueeze(1)], 1)
        photo_B = state.memory[0].repeat_interleave(len(tokens_B) // len(state.memory[0]))
        rows = torch.zeros(len(tokens_B), self.vocab)
        for b, (photo, (start, *said)) in enumerate(zip(photo_B.tolist(), fed_BT.tolist(), strict=True)):
            assert start == START
            for word, probability in self.table(photo, tuple(said)).items():
                rows[b, word] = probability
        return rows.log(), State(state.memory, (fed_BT,))


def search(
    table: Table, beam: int, penalty: float = 0.0, max_words: int = 6, photos: tuple[int, ...] = (0,), vocab: int = 6
) -> list[list[Hypothesis]]:
    features = Features(torch.tensor(photos, dtype=torch.float32).unsqueeze(1))
    return beam_search(TableModel(table, vocab), features, beam=beam, length_penalty=penalty, max_words=max_words)


def lasting(known: dict[tuple[int, ...], Probabilities]) -> Table:
    return lambda _, said: known.get(said, {END: 1.0})


GARDEN = lasting({(): {A: 0.6, B: 0.4}, (A,): {A: 0.4, B: 0.3, END: 0.3}, (B,): {END: 0.9, A: 0.1}})


def test_beam_search_finds_a_better_caption_than_greedy() -> None:
    greedy, wide = (search(GARDEN, beam)[0][0] for beam in (1, 2))
    assert greedy.tokens == (A, A)
    assert greedy.log_prob == pytest.approx(math.log(0.6 * 0.4), rel=1e-5)
    assert wide.tokens == (B,)
    assert wide.log_prob == pytest.approx(math.log(0.4 * 0.9), rel=1e-5)


def test_the_length_penalty_changes_the_best_caption() -> None:
    table = lasting({
        (): {A: 0.4, B: 0.6}, (A,): {END: 0.9, A: 0.1}, (B,): {B: 0.7, END: 0.3}, (B, B): {B: 0.7, END: 0.3},
        (B, B, B): {END: 0.85, A: 0.15},
    })  # fmt: skip
    short, long = math.log(0.4 * 0.9), math.log(0.6 * 0.7 * 0.7 * 0.85)
    assert short > long
    assert short / 2 < long / 4
    for penalty, tokens, log_prob, length in ((0.0, (A,), short, 2), (1.0, (B, B, B), long, 4)):
        best = search(table, 5, penalty)[0][0]
        assert best.tokens == tokens
        assert best.log_prob == pytest.approx(log_prob, rel=1e-5)
        assert best.score == pytest.approx(log_prob / length**penalty, rel=1e-5)


def test_a_finished_hypothesis_frees_its_beam() -> None:
    table = lasting({
        (): {A: 1.0}, (A,): {A: 0.5, END: 0.3, B: 0.2}, (A, A): {A: 0.34, B: 0.33, END: 0.33}, (A, B): {END: 1.0}
    })  # fmt: skip
    ranked = search(table, 2, 1.0)[0]  # (A, A) and (A, B) continue, although (A,) was more probable than (A, B)
    assert [hypothesis.tokens for hypothesis in ranked] == [(A, B), (A,)]
    expected = [math.log(0.2) / 3, math.log(0.3) / 2]
    assert [hypothesis.score for hypothesis in ranked] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("beam", [1, 3])
def test_a_model_that_never_ends_still_gives_a_caption(beam: int) -> None:
    ranked = search(lambda _, said: {A: 0.7, B: 0.3}, beam, 1.0, max_words=5)[0]
    assert len(ranked) == beam
    assert ranked[0].tokens == (A,) * 5
    assert ranked[0].log_prob == pytest.approx(5 * math.log(0.7), rel=1e-5)
    assert ranked[0].score == pytest.approx(math.log(0.7), rel=1e-5)


@pytest.mark.parametrize("beam", [1, 4])
def test_special_tokens_are_never_generated(beam: int) -> None:
    table: Table = lambda _, said: {PAD: 0.4, START: 0.3, UNK: 0.2, A: 0.06, END: 0.04}  # noqa: E731
    ranked = search(table, beam, 0.0, max_words=3)[0]
    assert {word for hypothesis in ranked for word in hypothesis.tokens} <= {A}
    assert all(hypothesis.log_prob > -100 for hypothesis in ranked)


@pytest.mark.parametrize("beam", [1, 2, 5])
def test_captions_are_never_empty(beam: int) -> None:
    """Even if END is the most probable first word; the other probabilities are not renormalised."""
    ranked = search(lasting({(): {END: 0.98, A: 0.015, B: 0.005}}), beam)[0]
    assert [hypothesis.tokens for hypothesis in ranked] == [(A,), (B,)][:beam]
    assert ranked[0].log_prob == pytest.approx(math.log(0.015), rel=1e-5)


def test_samples_are_never_empty() -> None:
    torch.manual_seed(0)
    table: Table = lambda photo, said: {END: 0.9, A: 0.1} if len(said) < 2 else {END: 1.0}  # noqa: E731
    tokens_BT = sample(TableModel(table), Features(torch.zeros(2, 1)), count=50, max_words=6)
    assert (tokens_BT[:, 1] == A).all()
    longest = tokens_BT[:, 2] == A  # at the second step END has the model's probability
    assert 0.02 < longest.float().mean() < 0.2
    assert (tokens_BT[~longest, 2] == END).all()


def test_samples_are_those_of_multinomial() -> None:
    table: Table = lambda photo, said: {A: 0.3, B: 0.7}  # noqa: E731
    torch.manual_seed(0)
    tokens_BT = sample(TableModel(table), Features(torch.zeros(1, 1)), count=1000, max_words=1)
    torch.manual_seed(0)
    assert torch.equal(tokens_BT[:, 1:], torch.tensor([0, 0, 0, 0, 0.3, 0.7]).expand(1000, 6).multinomial(1))


def test_a_beam_wider_than_the_vocabulary_works() -> None:
    ranked = search(lambda _, said: {A: 0.5, END: 0.5}, 7, max_words=3, vocab=5)[0]
    assert [hypothesis.tokens for hypothesis in ranked[:1]] == [(A,)]
    assert sorted(hypothesis.tokens for hypothesis in ranked) == [(A,), (A, A), (A, A, A)]


def test_a_finished_photo_does_not_affect_the_others() -> None:
    lengths = {0: 3, 1: 1, 2: 4}  # words of each photo's caption
    table: Table = lambda photo, said: {END: 0.9, A: 0.1} if len(said) == lengths[photo] else {B: 0.9, A: 0.1}  # noqa: E731
    found = search(table, 1, photos=(0, 1, 2))
    assert [photo[0].tokens for photo in found] == [(B,) * 3, (B,), (B,) * 4]


def random_table(seed: int, words: int) -> Table:
    def table(photo: int, said: tuple[int, ...]) -> Probabilities:
        random = torch.Generator().manual_seed(hash((seed, photo, said)) % 2**40)
        logits = torch.randn(words + 2, generator=random) * 2
        return dict(zip((END, UNK, *range(4, 4 + words)), logits.softmax(-1).tolist(), strict=True))

    return table


def everything(table: Table, words: int, max_words: int, penalty: float) -> list[tuple[float, tuple[int, ...]]]:
    """All possible captions with their scores, best first; no example of two scores that float32 may confuse."""
    found = []
    for length in range(1, max_words + 1):
        for said in product(range(4, 4 + words), repeat=length):
            whole = (*said, END) if length < max_words else said
            log_prob = sum(math.log(table(0, whole[:t])[word]) for t, word in enumerate(whole))
            found.append((log_prob / len(whole) ** penalty, said))
    found.sort(reverse=True)
    assume(all(better - worse > 1e-5 for (better, _), (worse, _) in pairwise(found)))
    return found


@given_settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    words=st.integers(1, 3),
    max_words=st.integers(1, 3),
    penalty=st.sampled_from([0, 0.7, 1]),
)
def test_a_wide_enough_beam_is_an_exhaustive_search(seed: int, words: int, max_words: int, penalty: float) -> None:
    table = random_table(seed, words)
    expected = everything(table, words, max_words, penalty)
    ranked = search(table, len(expected), penalty, max_words, vocab=4 + words)[0]
    assert [hypothesis.tokens for hypothesis in ranked] == [said for _, said in expected]
    assert [hypothesis.score for hypothesis in ranked] == pytest.approx([score for score, _ in expected], abs=1e-4)


@given_settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 10**6), beam=st.integers(1, 5))
def test_batching_does_not_change_captions(seed: int, beam: int) -> None:
    table = random_table(seed, 3)
    together = search(table, beam, 0.7, 4, photos=(0, 1, 2), vocab=7)
    assert together == [search(table, beam, 0.7, 4, photos=(photo,), vocab=7)[0] for photo in range(3)]


@given_settings(max_examples=15, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_a_beam_of_one_is_greedy(seed: int) -> None:
    table = random_table(seed, 3)
    said: list[int] = []
    while len(said) < 5:
        probabilities = table(0, tuple(said))
        possible = (END, *range(4, 7)) if said else range(4, 7)
        word = max(possible, key=lambda word: probabilities[word])
        if word == END:
            break
        said.append(word)
    assert [hypothesis.tokens for hypothesis in search(table, 1, 0.7, 5, vocab=7)[0]] == [tuple(said)]


@given_settings(max_examples=25, deadline=None, database=None, derandomize=True)
@given(seed=st.integers(0, 10**6), min_words=st.integers(1, 3), size=st.integers(0, 3))
def test_min_words_and_no_repeat_ngram_only_filter_the_ranking(seed: int, min_words: int, size: int) -> None:
    """Compared with an exhaustive search; a caption of maximum length need not end."""

    def repeats(said: tuple[int, ...]) -> bool:
        ngrams = [said[i : i + size] for i in range(len(said) - size + 1)]
        return size > 0 and len(set(ngrams)) < len(ngrams)

    table = random_table(seed, 2)
    everyone = everything(table, 2, 4, 0.7)
    features = Features(torch.zeros(1, 1))
    ranked = beam_search(
        TableModel(table, 6), features, beam=len(everyone), length_penalty=0.7, max_words=4, min_words=min_words,
        no_repeat_ngram=size,
    )[0]  # fmt: skip
    fitting = [(score, said) for score, said in everyone if len(said) >= min_words and not repeats(said)]
    assert [hypothesis.tokens for hypothesis in ranked] == [said for _, said in fitting]
    assert [hypothesis.score for hypothesis in ranked] == pytest.approx([score for score, _ in fitting], abs=1e-4)
