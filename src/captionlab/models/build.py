"""From a configuration to a system with initial weights. Each network is imported only when it is built."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from captionlab.models.base import Decoder
from captionlab.models.params import SystemParams
from captionlab.models.with_encoder import WithEncoder


def build_model(
    config: SystemParams, *, vocab: int, pooled: int, channels: int, blocks: Callable[[], nn.Module] | None = None
) -> Decoder:
    """Build the network that a configuration names, with initial weights from torch's current seed.

    ``vocab`` words, features of ``pooled`` numbers a photo or ``channels`` a region. ``blocks`` builds the part of the
    encoder that is trained with it.
    """
    module, _, name = config.network.rpartition(".")
    network = getattr(import_module(f"captionlab.models.{module}"), name)
    features = {"channels": channels} if config.uses_regions else {"pooled": pooled}
    model: Decoder = network(config, vocab=vocab, **features)
    return model if blocks is None else WithEncoder(blocks(), model)


def build_shapes(
    config: SystemParams, *, vocab: int, pooled: int, channels: int, blocks: Callable[[], nn.Module] | None = None
) -> Decoder:
    """The network on torch's meta device: its weights have shapes and take no memory, however large they are.

    Raises RuntimeError for a weight with more elements than torch counts.
    """
    with torch.device("meta"), _WithoutInitialisation():
        return build_model(config, vocab=vocab, pooled=pooled, channels=channels, blocks=blocks)


class _WithoutInitialisation(TorchFunctionMode):
    """Leaves weights uninitialised: on the meta device, initialising imports torch's compiler, which takes seconds."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == torch.nn.init.__name__:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)
