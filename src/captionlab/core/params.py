"""The sections of params.yaml before any system: words, vocabulary and features. ``config`` has the whole file."""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt
from pydantic.dataclasses import dataclass

from captionlab.core.validation import Checked, Name, Size


@dataclass(frozen=True, kw_only=True)
class CleanCaptionsParams(Checked):
    """How a raw caption becomes words."""

    cleaning: Literal["standard", "characters", "report_a", "report_b"]


@dataclass(frozen=True, kw_only=True)
class BuildVocabParams(Checked):
    """Which words are in the vocabulary."""

    min_count: Size  # in the training captions
    released_words: StrictBool = False  # add the words of the captioner that ships, for training.warm_start


@dataclass(frozen=True, kw_only=True)
class EncoderParams(Checked):
    """What to keep of one encoder's output."""

    grid: Annotated[StrictInt, Field(ge=0, le=64)]  # regions a side, pooled from the last feature map; 0: no grid
    mirrored: StrictBool = False  # the mirrored photos too; training then picks either of the two at random


@dataclass(frozen=True, kw_only=True)
class ExtractFeaturesParams(Checked):
    """Which encoders are used."""

    encoders: dict[Name, EncoderParams]
