"""One safe file a system: weights, configuration, vocabulary and preprocessing. Nothing in it is ever unpickled."""

import dataclasses
import json
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from captionlab.config import build_system
from captionlab.core.files import atomic_file
from captionlab.data.vocab import Vocabulary
from captionlab.errors import CaptionlabError
from captionlab.models.base import Decoder
from captionlab.models.build import build_model

FORMAT = 1


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a system is besides its weights: enough to rebuild it and to feed it a photo."""

    system: str
    name: str
    config: dict[str, Any]
    encoder: str
    preprocessing: str
    encoder_weights: str  # digest
    grid: int  # regions a side, 0 for pooled features
    pooled: int
    channels: int
    cleaning: str
    training_key: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a released system is known for: its data, the decoding chosen on validation, and its scores on test."""

    dataset: str
    dataset_digest: str
    photos: dict[str, Any]  # by split
    beam: int
    length_penalty: float
    max_words: int
    scores: dict[str, Any]  # strict protocol, 0 to 1, CIDEr-D 0 to 10; None where it could not be had
    intervals: dict[str, Any]  # 95 %, [low, high] by score
    diagnostics: dict[str, Any]  # what evaluate found besides
    bits: int  # of a stored weight
    unchanged: float  # share of the validation captions that are those of the 32-bit weights


def save_checkpoint(
    path: Path, model: Decoder, vocab: Vocabulary, identity: Identity, release: Release | None = None, *,
    half: bool = False,
) -> None:  # fmt: skip
    """Write weights and identity atomically; the same model gives the same bytes.

    With ``half`` the matrices are stored in 16 bits; biases and the features' means and deviations stay as they are.
    """
    about = {"format": FORMAT, **dataclasses.asdict(identity), "vocabulary": vocab.to_json()}
    if release:
        about["release"] = dataclasses.asdict(release)
    tensors = unique_tensors(model)
    if half:
        tensors = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"captionlab": json.dumps(about, ensure_ascii=False)})


def load_checkpoint(path: Path) -> tuple[Decoder, Vocabulary, Identity]:
    """Rebuild a system in eval mode.

    Raises CaptionlabError when the file is missing, broken, of another format, or when its vocabulary and weights
    do not belong together (both sizes are named).
    """
    about = _read_about(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise _no_checkpoint(path, error) from error
    vocab = Vocabulary.from_json(about.pop("vocabulary", None), str(path))
    about.pop("release", None)
    identity = _build(Identity, about, path)
    words = tensors["embedding.weight"].shape[:1] if "embedding.weight" in tensors else ()
    if words != (len(vocab),):
        raise CaptionlabError(
            f"{path}: the weights know {words[0] if words else 0} words, the vocabulary {len(vocab)}; they do not match"
        )
    config = build_system(identity.system, identity.config)
    if config.layers > len(tensors):
        raise _no_checkpoint(path, f"it says more layers than the {len(tensors)} arrays it holds")
    sizes = {"vocab": len(vocab), "pooled": identity.pooled, "channels": identity.channels}
    try:
        with torch.device("meta"), _AsAllocated():  # where a size costs nothing, whatever the file says it is
            _compare(build_model(config, **sizes), tensors, str(path))
        model = build_model(config, **sizes)
    except (RuntimeError, TypeError, OverflowError) as error:  # a negative size, or one that no memory or number holds
        raise _no_checkpoint(path, error) from error
    restore(model, tensors, str(path))
    return model.eval(), vocab, identity


def read_release(path: Path) -> Release | None:
    """What a checkpoint says of its release; None where it is not a released one. Reads no weights."""
    release = _read_about(path).get("release")
    return None if release is None else _build(Release, release, path)


def _read_about(path: Path) -> dict[str, Any]:
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["captionlab"])
    except FileNotFoundError:
        raise CaptionlabError(f"{path} does not exist; train the system first (dvc repro)") from None
    except KeyError:
        raise _no_checkpoint(path, "it does not say what it holds") from None
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise _no_checkpoint(path, error) from error
    if not isinstance(about, dict):
        raise _no_checkpoint(path, "what it says of itself is no JSON object")
    if about.pop("format", None) != FORMAT:
        raise CaptionlabError(f"{path} was written by another version of captionlab; train it again")
    return about


Described = TypeVar("Described", Identity, Release)


def _build(kind: type[Described], value: Any, path: Path) -> Described:
    """Build a description from JSON; a key that is missing, unknown or of another type is named."""
    if not isinstance(value, dict):
        raise _no_checkpoint(path, f"its {kind.__name__.lower()} is no JSON object")
    types = {name: typing.get_origin(hint) or hint for name, hint in typing.get_type_hints(kind).items()}
    if odd := sorted(types.keys() ^ value.keys()):
        raise _no_checkpoint(path, f"it says too much or too little: {', '.join(odd)}")
    for name, wanted in types.items():
        if type(value[name]) is not wanted or (wanted is int and value[name] < 0):
            raise _no_checkpoint(path, f"its {name} is {value[name]!r}, not of type {wanted.__name__}")
    return kind(**value)


def _no_checkpoint(path: Path, reason: object) -> CaptionlabError:
    line = " ".join(str(reason).split()) or type(reason).__name__
    return CaptionlabError(f"{path} is not a checkpoint of captionlab ({line[:200]}); train the system again")


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and buffers, each shared one once, on the CPU, by name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(named)}


def restore(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Put ``tensors``, as ``unique_tensors`` gave them, back into a model of the same shape."""
    _compare(model, tensors, where)
    model.load_state_dict(tensors, strict=False)  # shared tensors stand there once


class _AsAllocated(TorchFunctionMode):
    """Weights are not drawn: on the device "meta" that would import torch's compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == torch.nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _compare(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    wanted = {name: tensor.shape for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    if tensors.keys() != wanted.keys():
        raise CaptionlabError(f"{where} holds other layers than its configuration describes; train it again")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            found, said = (" x ".join(map(str, each)) for each in (tensors[name].shape, shape))
            raise CaptionlabError(f"{where}: sizes differ from its configuration ({name} is {found}, not {said})")
