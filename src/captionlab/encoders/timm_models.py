"""Encoders of timm: convolutional networks and vision transformers, CLIP's, SigLIP's and DINOv2's image towers too.

Weights come from the Hugging Face cache, and are downloaded at first use.
"""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from captionlab.encoders.efficientnet_lite import USE_OFFLINE
from captionlab.encoders.network import Normalise, Parts, Trained, as_map, split
from captionlab.encoders.torchvision_models import import_torchvision
from captionlab.errors import CaptionlabError, first_line

TIMM_PREFIX = "timm_"


def timm_model(name: str) -> str:
    """timm's name of an encoder: ``timm_vit_base_patch16_clip_224__openai`` is vit_base_patch16_clip_224.openai.

    Raises CaptionlabError if timm has no such model.
    """
    import_torchvision()  # timm imports it too
    import timm

    model, _, tag = name.removeprefix(TIMM_PREFIX).partition("__")
    if not timm.is_model(model):
        raise CaptionlabError(f"timm knows no model {model!r}; see timm.list_models()")
    return f"{model}.{tag}" if tag else model


def timm_network(model: str, file: Path | None) -> Any:
    """The network without its classifier: with the weights in ``file``, or with fresh ones."""
    import timm

    source = {"file": str(file)} if file else None
    try:
        net = timm.create_model(model, pretrained=file is not None, pretrained_cfg_overlay=source, num_classes=0)
    except (OSError, RuntimeError, ValueError) as error:
        raise CaptionlabError(f"{file} does not hold the weights of {model} ({first_line(error)})") from error
    return net.eval()


def timm_parts(net: Any, trained: Trained) -> Parts:
    """A network of timm in parts; prefix tokens are dropped and the others laid out as their grid.

    The blocks of a vision transformer can be trained; of other networks nothing or everything.
    Raises CaptionlabError for a network whose tokens or map are not a square.
    """
    from timm.models.vision_transformer import VisionTransformer

    data = timm_data(net)
    normalise = Normalise(*([255 * value for value in data[key]] for key in ("mean", "std")))
    if isinstance(trained, int) and trained and isinstance(net, VisionTransformer):
        depth = len(cast(Any, net.blocks))
        if trained >= depth:
            raise CaptionlabError(f"the encoder has no {trained} last blocks to train; choose 1 to {depth - 1} or all")
        last = nn.Sequential(*cast(Any, net.blocks)[-trained:], cast(nn.Module, net.norm))
        trunk = nn.Sequential(normalise, _FirstBlocks(net, depth - trained))
        return Parts(trunk=trunk, last=last, head=_Head(_without_blocks(net)), spatial=False)
    first, rest = split([normalise, _Map(net)], [], trained)
    return Parts(trunk=first, last=rest, head=_Head(net))


def timm_data(net: Any) -> dict[str, Any]:
    """How timm prepares photos for a network: ``input_size``, ``mean``, ``std``, ``interpolation``."""
    from timm.data.config import resolve_data_config

    data: dict[str, Any] = resolve_data_config({}, model=net)  # type: ignore[no-untyped-call]
    if data["input_size"][1] != data["input_size"][2]:
        raise CaptionlabError(f"it takes photos of {data['input_size'][1:]} pixels; only squares are prepared")
    return data


class _Map(nn.Module):
    """Everything before the pooling: tokens (N, R, C), or a map, channels first or last."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.net.forward_features(x))


class _FirstBlocks(nn.Module):
    """The first ``count`` blocks of a vision transformer: tokens (N, R, C), prefix tokens first."""

    def __init__(self, net: Any, count: int) -> None:
        super().__init__()
        self.net, self._count = net, count

    def forward(self, x: Tensor) -> Tensor:
        (found,) = self.net.forward_intermediates(
            x, indices=[self._count - 1], return_prefix_tokens=True, stop_early=True, output_fmt="NLC",
            intermediates_only=True,
        )  # fmt: skip
        if isinstance(found, Tensor):  # without prefix tokens
            return found
        tokens_NRC, prefix_NRC = found
        return torch.cat([prefix_NRC, tokens_NRC], 1)


def _without_blocks(net: Any) -> Any:
    """What a vision transformer needs to pool its tokens."""
    head = copy.deepcopy(net)
    head.blocks, head.patch_embed, head.norm = nn.Sequential(), nn.Identity(), nn.Identity()
    for name, _ in list(head.named_parameters(recurse=False)):  # of the first tokens
        setattr(head, name, None)
    return head


class _Head(nn.Module):
    """The network's own pooled vector, and its map."""

    def __init__(self, net: Any) -> None:
        super().__init__()
        self.net = net
        self._prefix = int(getattr(net, "num_prefix_tokens", 0))
        self._channels_last = str(getattr(net, "output_fmt", "")).endswith("NHWC")

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled_ND = self.net.forward_head(x.float(), pre_logits=True).flatten(1)
        if x.ndim == 3:
            return pooled_ND, as_map(x[:, self._prefix :])
        return pooled_ND, x.permute(0, 3, 1, 2) if self._channels_last else x


def check_map(model: str, net: Any, parts: Parts) -> None:
    """Raise CaptionlabError where a network returns no square map. Runs it once."""
    pixels = timm_data(net)["input_size"]
    try:
        with torch.no_grad():
            shape = parts.head(parts.last(parts.trunk(torch.zeros(1, *pixels))))[1].shape
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise CaptionlabError(f"timm's {model} does not return a map ({first_line(error)})") from error
    if len(shape) != 4 or shape[2] != shape[3]:
        raise CaptionlabError(f"timm's {model} does not return a square map of channels, but {tuple(shape)}")


def timm_weights(model: str) -> Path:
    """The file with a model's weights in the Hugging Face cache, downloaded if it is not there.

    Raises CaptionlabError, with the address and the folder, where it cannot be had.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError

    repository, names = timm_repository(model)
    file = in_hub_cache(repository, names)
    if file is not None:
        return file
    _check_hub(model, repository, names[0])
    for name in names:
        try:
            return Path(hf_hub_download(repository, name))
        except EntryNotFoundError:
            continue
        except (OSError, HfHubHTTPError, RuntimeError) as error:
            raise CaptionlabError(f"the weights of {model} cannot be downloaded ({first_line(error)})") from error
    raise CaptionlabError(f"https://huggingface.co/{repository} has none of {', '.join(names)}")


def timm_repository(model: str) -> tuple[str, list[str]]:
    """Where timm's weights of a model are published: the repository on the Hugging Face hub, and the files to try."""
    import timm

    try:
        cfg = timm.get_pretrained_cfg(model)
    except RuntimeError as error:  # a tag that the model does not have
        raise CaptionlabError(first_line(error)) from error
    if cfg is None or not cfg.hf_hub_id:
        raise CaptionlabError(f"timm has no published weights for {model!r}")
    return cfg.hf_hub_id, [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]


def in_hub_cache(repository: str, names: Sequence[str]) -> Path | None:
    """The first of the files that the Hugging Face cache has."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name) for name in names)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _check_hub(model: str, repository: str, file: str) -> None:
    """Ask the hub once; without a network the download would retry for a minute."""
    from huggingface_hub import constants, get_hf_file_metadata, hf_hub_url
    from huggingface_hub.errors import HfHubHTTPError

    url = hf_hub_url(repository, file)
    try:
        get_hf_file_metadata(url)
    except HfHubHTTPError:
        return  # it answers; whether it has the file, the download will tell
    except Exception as error:  # those of its HTTP library, which is not always the same
        folder = Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}"
        raise CaptionlabError(
            f"the weights of {model} are not in {folder}, and {url} cannot be reached ({first_line(error)}); copy "
            f"that folder from a machine that has it, or {USE_OFFLINE}"
        ) from error
