"""Build a system with fresh weights from a configuration. Each network is imported only when it is built."""

from dataclasses import asdict
from importlib import import_module

from captionlab.errors import CaptionlabError
from captionlab.models.base import Decoder
from captionlab.models.params import SystemParams

_NOT_OF_THE_NETWORK = ("encoder", "training", "kind")


def build_model(config: SystemParams, *, vocab: int, pooled: int, channels: int) -> Decoder:
    """Build the network that a configuration names, with fresh weights from torch's current seed.

    ``vocab`` words, features of ``pooled`` numbers a photo or ``channels`` a region.
    Raises CaptionlabError for sizes that do not fit together.
    """
    module, _, name = config.network.rpartition(".")
    network = getattr(import_module(f"captionlab.models.{module}"), name)
    features = {"channels": channels} if config.uses_regions else {"pooled": pooled}
    sizes = {key: value for key, value in asdict(config).items() if key not in _NOT_OF_THE_NETWORK}
    try:
        model: Decoder = network(vocab=vocab, **features, **sizes)
    except ValueError as error:
        raise CaptionlabError(str(error)) from None
    return model
