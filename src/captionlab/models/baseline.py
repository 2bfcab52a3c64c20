"""Report A's System 1: the image vector is the LSTM's first input, the words follow.

Shape letters as in ``base``; L layers.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from captionlab.models.base import PAD, Decoder, Features, Outputs, Standardise, State, lengths_of, one_bias


class Baseline(Decoder):
    """Image vector through linear, ReLU and dropout into an LSTM of any number of layers (Vinyals et al. 2015)."""

    def __init__(self, *, vocab: int, pooled: int, input: int, hidden: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.standardise = Standardise(pooled)
        self.image = nn.Linear(pooled, input)
        self.embedding = nn.Embedding(vocab, input, padding_idx=PAD)
        between = dropout if layers > 1 else 0.0
        self.lstm = one_bias(nn.LSTM(input, hidden, layers, batch_first=True, dropout=between))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(hidden, vocab)

    def _image(self, features: Features) -> Tensor:
        return self.dropout(self.image(self.standardise(features.pooled_PD)).relu())

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        image_B1E = self._image(features)[photo_B].unsqueeze(1)
        inputs_BTE = torch.cat([image_B1E, self.dropout(self.embedding(tokens_BT))], 1)
        lengths = lengths_of(tokens_BT).cpu() + 1
        packed, _ = self.lstm(pack_padded_sequence(inputs_BTE, lengths, batch_first=True, enforce_sorted=False))
        hidden_BTH, _ = pad_packed_sequence(packed, batch_first=True, total_length=inputs_BTE.shape[1])
        return Outputs(hidden_BTH[:, 1:])  # what follows the image itself is START, which nobody predicts

    def words(self, hidden_XH: Tensor) -> Tensor:
        return self.out(self.dropout(hidden_XH))

    def start(self, features: Features) -> State:
        _, (h_LPH, c_LPH) = self.lstm(self._image(features).unsqueeze(1))
        return State((), (h_LPH.transpose(0, 1), c_LPH.transpose(0, 1)))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        h_BLH, c_BLH = state.hidden
        past = (h_BLH.transpose(0, 1).contiguous(), c_BLH.transpose(0, 1).contiguous())
        hidden_B1H, (h_LBH, c_LBH) = self.lstm(self.embedding(tokens_B).unsqueeze(1), past)
        log_probs_BV = self.words(hidden_B1H[:, 0]).log_softmax(-1)
        return log_probs_BV, State((), (h_LBH.transpose(0, 1), c_LBH.transpose(0, 1)))
