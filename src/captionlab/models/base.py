"""The decoder contract: what training and decoding may ask of any captioning system.

Knows tensors only: no data, files or words. Shape letters: P photos, B captions or hypotheses, T time steps,
V words, L layers, H hidden size, E word embedding size, D pooled vector size, R regions, C grid channels,
A attention size, X any size.
"""

from collections.abc import Callable, Iterable
from contextlib import nullcontext
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from captionlab.core.devices import to_device
from captionlab.core.tokens import END, NEVER_GENERATED, PAD

Lstm = TypeVar("Lstm", "LSTM", nn.LSTMCell)


class Features(NamedTuple):
    """An encoder's output, one row a photo."""

    pooled_PD: Tensor
    grid_PRC: Tensor | None = None
    others: "tuple[Features, ...]" = ()  # the same photos' features by further encoders, for an ensemble

    def map(self, change: Callable[[Tensor], Tensor]) -> "Features":
        """The same features with each tensor changed."""
        grid_PRC = None if self.grid_PRC is None else change(self.grid_PRC)
        return Features(change(self.pooled_PD), grid_PRC, tuple(other.map(change) for other in self.others))

    def to(self, device: str | torch.device) -> "Features":
        """The same features on another device."""
        return self.map(lambda tensor: to_device(tensor, device))


class Outputs(NamedTuple):
    """What a decoder computed under teacher forcing, before the word layer."""

    hidden_BTH: Tensor
    attention_BTR: Tensor | None = None  # shares that sum to 1; 0 where the token is PAD


class State(NamedTuple):
    """A decoder's state between two words. Hypotheses p * B / P up to (p + 1) * B / P belong to photo p."""

    memory: tuple[Tensor, ...]  # one row a photo; the same at every step
    hidden: tuple[Tensor, ...]  # one row a hypothesis

    def reorder(self, index_B: Tensor) -> "State":
        """Select hypotheses by index: the same number for each photo of ``memory``, photo by photo."""
        return State(self.memory, tuple(tensor.index_select(0, index_B) for tensor in self.hidden))

    def select_photos(self, index_P: Tensor) -> "State":
        """Drop the memory of the other photos; a ``reorder`` that drops their hypotheses has to follow."""
        return State(tuple(tensor.index_select(0, index_P) for tensor in self.memory), self.hidden)

    def repeat(self, count: int) -> "State":
        """Make ``count`` hypotheses of each one."""
        return State(self.memory, tuple(tensor.repeat_interleave(count, 0) for tensor in self.hidden))


class Decoder(nn.Module):
    """A captioning system: image features and the words so far in, the next word's probabilities out.

    ``forward`` and repeated ``step``s compute the same; a test checks this for every system.
    """

    standardise: "Standardise"

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        """Hidden vectors for whole captions at once; ``tokens_BT`` begins with START and is filled up with PAD.

        Row b of ``tokens_BT`` describes row ``photo_B[b]`` of the features; ``of_captions`` takes it. Hidden vectors
        after END are undefined.
        """
        raise NotImplementedError

    def uses_fixed_shapes(self, tokens_BT: Tensor) -> bool:
        """Whether ``outputs`` computes padding as well, so that its operations depend on shapes alone.

        So it is on a GPU: leaving padding out would mean to wait for the GPU to say how long the captions are, and
        operations that depend on shapes alone can be launched as one CUDA graph. A CPU leaves padding out.
        """
        return tokens_BT.device.type != "cpu"

    def encode(self, features: Features) -> Features:
        """What the system reads of stored features: the features themselves, if it has no part of the encoder."""
        return features

    def encoder_parameters(self) -> "list[nn.Parameter]":
        """Those of an encoder that is trained with the system, at a learning rate of their own."""
        return []

    def words(self, hidden_XH: Tensor) -> Tensor:
        """The word layer: hidden vectors (..., H) to logits (..., V)."""
        raise NotImplementedError

    def start(self, features: Features) -> State:
        """The state before the first word, one hypothesis a photo."""
        raise NotImplementedError

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        """Read one word for each hypothesis (START first): log_probs_BV of the next word, and the state after it."""
        raise NotImplementedError

    def forward(self, features: Features, tokens_BT: Tensor, photo_B: Tensor | None = None) -> Tensor:
        """Teacher forcing: logits_BTV. Without ``photo_B`` each photo has one caption, in order."""
        if photo_B is None:
            photo_B = torch.arange(len(tokens_BT), device=tokens_BT.device)
        return self.words(self.outputs(features, tokens_BT, photo_B).hidden_BTH)


class Standardise(nn.Module):
    """Scale each channel to mean 0 and standard deviation 1 over the training photos; fitted once, saved with the
    weights. Takes 16-bit or 32-bit features and returns float32.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(channels))
        self.register_buffer("scale", torch.ones(channels))

    def fit(self, blocks: Iterable[Tensor]) -> None:
        """Compute mean and deviation from blocks (..., channels), in float64 so that the block size does not matter."""
        total = torch.zeros(len(self.mean), dtype=torch.float64)
        squares, count = total.clone(), 0
        for block in blocks:
            rows = block.cpu().reshape(-1, block.shape[-1]).double()
            total, squares, count = total + rows.sum(0), squares + rows.square().sum(0), count + len(rows)
        mean = total / count
        self.mean.copy_(mean)
        self.scale.copy_((squares / count - mean**2).clamp(min=1e-8).rsqrt())

    def forward(self, x: Tensor) -> Tensor:
        return (x.float() - self.mean) * self.scale


class LSTM(nn.LSTM):
    """``nn.LSTM``, on a GPU in training without cuDNN.

    cuDNN keeps random numbers of its own for the dropout between layers, which a CUDA graph cannot reproduce. PyTorch's
    own LSTM has torch's. Gradients are computed as the forward pass was.
    """

    def forward(self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None) -> Any:  # type: ignore[override]
        with torch.backends.cudnn.flags(enabled=False) if input.is_cuda and self.training else nullcontext():
            return super().forward(input, hx)


def one_bias(lstm: Lstm, forget: float = 1.0) -> Lstm:
    """Give an LSTM one bias, as its equations and Keras have it: PyTorch's second one is fixed at zero.

    The forget gate's bias starts at ``forget``. Its default of 1 is part of the systems' definition, not a parameter:
    Jozefowicz et al. 2015 recommend it, and it is Keras's default (``unit_forget_bias``). The baseline's
    ``forget_bias`` sets a larger one, so that the LSTM keeps the image for longer.
    """
    for name, parameter in lstm.named_parameters():
        if name.startswith("bias_hh"):
            nn.init.zeros_(parameter)
            parameter.requires_grad_(False)
        elif name.startswith("bias_ih"):
            nn.init.zeros_(parameter)
            parameter.data[lstm.hidden_size : 2 * lstm.hidden_size] = forget
    return lstm


def lstm_step(lstm: LSTM, input_BE: Tensor, h_BLH: Tensor, c_BLH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """One step of an LSTM whose state has its rows first, as ``State`` needs it: hidden_BH, h_BLH, c_BLH."""
    past = (h_BLH.transpose(0, 1).contiguous(), c_BLH.transpose(0, 1).contiguous())
    hidden_B1H, (h_LBH, c_LBH) = lstm(input_BE.unsqueeze(1), past)
    return hidden_B1H[:, 0], h_LBH.transpose(0, 1), c_LBH.transpose(0, 1)


def of_captions(rows_PX: Tensor, photo_B: Tensor, dim: int = 0) -> Tensor:
    """The row of each caption's photo, ``rows_PX[photo_B]``, with a gradient that is always summed in the same order.

    The photos are dimension ``dim``.

    Plain indexing adds the gradients of a photo's captions in any order. ``index_select`` does not on a CPU; on a GPU
    ``embedding`` is the operation that keeps the order and does not wait for the device.
    """
    return rows_PX.index_select(dim, photo_B) if rows_PX.device.type == "cpu" else embedded(rows_PX, photo_B, dim)


def embedded(rows_PX: Tensor, photo_B: Tensor, dim: int = 0) -> Tensor:
    """``of_captions`` on a GPU."""
    rows_PX = rows_PX.movedim(dim, 0)
    return nn.functional.embedding(photo_B, rows_PX.flatten(1)).unflatten(1, rows_PX.shape[1:]).movedim(0, dim)


def forbid_tokens(log_probs_BV: Tensor, may_end: bool) -> None:
    """Give probability 0 to the tokens that no caption has; END is one of them where a caption may not end."""
    for word in NEVER_GENERATED if may_end else (*NEVER_GENERATED, END):
        log_probs_BV[:, word].fill_(-torch.inf)


def lengths_of(tokens_BT: Tensor) -> Tensor:
    """How many tokens each row has before its padding."""
    return (tokens_BT != PAD).sum(1)


def count_parameters(model: nn.Module) -> int:
    """The number of trained parameters, as Keras counts them."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def megabytes(model: nn.Module) -> float:
    """Size of all parameters and buffers in millions of bytes; a shared tensor counts once."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors) / 1e6
