"""One safe file a system: weights, configuration, vocabulary and preprocessing. Nothing in it is ever unpickled."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from captionlab.config import build_system
from captionlab.errors import CaptionlabError
from captionlab.files import atomic_file
from captionlab.models.base import Decoder
from captionlab.models.build import build_model
from captionlab.vocab import Vocabulary

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


def save_checkpoint(path: Path, model: Decoder, vocab: Vocabulary, identity: Identity) -> None:
    """Write weights and identity atomically; the same model gives the same bytes."""
    about = {"format": FORMAT, **dataclasses.asdict(identity), "vocabulary": vocab.to_json()}
    with atomic_file(path) as temporary:
        save_file(unique_tensors(model), temporary, metadata={"captionlab": json.dumps(about, ensure_ascii=False)})


def load_checkpoint(path: Path) -> tuple[Decoder, Vocabulary, Identity]:
    """Rebuild a system in eval mode.

    Raises CaptionlabError when the file is missing, broken, of another format, or when its vocabulary and weights
    do not belong together (both sizes are named).
    """
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["captionlab"])
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
        if about.pop("format") != FORMAT:
            raise CaptionlabError(f"{path} was written by another version of captionlab; train it again")
        vocab = Vocabulary.from_json(about.pop("vocabulary"), str(path))
        identity = Identity(**about)
    except FileNotFoundError:
        raise CaptionlabError(f"{path} does not exist; train the system first (dvc repro)") from None
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CaptionlabError(f"{path} is not a checkpoint of captionlab ({error}); train the system again") from error
    words = tensors["embedding.weight"].shape[0] if "embedding.weight" in tensors else 0
    if words != len(vocab):
        raise CaptionlabError(f"{path}: the weights know {words} words, the vocabulary {len(vocab)}; they do not match")
    config = build_system(identity.system, identity.config)
    model = build_model(config, vocab=len(vocab), pooled=identity.pooled, channels=identity.channels)
    restore(model, tensors, str(path))
    return model.eval(), vocab, identity


def unique_tensors(model: nn.Module) -> dict[str, Tensor]:
    """A model's parameters and buffers, each shared one once, on the CPU, by name."""
    named = [*model.named_parameters(), *model.named_buffers()]
    return {name: tensor.detach().cpu().contiguous() for name, tensor in sorted(named)}


def restore(model: nn.Module, tensors: dict[str, Tensor], where: str) -> None:
    """Put ``tensors``, as ``unique_tensors`` gave them, back into a model of the same shape."""
    if tensors.keys() != unique_tensors(model).keys():
        raise CaptionlabError(f"{where} holds other layers than its configuration describes; train it again")
    try:
        model.load_state_dict(tensors, strict=False)  # shared tensors stand there once
    except RuntimeError as error:
        raise CaptionlabError(f"{where}: sizes differ from its configuration ({str(error).splitlines()[-1]})") from None
