"""Plain values, as JSON and CSV give them, to typed records. Knows no record by name."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from captionlab.core.files import read_json
from captionlab.core.validation import first_fault
from captionlab.errors import CaptionlabError

Record = TypeVar("Record")


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read a JSON file as ``kind``, a dataclass or a container of them. Errors name the file and the fault."""
    return typed(read_json(path), kind, str(path))


def typed(value: Any, kind: type[Record], origin: str) -> Record:
    """``value`` as ``kind``; ``origin`` is the file that the CaptionlabError names where the two do not match."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise CaptionlabError(
            f"{origin} is not what its stage writes ({first_fault(error)}); run the stage again (dvc repro)"
        ) from None
