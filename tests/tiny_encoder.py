"""An encoder of one layer, for fast tests."""

import torch
from torch import Tensor, nn

from captionlab.encoders.load import Encoder
from captionlab.encoders.network import Network, Normalise, Parts, PooledMap


class TinyBody(nn.Module):
    """A CNN of one layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.conv = nn.Conv2d(3, 6, 4, stride=4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x))


def tiny_network(grid: int, head: nn.Module | None = None) -> Network:
    normalise = Normalise([127.0] * 3, [128.0] * 3)
    parts = Parts(trunk=nn.Sequential(normalise, TinyBody()), last=nn.Sequential(), head=head or PooledMap())
    return Network(parts, grid).eval().requires_grad_(False)


def tiny_encoder(grid: int) -> Encoder:
    return Encoder(name="tiny", pixels=32, network=tiny_network(grid), weights_digest="w")
