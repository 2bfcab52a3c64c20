"""Results of the injected faults: one row per kind of fault, stored as JSON until the page is rendered."""

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
    note: str = ""  # what was seen besides

    @property
    def survived(self) -> int:
        """The faults that were handled correctly."""
        return self.tried - len(self.lost)

    def check(self, held: bool, complaint: str) -> None:
        """Count one fault, and record the message if a condition does not hold."""
        self.tried += 1
        if not held:
            self.lost.append(complaint)


def keep(path: Path, tallies: Sequence[Tally]) -> None:
    """Write the results of one part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([dataclasses.asdict(tally) for tally in tallies], indent=1), encoding="utf-8")


def kept(path: Path) -> list[Tally]:
    """What ``keep`` wrote, if anything."""
    return [Tally(**row) for row in json.loads(path.read_text(encoding="utf-8"))] if path.exists() else []
