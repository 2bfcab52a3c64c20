"""What MLflow's runs say of the data. Without PyTorch, for the stage that publishes them."""

from pathlib import Path

from captionlab.core.results import read_manifest
from captionlab.tracking.runs import Dataset


def dataset_of(root: Path, source: str) -> Dataset:
    """The dataset that the pipeline in ``root`` learns from; ``source`` is the parameter of that name."""
    manifest = read_manifest(root)
    splits = {str(split): count for split, count in manifest.splits.items()}
    return Dataset(name=manifest.name, digest=manifest.digest, source=source, splits=splits)
