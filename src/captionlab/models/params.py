"""The parameters of each decoder: its section or ``kind`` in params.yaml, and the network that they build.

A decoder's parameters stand here and not beside its network, because params.yaml is read without torch.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class SystemParams:
    """One configuration of a system. ``embedding`` is the size of a word's vector, report A's "input"."""

    network: ClassVar[str]  # the Decoder below captionlab.models that these parameters build
    uses_regions: ClassVar[bool] = False  # whether it attends to the grid, instead of the pooled vector

    encoder: str
    embedding: int
    hidden: int
    layers: int
    dropout: float
    training: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BaselineParams(SystemParams):
    """Report A's System 1."""

    network = "baseline.Baseline"

    image: Literal["pre-inject", "init-inject", "par-inject", "merge"] = "pre-inject"  # where the image enters
    image_dropout: float = 0.0  # of the image vector; report A has it, and it costs dearly


@dataclass(frozen=True, kw_only=True)
class ModifiedParams(SystemParams):
    """Report A's System 1 Modified."""

    network = "modified.bilstm.Modified"

    kind: Literal["bilstm"] = "bilstm"
    repeats: int  # how many time steps repeat the image
    image_dropout: float = 0.0  # of the image vector


@dataclass(frozen=True, kw_only=True)
class MergeParams(SystemParams):
    """Report B's pre-inject + merge; wants embedding == hidden."""

    network = "modified.merge.Merge"

    kind: Literal["merge"] = "merge"
    dense: int  # size of the layer between LSTM and words


@dataclass(frozen=True, kw_only=True)
class AttentionParams(SystemParams):
    """Report A's attention."""

    network = "attention.regions.Attention"
    uses_regions = True

    kind: Literal["regions"] = "regions"
    attention: int  # size of the attention's inner layer
    memory: int  # size each region is projected to before it is looked at; 0 keeps the encoder's channels
    teacher_forcing: bool
    tied: bool  # input and output words share one matrix; wants embedding == hidden


@dataclass(frozen=True, kw_only=True)
class StatesParams(SystemParams):
    """Report B's attention over the LSTM's states; wants embedding == hidden."""

    network = "attention.states.States"

    kind: Literal["states"] = "states"
    attention: int  # size of the attention's inner layer
    dense: int  # size of the layer between attention and words
