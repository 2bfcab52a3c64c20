"""Stage ``train_modified``: a configuration of the system ``modified``, from features to a checkpoint."""

from pathlib import Path

from captionlab.config import Params
from captionlab.training.fit import train_system


def train_modified(params: Params, root: Path, config: str) -> list[str]:
    """Write ``artifacts/models/modified/<config>/``."""
    return train_system(params, root, "modified", config)
