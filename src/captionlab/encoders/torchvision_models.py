"""Encoders of torchvision: which, how they are cut, and their ImageNet weights, which are downloaded at first use."""

import importlib
import sys
import warnings
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor, nn

from captionlab.core.files import sha256_of
from captionlab.encoders.efficientnet_lite import USE_OFFLINE
from captionlab.encoders.network import Normalise, Parts, PooledMap, Trained, split
from captionlab.errors import CaptionlabError, first_line

TORCHVISION_WEIGHTS = {
    "resnet18": "ResNet18_Weights",
    "resnet50": "ResNet50_Weights",
    "resnet152": "ResNet152_Weights",
    "vgg16": "VGG16_Weights",
    "inception_v3": "Inception_V3_Weights",
}
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def torchvision_pixels(name: str) -> int:
    """Pixels a side."""
    return 299 if name == "inception_v3" else 224


def torchvision_parts(name: str, trained: Trained, state: Mapping[str, Tensor] | None) -> Parts:
    """The encoder in parts, with the weights ``state``, or with fresh ones."""
    net: Any = _network(name)
    if state is not None:
        try:
            net.load_state_dict(state)
        except RuntimeError as error:
            cached = weights_of(name)[1]
            raise CaptionlabError(f"{cached} does not hold {name}'s weights; delete it to download it again") from error
    net.eval()
    normalise = Normalise([255 * mean for mean in _MEAN], [255 * std for std in _STD])
    head: nn.Module = PooledMap()
    blocks: list[int] = []
    if name == "vgg16":
        layers, head = [normalise, *net.features], _VggHead(net)
    elif name == "inception_v3":
        extraction = importlib.import_module("torchvision.models.feature_extraction")
        layers = [normalise, _Named(extraction.create_feature_extractor(net, {"Mixed_7c": "map"}))]
    else:
        stem = [normalise, net.conv1, net.bn1, net.relu, net.maxpool]
        layers = [*stem, *net.layer1, *net.layer2, *net.layer3, *net.layer4]
        blocks = [*range(len(stem), len(layers))]
    trunk, last = split(layers, blocks, trained)
    return Parts(trunk=trunk, last=last, head=head)


class _VggHead(nn.Module):
    """VGG's pooled vector is its last hidden layer of 4,096 units, as in report A."""

    def __init__(self, vgg: Any) -> None:
        super().__init__()
        self.avgpool = vgg.avgpool
        self.hidden = vgg.classifier[:-1]

    def forward(self, map_NCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self.hidden(self.avgpool(map_NCHW).flatten(1)), map_NCHW


class _Named(nn.Module):
    """Takes the one map out of a feature extractor's dictionary."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.extractor(x)["map"])


def _network(name: str) -> nn.Module:
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    extra = {"transform_input": True} if name == "inception_v3" else {}
    with warnings.catch_warnings():  # of Inception's default initialisation, which the weights replace
        warnings.simplefilter("ignore", FutureWarning)
        return cast(nn.Module, models.get_model(name, weights=None, **extra))


def torchvision_state(name: str) -> dict[str, Tensor]:
    """The published weights. Raises CaptionlabError where they are damaged, or not here and cannot be downloaded."""
    import_torchvision()
    weights, cached = weights_of(name)
    _check_digest(cached)
    try:
        state = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    except (EOFError, UnpicklingError) as error:
        raise CaptionlabError(f"{cached} does not hold plain weights; delete it to download it again") from error
    except (OSError, RuntimeError) as error:
        raise CaptionlabError(
            f"the weights of {name} are not available: {cached} is missing or incomplete, and the download of "
            f"{weights.url} failed ({first_line(error)}); put the file there, or {USE_OFFLINE}"
        ) from error
    return cast(dict[str, Tensor], state)


def weights_of(name: str) -> tuple[Any, Path]:
    """torchvision's entry for an encoder's weights, and the path of a downloaded copy."""
    import_torchvision()
    models = importlib.import_module("torchvision.models")
    weights = getattr(models, TORCHVISION_WEIGHTS[name]).IMAGENET1K_V1
    return weights, Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rsplit("/", 1)[1]


def _check_digest(cached: Path) -> None:
    """Refuse a cached file whose digest is not the one in its name: torch checks it at the download only."""
    if cached.exists() and not sha256_of(cached).startswith(cached.stem.rsplit("-", 1)[1]):
        raise CaptionlabError(
            f"{cached} is incomplete or not the published file (its SHA-256 does not start with the end of its name); "
            "delete it to download it again"
        )


def import_torchvision() -> None:
    """Import torchvision even where its compiled part was built for another torch than the one installed.

    With a CPU build of torch, PyPI's torchvision cannot load its operators, and the import fails because two of them
    are unknown. This project uses none of them; declaring the two lets the rest work.
    """
    try:
        importlib.import_module("torchvision")
    except RuntimeError as error:
        if "torchvision::nms" not in str(error):
            raise
        _MISSING_OPERATORS.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _MISSING_OPERATORS.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        importlib.import_module("torchvision")


_MISSING_OPERATORS = torch.library.Library("torchvision", "FRAGMENT")  # lives as long as the process
