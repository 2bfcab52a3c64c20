"""Stage ``train_attention``: a configuration of the system ``attention``, from features to a checkpoint."""

from pathlib import Path

from captionlab.config import Params
from captionlab.training.fit import train_system


def train_attention(params: Params, root: Path, config: str) -> list[str]:
    """Write ``artifacts/models/attention/<config>/``."""
    return train_system(params, root, "attention", config)
