"""Report A's System 1, with the four places where the image can enter (Tanti et al. 2017).

| ``image`` | where the image enters |
|---|---|
| ``pre-inject`` | as the LSTM's first input, before the words: report A's System 1 (Vinyals et al. 2015) |
| ``init-inject`` | as the first hidden state of every layer; the first cell state is zero |
| ``par-inject`` | beside every word, as a part of the LSTM's input |
| ``merge`` | beside the LSTM's output, before the word layer; not into the LSTM |

Shape letters as in ``base``; I size of the image vector, X of the LSTM's input.
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
from captionlab.models.params import BaselineParams


class Baseline(Decoder):
    """Image vector through linear, ReLU and dropout, and an LSTM of any number of layers over the words."""

    def __init__(self, config: BaselineParams, *, vocab: int, pooled: int) -> None:
        super().__init__()
        embedding, hidden, layers, image = config.embedding, config.hidden, config.layers, config.image
        self.place = image
        self.standardise = Standardise(pooled)
        self.image = nn.Linear(pooled, hidden if image == "init-inject" else embedding)
        self.embedding = nn.Embedding(vocab, embedding, padding_idx=PAD)
        between = config.dropout if layers > 1 else 0.0
        read = 2 * embedding if image == "par-inject" else embedding
        # The LSTM sees the image once and must keep it: a forget bias of 3 keeps 0.95 of the cell a step, 1 keeps 0.73.
        lstm = LSTM(read, hidden, layers, batch_first=True, dropout=between)
        self.lstm = one_bias(lstm, forget=config.forget_bias)
        self.dropout = nn.Dropout(config.dropout)
        self.image_dropout = nn.Dropout(config.image_dropout)
        self.out = nn.Linear(hidden + embedding if image == "merge" else hidden, vocab)

    def _image(self, features: Features) -> Tensor:
        return self.image_dropout(self.image(self.standardise(features.pooled_PD)).relu())

    def _initial(self, image_XI: Tensor) -> tuple[Tensor, Tensor]:
        """The LSTM's first h_LXH and c_LXH."""
        zeros_LXH = image_XI.new_zeros(self.lstm.num_layers, len(image_XI), self.lstm.hidden_size)
        return (zeros_LXH + image_XI if self.place == "init-inject" else zeros_LXH), zeros_LXH

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        image_BI = of_captions(self._image(features), photo_B)
        words_BTE = self.dropout(self.embedding(tokens_BT))
        image_BTI = image_BI.unsqueeze(1).expand(-1, tokens_BT.shape[1], -1)
        match self.place:
            case "pre-inject":
                inputs_BTE = torch.cat([image_BTI[:, :1], words_BTE], 1)
                # The output after the image would predict START, which is given.
                return Outputs(self.lstm(inputs_BTE)[0][:, 1:])
            case "par-inject":
                return Outputs(self.lstm(torch.cat([words_BTE, image_BTI], -1))[0])
            case "merge":
                return Outputs(torch.cat([self.lstm(words_BTE)[0], image_BTI], -1))
        return Outputs(self.lstm(words_BTE, self._initial(image_BI))[0])

    def words(self, hidden_XH: Tensor) -> Tensor:
        return self.out(self.dropout(hidden_XH))

    def start(self, features: Features) -> State:
        image_PI = self._image(features)
        h_LPH, c_LPH = self._initial(image_PI)
        if self.place == "pre-inject":
            _, (h_LPH, c_LPH) = self.lstm(image_PI.unsqueeze(1))
        memory = (image_PI,) if self.place in ("par-inject", "merge") else ()
        return State(memory, (h_LPH.transpose(0, 1), c_LPH.transpose(0, 1)))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        image_BI = [image_PI.repeat_interleave(len(tokens_B) // len(image_PI), 0) for image_PI in state.memory]
        par, merge = (image_BI if self.place == place else [] for place in ("par-inject", "merge"))
        input_BX = torch.cat([self.embedding(tokens_B), *par], -1)
        hidden_BH, *hidden = lstm_step(self.lstm, input_BX, *state.hidden)
        log_probs_BV = self.words(torch.cat([hidden_BH, *merge], -1)).log_softmax(-1)
        return log_probs_BV, State(state.memory, tuple(hidden))
