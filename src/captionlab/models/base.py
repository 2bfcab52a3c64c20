"""The decoder contract: what training and decoding may ask of any captioning system.

Knows tensors only: no data, files or words. Shape letters: P photos, B captions or hypotheses, T time steps,
V words, L layers, H hidden size, E word embedding size, D pooled vector size, R regions, C grid channels,
A attention size.
"""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from captionlab.core.tokens import PAD

Lstm = TypeVar("Lstm", nn.LSTM, nn.LSTMCell)


class Features(NamedTuple):
    """What an encoder saw: a row a photo."""

    pooled_PD: Tensor
    grid_PRC: Tensor | None = None
    others: "tuple[Features, ...]" = ()  # what further encoders saw of the same photos, for an ensemble

    def to(self, device: str) -> "Features":
        """The same features on another device."""
        grid_PRC = None if self.grid_PRC is None else self.grid_PRC.to(device)
        return Features(self.pooled_PD.to(device), grid_PRC, tuple(other.to(device) for other in self.others))


class Outputs(NamedTuple):
    """What a decoder computed under teacher forcing, before the word layer."""

    hidden_BTH: Tensor
    attention_BTR: Tensor | None = None


class State(NamedTuple):
    """Where a decoder stands in its captions. Photo p owns the hypotheses p * B / P up to (p + 1) * B / P."""

    memory: tuple[Tensor, ...]  # a row a photo; the same at every step
    hidden: tuple[Tensor, ...]  # a row a hypothesis

    def reorder(self, index_B: Tensor) -> "State":
        """Take over other hypotheses' pasts; every photo of ``memory`` keeps its own, equally many, in its order."""
        return State(self.memory, tuple(tensor.index_select(0, index_B) for tensor in self.hidden))

    def of_photos(self, index_P: Tensor) -> "State":
        """Forget the other photos' memory; their hypotheses leave with the ``reorder`` that has to follow."""
        return State(tuple(tensor.index_select(0, index_P) for tensor in self.memory), self.hidden)

    def repeat(self, count: int) -> "State":
        """Make ``count`` hypotheses of each one."""
        return State(self.memory, tuple(tensor.repeat_interleave(count, 0) for tensor in self.hidden))


class Decoder(nn.Module):
    """A captioning system: image features and the words so far in, the next word's probabilities out.

    ``forward`` and repeated ``step``s compute the same; a test holds every system to it.
    """

    standardise: "Standardise"

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        """Hidden vectors for whole captions at once; ``tokens_BT`` begins with START, PAD fills the end.

        Row b of ``tokens_BT`` describes row ``photo_B[b]`` of the features; ``index_select`` takes it, for plain
        indexing adds the gradients of a photo's captions in whatever order the threads come. Positions after END are
        undefined.
        """
        raise NotImplementedError

    def words(self, hidden_XH: Tensor) -> Tensor:
        """The word layer: hidden vectors (..., H) to logits (..., V)."""
        raise NotImplementedError

    def start(self, features: Features) -> State:
        """The state before the first word, one hypothesis a photo."""
        raise NotImplementedError

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one word a hypothesis (START first); return log_probs_BV of the next and the state after it."""
        raise NotImplementedError

    def forward(self, features: Features, tokens_BT: Tensor, photo_B: Tensor | None = None) -> Tensor:
        """Teacher forcing: logits_BTV. Without ``photo_B`` there is one caption a photo, in order."""
        if photo_B is None:
            photo_B = torch.arange(len(tokens_BT), device=tokens_BT.device)
        return self.words(self.outputs(features, tokens_BT, photo_B).hidden_BTH)


class Standardise(nn.Module):
    """Bring each channel to mean 0 and deviation 1 over the training photos; fitted once, kept with the weights."""

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def fit(self, blocks: Iterable[Tensor]) -> None:
        """Learn mean and deviation from blocks (..., channels), in float64 so that the block size does not matter."""
        total = torch.zeros(len(self.mean), dtype=torch.float64)
        squares, count = total.clone(), 0
        for block in blocks:
            rows = block.reshape(-1, block.shape[-1]).double()
            total, squares, count = total + rows.sum(0), squares + rows.square().sum(0), count + len(rows)
        mean = total / count
        self.mean.copy_(mean)
        self.scale.copy_((squares / count - mean**2).clamp(min=1e-8).rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) * self.scale


def one_bias(lstm: Lstm, forget: float = 1.0) -> Lstm:
    """Give an LSTM one bias, as its equations and Keras have it: PyTorch's second one is fixed at zero.

    The forget gate's bias begins at ``forget``: 1 as Jozefowicz et al. 2015 advise and Keras has it, more for what has
    to be remembered longer.
    """
    for name, parameter in lstm.named_parameters():
        if name.startswith("bias_hh"):
            nn.init.zeros_(parameter)
            parameter.requires_grad_(False)
        elif name.startswith("bias_ih"):
            nn.init.zeros_(parameter)
            parameter.data[lstm.hidden_size : 2 * lstm.hidden_size] = forget
    return lstm


def read_one(lstm: nn.LSTM, input_BE: Tensor, h_BLH: Tensor, c_BLH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of an LSTM whose state has its rows in front, as a State wants it: hidden_BH, h_BLH, c_BLH."""
    past = (h_BLH.transpose(0, 1).contiguous(), c_BLH.transpose(0, 1).contiguous())
    hidden_B1H, (h_LBH, c_LBH) = lstm(input_BE.unsqueeze(1), past)
    return hidden_B1H[:, 0], h_LBH.transpose(0, 1), c_LBH.transpose(0, 1)


def lengths_of(tokens_BT: Tensor) -> Tensor:
    """How many tokens each row has before its padding."""
    return (tokens_BT != PAD).sum(1)


def count_parameters(model: nn.Module) -> int:
    """Trained parameters, which is how Keras counts them for the layers used here."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def megabytes(model: nn.Module) -> float:
    """Size of everything a checkpoint stores, in millions of bytes; a shared tensor is stored once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
