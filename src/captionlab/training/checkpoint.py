"""One safe file a system: weights, configuration, vocabulary and preprocessing. Nothing in it is ever unpickled."""

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from captionlab.config import build_system
from captionlab.core.files import atomic_file
from captionlab.core.records import Decoding, Scores
from captionlab.core.results import ConfigurationDiagnostics
from captionlab.core.validation import first_fault
from captionlab.data.vocab import Vocabulary
from captionlab.encoders.load import fresh_last_blocks, trained_blocks
from captionlab.errors import CaptionlabError
from captionlab.models.base import Decoder
from captionlab.models.build import build_model, build_shapes

FORMAT = 2


Size = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a system is besides its weights: enough to rebuild it and to feed it a photo."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic

    system: str
    name: str
    dataset: str  # name of the data that it was trained on
    config: dict[str, Any]
    encoder: str
    preprocessing: str
    encoder_weights: str  # digest
    grid: Size  # regions a side, 0 for pooled features
    pooled: Size
    channels: Size
    cleaning: str
    training_key: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a released system was trained and scored on."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    dataset_digest: str
    photos: dict[str, Size]  # by split
    scores: Scores  # test split, strict protocol
    intervals: dict[str, tuple[float, float]]  # 95 %, by score
    diagnostics: ConfigurationDiagnostics
    bits: Size  # per stored weight
    unchanged: float  # share of the validation captions that are those of the 32-bit weights
    photo_size: tuple[Size, Size] | None = None  # median width and height of the photos; None as released before


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A system as its file holds it. ``decoding`` is the one that validation chose, where it is known."""

    model: Decoder
    vocab: Vocabulary
    identity: Identity
    decoding: Decoding | None = None
    release: Release | None = None


def save_checkpoint(path: Path, checkpoint: Checkpoint, *, half: bool = False) -> None:
    """Write weights and identity atomically; the same system gives the same bytes.

    With ``half`` the matrices are stored in 16 bits; biases and the features' means and deviations stay as they are.
    """
    about = {"format": FORMAT, **dataclasses.asdict(checkpoint.identity), "vocabulary": checkpoint.vocab.to_json()}
    for part in ("decoding", "release"):
        if (value := getattr(checkpoint, part)) is not None:
            about[part] = dataclasses.asdict(value)
    tensors = unique_tensors(checkpoint.model)
    if half:
        tensors = {name: tensor.half() if tensor.ndim > 1 else tensor for name, tensor in tensors.items()}
    _write(path, tensors, about)


def add_decoding(checkpoint: Path, decoding: Decoding, target: Path) -> None:
    """Copy a checkpoint file to ``target`` with the decoding that was chosen for it."""
    about = {**_read_about(checkpoint), "format": FORMAT, "decoding": dataclasses.asdict(decoding)}
    _write(target, _tensors(checkpoint), about)


def _write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        save_file(tensors, temporary, metadata={"captionlab": json.dumps(about, ensure_ascii=False)})


def load_checkpoint(path: Path) -> Checkpoint:
    """Rebuild a system on the CPU, in eval mode.

    Raises CaptionlabError when the file is missing, damaged, of another format, or when its vocabulary and weights
    do not belong together (both sizes are named).
    """
    about = _read_about(path)
    tensors = _tensors(path)
    vocab = Vocabulary.from_json(about.pop("vocabulary", None), str(path))
    decoding = _build(Decoding, about.pop("decoding"), path) if "decoding" in about else None
    release = _build(Release, about.pop("release"), path) if "release" in about else None
    identity = _build(Identity, about, path)
    trained = trained_blocks(identity.encoder)[1]
    embedding = tensors.get("decoder.embedding.weight" if trained else "embedding.weight")
    words = () if embedding is None else embedding.shape[:1]
    if words != (len(vocab),):
        raise CaptionlabError(
            f"{path}: the weights know {words[0] if words else 0} words, the vocabulary {len(vocab)}; they do not match"
        )
    config = build_system(identity.system, identity.config)
    if config.layers > len(tensors):
        raise _no_checkpoint(path, f"it says more layers than the {len(tensors)} arrays it holds")
    sizes = {"vocab": len(vocab), "pooled": identity.pooled, "channels": identity.channels}
    blocks = partial(fresh_last_blocks, identity.encoder, identity.grid) if trained else None
    try:
        # before memory is taken for what the file says
        _compare(build_shapes(config, **sizes, blocks=blocks), tensors, str(path))
        model = build_model(config, **sizes, blocks=blocks)
    except (RuntimeError, TypeError, OverflowError) as error:  # a negative size, or one that no memory or number holds
        raise _no_checkpoint(path, error) from error
    restore(model, tensors, str(path))
    return Checkpoint(model=model.eval(), vocab=vocab, identity=identity, decoding=decoding, release=release)


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise _no_checkpoint(path, error) from error


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


Described = TypeVar("Described")


def _build(kind: type[Described], value: Any, path: Path) -> Described:
    """Build a description from JSON, strictly."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise _no_checkpoint(path, first_fault(error)) from None


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


def _compare(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    wanted = {name: tensor.shape for name, tensor in (*model.named_parameters(), *model.named_buffers())}
    if tensors.keys() != wanted.keys():
        raise CaptionlabError(f"{where} holds other layers than its configuration describes; train it again")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            found, said = (" x ".join(map(str, each)) for each in (tensors[name].shape, shape))
            raise CaptionlabError(f"{where}: sizes differ from its configuration ({name} is {found}, not {said})")
