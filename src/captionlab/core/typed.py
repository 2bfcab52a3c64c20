"""Plain values, as JSON and CSV give them, to typed records. Knows no record by name."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from captionlab.core.files import iter_jsonl, read_json
from captionlab.core.validation import first_fault
from captionlab.errors import CaptionlabError

Record = TypeVar("Record")


def read_record(path: Path, kind: type[Record]) -> Record:
    """Read a JSON file as ``kind``, a dataclass or a container of them. Errors name the file and the fault."""
    return typed(read_json(path), kind, str(path))


def iter_records(path: Path, kind: type[Record]) -> Iterator[Record]:
    """The lines of a JSON lines file as ``kind``, one at a time. Errors name the file, the line and the fault."""
    adapter = TypeAdapter(kind)
    for number, row in enumerate(iter_jsonl(path), 1):
        try:
            yield adapter.validate_python(row)
        except ValidationError as error:
            raise _mismatch(f"{path}, line {number},", error) from None


def typed(value: Any, kind: type[Record], origin: str) -> Record:
    """``value`` as ``kind``; ``origin`` is the file that the CaptionlabError names where the two do not match."""
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise _mismatch(origin, error) from None


def _mismatch(origin: str, error: ValidationError) -> CaptionlabError:
    return CaptionlabError(
        f"{origin} is not what its stage writes ({first_fault(error)}); run the stage again (dvc repro)"
    )
