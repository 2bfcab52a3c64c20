"""Report B's pre-inject + merge: the image is the LSTM's first input, and is added to its output at each word.

The report trains on each prefix of a caption separately. The LSTM is causal, so one pass over the whole caption gives
the same states (without the zeros that the report's code appends to each prefix and reads as words).

Shape letters as in ``base``; S states, the one after the image first: S = T + 1.
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
from captionlab.models.params import MergeParams, StatesParams


class Merge(Decoder):
    """Image through a dense layer with ReLU; LSTM over image and words; the image added; a dense layer; words."""

    def __init__(self, config: MergeParams | StatesParams, *, vocab: int, pooled: int) -> None:
        super().__init__()
        embedding, hidden, layers = config.embedding, config.hidden, config.layers
        self.standardise = Standardise(pooled)
        self.image = nn.Linear(pooled, embedding)
        self.embedding = nn.Embedding(vocab, embedding, padding_idx=PAD)
        between = config.dropout if layers > 1 else 0.0
        self.lstm = one_bias(LSTM(embedding, hidden, layers, batch_first=True, dropout=between))
        self.dense = nn.Linear(hidden, config.dense)
        self.dropout = nn.Dropout(config.dropout)
        self.out = nn.Linear(config.dense, vocab)

    def _image(self, features: Features) -> Tensor:
        return self.image(self.standardise(features.pooled_PD)).relu()

    def _states(self, image_BE: Tensor, tokens_BT: Tensor) -> Tensor:
        """The LSTM's states_BSH over the image and whole captions."""
        inputs_BSE = torch.cat([image_BE.unsqueeze(1), self.embedding(tokens_BT)], 1)
        states_BSH: Tensor = self.lstm(inputs_BSE)[0]
        return states_BSH

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        image_BE = of_captions(self._image(features), photo_B)
        states_BSH = self._states(image_BE, tokens_BT)
        return Outputs(self.dropout(states_BSH[:, 1:]) + image_BE.unsqueeze(1))

    def words(self, hidden_XH: Tensor) -> Tensor:
        return self.out(self.dropout(self.dense(hidden_XH).relu()))

    def start(self, features: Features) -> State:
        image_PE = self._image(features)
        _, (h_LPH, c_LPH) = self.lstm(image_PE.unsqueeze(1))
        return State((image_PE,), (h_LPH.transpose(0, 1), c_LPH.transpose(0, 1)))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        (image_PE,) = state.memory
        state_BH, *hidden = lstm_step(self.lstm, self.embedding(tokens_B), *state.hidden)
        return self._log_probs(state_BH, image_PE), State(state.memory, tuple(hidden))

    def _log_probs(self, seen_BH: Tensor, image_PE: Tensor) -> Tensor:
        """The next word's log_probs_BV from the LSTM's output seen_BH and the image."""
        image_BE = image_PE.repeat_interleave(len(seen_BH) // len(image_PE), 0)
        return self.words(self.dropout(seen_BH) + image_BE).log_softmax(-1)
