"""The captions of a guest, a captioner from elsewhere: a typed record and its file. Computes nothing."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from captionlab.core.files import write_json
from captionlab.core.records import MODELS, Split
from captionlab.core.typed import read_record

_FILE = "captions.json"


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
