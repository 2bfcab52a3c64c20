"""What a stage cost: seconds and memory, in a file for each stage and item. Knows nothing of what the stages do."""

import sys
from pathlib import Path

from captionlab.core.files import write_json
from captionlab.core.records import TIMINGS


def write_timing(root: Path, stage: str, item: str, seconds: float) -> None:
    """Write the time of a stage that has just run in this process, and the largest memory use of the process."""
    timing = {"stage": stage, "item": item, "seconds": round(seconds, 1), "peak_megabytes": _peak_megabytes()}
    write_json(root / TIMINGS / f"{f'{stage}.{item}' if item else stage}.json", timing)


def _peak_megabytes() -> float | None:
    """None where the system does not report it."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1e6 if sys.platform == "darwin" else 1e3
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)
