"""From a configuration to a system with fresh weights. Each system is imported only when it is built."""

from dataclasses import asdict

from captionlab.config import (
    AttentionParams,
    BaselineParams,
    MergeParams,
    ModifiedParams,
    StatesParams,
    SystemParams,
)
from captionlab.errors import CaptionlabError
from captionlab.models.base import Decoder

_NOT_OF_THE_NETWORK = ("encoder", "training", "doubly_stochastic", "kind")


def build_model(config: SystemParams, *, vocab: int, pooled: int, channels: int) -> Decoder:
    """Build the system that a configuration describes, with fresh weights from torch's current seed.

    ``vocab`` words, features of ``pooled`` numbers a photo or ``channels`` a region.
    Raises CaptionlabError for sizes that do not go together.
    """
    sizes = {key: value for key, value in asdict(config).items() if key not in _NOT_OF_THE_NETWORK}
    try:
        match config:
            case AttentionParams():
                from captionlab.models.attention import Attention

                return Attention(vocab=vocab, channels=channels, **sizes)
            case StatesParams():
                from captionlab.models.states import States

                return States(vocab=vocab, pooled=pooled, **sizes)
            case MergeParams():
                from captionlab.models.merge import Merge

                return Merge(vocab=vocab, pooled=pooled, **sizes)
            case ModifiedParams():
                from captionlab.models.modified import Modified

                return Modified(vocab=vocab, pooled=pooled, **sizes)
            case BaselineParams():
                from captionlab.models.baseline import Baseline

                return Baseline(vocab=vocab, pooled=pooled, **sizes)
            case _:
                raise TypeError(f"build_model has no branch for {type(config).__name__}")
    except ValueError as error:
        raise CaptionlabError(str(error)) from None
