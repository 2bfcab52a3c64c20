"""Results of the injected faults: one row for each kind of fault, stored as JSON."""

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass(kw_only=True)
class Tally:
    """How many faults of one kind were injected, and a line for each failure."""

    part: str
    fault: str
    tried: int = 0
    lost: list[str] = field(default_factory=list)
    note: str = ""  # further measurements, for the report

    @property
    def passed(self) -> int:
        """Number of faults that were handled correctly."""
        return self.tried - len(self.lost)

    def check(self, ok: bool, failure: str) -> None:
        """Count one fault, and record the message unless ``ok``."""
        self.tried += 1
        if not ok:
            self.lost.append(failure)


def save_tallies(path: Path, tallies: Sequence[Tally]) -> None:
    """Write the results of one part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([dataclasses.asdict(tally) for tally in tallies], indent=1), encoding="utf-8")


def load_tallies(path: Path) -> list[Tally]:
    """The results that ``save_tallies`` wrote; empty if there are none."""
    return [Tally(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
