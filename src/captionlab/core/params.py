"""The sections of params.yaml that belong to no system: words, vocabulary, features, guests.

``config`` has the whole file.
"""

from typing import Annotated, Literal

from pydantic import Field, StrictBool, StrictInt, StrictStr
from pydantic.dataclasses import dataclass

from captionlab.core.validation import Checked, FilePath, Name, Size


@dataclass(frozen=True, kw_only=True)
class CleanCaptionsParams(Checked):
    """How a raw caption becomes words."""

    cleaning: Literal["standard", "characters", "report_a", "report_b"]


@dataclass(frozen=True, kw_only=True)
class BuildVocabParams(Checked):
    """Which words are in the vocabulary."""

    min_count: Size  # in the training captions
    released_words: StrictBool = False  # add the words of the released captioner, for training.warm_start


@dataclass(frozen=True, kw_only=True)
class EncoderParams(Checked):
    """What to keep of one encoder's output."""

    grid: Annotated[StrictInt, Field(ge=0, le=64)]  # regions per side, pooled from the last feature map; 0: no grid
    mirrored: StrictBool = False  # the mirrored photos too; training then picks either of the two at random


@dataclass(frozen=True, kw_only=True)
class ExtractFeaturesParams(Checked):
    """Which encoders are used."""

    encoders: dict[Name, EncoderParams]


@dataclass(frozen=True, kw_only=True)
class GuestParams(Checked):
    """Another captioner, of which there are captions only."""

    captions: FilePath  # a file with one for each test photo, and for each validation photo or none of them


@dataclass(frozen=True, kw_only=True)
class ImageToTextParams(Checked):
    """An image-to-text model of the library transformers, which captions the photos here."""

    model: FilePath  # a folder, or a name in the Hugging Face cache
    prompt: StrictStr = ""  # beginning of every caption, which the model continues; not part of the caption
    beams: Annotated[StrictInt, Field(ge=1, le=50)] = 3  # 1 is greedy
    max_tokens: Annotated[StrictInt, Field(ge=1, le=1000)] = 30  # longest caption
