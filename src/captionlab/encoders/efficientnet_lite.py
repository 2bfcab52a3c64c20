"""EfficientNet-Lite without its classifier, in plain PyTorch.

timm's is equal to the last bit, but importing timm and torchvision takes longer than everything else between a photo
and its caption. Knows layers only; ``load`` adds the weights. Architecture: Tan and Le 2019, and tensorflow/tpu's
``efficientnet/lite``, which leaves out squeeze-and-excitation, uses ReLU6, and scales neither stem nor head.
"""

import math

from torch import Tensor, nn

SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
_STEM, _HEAD = 32, 1280  # channels
# repeats, kernel, stride, expansion, channels; the first and last stage are not repeated more often in larger networks
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip


def efficientnet_lite(name: str) -> nn.Sequential:
    """A network with fresh weights: photos (N, 3, H, W) to a map of 1280 channels, H and W divided by 32.

    Its tensors have the order of the published weights.
    """
    width, depth = SCALES[name]
    layers: list[nn.Module] = [*_convolution(3, _STEM, 3, stride=2), nn.ReLU6()]
    channels = _STEM
    for repeats, kernel, stride, expansion, out in _STAGES:
        for i in range(repeats if out in (16, 320) else math.ceil(depth * repeats)):
            layers.append(_Block(channels, _scaled(out, width), kernel, stride if i == 0 else 1, expansion))
            channels = _scaled(out, width)
    return nn.Sequential(*layers, *_convolution(channels, _HEAD, 1), nn.ReLU6())


class _Block(nn.Module):
    """An inverted residual: expand, depthwise convolution, project; added to its input if the shapes are equal."""

    def __init__(self, channels: int, out: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = channels * expansion
        expand = [*_convolution(channels, inner, 1), nn.ReLU6()] if expansion > 1 else []
        depthwise = [*_convolution(inner, inner, kernel, stride=stride, groups=inner), nn.ReLU6()]
        self.layers = nn.Sequential(*expand, *depthwise, *_convolution(inner, out, 1))
        self.residual = stride == 1 and channels == out

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x) + x if self.residual else self.layers(x)


class _SameConvolution(nn.Conv2d):
    """Padded as in TensorFlow: an odd pixel is added at the right and the bottom."""

    def forward(self, x: Tensor) -> Tensor:
        # int(): an exporter traces sizes as tensors
        tall, wide = (self._padding(int(size)) for size in x.shape[2:])
        return super().forward(nn.functional.pad(x, (wide // 2, -(-wide // 2), tall // 2, -(-tall // 2))))

    def _padding(self, size: int) -> int:
        kernel, stride = self.kernel_size[0], self.stride[0]
        return max((-(-size // stride) - 1) * stride + kernel - size, 0)


def _convolution(channels: int, out: int, kernel: int, *, stride: int = 1, groups: int = 1) -> list[nn.Module]:
    """A convolution that keeps the size, or halves it with a stride of 2, and its normalisation."""
    if stride == 1:
        convolution = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=False)
    else:
        convolution = _SameConvolution(channels, out, kernel, stride, groups=groups, bias=False)
    return [convolution, nn.BatchNorm2d(out, eps=1e-3)]


def _scaled(channels: int, width: float) -> int:
    """A wider network's channels: the nearest multiple of 8, not below nine tenths."""
    wanted = channels * width
    nearest = max(8, int(wanted + 4) // 8 * 8)
    return nearest if nearest >= 0.9 * wanted else nearest + 8
