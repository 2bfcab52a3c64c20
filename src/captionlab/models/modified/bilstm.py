"""Report A's System 1 Modified: the repeated image and a caption LSTM's output, concatenated in time, into a BiLSTM.

The report runs the bidirectional LSTM on each prefix of a caption. Here the forward LSTM, which is causal, runs once
over the whole caption. The backward LSTM starts at the end of each prefix; it runs over all prefixes at once, one step
for all of them.

Shape letters as in ``base``; G = 4 H gates.
"""

import torch
from torch import Tensor, nn

from captionlab.core.tokens import PAD
from captionlab.models.base import (
    LSTM,
    Decoder,
    Features,
    Outputs,
    Standardise,
    State,
    lstm_step,
    of_captions,
    one_bias,
)
from captionlab.models.params import ModifiedParams


class Modified(Decoder):
    """Dense layer over the image, repeated; embedding, LSTM, dense; concatenated in time; a BiLSTM's last states."""

    def __init__(self, config: ModifiedParams, *, vocab: int, pooled: int) -> None:
        super().__init__()
        embedding, hidden, layers = config.embedding, config.hidden, config.layers
        self.repeats = config.repeats
        self.standardise = Standardise(pooled)
        self.image = nn.Linear(pooled, embedding)
        self.embedding = nn.Embedding(vocab, embedding, padding_idx=PAD)
        between = config.dropout if layers > 1 else 0.0
        self.caption = one_bias(LSTM(embedding, hidden, layers, batch_first=True, dropout=between))
        self.project = nn.Linear(hidden, embedding)
        self.ahead = one_bias(LSTM(embedding, hidden, batch_first=True))
        self.back = one_bias(nn.LSTMCell(embedding, hidden))
        self.dropout = nn.Dropout(config.dropout)
        self.image_dropout = nn.Dropout(config.image_dropout)
        self.out = nn.Linear(2 * hidden, vocab)

    def _image(self, features: Features) -> Tensor:
        return self.image_dropout(self.image(self.standardise(features.pooled_PD)).relu())

    def _ahead_over_image(self, image_PE: Tensor) -> tuple[Tensor, Tensor]:
        """The forward LSTM's state after the repeated image, each (1, P, H)."""
        image_PTE = image_PE.unsqueeze(1).expand(-1, self.repeats, -1)
        state: tuple[Tensor, Tensor] = self.ahead(image_PTE)[1]
        return state

    def _gates(self, inputs_XE: Tensor) -> Tensor:
        """The inputs' part of the backward LSTM's gates: (..., E) to (..., G)."""
        return nn.functional.linear(inputs_XE, self.back.weight_ih, self.back.bias_ih)

    def _back_step(self, gates_XG: Tensor, h_XH: Tensor, c_XH: Tensor) -> tuple[Tensor, Tensor]:
        i, f, g, o = (gates_XG + h_XH @ self.back.weight_hh.T).chunk(4, -1)
        c_XH = f.sigmoid() * c_XH + i.sigmoid() * g.tanh()
        return o.sigmoid() * c_XH.tanh(), c_XH

    def _back_over_image(self, image_gates_XG: Tensor, h_XH: Tensor, c_XH: Tensor) -> Tensor:
        for _ in range(self.repeats):
            h_XH, c_XH = self._back_step(image_gates_XG, h_XH, c_XH)
        return h_XH

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        image_PE = self._image(features)
        caption_BTE = self.project(self.caption(self.dropout(self.embedding(tokens_BT)))[0])
        h_1PH, c_1PH = self._ahead_over_image(image_PE)
        start = (of_captions(h_1PH, photo_B, dim=1), of_captions(c_1PH, photo_B, dim=1))
        ahead_BTH, _ = self.ahead(caption_BTE, start)
        back = self._back_over_all if self.uses_fixed_shapes(tokens_BT) else self._back_over_words
        back_BTH = back(self._gates(caption_BTE), self._gates(image_PE), tokens_BT, photo_B)
        return Outputs(torch.cat([ahead_BTH, back_BTH], -1))

    def _back_over_all(self, gates_BTG: Tensor, image_gates_PG: Tensor, tokens_BT: Tensor, photo_B: Tensor) -> Tensor:
        """The backward LSTM's last state of the prefix that ends at each place, padding too: back_BTH."""
        batch, steps = tokens_BT.shape
        # Column t is the prefix that ends at t; after n steps back the first n prefixes have read all their words.
        h_BTH = gates_BTG.new_zeros(batch, steps, self.back.hidden_size)
        c_BTH = torch.zeros_like(h_BTH)
        finished = []
        for n in range(steps):
            h_BTH, c_BTH = self._back_step(gates_BTG[:, : steps - n], h_BTH, c_BTH)
            finished.append((h_BTH[:, :1], c_BTH[:, :1]))
            h_BTH, c_BTH = h_BTH[:, 1:], c_BTH[:, 1:]
        h_BTH, c_BTH = (torch.cat(parts, 1) for parts in zip(*finished, strict=True))
        return self._back_over_image(of_captions(image_gates_PG, photo_B).unsqueeze(1), h_BTH, c_BTH)

    def _back_over_words(self, gates_BTG: Tensor, image_gates_PG: Tensor, tokens_BT: Tensor, photo_B: Tensor) -> Tensor:
        """The same for the real words alone."""
        # One row a prefix, the longest first: those that still have words to read are the first rows.
        batch, steps = tokens_BT.shape
        row_N, end_N = (tokens_BT != PAD).nonzero(as_tuple=True)
        order_N = end_N.argsort(descending=True, stable=True)
        row_N, end_N = row_N[order_N], end_N[order_N]
        flat_N = row_N * steps + end_N
        gates_XG = gates_BTG.flatten(0, 1)
        h_NH = gates_XG.new_zeros(len(flat_N), self.back.hidden_size)
        c_NH = torch.zeros_like(h_NH)
        finished = []
        for back in range(steps):
            n = int((end_N >= back).sum())
            finished.append((h_NH[n:], c_NH[n:]))
            if n == 0:
                break
            h_NH, c_NH = self._back_step(gates_XG.index_select(0, flat_N[:n] - back), h_NH[:n], c_NH[:n])
        else:
            finished.append((h_NH, c_NH))
        h_NH, c_NH = (torch.cat(parts[::-1]) for parts in zip(*finished, strict=True))
        h_NH = self._back_over_image(of_captions(image_gates_PG, photo_B[row_N]), h_NH, c_NH)
        return h_NH.new_zeros(batch, steps, self.back.hidden_size).index_put((row_N, end_N), h_NH)

    def words(self, hidden_XH: Tensor) -> Tensor:
        return self.out(self.dropout(hidden_XH))

    def start(self, features: Features) -> State:
        image_PE = self._image(features)
        h_1PH, c_1PH = self._ahead_over_image(image_PE)
        zeros_PLH = h_1PH.new_zeros(len(image_PE), self.caption.num_layers, self.caption.hidden_size)
        no_gates_P0G = h_1PH.new_zeros(len(image_PE), 0, 4 * self.back.hidden_size)
        return State((self._gates(image_PE),), (zeros_PLH, zeros_PLH, h_1PH[0], c_1PH[0], no_gates_P0G))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        (image_gates_PG,) = state.memory
        ch_BLH, cc_BLH, h_BH, c_BH, gates_BTG = state.hidden
        hidden_BH, ch_BLH, cc_BLH = lstm_step(self.caption, self.embedding(tokens_B), ch_BLH, cc_BLH)
        caption_B1E = self.project(hidden_BH).unsqueeze(1)
        ahead_B1H, (h_1BH, c_1BH) = self.ahead(caption_B1E, (h_BH.unsqueeze(0), c_BH.unsqueeze(0)))
        gates_BTG = torch.cat([gates_BTG, self._gates(caption_B1E)], 1)

        back_h_BH = torch.zeros_like(h_BH)
        back_c_BH = torch.zeros_like(h_BH)
        for t in reversed(range(gates_BTG.shape[1])):
            back_h_BH, back_c_BH = self._back_step(gates_BTG[:, t], back_h_BH, back_c_BH)
        each = len(tokens_B) // len(image_gates_PG)
        back_h_BH = self._back_over_image(image_gates_PG.repeat_interleave(each, 0), back_h_BH, back_c_BH)
        log_probs_BV = self.words(torch.cat([ahead_B1H[:, 0], back_h_BH], -1)).log_softmax(-1)
        return log_probs_BV, State(state.memory, (ch_BLH, cc_BLH, h_1BH[0], c_1BH[0], gates_BTG))
