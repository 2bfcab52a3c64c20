"""Builders for tests: the outputs of the stages before training, modified params.yaml, photos.

The outputs of training and evaluation are in ``results_tree``.
"""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from ruamel.yaml import YAML

from captionlab.config import SECTIONS, EncoderParams, ExtractFeaturesParams, Params, build_system, load_params
from captionlab.core.files import write_json, write_jsonl
from captionlab.core.records import CAPTIONS, DATASET, FEATURES, VOCAB, Decoding
from captionlab.core.results import Manifest, write_manifest
from captionlab.data.vocab import Vocabulary
from captionlab.encoders.network import LastBlocks
from captionlab.models.build import build_model
from captionlab.models.params import SystemParams
from captionlab.training.checkpoint import Checkpoint
from captionlab.training.header import Identity

if TYPE_CHECKING:
    from conftest import World


def manifest(**changes: Any) -> Manifest:
    """The manifest of a small dataset, with changes."""
    values: dict[str, Any] = {
        "name": "tiny", "format": "folder", "digest": "abc", "images": 12, "captions": 24,
        "splits": {"train": 6, "val": 3, "test": 3}, "set_aside": 0, "problems": [],
    }  # fmt: skip
    return Manifest(**values | changes)


def write_small_manifest(root: Path, **changes: Any) -> None:
    """Write the manifest of a small dataset, with changes."""
    write_manifest(root / DATASET, manifest(**changes))


_OWN: dict[str, dict[str, Any]] = {  # by system, or by kind if it is not the system's first kind
    "baseline": {},
    "modified": {"repeats": 3},
    "merge": {"dense": 6},
    "attention": {"attention": 6, "memory": 5, "teacher_forcing": True, "tied": False},
    "states": {"attention": 6, "dense": 5},
}


def tiny_system(system: str, **changes: Any) -> SystemParams:
    """A small configuration of a system, with changes."""
    values: dict[str, Any] = {"encoder": "tiny", "embedding": 8, "hidden": 8, "layers": 1, "dropout": 0.0}
    return build_system(system, values | _OWN.get(changes.get("kind", system), {}) | changes)


def identity(system: str, config: SystemParams, **changes: Any) -> Identity:
    """The identity of a tiny system with the encoder of the test features, with changes."""
    values: dict[str, Any] = {
        "system": system, "name": "tiny", "dataset": "tiny", "config": dataclasses.asdict(config), "encoder": "tiny",
        "preprocessing": "square_bicubic", "encoder_weights": "0" * 16, "grid": 2, "pooled": 10, "channels": 7,
        "cleaning": "standard", "training_key": "key",
    }  # fmt: skip
    return Identity(**values | changes)


def untrained(
    system: str,
    config: SystemParams,
    vocab: Vocabulary,
    *,
    seed: int = 1,
    deviation: float | None = None,
    blocks: Callable[[], LastBlocks] | None = None,
    decoding: Decoding | None = None,
    **changes: Any,
) -> Checkpoint:
    """The checkpoint of a system with initial weights; ``changes`` are of its identity.

    With a ``deviation`` its weights are drawn from a normal distribution, so that different photos get different
    captions.
    """
    about = identity(system, config, **changes)
    torch.manual_seed(seed)
    model = build_model(config, vocab=len(vocab), pooled=about.pooled, channels=about.channels, blocks=blocks).eval()
    for parameter in model.parameters():
        if deviation and parameter.requires_grad:
            torch.nn.init.normal_(parameter, std=deviation)
    return Checkpoint(model=model, vocab=vocab, identity=about, decoding=decoding)


def write_tree(root: Path, world: "World") -> Path:
    """Write the outputs of the stages before training."""
    by_image: dict[str, dict[str, Any]] = {}
    for caption in world.captions:
        row = by_image.setdefault(caption.image, {"image": caption.image, "split": caption.split, "captions": []})
        row["captions"].append(caption.raw)
    write_jsonl(root / DATASET / "dataset.jsonl", by_image.values())
    write_small_manifest(root)
    write_jsonl(root / CAPTIONS, map(dataclasses.asdict, world.captions))
    write_json(root / VOCAB, world.vocab.to_json())
    store, folder = world.store, root / FEATURES / "tiny"
    folder.mkdir(parents=True)
    assert store.grid is not None
    np.save(folder / "pooled.npy", store.pooled)
    np.save(folder / "grid.npy", store.grid)
    write_json(folder / "images.json", {
        "encoder": "tiny", "pixels": 8, "preprocessing": store.preprocessing, "weights": store.weights, "grid": 2,
        "images": list(store.images),
    })  # fmt: skip
    return root


def write_params(
    root: Path, encoders: dict[str, int], training: dict[str, Any], name: str = "tiny", **systems: dict[str, Any]
) -> Path:
    """Write the repository's params.yaml with only these encoders and systems."""
    yaml = YAML(typ="safe")
    params = yaml.load(Path(__file__).parents[1] / "params.yaml")
    params["device"] = "cpu"
    params["dataset"] |= {"name": name, "format": "folder"}
    params["extract_features"]["encoders"] = {encoder: {"grid": grid} for encoder, grid in encoders.items()}
    params["training"] |= {"precision": "fp32"} | training
    params |= {section: systems.get(section, {}) for section in (*SECTIONS, "guest_models")}
    yaml.dump(params, root / "params.yaml")
    return root


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def draw_photos(folder: Path, count: int) -> list[str]:
    folder.mkdir(parents=True, exist_ok=True)
    images = [f"{number:03d}.jpg" for number in range(count)]
    for number, image in enumerate(images):
        # Not Image.effect_noise: it continues C's random numbers, so photos would depend on the tests before.
        noise_HW = np.random.default_rng(number).normal(128, 40 + number, (80, 100 + number))
        photo = Image.fromarray(noise_HW.clip(0, 255).astype(np.uint8)).convert("RGB")
        box = (number % 50, 10, number % 50 + 40, 60)
        ImageDraw.Draw(photo).ellipse(box, fill=(37 * number % 256, 91 * number % 256, 90))
        photo.save(folder / image)
    return images


def project(root: Path, count: int, **encoders: int) -> Params:
    images = draw_photos(root / "artifacts/dataset/images", count)
    rows = [{"image": image, "split": "train", "captions": ["A ."]} for image in reversed(images)]
    write_jsonl(root / "artifacts/dataset/dataset.jsonl", rows)
    write_small_manifest(root, digest="d")
    params = load_params(Path(__file__).parents[1] / "params.yaml")
    wanted = {name: EncoderParams(grid=grid) for name, grid in encoders.items()}
    return dataclasses.replace(params, device="cpu", extract_features=ExtractFeaturesParams(encoders=wanted))
