"""Systems for the tests on CUDA, at Flickr8k's sizes on random captions. As a script, prints digests as JSON.

python cuda_systems.py cuda     trains every system and encodes photos; equal digests mean equal bytes
"""

import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

import unchecked

if not unchecked.pydantic_works():  # as on a machine for `make gpu`
    unchecked.stand_in()

from builders import digests
from captionlab.core.devices import choose_device
from captionlab.core.results import Epoch
from captionlab.encoders.extraction import Photos, extract
from captionlab.encoders.load import load_encoder
from captionlab.models.base import Decoder
from captionlab.training.loop import ResumeFile, Splits, Trained, train
from training import Subject, subjects

NAMES = ("baseline.lite0", "modified.lite2", "attention.lite2", "attention.lite2_states", "modified.resnet50")
PHOTOS = 48  # 240 captions, in 3 steps an epoch
LAYERS = {"baseline.lite0": 2}  # with dropout between them
# Optional training settings, each used by some system.
CHANGES: dict[str, dict[str, Any]] = {
    "attention.lite2": {"doubly_stochastic": 0.5, "ema_decay": 0.9},
    "modified.lite2": {"scheduled_sampling": 0.5},
}


@cache
def subject(name: str) -> Subject:
    """A system with its training parameters and 48 photos."""
    found = {each.name: each for each in subjects(PHOTOS)}[name]
    changes = {"epochs": 3, "patience": 3, "batch_size": 16, **CHANGES.get(name, {})}
    config = replace(found.config, layers=LAYERS.get(name, found.config.layers))
    return replace(found, config=config, training=replace(found.training, **changes))


def without_dropout(model: Decoder) -> Decoder:
    """The same model in training mode, without dropout."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        elif isinstance(module, nn.LSTM):
            module.dropout = 0.0
    return model.train()


def train_on(
    device: str, name: str, folder: Path, on_epoch: Callable[[Epoch], None] = lambda _: None
) -> tuple[Decoder, Trained]:
    """Train a system; resumes from ``folder`` after an interruption."""
    own = subject(name)
    model = own.fresh().to(device)
    resume_file = ResumeFile(folder / f"{name}.pt", name)
    return model, train(model, Splits(own.data, own.few), own.training, resume_file=resume_file, on_epoch=on_epoch)


def digest(model: Decoder) -> str:
    """A digest of a model's weights."""
    sha256 = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        sha256.update(name.encode() + tensor.cpu().contiguous().numpy().tobytes())
    return sha256.hexdigest()


def draw(folder: Path, count: int) -> list[str]:
    """Deterministic photos: large patches with noise."""
    folder.mkdir(parents=True, exist_ok=True)
    random = np.random.default_rng(0)
    images = [f"{number:03d}.jpg" for number in range(count)]
    for image in images:
        patches = Image.fromarray(random.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        picture = np.asarray(patches.resize((160, 120), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = (picture + random.integers(-20, 21, picture.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(folder / image, quality=90)
    return images


def extracted(device: str, folder: Path, work: str) -> dict[str, str]:
    """Digests of the features of the photos in ``folder / "photos"``."""
    images = sorted(path.name for path in (folder / "photos").iterdir())
    photos = Photos(folder=folder / "photos", images=images, dataset="drawn")
    extract(load_encoder("efficientnet_lite0", 7), device, photos, folder / work)
    return digests(folder / work)


def main() -> None:
    """Print the digests of weights and features."""
    device = choose_device("cuda" if sys.argv[1] == "cuda" else "cpu")
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, Any] = {name: digest(train_on(device, name, Path(folder))[0]) for name in NAMES}
        draw(Path(folder) / "photos", 300)  # two blocks
        found["features"] = extracted(device, Path(folder), "work")
    print(json.dumps(found))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
