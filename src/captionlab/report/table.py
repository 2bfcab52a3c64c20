"""A table of the report: typed columns, formatting of values, the best value of each column. Knows no file format."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

ABOVE_PEOPLE = "\u25b2"  # marks a score above that of people

Value = str | int | float | None
Kind = Literal["text", "count", "share", "millions", "megabytes", "score", "loss"]


@dataclass(frozen=True, kw_only=True)
class Column:
    """One column. The best ``score`` is the highest, the best ``loss`` the lowest; other kinds have no best value."""

    label: str
    kind: Kind = "text"
    missing: str = "–"  # noqa: RUF001 (a dash is meant)

    @property
    def numeric(self) -> bool:
        """Whether the values are numbers, for alignment and sorting."""
        return self.kind != "text"

    def text(self, value: Value) -> str:
        """The formatted value."""
        if value is None:
            return self.missing
        match self.kind:
            case "millions":
                return f"{float(value) / 1e6:.2f} M"
            case "megabytes":
                return f"{float(value):.1f}"
            case "score" | "loss" | "share":
                return f"{float(value):.3f}"
        return str(value)


@dataclass(frozen=True, kw_only=True)
class Line:
    """One row of a table: a value for each column, and properties for filtering."""

    values: tuple[Value, ...]
    system: str | None = None  # None for a line of no system
    stated: bool = False  # by others, not measured by this pipeline
    competes: bool = True  # whether its values can be the best of their columns
    above_people: frozenset[str] = frozenset()  # labels of the columns with a value above that of people
    missing: str = ""  # shown in numeric columns where there is no value; empty: what the column says


@dataclass(frozen=True, kw_only=True)
class Table:
    """Columns, lines and explanatory notes."""

    title: str
    columns: tuple[Column, ...]
    lines: tuple[Line, ...]
    notes: tuple[str, ...] = ()
    sorted_by: str | None = None  # label of the column that the lines are sorted by, in descending order
    _best: dict[str, float] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        best: dict[str, float] = {}
        for place, column in enumerate(self.columns):
            if column.kind not in ("score", "loss"):
                continue
            values = (line.values[place] for line in self.lines if line.competes)
            different = {float(value) for value in values if value is not None}
            if len(different) > 1:  # no best value among equal ones
                best[column.label] = max(different) if column.kind == "score" else min(different)
        object.__setattr__(self, "_best", best)

    def text(self, line: Line, column: Column) -> str:
        """The formatted value with its mark."""
        value = line.values[self.columns.index(column)]
        if value is None and column.numeric and line.missing:
            return line.missing
        shown = column.text(value)
        return f"{shown} {ABOVE_PEOPLE}" if column.label in line.above_people else shown

    def is_best(self, line: Line, column: Column) -> bool:
        """Whether this value is the best of its column among the competing lines."""
        return line.competes and line.values[self.columns.index(column)] == self._best.get(column.label, math.nan)


def table(
    title: str,
    columns: Mapping[str, Kind],
    rows: Iterable[Sequence[Value]],
    notes: Sequence[str] = (),
) -> Table:
    """A table from plain values. ``columns`` maps labels to kinds; a row starts with the name of its configuration.

    >>> table("Language bias", {"Configuration": "text", "Right photo": "score"}, [("attention.lite2", 0.55)]).title
    'Language bias'
    """
    return Table(
        title=title,
        columns=tuple(Column(label=label, kind=kind) for label, kind in columns.items()),
        lines=tuple(Line(values=tuple(row), system=str(row[0]).partition(".")[0]) for row in rows),
        notes=tuple(notes),
    )
