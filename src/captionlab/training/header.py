"""What a checkpoint's file says of the system: typed records, read without PyTorch."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open

from captionlab.core.files import check_regular
from captionlab.core.records import Decoding, Scores
from captionlab.core.results import ConfigurationDiagnostics
from captionlab.core.validation import first_fault
from captionlab.errors import CaptionlabError, one_line

FORMAT = 2
METADATA = "captionlab"  # the key of the file's metadata

Size = Annotated[int, Field(ge=0)]


@dataclass(frozen=True, kw_only=True)
class Identity:
    """What a system is besides its weights: enough to rebuild it and to feed it a photo."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic

    system: str
    name: str
    dataset: str  # name of the data that it was trained on
    config: dict[str, Any]
    encoder: str
    preprocessing: str
    encoder_weights: str  # digest
    grid: Size  # regions per side, 0 for pooled features
    pooled: Size
    channels: Size
    cleaning: str
    training_key: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """What a released system was trained and scored on."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    dataset_digest: str
    photos: dict[str, Size]  # by split
    scores: Scores  # test split, strict protocol
    intervals: dict[str, tuple[float, float]]  # 95 %, by score
    diagnostics: ConfigurationDiagnostics
    bits: Size  # per stored weight
    unchanged: float  # share of the validation captions that are those of the 32-bit weights
    photo_size: tuple[Size, Size] | None = None  # median width and height of the photos; None as released before
    format: str | None = None  # of the dataset; None as released before


@dataclass(frozen=True, kw_only=True)
class Header:
    """Everything in a checkpoint but the weights. ``vocabulary`` is still JSON."""

    identity: Identity
    vocabulary: Any
    decoding: Decoding | None  # the one that validation chose, where it is known
    release: Release | None


def read_header(path: Path) -> Header:
    """What the checkpoint's header says, without its weights.

    Raises CaptionlabError when the file is missing, damaged or of another format.
    """
    about = read_metadata(path)
    del about["format"]
    vocabulary = about.pop("vocabulary", None)
    decoding = _build(Decoding, about.pop("decoding"), path) if "decoding" in about else None
    release = _build(Release, about.pop("release"), path) if "release" in about else None
    identity = _build(Identity, about, path)
    return Header(identity=identity, vocabulary=vocabulary, decoding=decoding, release=release)


def read_metadata(path: Path) -> dict[str, Any]:
    """The header as JSON. Raises CaptionlabError as ``read_header`` does."""
    check_regular(path)
    try:
        with safe_open(path, framework="np") as file:
            about = json.loads((file.metadata() or {})[METADATA])
    except FileNotFoundError:
        raise CaptionlabError(f"{path} does not exist; train the system first (dvc repro)") from None
    except KeyError:
        raise no_checkpoint(path, "it has no header of captionlab") from None
    except (SafetensorError, ValueError, OSError, RecursionError) as error:
        raise no_checkpoint(path, error) from error
    if not isinstance(about, dict):
        raise no_checkpoint(path, "its header is not a JSON object")
    if about.get("format") != FORMAT:
        raise CaptionlabError(f"{path} was written by another version of captionlab; train it again")
    return about


Described = TypeVar("Described")


def _build(kind: type[Described], value: Any, path: Path) -> Described:
    """Build a description from JSON, strictly."""
    try:
        return TypeAdapter(kind).validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise no_checkpoint(path, first_fault(error)) from None


def no_checkpoint(path: Path, reason: object) -> CaptionlabError:
    """The error for a file that is no checkpoint."""
    return CaptionlabError(
        f"{path} is not a checkpoint of captionlab ({one_line(reason)[:200]}); train the system again"
    )
