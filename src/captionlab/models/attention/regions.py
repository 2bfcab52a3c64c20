"""Report A's attention: before each word the decoder chooses the regions of the photo it looks at.

Show, Attend and Tell's soft attention (Xu et al. 2015) with the report's ReLU. Shape letters as in ``base``;
K hypotheses a photo, M size of a region's memory, G = 4 H gates.
"""

import torch
from torch import Tensor, nn

from captionlab.core.tokens import PAD, START
from captionlab.models.attention.recurrence import AttentionRecurrence
from captionlab.models.base import Decoder, Features, Outputs, Standardise, State, lengths_of, one_bias


class Attention(Decoder):
    """Additive attention over the grid, a gate on what was seen, an LSTM cell over word and context."""

    def __init__(
        self, *, vocab: int, channels: int, embedding: int, hidden: int, layers: int, dropout: float, attention: int,
        memory: int, teacher_forcing: bool, tied: bool,
    ) -> None:  # fmt: skip
        super().__init__()
        if layers != 1:
            raise ValueError("attention has one LSTM cell: layers must be 1")
        if tied and embedding != hidden:
            raise ValueError(f"tied words want embedding ({embedding}) equal to hidden ({hidden})")
        self.teacher_forcing = teacher_forcing
        self.standardise = Standardise(channels)
        size = memory or channels
        self.memory = nn.Linear(channels, memory) if memory else None
        self.embedding = nn.Embedding(vocab, embedding, padding_idx=PAD)
        self.key = nn.Linear(size, attention)
        self.query = nn.Linear(hidden, attention)
        self.energy = nn.Linear(attention, 1, bias=False)
        self.gate = nn.Linear(hidden, size)
        self.initial = nn.Linear(size, 2 * hidden)
        self.cell = one_bias(nn.LSTMCell(embedding + size, hidden))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, vocab)
        if tied:
            nn.init.normal_(self.embedding.weight, std=embedding**-0.5)
            self.out.weight = self.embedding.weight

    def _look(self, features: Features) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """What the decoder may look at, memory_PRM and its keys_PRA, and the first h_PH and c_PH."""
        assert features.grid_PRC is not None, "attention needs features with a grid"
        memory_PRM = self.standardise(features.grid_PRC)
        if self.memory is not None:
            memory_PRM = self.dropout(self.memory(memory_PRM).relu())
        h_PH, c_PH = self.initial(memory_PRM.mean(1)).tanh().chunk(2, -1)
        return memory_PRM, self.key(memory_PRM), h_PH, c_PH

    def _word_gates(self, word_XE: Tensor) -> Tensor:
        """The words' share of the cell's gates, which needs no past: for whole captions in one product."""
        return nn.functional.linear(word_XE, self.cell.weight_ih[:, : word_XE.shape[-1]], self.cell.bias_ih)

    def _recurrent_weight(self) -> Tensor:
        """The cell's weights for what was seen and for its own past, side by side."""
        return torch.cat([self.cell.weight_ih[:, self.embedding.embedding_dim :], self.cell.weight_hh], 1)

    def _cell(
        self, gates_BG: Tensor, h_BH: Tensor, c_BH: Tensor, memory_XRM: Tensor, keys_XRA: Tensor, weight_GX: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """One step; a row of the photo tensors serves B / X hypotheses. Returns h_BH, c_BH, attention_BR."""
        x, k = len(keys_XRA), len(h_BH) // len(keys_XRA)
        query_XK1A = self.query(h_BH).view(x, k, 1, -1)
        # The energy's bias shifts all regions alike, so the softmax forgets it: there is none.
        attention_XKR = self.energy((keys_XRA.unsqueeze(1) + query_XK1A).relu_()).squeeze(-1).softmax(-1)
        seen_BM = self.gate(h_BH).sigmoid() * (attention_XKR @ memory_XRM).flatten(0, 1)
        gates_BG = gates_BG + torch.cat([seen_BM, h_BH], -1) @ weight_GX.T
        i, f, g, o = gates_BG.chunk(4, -1)
        c_BH = f.sigmoid() * c_BH + i.sigmoid() * g.tanh()
        return o.sigmoid() * c_BH.tanh(), c_BH, attention_XKR.flatten(0, 1)

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        memory_PRM, keys_PRA, h_PH, c_PH = self._look(features)
        # Sorted by length, the captions that are still going stand in front: no step is spent on padding.
        lengths_B = lengths_of(tokens_BT)
        order_B = lengths_B.argsort(descending=True, stable=True)
        photo_B = photo_B[order_B]
        steps = int(lengths_B.max())
        alive = [int((lengths_B > t).sum()) for t in range(steps)]
        row_N = torch.cat([order_B[:n] for n in alive])
        step_N = torch.cat([torch.full_like(order_B[:n], t) for t, n in enumerate(alive)])
        start = (
            h_PH.index_select(0, photo_B), c_PH.index_select(0, photo_B),
            memory_PRM.index_select(0, photo_B), keys_PRA.index_select(0, photo_B),
        )  # fmt: skip
        weight_GX = self._recurrent_weight()
        if self.training and not self.teacher_forcing:
            hidden_NH, attention_NR = self._free_running(*start, weight_GX, alive)
        else:
            gates_NG = self._word_gates(self.dropout(self.embedding(tokens_BT[row_N, step_N])))
            hidden_NH, attention_NR = AttentionRecurrence.apply(  # type: ignore[no-untyped-call]
                gates_NG, *start, self.query.weight, self.query.bias, self.energy.weight[0], self.gate.weight,
                self.gate.bias, weight_GX, alive,
            )  # fmt: skip
        hidden_BTH = hidden_NH.new_zeros(*tokens_BT.shape, hidden_NH.shape[1])
        attention_BTR = attention_NR.new_zeros(*tokens_BT.shape, attention_NR.shape[1])
        return Outputs(
            hidden_BTH.index_put((row_N, step_N), hidden_NH), attention_BTR.index_put((row_N, step_N), attention_NR)
        )

    def _free_running(
        self, h_BH: Tensor, c_BH: Tensor, memory_BRM: Tensor, keys_BRA: Tensor, weight_GX: Tensor, alive: list[int]
    ) -> tuple[Tensor, Tensor]:
        """Without teacher forcing each step reads the word the step before found most likely."""
        said_B = torch.full((len(h_BH),), START, device=h_BH.device)
        hs, attentions = [], []
        for n in alive:
            gates_nG = self._word_gates(self.dropout(self.embedding(said_B[:n])))
            h_BH, c_BH, attention_nR = self._cell(gates_nG, h_BH[:n], c_BH[:n], memory_BRM[:n], keys_BRA[:n], weight_GX)
            hs.append(h_BH)
            attentions.append(attention_nR)
            said_B = self.words(h_BH).argmax(-1)
        return torch.cat(hs), torch.cat(attentions)

    def words(self, hidden_XH: Tensor) -> Tensor:
        return self.out(self.dropout(hidden_XH))

    def start(self, features: Features) -> State:
        memory_PRM, keys_PRA, h_PH, c_PH = self._look(features)
        return State((memory_PRM, keys_PRA), (h_PH, c_PH))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        gates_BG = self._word_gates(self.embedding(tokens_B))
        (h_BH, c_BH), (memory_PRM, keys_PRA) = state.hidden, state.memory
        h_BH, c_BH, _ = self._cell(gates_BG, h_BH, c_BH, memory_PRM, keys_PRA, self._recurrent_weight())
        return self.words(h_BH).log_softmax(-1), State(state.memory, (h_BH, c_BH))
