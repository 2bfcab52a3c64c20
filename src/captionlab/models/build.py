"""From a configuration to a system with initial weights, with or without the last blocks of its encoder.

Each network is imported only when it is built. Shape letters as in ``base``; N photos.
"""

import math
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captionlab.errors import CaptionlabError
from captionlab.models.base import Decoder, Features, Outputs, Standardise, State
from captionlab.models.params import SystemParams


def build_model(
    config: SystemParams, *, vocab: int, pooled: int, channels: int, blocks: Callable[[], nn.Module] | None = None
) -> Decoder:
    """Build the network that a configuration names, with initial weights from torch's current seed.

    ``vocab`` words, features of ``pooled`` numbers a photo or ``channels`` a region. ``blocks`` builds the part of the
    encoder that is trained with it.
    """
    module, _, name = config.network.rpartition(".")
    network = getattr(import_module(f"captionlab.models.{module}"), name)
    features = {"channels": channels} if config.uses_regions else {"pooled": pooled}
    model: Decoder = network(config, vocab=vocab, **features)
    return model if blocks is None else WithEncoder(blocks(), model)


def build_shapes(
    config: SystemParams, *, vocab: int, pooled: int, channels: int, blocks: Callable[[], nn.Module] | None = None
) -> Decoder:
    """The network on torch's meta device: its weights have shapes and take no memory, however large they are.

    Raises RuntimeError for a weight with more elements than torch counts.
    """
    with torch.device("meta"), _WithoutInitialisation():
        return build_model(config, vocab=vocab, pooled=pooled, channels=channels, blocks=blocks)


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves weights uninitialised: on the meta device, initialising imports torch's compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == torch.nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


class WithEncoder(Decoder):
    """A captioning system together with the last blocks of its encoder, which are trained with it.

    ``blocks`` turn what features hold, the encoder's map at the cut, into what ``decoder`` reads.

    Batch normalisation in the blocks stays in evaluation mode. In training ``crop``, the smallest share of a photo's
    area, below 1 replaces each map by a random square part of it, enlarged to the whole size.
    """

    def __init__(self, blocks: nn.Module, decoder: Decoder) -> None:
        super().__init__()
        self.blocks = blocks
        self.decoder = decoder
        self.crop = 1.0

    @property
    def standardise(self) -> Standardise:  # type: ignore[override]
        """That of the decoder: what the blocks return is scaled."""
        return self.decoder.standardise

    def encode(self, features: Features) -> Features:
        """What the decoder reads."""
        assert features.grid_PRC is not None, "trained blocks need the encoder's map"
        map_PRC = features.grid_PRC.float()
        if self.training and self.crop < 1:
            map_PRC = random_crops(map_PRC, self.crop)
        pooled_PD, grid_PRC = self.blocks(map_PRC)
        return Features(pooled_PD, grid_PRC)

    def outputs(self, features: Features, tokens_BT: Tensor, photo_B: Tensor) -> Outputs:
        return self.decoder.outputs(self.encode(features), tokens_BT, photo_B)

    def words(self, hidden_XH: Tensor) -> Tensor:
        return self.decoder.words(hidden_XH)

    def start(self, features: Features) -> State:
        return self.decoder.start(self.encode(features))

    def step(self, tokens_B: Tensor, state: State) -> tuple[Tensor, State]:
        return self.decoder.step(tokens_B, state)

    def encoder_parameters(self) -> list[nn.Parameter]:
        return list(self.blocks.parameters())

    def train(self, mode: bool = True) -> "WithEncoder":
        super().train(mode)
        self.blocks.eval()
        return self


def random_crops(map_NRC: Tensor, smallest: float) -> Tensor:
    """A square part of each map, of ``smallest`` to all of its area, at its old size by bilinear interpolation.

    Raises CaptionlabError for tokens with prefix tokens, which are no map.
    """
    n, r, c = map_NRC.shape
    side = math.isqrt(r)
    if side * side != r:
        raise CaptionlabError(f"training.crop is for square maps; this encoder gives {r} tokens; set it to 1")
    area_N, x_N, y_N = torch.rand(3, n, device=map_NRC.device)
    scale_N = (smallest + (1 - smallest) * area_N).sqrt()
    zero_N = torch.zeros_like(scale_N)
    across_N, down_N = (2 * x_N - 1) * (1 - scale_N), (2 * y_N - 1) * (1 - scale_N)
    theta_N23 = torch.stack([scale_N, zero_N, across_N, zero_N, scale_N, down_N], 1).view(n, 2, 3)
    map_NCHW = map_NRC.unflatten(1, (side, side)).permute(0, 3, 1, 2)
    places_NHW2 = nn.functional.affine_grid(theta_N23, [n, c, side, side], align_corners=False)
    places_NHW2 = places_NHW2.clamp(1 / side - 1, 1 - 1 / side)  # as padding_mode="border", which MPS does not have
    cropped_NCHW = nn.functional.grid_sample(map_NCHW, places_NHW2, align_corners=False)
    return cropped_NCHW.flatten(2).transpose(1, 2)
