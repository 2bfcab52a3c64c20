"""What flows between the stages, and where each stage leaves it. Knows types and paths, no behaviour."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

DATASET = Path("artifacts/dataset")
MODEL = Path("artifacts/model")
TIMINGS = Path("artifacts/timings")
REPORTS = Path("reports")


@dataclass(frozen=True, kw_only=True)
class Training:
    """``summary.json`` beside a trained model. ``history`` has a row for each epoch, with the key "epoch"."""

    training_key: str  # a digest of the parameters and the training data
    params: dict[str, Any]
    history: tuple[dict[str, float], ...]
    digest: str  # of the digits, as MLflow shows it
    splits: dict[str, int]  # digits in each
