"""A CNN or vision transformer in parts: a trunk, which stays as it is, and the last blocks, which a system may train.

Knows tensors; nothing of names, weights' files or photos. Shape letters: N photos, H and W pixels or map sizes,
C channels, R regions, D size of the pooled vector, X any size.
"""

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from captionlab.errors import CaptionlabError


class Normalise(nn.Module):
    """Pixels (N, 3, H, W) from 0 to 255, less a mean and divided by a deviation per colour."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, x_N3HW: Tensor) -> Tensor:
        return (x_N3HW - self.mean) / self.std


class PooledMap(nn.Module):
    """The usual head: the pooled vector is the mean of the last feature map."""

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        map_NCHW = map_NCHW.float()  # 16 bits under autocast; the mean is computed in 32
        return map_NCHW.mean((2, 3)), map_NCHW


@dataclass(frozen=True, kw_only=True)
class Parts:
    """An encoder in two parts: pixels (N, 3, H, W) as floats go through ``trunk``, ``last`` and ``head``.

    The trunk returns a square map (N, C, H, W), or, where not ``spatial``, tokens (N, R, C). The head turns what
    ``last`` returns into pooled vectors (N, D) and a map (N, C, H, W).
    """

    trunk: nn.Module
    last: nn.Module
    head: nn.Module
    spatial: bool = True


Trained = int | Literal["all"]
"""How many of an encoder's last blocks belong to the systems that read it: 0 for none, "all" for the whole encoder."""


def split(layers: Sequence[nn.Module], blocks: Sequence[int], trained: Trained) -> tuple[nn.Sequential, nn.Sequential]:
    """Layers that run one after another as trunk and last layers.

    ``blocks`` are the indices of the layers that are blocks. Raises CaptionlabError if fewer are there than wanted.
    """
    if trained != "all" and trained > len(blocks):
        known = f"1 to {len(blocks)} or all" if blocks else "all"
        raise CaptionlabError(f"the encoder has no {trained} last blocks to train; choose {known}")
    cut = 0 if trained == "all" else blocks[-trained] if trained else len(layers)
    return nn.Sequential(*layers[:cut]), nn.Sequential(*layers[cut:])


class LastBlocks(nn.Module):
    """The last blocks of an encoder and its pooling: what the trunk returns in, pooled vector and grid out."""

    def __init__(self, parts: Parts, grid: int) -> None:
        super().__init__()
        self.layers, self.head = parts.last, parts.head
        self.grid = grid
        self.spatial = parts.spatial

    def forward(self, rows_NRC: Tensor) -> tuple[Tensor, Tensor]:
        """Features at the cut to pooled (N, D) and grid (N, ``grid`` squared, C), both float32."""
        if not self.spatial:
            return self.pooled_and_grid(rows_NRC)
        map_NCHW = as_map(rows_NRC)
        # Max pooling of channels-last maps adds up its gradients on CUDA in any order.
        return self.pooled_and_grid(map_NCHW.contiguous() if map_NCHW.is_cuda else map_NCHW)

    def pooled_and_grid(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same for what the trunk returned."""
        pooled_ND, map_NCHW = self.head(self.layers(x))
        with torch.autocast(x.device.type, enabled=False):
            return pooled_ND.float(), pool_grid(map_NCHW.float(), self.grid)


class Network(nn.Module):
    """Bytes in, pooled vector and grid out: normalisation, network and pooling in one graph.

    With ``keeps_map`` the grid is what the trunk returns, a row for each position or token: systems that train the
    last blocks start from it. The pooled vector is always that of the whole encoder.
    """

    def __init__(self, parts: Parts, grid: int, *, keeps_map: bool = False) -> None:
        super().__init__()
        self.trunk = parts.trunk
        self.last = LastBlocks(parts, grid)
        self.keeps_map = keeps_map

    def forward(self, pixels_NHW3: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes (N, H, W, 3) to pooled (N, D) and grid (N, R, C), both float32, also under autocast.

        On CUDA the network itself runs in fp16, whose error is a tenth of bf16's; averages over the map are fp32.
        """
        x = pixels_NHW3.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
        with _half_on_cuda(pixels_NHW3.device.type):
            x = self.trunk(x)
            pooled_ND, grid_NRC = self.last.pooled_and_grid(x)
        if self.keeps_map:
            grid_NRC = as_rows(x) if self.last.spatial else x
        return pooled_ND, grid_NRC.float()


def _half_on_cuda(device: str) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.float16) if device == "cuda" else nullcontext()


def as_rows(map_NCHW: Tensor) -> Tensor:
    """A map's positions as rows (N, R, C), row by row of the photo."""
    return map_NCHW.flatten(2).transpose(1, 2)


def as_map(rows_NRC: Tensor) -> Tensor:
    """The square map (N, C, H, W) whose positions are the rows."""
    side = math.isqrt(rows_NRC.shape[1])
    return rows_NRC.unflatten(1, (side, side)).permute(0, 3, 1, 2)


def pool_grid(map_NCHW: Tensor, side: int) -> Tensor:
    """Average-pool a feature map to ``side`` x ``side`` regions, as (N, R, C); side 0 gives R = 0.

    The same averages as ``adaptive_avg_pool2d``, written as two matrix products, which every engine can run.
    """
    # On CUDA the matrices are made there: a CUDA graph cannot record a copy from the host.
    matrix = partial(pooling_matrix_on, map_NCHW.device) if map_NCHW.is_cuda else _pooling_matrix
    # int(): an exporter traces sizes as tensors, and ONNX rounds the division below towards zero, not down.
    rows, columns = (matrix(int(size), side).to(map_NCHW) for size in map_NCHW.shape[2:])
    return as_rows(rows @ map_NCHW @ columns.T)


def pooling_matrix_on(device: torch.device, size: int, side: int) -> Tensor:
    """(side, size) the shares of ``size`` positions in each of ``side`` regions, computed on the device."""
    region, position = torch.arange(side, device=device).unsqueeze(1), torch.arange(size, device=device)
    start, stop = region * size // side, -(-(region + 1) * size // side)
    return ((position >= start) & (position < stop)).float() / (stop - start)


def _pooling_matrix(size: int, side: int) -> Tensor:
    matrix = torch.zeros(side, size)
    for i in range(side):
        start, stop = i * size // side, -(-(i + 1) * size // side)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix
