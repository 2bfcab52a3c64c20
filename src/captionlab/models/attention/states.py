"""Report B's attention: before each word the decoder looks back over all states its LSTM has had.

The report computes it for every prefix of a caption: the last state is the query, all states are keys and values. A
state does not depend on the words after it, so whole captions need one pass of the LSTM, and a word's look back is the
same computation under a causal mask.

Shape letters as in ``base``; S states, the one after the image first: S = T + 1; M pairs of a word and a state.
"""

import torch
from torch import Tensor, nn

from captionlab.core.tokens import PAD
from captionlab.models.base import Features, Outputs, State, read_one
from captionlab.models.modified.merge import Merge


class States(Merge):
    """``Merge`` with additive attention (Bahdanau et al. 2015) over the states in place of the last state."""

    def __init__(
        self, *, vocab: int, pooled: int, embedding: int, hidden: int, layers: int, dropout: float, dense: int,
        attention: int,
    ) -> None:  # fmt: skip
        super().__init__(
            vocab=vocab, pooled=pooled, embedding=embedding, hidden=hidden, layers=layers, dropout=dropout, dense=dense
        )
        self.key = nn.Linear(hidden, attention)
        self.query = nn.Linear(hidden, attention)
        self.energy = nn.Linear(attention, 1)  # its bias, which the report has too, shifts all states alike

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        image_BE = self._image(features).index_select(0, photo_B)
        states_BSH = self._states(image_BE, tokens_BT)
        (b, s), t = states_BSH.shape[:2], tokens_BT.shape[1]
        # Only real words, and only the states behind each: a fraction of the whole square.
        behind_TS = torch.ones(t, s, dtype=torch.bool, device=tokens_BT.device).tril(1)
        pair_M = ((tokens_BT != PAD).unsqueeze(-1) & behind_TS).flatten().nonzero().squeeze(1)
        word_M, key_M = pair_M // s, pair_M // (t * s) * s + pair_M % s
        queries_XA = self.query(states_BSH[:, 1:]).flatten(0, 1)
        keys_XA = self.key(states_BSH).flatten(0, 1)
        energy_M1 = self.energy((keys_XA.index_select(0, key_M) + queries_XA.index_select(0, word_M)).tanh())
        nothing_X = torch.full((b * t * s,), torch.finfo(torch.float32).min, device=tokens_BT.device)
        attention_BTS = nothing_X.index_put((pair_M,), energy_M1.squeeze(1).float()).view(b, t, s).softmax(-1)
        seen_BTH = attention_BTS @ states_BSH
        return Outputs(self.dropout(seen_BTH) + image_BE.unsqueeze(1))

    def start(self, features: Features) -> State:
        memory, hidden = super().start(features)
        states_P1H = hidden[0][:, -1:]  # after the image: the last layer's
        return State(memory, (*hidden, states_P1H, self.key(states_P1H)))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        h_BLH, c_BLH, states_BSH, keys_BSA = state.hidden
        state_BH, h_BLH, c_BLH = read_one(self.lstm, self.embedding(tokens_B), h_BLH, c_BLH)
        states_BSH = torch.cat([states_BSH, state_BH.unsqueeze(1)], 1)
        keys_BSA = torch.cat([keys_BSA, self.key(state_BH).unsqueeze(1)], 1)
        energy_BS1 = self.energy((keys_BSA + self.query(state_BH).unsqueeze(1)).tanh())
        seen_BH = (energy_BS1.softmax(1) * states_BSH).sum(1)
        log_probs_BV = self._log_probs(seen_BH, state.memory[0])
        return log_probs_BV, State(state.memory, (h_BLH, c_BLH, states_BSH, keys_BSA))
