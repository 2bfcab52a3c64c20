"""Report B's attention: before each word the decoder attends to all earlier states of its LSTM.

The report computes it for each prefix of a caption: the last state is the query, all states are keys and values. A
state does not depend on the words after it, so one pass of the LSTM over the whole caption and a causal mask compute
the same.

Shape letters as in ``base``; S states, the first one after the image: S = T + 1; M pairs of a word and a state.
"""

import torch
from torch import Tensor, nn

from captionlab.core.tokens import PAD
from captionlab.models.base import Features, Outputs, State, lstm_step, of_captions
from captionlab.models.modified.merge import Merge
from captionlab.models.params import StatesParams


class States(Merge):
    """``Merge`` with additive attention (Bahdanau et al. 2015) over the states in place of the last state."""

    def __init__(self, config: StatesParams, *, vocab: int, pooled: int) -> None:
        super().__init__(config, vocab=vocab, pooled=pooled)
        self.key = nn.Linear(config.hidden, config.attention)
        self.query = nn.Linear(config.hidden, config.attention)
        self.energy = nn.Linear(config.attention, 1)  # the softmax cancels its bias, which the report has too

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        image_BE = of_captions(self._image(features), photo_B)
        states_BSH = self._states(image_BE, tokens_BT)
        attend = self._attention_over_all if self.uses_fixed_shapes(tokens_BT) else self._attention_over_pairs
        seen_BTH = attend(states_BSH, tokens_BT) @ states_BSH
        return Outputs(self.dropout(seen_BTH) + image_BE.unsqueeze(1))

    def _attention_over_all(self, states_BSH: Tensor, tokens_BT: Tensor) -> Tensor:
        """Each word's attention over the states before it, attention_BTS, from the energies of all pairs."""
        queries_BT1A, keys_B1SA = self.query(states_BSH[:, 1:]).unsqueeze(2), self.key(states_BSH).unsqueeze(1)
        energy_BTS = self.energy((keys_B1SA + queries_BT1A).tanh()).squeeze(-1).float()
        later_TS = torch.ones(energy_BTS.shape[1:], dtype=torch.bool, device=tokens_BT.device).triu(2)
        return energy_BTS.masked_fill(later_TS, torch.finfo(torch.float32).min).softmax(-1)

    def _attention_over_pairs(self, states_BSH: Tensor, tokens_BT: Tensor) -> Tensor:
        """The same from the energies of real words and the states before each alone, a fraction of all pairs."""
        (b, s), t = states_BSH.shape[:2], tokens_BT.shape[1]
        before_TS = torch.ones(t, s, dtype=torch.bool, device=tokens_BT.device).tril(1)
        pair_M = ((tokens_BT != PAD).unsqueeze(-1) & before_TS).flatten().nonzero().squeeze(1)
        word_M, key_M = pair_M // s, pair_M // (t * s) * s + pair_M % s
        queries_XA = self.query(states_BSH[:, 1:]).flatten(0, 1)
        keys_XA = self.key(states_BSH).flatten(0, 1)
        energy_M1 = self.energy((keys_XA.index_select(0, key_M) + queries_XA.index_select(0, word_M)).tanh())
        lowest_X = torch.full((b * t * s,), torch.finfo(torch.float32).min, device=tokens_BT.device)
        return lowest_X.index_put((pair_M,), energy_M1.squeeze(1).float()).view(b, t, s).softmax(-1)

    def start(self, features: Features) -> State:
        memory, hidden = super().start(features)
        states_P1H = hidden[0][:, -1:]  # of the last layer, after the image
        return State(memory, (*hidden, states_P1H, self.key(states_P1H)))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        h_BLH, c_BLH, states_BSH, keys_BSA = state.hidden
        state_BH, h_BLH, c_BLH = lstm_step(self.lstm, self.embedding(tokens_B), h_BLH, c_BLH)
        states_BSH = torch.cat([states_BSH, state_BH.unsqueeze(1)], 1)
        keys_BSA = torch.cat([keys_BSA, self.key(state_BH).unsqueeze(1)], 1)
        energy_BS1 = self.energy((keys_BSA + self.query(state_BH).unsqueeze(1)).tanh())
        seen_BH = (energy_BS1.softmax(1) * states_BSH).sum(1)
        log_probs_BV = self._log_probs(seen_BH, state.memory[0])
        return log_probs_BV, State(state.memory, (h_BLH, c_BLH, states_BSH, keys_BSA))
