"""Plain values, as YAML and JSON give them, to dataclasses that pydantic checks; errors are one line.

Knows no parameter by name. Types of fields: pydantic's ``StrictInt``, ``StrictStr`` and ``StrictBool``, and ``Number``
for floats; a ``Field`` beside them bounds the range.
"""

import dataclasses
import os
import re
import reprlib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AllowInfNan,
    BeforeValidator,
    ConfigDict,
    Field,
    Strict,
    StrictInt,
    StrictStr,
    TypeAdapter,
    ValidationError,
    model_validator,
)
from pydantic.dataclasses import dataclass

from captionlab.errors import CaptionlabError

T = TypeVar("T")


def _read_number(value: Any) -> Any:
    """Read a number written as text: DVC's -S writes 0.00001 as 1e-05, which YAML takes for text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Number = Annotated[float, Strict(), AllowInfNan(False), BeforeValidator(_read_number)]  # takes an int, too
Share = Annotated[Number, Field(ge=0, le=1)]
Size = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
Seed = Annotated[StrictInt, Field(ge=0, le=2**32 - 1)]  # NumPy's and scikit-learn's limit


_LONGEST_NAME = 100  # bytes; a file system allows 255 for a file's name, of which such a name is a part


def _check_folder_name(name: str) -> str:
    _check_length(name)
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"the name {name!r} must be that of a folder; use letters, digits, '_', '-' and '.'")
    return name


def _check_length(name: str) -> None:
    if len(name.encode(errors="replace")) > _LONGEST_NAME:
        raise ValueError(f"the name {_shown(name)} is longer than {_LONGEST_NAME} bytes")


def _check_name(name: str) -> str:
    _check_length(name)
    if "." in name:
        instead = f"write {name.replace('.', '__', 1)!r}" if name.startswith("timm_") else "use '_' instead"
        raise ValueError(f"the name {name!r} has a dot, which separates keys in DVC; {instead}")
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*|[1-9][0-9]*", name):  # DVC's -S does not read 3x and others
        raise ValueError(
            f"the name {name!r} must be letters of A to Z, digits, '_' and '-', beginning with a letter, or a number"
        )
    return name


def _check_repeats(values: tuple[int, ...]) -> tuple[int, ...]:
    if len(set(values)) < len(values):
        raise ValueError(f"a number is repeated in {list(values)}")
    return values


def _check_path(path: str) -> str:
    if path.startswith("~"):
        whole = os.path.expanduser(path)
        raise ValueError(f"DVC does not expand the ~ of {path}; write {whole if whole != path else 'the whole path'}")
    return path


FilePath = Annotated[StrictStr, Field(min_length=1), AfterValidator(_check_path)]  # absolute or from the project
FolderName = Annotated[StrictStr, AfterValidator(_check_folder_name)]
Name = Annotated[StrictStr, AfterValidator(_check_name)]  # a key of params.yaml and a folder
NoRepeats = AfterValidator(_check_repeats)  # of a tuple


class _UnknownKeyError(ValueError):
    def __init__(self, key: object, known: list[str]) -> None:
        super().__init__("unknown key")  # pydantic reads this text, and does not take every key as UTF-8
        self.key, self.known = key, known


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class Checked:
    """Base of the dataclasses that ``validate`` builds. An error about an unknown key names the known ones."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_unknown_keys(cls, values: Any) -> Any:
        known = [field.name for field in dataclasses.fields(cls)]
        for key in values if isinstance(values, dict) else ():
            if key not in known:
                raise _UnknownKeyError(key, known)
        return values


def by_kind(*choices: Any) -> BeforeValidator:
    """Choose one of several dataclasses by the ``kind`` in a mapping; without a ``kind`` it is the first."""

    def choose(value: Any) -> Any:
        first = choices[0].kind
        kind = value.get("kind", first) if isinstance(value, dict) else getattr(value, "kind", first)
        for choice in choices:
            if choice.kind == kind:
                return TypeAdapter(choice).validate_python(value)
        raise ValueError(f"kind must be one of {', '.join(choice.kind for choice in choices)}, not {_shown(kind)}")

    return BeforeValidator(choose)


def validate(kind: type[T], value: Any, key: str = "", renamed: Mapping[str, str] = MappingProxyType({})) -> T:
    """Build ``kind`` from plain values: no unknown or missing key, no other type, no value out of range.

    ``key`` is the value's place in its file and begins the names in errors. An unknown key that is in ``renamed`` is
    reported with its new name. Raises CaptionlabError for the first fault.
    """
    try:
        return TypeAdapter(kind).validate_python(value)
    except ValidationError as error:
        raise CaptionlabError(first_fault(error, key, renamed)) from None


_MUST_BE = {  # by pydantic's type of error
    "bool_type": "true or false",
    "dataclass_type": "a mapping",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "above {gt:,.15g}",
    "greater_than_equal": "at least {ge:,.15g}",
    "int_type": "an integer",
    "less_than": "below {lt:,.15g}",
    "less_than_equal": "at most {le:,.15g}",
    "literal_error": "one of {expected}",
    "string_type": "text",
    "string_too_short": "text that is not empty",
    "too_short": "a list with at least {min_length} entry",
    "tuple_type": "a list",
}


def first_fault(error: ValidationError, key: str = "", renamed: Mapping[str, str] = MappingProxyType({})) -> str:
    """The first of pydantic's errors as a sentence; ``key`` and ``renamed`` as in ``validate``."""
    fault = error.errors(include_url=False)[0]
    place = [*([key] if key else []), *(str(part) for part in fault["loc"])]
    of_name = bool(place) and place[-1] == "[key]"  # of a mapping
    where = ".".join(place[:-2] if of_name else place) or "the file"
    kind, context = fault["type"], fault.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, _UnknownKeyError):
        unknown = ".".join([*place, str(cause.key)])
        if cause.key in renamed:
            return f"{unknown} is now called {renamed[str(cause.key)]}"
        return f"unknown key {unknown}; known: {', '.join(cause.known)}"
    if kind == "unexpected_keyword_argument":
        return f"unknown key {where}"
    if kind == "missing":
        return f"missing key {where}"
    if of_name and kind == "string_type":
        return f"{where}: the name {_shown(fault['input'])} is not text in YAML; put it in quotes"
    if kind == "value_error":
        return f"{where}: {cause}"
    if kind in _MUST_BE:
        return f"{where} must be {_MUST_BE[kind].format(**context)}, not {_shown(fault['input'])}"
    return f"{where}: {fault['msg']}"


def _shown(value: Any) -> str:
    """The value in brief: a few lines of YAML with anchors can stand for more than memory holds."""
    try:
        return _BRIEF.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a very long number"


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 3, 60, 60
