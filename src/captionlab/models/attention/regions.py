"""Report A's attention: before each word the decoder attends to regions of the photo.

Show, Attend and Tell's soft attention (Xu et al. 2015) with the report's ReLU. Shape letters as in ``base``;
K hypotheses a photo, M size of a region's memory, G = 4 H gates, N words of all steps, step by step.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from captionlab.core.tokens import PAD, START
from captionlab.models.attention.recurrence import AttentionRecurrence
from captionlab.models.base import Decoder, Features, Outputs, Standardise, State, lengths_of, of_captions, one_bias
from captionlab.models.params import AttentionParams


class Attention(Decoder):
    """Additive attention over the grid, a gate on the context, an LSTM cell over word and context."""

    def __init__(self, config: AttentionParams, *, vocab: int, channels: int) -> None:
        super().__init__()
        embedding, hidden, attention = config.embedding, config.hidden, config.attention
        self.teacher_forcing = config.teacher_forcing
        self.standardise = Standardise(channels)
        size = config.memory or channels
        self.memory = nn.Linear(channels, config.memory) if config.memory else None
        self.embedding = nn.Embedding(vocab, embedding, padding_idx=PAD)
        self.key = nn.Linear(size, attention)
        self.query = nn.Linear(hidden, attention)
        self.energy = nn.Linear(attention, 1, bias=False)
        self.gate = nn.Linear(hidden, size)
        self.initial = nn.Linear(size, 2 * hidden)
        self.cell = one_bias(nn.LSTMCell(embedding + size, hidden))
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(hidden, vocab)
        if config.tied:
            nn.init.normal_(self.embedding.weight, std=embedding**-0.5)
            self.out.weight = self.embedding.weight

    def _attended(self, features: Features) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the decoder attends to, memory_PRM and keys_PRA, and the first h_PH and c_PH."""
        assert features.grid_PRC is not None, "attention needs features with a grid"
        memory_PRM = self.standardise(features.grid_PRC)
        if self.memory is not None:
            memory_PRM = self.dropout(self.memory(memory_PRM).relu())
        h_PH, c_PH = self.initial(memory_PRM.mean(1)).tanh().chunk(2, -1)
        return memory_PRM, self.key(memory_PRM), h_PH, c_PH

    def _word_gates(self, word_XE: Tensor) -> Tensor:
        """The words' part of the cell's gates, for whole captions in one product."""
        return nn.functional.linear(word_XE, self.cell.weight_ih[:, : word_XE.shape[-1]], self.cell.bias_ih)

    def _recurrent_weight(self) -> Tensor:
        """The cell's weights for the context and for its own past, side by side."""
        return torch.cat([self.cell.weight_ih[:, self.embedding.embedding_dim :], self.cell.weight_hh], 1)

    def _cell(
        self, gates_BG: Tensor, h_BH: Tensor, c_BH: Tensor, memory_XRM: Tensor, keys_XRA: Tensor, weight_GX: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step; each row of memory and keys is used by B / X hypotheses. Returns h_BH, c_BH, attention_BR."""
        x, k = len(keys_XRA), len(h_BH) // len(keys_XRA)
        query_XK1A = self.query(h_BH).view(x, k, 1, -1)
        # The energy has no bias: it would shift all regions alike, and the softmax would cancel it.
        attention_XKR = self.energy((keys_XRA.unsqueeze(1) + query_XK1A).relu_()).squeeze(-1).softmax(-1)
        context_BM = self.gate(h_BH).sigmoid() * (attention_XKR @ memory_XRM).flatten(0, 1)
        gates_BG = gates_BG + torch.cat([context_BM, h_BH], -1) @ weight_GX.T
        i, f, g, o = gates_BG.chunk(4, -1)
        c_BH = f.sigmoid() * c_BH + i.sigmoid() * g.tanh()
        return o.sigmoid() * c_BH.tanh(), c_BH, attention_XKR.flatten(0, 1)

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        if self.uses_fixed_shapes(tokens_BT):
            return self._outputs_of_all(features, tokens_BT, photo_B)
        # Sorted by length, the captions that have not ended are the first rows: no step computes padding.
        lengths_B = lengths_of(tokens_BT)
        order_B = lengths_B.argsort(descending=True, stable=True)
        alive = [int((lengths_B > t).sum()) for t in range(int(lengths_B.max()))]
        row_N = torch.cat([order_B[:n] for n in alive])
        step_N = torch.cat([torch.full_like(order_B[:n], t) for t, n in enumerate(alive)])
        hidden_NH, attention_NR = self._run(features, photo_B[order_B], tokens_BT[row_N, step_N], alive)
        hidden_BTH = hidden_NH.new_zeros(*tokens_BT.shape, hidden_NH.shape[1])
        attention_BTR = attention_NR.new_zeros(*tokens_BT.shape, attention_NR.shape[1])
        return Outputs(
            hidden_BTH.index_put((row_N, step_N), hidden_NH), attention_BTR.index_put((row_N, step_N), attention_NR)
        )

    def _outputs_of_all(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        """The same with padding computed and then ignored: every step has all captions."""
        batch, steps = tokens_BT.shape
        hidden_NH, attention_NR = self._run(features, photo_B, tokens_BT.T.flatten(), [batch] * steps)
        hidden_BTH, attention_BTR = (x_NX.view(steps, batch, -1).transpose(0, 1) for x_NX in (hidden_NH, attention_NR))
        return Outputs(hidden_BTH, attention_BTR * (tokens_BT != PAD).unsqueeze(-1))

    def _run(
        self, features: Features, photo_B: Tensor, tokens_N: Tensor, alive: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Hidden_NH and attention_NR of the words tokens_N; ``alive`` says how many captions each step has."""
        memory_PRM, keys_PRA, h_PH, c_PH = self._attended(features)
        h_BH, c_BH, memory_BRM, keys_BRA = (
            of_captions(rows_PX, photo_B) for rows_PX in (h_PH, c_PH, memory_PRM, keys_PRA)
        )
        weight_GX = self._recurrent_weight()
        if self.training and not self.teacher_forcing:
            return self._free_running(h_BH, c_BH, memory_BRM, keys_BRA, weight_GX, alive)
        gates_NG = self._word_gates(self.dropout(self.embedding(tokens_N)))
        return AttentionRecurrence.apply(  # type: ignore[no-untyped-call]
            gates_NG, h_BH, c_BH, memory_BRM, keys_BRA, self.query.weight, self.query.bias, self.energy.weight[0],
            self.gate.weight, self.gate.bias, weight_GX, alive,
        )  # fmt: skip

    def _free_running(
        self, h_BH: Tensor, c_BH: Tensor, memory_BRM: Tensor, keys_BRA: Tensor, weight_GX: Tensor, alive: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Without teacher forcing each step reads the word that the step before found most likely."""
        read_B = torch.full((len(h_BH),), START, device=h_BH.device)
        hs, attentions = [], []
        for n in alive:
            gates_nG = self._word_gates(self.dropout(self.embedding(read_B[:n])))
            h_BH, c_BH, attention_nR = self._cell(gates_nG, h_BH[:n], c_BH[:n], memory_BRM[:n], keys_BRA[:n], weight_GX)
            hs.append(h_BH)
            attentions.append(attention_nR)
            read_B = self.words(h_BH).argmax(-1)
        return torch.cat(hs), torch.cat(attentions)

    def words(self, hidden_XH: Tensor) -> Tensor:
        return self.out(self.dropout(hidden_XH))

    def start(self, features: Features) -> State:
        memory_PRM, keys_PRA, h_PH, c_PH = self._attended(features)
        return State((memory_PRM, keys_PRA), (h_PH, c_PH))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        gates_BG = self._word_gates(self.embedding(tokens_B))
        (h_BH, c_BH), (memory_PRM, keys_PRA) = state.hidden, state.memory
        h_BH, c_BH, _ = self._cell(gates_BG, h_BH, c_BH, memory_PRM, keys_PRA, self._recurrent_weight())
        return self.words(h_BH).log_softmax(-1), State(state.memory, (h_BH, c_BH))
