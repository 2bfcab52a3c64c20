"""Candidates for MLflow's model registry."""

from pathlib import Path
from typing import Any

from captionlab.core.records import Decoding
from captionlab.serving import registry

EXPERIMENT = "captionlab/scenes"
TAGS = {"system": "attention", "configuration": "tiny", "dataset_digest": "abc"}
CHOSEN = Decoding(beam=2, length_penalty=0.4, max_words=5)  # on validation


def candidate(checkpoint: Path, **changes: Any) -> registry.Candidate:
    """A candidate for the registry, with changes."""
    values: dict[str, Any] = {
        "name": "attention.tiny", "checkpoints": (checkpoint,), "decoding": CHOSEN, "result_key": "key",
        "dataset": "scenes", "score": 0.5, "tags": TAGS,
    }  # fmt: skip
    return registry.Candidate(**values | changes)


def register(root: Path, candidate: registry.Candidate, floor: float = 0.0) -> registry.Registered:
    """Register a candidate in the experiment of the tests."""
    return registry.register(root, EXPERIMENT, candidate, floor)
