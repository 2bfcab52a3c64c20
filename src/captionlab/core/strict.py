"""Plain values, as YAML and JSON give them, to dataclasses: nothing unknown, nothing missing, no other type.

Knows no parameter by name.
"""

import dataclasses
import math
import reprlib
import types
import typing
from typing import Any, Literal, get_args, get_origin, get_type_hints

from captionlab.errors import CaptionlabError


def build(kind: Any, value: Any, key: str) -> Any:
    """Build ``kind`` (a dataclass, a container or a plain type) from plain values, strictly.

    ``key`` is the value's place, for the errors. Raises CaptionlabError for whatever does not fit.
    """
    if dataclasses.is_dataclass(kind):
        return _dataclass(typing.cast(type, kind), value, key)
    origin = get_origin(kind)
    if origin is types.UnionType:
        return _dataclass(_of_kind(get_args(kind), value, key), value, key)
    if origin is Literal:
        if value not in get_args(kind):
            choices = ", ".join(map(str, get_args(kind)))
            raise CaptionlabError(f"{key} is {_shown(value)}; choose one of {choices}")
        return value
    if origin is dict:
        if not isinstance(value, dict):
            raise CaptionlabError(f"{key} must be a mapping, not {_shown(value)}")
        item = get_args(kind)[1]
        return {str(name): build(item, entry, f"{key}.{name}") for name, entry in value.items()}
    if origin is tuple:
        if not isinstance(value, list):
            raise CaptionlabError(f"{key} must be a list, not {_shown(value)}")
        return tuple(build(get_args(kind)[0], entry, f"{key}.{i}") for i, entry in enumerate(value))
    if kind is Any:
        return value
    return _plain(kind, value, key)


def _of_kind(choices: tuple[Any, ...], value: Any, key: str) -> type:
    """The one of several dataclasses that the mapping's ``kind`` names; the first where it names none."""
    named = value.get("kind", choices[0].kind) if isinstance(value, dict) else choices[0].kind
    for choice in choices:
        if choice.kind == named:
            return typing.cast(type, choice)
    raise CaptionlabError(
        f"{key}.kind is {_shown(named)}; choose one of {', '.join(choice.kind for choice in choices)}"
    )


def _dataclass(kind: type, value: Any, key: str) -> Any:
    if not isinstance(value, dict):
        raise CaptionlabError(f"{key or 'the file'} must be a mapping, not {_shown(value)}")
    hints = get_type_hints(kind)
    prefix = f"{key}." if key else ""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in value:
        if name not in fields:
            raise CaptionlabError(f"unknown key {prefix}{name}; known are {', '.join(fields)}")
    for name, field in fields.items():
        if name not in value and field.default is field.default_factory is dataclasses.MISSING:
            raise CaptionlabError(f"missing key {prefix}{name}")
    return kind(**{name: build(hints[name], entry, prefix + name) for name, entry in value.items()})


def _plain(kind: type, value: Any, key: str) -> Any:
    """An int is taken for a float, and "1e-05" too: DVC's -S writes small floats in a form YAML reads as text."""
    if kind is float and not isinstance(value, bool):
        try:
            number = float(value)
        except (TypeError, ValueError, OverflowError):
            number = math.nan
        if math.isfinite(number):
            return number
    elif type(value) is kind:
        return value
    raise CaptionlabError(f"{key} must be of type {kind.__name__}, not {_shown(value)}")


def _shown(value: Any) -> str:
    """The value in brief: YAML's anchors make a few lines into a value that no memory holds written out."""
    try:
        return _BRIEF.repr(value)
    except ValueError:  # Python writes no number of more than 4,300 digits
        return "a very long number"


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxstring, _BRIEF.maxother = 3, 60, 60
