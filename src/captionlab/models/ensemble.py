"""Several trained systems that choose each word together, as one decoder. Knows the decoder contract only.

Shape letters as in ``base``; M members.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captionlab.models.base import Decoder, Features, Outputs, State


class Ensemble(Decoder):
    """The mean of the members' probabilities at each step. ``sources[m]`` says which features member m reads:
    0 for the features themselves, i for the i-th of their ``others``. All members must share one vocabulary.
    """

    def __init__(self, members: Sequence[Decoder], sources: Sequence[int]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self._sources = tuple(sources)
        self._counts: list[tuple[int, int]] = []  # how many tensors of a state each member has; set by start()

    def _each(self, features: Features) -> list[tuple[Decoder, Features]]:
        sources = (features, *features.others)
        return [
            (member, sources[source])  # type: ignore[misc]  # a ModuleList is typed as holding any module
            for member, source in zip(self.members, self._sources, strict=True)
        ]

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        """Log_probs_BTV in place of hidden vectors: each member has a word layer of its own."""
        return Outputs(_mean([member(own, tokens_BT, photo_B).log_softmax(-1) for member, own in self._each(features)]))

    def words(self, hidden_XH: Tensor) -> Tensor:
        return hidden_XH

    def start(self, features: Features) -> State:
        states = [member.start(own) for member, own in self._each(features)]
        self._counts = [(len(state.memory), len(state.hidden)) for state in states]
        return _joined(states)

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        log_probs, states = [], []
        memory, hidden = state
        for module, (memories, hiddens) in zip(self.members, self._counts, strict=True):
            member: Decoder = module  # type: ignore[assignment]  # a ModuleList is typed as holding any module
            own = State(memory[:memories], hidden[:hiddens])
            memory, hidden = memory[memories:], hidden[hiddens:]
            log_probs_BV, after = member.step(tokens_B, own)
            log_probs.append(log_probs_BV)
            states.append(after)
        return _mean(log_probs), _joined(states)


def _joined(states: Sequence[State]) -> State:
    """One state that holds the tensors of all members' states."""
    return State(
        tuple(tensor for state in states for tensor in state.memory),
        tuple(tensor for state in states for tensor in state.hidden),
    )


def _mean(log_probs: Sequence[Tensor]) -> Tensor:
    """The logarithm of the members' mean probability; with one member, exactly its own."""
    if len(log_probs) == 1:
        return log_probs[0]
    return torch.stack(list(log_probs)).logsumexp(0) - math.log(len(log_probs))
