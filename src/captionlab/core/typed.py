"""Plain values, as JSON and CSV give them, to typed records. Knows no record by name."""

from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from captionlab.core.files import read_json
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


def first_fault(error: ValidationError) -> str:
    """The first of the faults that pydantic found, with its place, in one line."""
    fault = error.errors(include_url=False, include_input=False)[0]
    return ": ".join(filter(None, (".".join(map(str, fault["loc"])), fault["msg"])))
