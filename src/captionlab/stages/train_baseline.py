"""Stage ``train_baseline``: a configuration of the system ``baseline``, from features to a checkpoint."""

from pathlib import Path

from captionlab.config import Params
from captionlab.training.fit import train_system


def train_baseline(params: Params, root: Path, config: str) -> list[str]:
    """Write ``artifacts/models/baseline/<config>/``."""
    return train_system(params, root, "baseline", config)
