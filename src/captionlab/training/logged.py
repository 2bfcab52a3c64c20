"""What MLflow's runs say of the data. Without PyTorch, for the stage that publishes them."""

from pathlib import Path

from captionlab.config import Params
from captionlab.core.results import read_manifest
from captionlab.tracking.runs import Dataset


def dataset_of(root: Path, source: str) -> Dataset:
    """The dataset that the pipeline in ``root`` learns from; ``source`` is the parameter of that name."""
    manifest = read_manifest(root)
    splits = {str(split): count for split, count in manifest.splits.items()}
    return Dataset(name=manifest.name, digest=manifest.digest, source=source, splits=splits)


def data_settings(params: Params, encoder: str) -> dict[str, object]:
    """The parameters of words and features that a training with this encoder depends on."""
    kept = params.extract_features.encoders.get(encoder)
    return {
        "clean_captions.cleaning": params.clean_captions.cleaning,
        "build_vocab.min_count": params.build_vocab.min_count,
        "build_vocab.released_words": params.build_vocab.released_words,
        **({"extract_features.grid": kept.grid, "extract_features.mirrored": kept.mirrored} if kept else {}),
    }
