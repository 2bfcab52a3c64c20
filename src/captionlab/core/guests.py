"""A guest, a captioner of others: its parameters, and its captions as a record with its file. Computes nothing."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field, StrictInt, StrictStr
from pydantic.dataclasses import dataclass as checked_dataclass

from captionlab.core.files import write_json
from captionlab.core.records import MODELS, Split
from captionlab.core.typed import read_record
from captionlab.core.validation import Checked, FilePath

_FILE = "captions.json"


@checked_dataclass(frozen=True, kw_only=True)
class GuestParams(Checked):
    """A captioner of others, known by its captions alone."""

    captions: FilePath  # a file with one for each test photo, and for each validation photo or none of them


@checked_dataclass(frozen=True, kw_only=True)
class ImageToTextParams(Checked):
    """A captioner of others that runs here: a model of the library transformers."""

    model: FilePath  # a folder, or a name in the Hugging Face cache
    prompt: StrictStr = ""  # beginning of every caption, which the model continues; not part of the caption
    beams: Annotated[StrictInt, Field(ge=1, le=50)] = 3  # 1 is greedy
    max_tokens: Annotated[StrictInt, Field(ge=1, le=1000)] = 30  # longest caption


@dataclass(frozen=True, kw_only=True)
class GuestCaptions:
    """One caption for each photo of the test split, and of the validation split or of none of it."""

    source: str  # the file or the model, as params.yaml names it
    captions: dict[Split, dict[str, str]]  # by image
    parameters: int | None = None  # of a model
    megabytes: float | None = None  # of its weights in memory


def guest_folder(root: Path, name: str) -> Path:
    """Where a guest's captions lie: beside the trained systems, so that the later stages depend on both."""
    return root / MODELS / "guests" / name


def write_guest(folder: Path, captions: GuestCaptions) -> None:
    """Write captions.json."""
    write_json(folder / _FILE, dataclasses.asdict(captions))


def read_guest(root: Path, name: str) -> GuestCaptions:
    """The captions of one guest."""
    return read_record(guest_folder(root, name) / _FILE, GuestCaptions)
