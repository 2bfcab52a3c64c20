"""Captioners with random weights for export, and their exports as modules."""

from functools import cache
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

from builders import tiny_system, untrained
from captionlab.core.records import Decoding
from captionlab.data.photos import read_photo
from captionlab.data.vocab import Vocabulary
from captionlab.demo.examples import EXAMPLES, example_photo
from captionlab.encoders.engines import Floats, TorchEngine
from captionlab.encoders.load import load_encoder
from captionlab.inference.captioner import Captioner

SCENES = [example.name for example in EXAMPLES if example.drawn]
ENCODER = "efficientnet_lite0"


def make_captioner(vocab: Vocabulary, system: str, decoding: Decoding, **changes: Any) -> Captioner:
    """A tiny system with random weights over a real encoder."""
    config = tiny_system(system, **changes)
    grid = 3 if config.uses_regions else 0
    encoder = load_encoder(ENCODER, grid)
    made = untrained(
        system, config, vocab, seed=5, deviation=1.0, encoder=ENCODER, encoder_weights=encoder.weights_digest,
        grid=grid, pooled=1280, channels=1280,
    )  # fmt: skip
    made.model.standardise.fit([torch.from_numpy(_features(grid)[int(grid > 0)])])
    return Captioner(made.model, vocab, made.identity, decoding, "cpu")


@cache
def _features(grid: int) -> tuple[Floats, Floats]:
    encoder = load_encoder(ENCODER, grid)
    pixels_NHW3 = np.stack([read_photo(example_photo(name) or b"", encoder.pixels) for name in SCENES])
    return TorchEngine(encoder, "cpu")(pixels_NHW3)


def load_runner(folder: Path) -> ModuleType:
    """Load the module caption.py of an export."""
    spec = spec_from_file_location("exported_caption", folder / "caption.py")
    assert spec
    assert spec.loader
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
