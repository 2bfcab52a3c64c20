"""One safe file per system: weights, configuration, vocabulary and preprocessing. Nothing in it is ever unpickled."""

import dataclasses
import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from captionlab.config import build_system
from captionlab.core.files import atomic_file
from captionlab.core.records import Decoding
from captionlab.data.vocab import Vocabulary
from captionlab.encoders.load import fresh_last_blocks, trained_blocks
from captionlab.errors import CaptionlabError
from captionlab.models.base import Decoder
from captionlab.models.build import build_model, build_shapes
from captionlab.training.header import (
    FORMAT,
    METADATA,
    Identity,
    Release,
    no_checkpoint,
    read_header,
    read_metadata,
)


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
    about = {**read_metadata(checkpoint), "decoding": dataclasses.asdict(decoding)}
    _write(target, _tensors(checkpoint), about)


def _write(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    with atomic_file(path) as temporary:
        temporary.touch()  # with the permissions of any new file; safetensors' own writer lets only the owner read
        permissions = temporary.stat().st_mode & 0o777
        save_file(tensors, temporary, metadata={METADATA: json.dumps(about, ensure_ascii=False)})
        temporary.chmod(permissions)


def load_checkpoint(path: Path) -> Checkpoint:
    """Rebuild a system on the CPU, in eval mode.

    Raises CaptionlabError when the file is missing, damaged, of another format, or when its vocabulary and weights
    do not belong together (both sizes are named).
    """
    header = read_header(path)
    identity = header.identity
    tensors = _tensors(path)
    vocab = Vocabulary.from_json(header.vocabulary, str(path))
    trained = trained_blocks(identity.encoder)[1]
    embedding = tensors.get("decoder.embedding.weight" if trained else "embedding.weight")
    words = () if embedding is None else embedding.shape[:1]
    if words != (len(vocab),):
        raise CaptionlabError(
            f"{path}: the weights have {words[0] if words else 0} words, the vocabulary {len(vocab)}; they do not match"
        )
    config = build_system(identity.system, identity.config)
    if config.layers > len(tensors):
        raise no_checkpoint(path, f"{config.layers} layers, but only {len(tensors)} arrays")
    sizes = {"vocab": len(vocab), "pooled": identity.pooled, "channels": identity.channels}
    blocks = partial(fresh_last_blocks, identity.encoder, identity.grid) if trained else None
    try:
        # before memory is taken for what the file says
        _compare(build_shapes(config, **sizes, blocks=blocks), tensors, str(path))
        model = build_model(config, **sizes, blocks=blocks)
    except (RuntimeError, TypeError, OverflowError) as error:  # a negative size, or one that no memory or number holds
        raise no_checkpoint(path, error) from error
    restore(model, tensors, str(path))
    return Checkpoint(
        model=model.eval(), vocab=vocab, identity=identity, decoding=header.decoding, release=header.release
    )  # fmt: skip


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise no_checkpoint(path, error) from error


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
        raise CaptionlabError(f"the layers of {where} differ from its configuration; train it again")
    for name, shape in wanted.items():
        if tensors[name].shape != shape:
            found, said = (" x ".join(map(str, each)) for each in (tensors[name].shape, shape))
            raise CaptionlabError(f"{where}: sizes differ from its configuration ({name} is {found}, not {said})")
