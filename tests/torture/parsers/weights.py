"""Readers of weights and features: checkpoints and feature stores."""

import json
import struct
from collections.abc import Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors.torch import save

from builders import untrained
from captionlab.config import build_system
from captionlab.core.records import Decoding
from captionlab.data.store import open_store
from captionlab.data.vocab import Vocabulary
from captionlab.training.checkpoint import load_checkpoint, save_checkpoint
from torture.fuzz import Parser, mutate_bytes, mutate_json
from torture.parsers.inputs import fresh, npy, zipped
from torture.parsers.texts import VOCABULARY


def _checkpoints() -> tuple[list[bytes], list[bytes]]:
    import tempfile

    valid = []
    vocab = Vocabulary.from_json(json.loads(VOCABULARY), "")
    configs = {
        "baseline": {},
        "attention": {"attention": 4, "memory": 0, "teacher_forcing": True, "tied": True},
    }
    with tempfile.TemporaryDirectory() as folder:
        for system, own in configs.items():
            values = {"encoder": "e", "embedding": 4, "hidden": 4, "layers": 1, "dropout": 0.0, **own}
            config = build_system(system, values)
            made = untrained(system, config, vocab, decoding=Decoding(), encoder="e", pooled=3, channels=5)
            save_checkpoint(Path(folder) / "x", made)
            valid.append((Path(folder) / "x").read_bytes())
    broken = [b"", b"\x80\x04.", struct.pack("<Q", 1 << 62), struct.pack("<Q", 2) + b"{}", save({"a": torch.zeros(1)})]
    return valid, broken


def _mutate_checkpoint(rng: Random, corpus: Sequence[bytes]) -> bytes:
    """Mutate the JSON header or the bytes of a file."""
    if rng.random() < 0.3:
        return mutate_bytes(rng, corpus)
    data = rng.choice(corpus)
    try:
        (size,) = struct.unpack_from("<Q", data)
        header = json.loads(data[8 : 8 + size])
        about = header["__metadata__"]["captionlab"].encode()
    except (struct.error, ValueError, LookupError, TypeError, AttributeError, RecursionError):  # no valid header
        return mutate_bytes(rng, corpus)
    if rng.random() < 0.7:
        header["__metadata__"]["captionlab"] = mutate_json(rng, [about]).decode("utf-8", "replace")
        text = json.dumps(header).encode()
    else:
        text = mutate_json(rng, [json.dumps(header).encode()])
    return struct.pack("<Q", len(text)) + text + data[8 + size :]


def _checkpoint(data: bytes, work: Path) -> None:
    path = work / "checkpoint.safetensors"
    path.write_bytes(data)
    assert load_checkpoint(path).vocab.digest


_ABOUT = json.dumps(
    {"encoder": "e", "pixels": 8, "preprocessing": "p", "weights": "w", "grid": 2, "images": ["a", "b"]}
).encode()


def _store(pooled: bytes, about: bytes, work: Path) -> None:
    store = open_store(
        fresh(work / "store", pooled__npy=pooled, grid__npy=npy(np.zeros((2, 4, 3), np.float16)), images__json=about)
    )
    store.rows(["a"])
    assert store.side >= 0
    assert store.pooled.shape[1] > 0


def parsers() -> list[Parser]:
    """Every reader of weights and features."""
    checkpoints, broken = _checkpoints()
    pooled = npy(np.zeros((2, 3), np.float32))
    arrays = [npy(np.zeros(3)), npy(np.zeros((2, 0))), npy(np.zeros((2, 3), "M8[s]")), zipped({"a.npy": pooled}), b""]
    return [
        Parser(
            name="checkpoints", corpus=checkpoints, read=_checkpoint, mutate=_mutate_checkpoint, special=broken, share=4
        ),
        Parser(
            name="feature arrays", corpus=[pooled], read=lambda data, work: _store(data, _ABOUT, work),
            mutate=mutate_bytes, special=arrays, share=2,
        ),
        Parser(
            name="feature store", corpus=[_ABOUT], read=lambda data, work: _store(pooled, data, work),
            mutate=mutate_json, share=2,
        ),
    ]  # fmt: skip
