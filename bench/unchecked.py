"""Stands in for pydantic where it cannot be installed: builds the same dataclasses, and checks nothing.

For ``gpu.py`` and the tests on a GPU, which read only files that they have just written. Holds what captionlab imports
of pydantic.
"""

import json
import sys
import types
from dataclasses import dataclass, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints


class _Ignored:
    """A check."""

    def __init__(self, *_: Any, **__: Any) -> None:
        """Takes what the check takes."""

    def __call__(self, method: Any) -> Any:
        """As a decorator of a method that checks."""
        return method


class _BeforeValidator:
    """A conversion, which is no check."""

    def __init__(self, convert: Any) -> None:
        self.convert = convert


class _TypeAdapter:
    def __init__(self, kind: Any) -> None:
        self.kind = kind

    def validate_python(self, value: Any) -> Any:
        return _build(self.kind, value)

    def validate_json(self, text: str, *, strict: bool) -> Any:
        return _build(self.kind, json.loads(text))


def _build(kind: Any, value: Any) -> Any:
    """``value``, of mappings, lists and plain values, as ``kind``."""
    origin, inner = get_origin(kind), get_args(kind)
    if origin is Annotated:
        for mark in inner[1:]:
            value = mark.convert(value) if isinstance(mark, _BeforeValidator) else value
        return _build(inner[0], value)
    if origin in (Union, types.UnionType):
        kinds = [part for part in inner if part is not types.NoneType]
        return value if value is None or len(kinds) > 1 else _build(kinds[0], value)  # by_kind has built one of several
    if is_dataclass(kind) and isinstance(value, dict):
        of_field = get_type_hints(kind, include_extras=True)
        return kind(**{name: _build(of_field[name], part) for name, part in value.items()})  # type: ignore[operator]
    if origin is tuple:
        return tuple(
            _build(part, value[n]) for n, part in enumerate(inner if ... not in inner else inner[:1] * len(value))
        )
    if origin is dict and isinstance(value, dict):
        return {name: _build(inner[1], part) for name, part in value.items()}
    return float(value) if kind is float else value


def pydantic_works() -> bool:
    """Whether pydantic can be imported; false also where its compiled part is for another Python."""
    try:
        import pydantic.dataclasses  # noqa: F401
    except ImportError:
        return False
    return True


def stand_in() -> None:
    """Make ``import pydantic`` find this."""
    pydantic, dataclasses = types.ModuleType("pydantic"), types.ModuleType("pydantic.dataclasses")
    for name in ("AfterValidator", "AllowInfNan", "ConfigDict", "Field", "Strict", "model_validator"):
        setattr(pydantic, name, _Ignored)
    for name, kind in (("StrictBool", bool), ("StrictInt", int), ("StrictStr", str)):
        setattr(pydantic, name, kind)
    pydantic.BeforeValidator = _BeforeValidator  # type: ignore[attr-defined]
    pydantic.TypeAdapter = _TypeAdapter  # type: ignore[attr-defined]
    pydantic.ValidationError = type("ValidationError", (Exception,), {})  # type: ignore[attr-defined]
    pydantic.dataclasses = dataclasses  # type: ignore[attr-defined]
    dataclasses.dataclass = lambda *, config=None, **options: dataclass(**options)  # type: ignore[attr-defined]
    sys.modules.update({"pydantic": pydantic, "pydantic.dataclasses": dataclasses})
