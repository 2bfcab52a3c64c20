"""The parameters of each decoder: its section or ``kind`` in params.yaml, and the network that they build.

They are here and not beside the networks because params.yaml is read without torch.
"""

import dataclasses
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StrictBool, StrictInt, StrictStr, model_validator
from pydantic.dataclasses import dataclass

from captionlab.core.validation import Checked, Number, Size

Dropout = Annotated[Number, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class SystemParams(Checked):
    """One configuration of a system."""

    network: ClassVar[str]  # the Decoder below captionlab.models that these parameters build
    uses_regions: ClassVar[bool] = False  # whether it attends to the grid, instead of the pooled vector

    encoder: StrictStr
    embedding: Size  # of a word's vector; report A calls it "input"
    hidden: Size
    layers: Annotated[StrictInt, Field(ge=1, le=100)]
    dropout: Dropout
    training: dict[StrictStr, Any] = dataclasses.field(default_factory=dict)  # replaces keys of Params.training


@dataclass(frozen=True, kw_only=True)
class BaselineParams(SystemParams):
    """Report A's System 1."""

    network = "baseline.Baseline"

    image: Literal["pre-inject", "init-inject", "par-inject", "merge"] = "pre-inject"  # where the image enters
    image_dropout: Dropout = 0.0  # of the image vector; report A has it, but it lowers the scores
    forget_bias: Annotated[Number, Field(ge=-100, le=100)] = 3.0  # initial bias of the LSTM's forget gate


@dataclass(frozen=True, kw_only=True)
class ModifiedParams(SystemParams):
    """Report A's System 1 Modified."""

    network = "modified.bilstm.Modified"

    kind: Literal["bilstm"] = "bilstm"
    repeats: Annotated[StrictInt, Field(ge=1, le=1000)]  # time steps that repeat the image
    image_dropout: Dropout = 0.0  # of the image vector


@dataclass(frozen=True, kw_only=True)
class _ImageAddedParams(SystemParams):
    """A system that adds the image vector to the LSTM's output; embedding and hidden must be equal."""

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.embedding != self.hidden:
            raise ValueError(
                f"the image is added to the LSTM's output: embedding ({self.embedding}) must equal hidden"
                f" ({self.hidden})"
            )
        return self


@dataclass(frozen=True, kw_only=True)
class MergeParams(_ImageAddedParams):
    """Report B's pre-inject + merge."""

    network = "modified.merge.Merge"

    kind: Literal["merge"] = "merge"
    dense: Size  # of the layer between LSTM and words


@dataclass(frozen=True, kw_only=True)
class AttentionParams(SystemParams):
    """Report A's attention."""

    network = "attention.regions.Attention"
    uses_regions = True

    kind: Literal["regions"] = "regions"
    attention: Size  # of the attention's inner layer
    memory: Annotated[StrictInt, Field(ge=0, le=1_000_000)]  # size regions are projected to; 0: the encoder's channels
    teacher_forcing: StrictBool
    tied: StrictBool  # input and output words share one matrix; embedding and hidden must then be equal

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        if self.layers != 1:
            raise ValueError(f"attention has one LSTM cell: layers must be 1, not {self.layers}")
        if self.tied and self.embedding != self.hidden:
            raise ValueError(f"with tied: true, embedding ({self.embedding}) must equal hidden ({self.hidden})")
        return self


@dataclass(frozen=True, kw_only=True)
class StatesParams(_ImageAddedParams):
    """Report B's attention over the LSTM's states."""

    network = "attention.states.States"

    kind: Literal["states"] = "states"
    attention: Size  # of the attention's inner layer
    dense: Size  # of the layer between attention and words
