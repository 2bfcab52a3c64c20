"""What a stage cost: seconds and memory, in a file for each stage and item. Knows nothing of what the stages do."""

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path

from captionlab.core.files import write_json
from captionlab.core.records import TIMINGS
from captionlab.core.typed import read_record


@dataclass(frozen=True, kw_only=True)
class Timing:
    """The cost of one run of a stage; ``item`` is what it ran for, if it runs for each of several."""

    stage: str
    item: str
    seconds: float
    peak_megabytes: float | None


def write_timing(root: Path, stage: str, item: str, seconds: float) -> None:
    """Write the time of a stage that has just run in this process, and the largest memory use of the process."""
    timing = Timing(stage=stage, item=item, seconds=round(seconds, 1), peak_megabytes=_peak_megabytes())
    write_json(_path(root, stage, item), dataclasses.asdict(timing))


def read_timing(root: Path, stage: str, item: str) -> Timing | None:
    """The cost of the stage's last run; None where it has not run."""
    path = _path(root, stage, item)
    return read_record(path, Timing) if path.exists() else None


def _path(root: Path, stage: str, item: str) -> Path:
    return root / TIMINGS / f"{f'{stage}.{item}' if item else stage}.json"


def _peak_megabytes() -> float | None:
    """None where the system does not report it."""
    try:  # Linux counts the peak of the program that started this one in ru_maxrss
        status = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next(round(int(line.split()[1]) * 1024 / 1e6, 1) for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024  # bytes
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)
