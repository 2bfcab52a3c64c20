"""Malicious files that try to run code: pickles instead of weights and arrays, a program instead of a photo."""

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from captionlab.data.photos import read_photo
from captionlab.data.store import open_store
from captionlab.datasets import Found
from captionlab.datasets.checks import check
from captionlab.encoders import efficientnet_lite, load, torchvision_models
from captionlab.errors import CaptionlabError
from captionlab.training import loop
from captionlab.training.checkpoint import load_checkpoint
from torture.parsers.inputs import jpeg
from torture.tally import Tally

PART = "Hostile files"


class Trap:
    """Creates a file when it is unpickled."""

    def __init__(self, sprung: Path) -> None:
        self._sprung = sprung

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch '{self._sprung}'",)


def hostile(folder: Path) -> list[Tally]:
    """Put each trap where captionlab reads; it must not run, and the file must be refused."""
    sprung = folder / "sprung"
    tally = Tally(part=PART, fault="code in a file of weights or features, or in a photo")
    pickle.loads(pickle.dumps(Trap(sprung)))
    tally.check(sprung.exists(), "the trap itself does not work")
    for name, bait in _baits(sprung).items():
        for place, read in _places(folder, sprung).items():
            sprung.unlink(missing_ok=True)
            said = ""
            try:
                read(bait)
            except CaptionlabError as error:
                said = str(error)
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
                tally.lost.append(f"{name} as {place}: {said[:200]}")
            ignored = place == "resume file"  # its training begins anew
            tally.check(
                not sprung.exists() and (bool(said) or ignored), f"{name} as {place} ran or was taken: {said[:200]}"
            )
    return [tally]


def _baits(sprung: Path) -> dict[str, bytes]:
    trap = Trap(sprung)
    saved, array, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"model": trap, "key": trap}, saved)
    np.save(array, np.array([trap, trap], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("archive/data.pkl", pickle.dumps(trap))
        out.writestr("archive/version", "3")
    script = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch {sprung}) (w) file\n%%EOF\n"
    return {
        "a pickle": pickle.dumps(trap),
        "torch.save": saved.getvalue(),
        "numpy.save": array.getvalue(),
        "a zip of a pickle": archive.getvalue(),
        "a PostScript program": script.encode(),
    }


def _places(folder: Path, sprung: Path) -> dict[str, Callable[[bytes], object]]:
    work = folder / "work"

    def at(name: str, data: bytes) -> Path:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        (work / name).write_bytes(data)
        return work / name

    def store(data: bytes) -> object:
        path = at("pooled.npy", data)
        about = '{"encoder": "e", "pixels": 1, "preprocessing": "p", "weights": "w", "grid": 0, "images": ["a", "b"]}'
        (work / "images.json").write_text(about)
        return open_store(path.parent)

    def package(data: bytes) -> object:
        path = at("efficientnet_lite0.pth", data)
        with patch.object(efficientnet_lite, "lite_weights", lambda name: path):
            return load.load_encoder("efficientnet_lite0")

    def torch_cache(data: bytes) -> object:
        """With the right digest in its name."""
        from hashlib import sha256

        path = at(f"resnet18-{sha256(data).hexdigest()[:8]}.pth", data)
        (work / "checkpoints").mkdir()
        shutil.move(path, work / "checkpoints" / path.name)
        weights = SimpleNamespace(url=f"http://127.0.0.1:9/{path.name}")
        state = torch.hub.load_state_dict_from_url
        weights.get_state_dict = lambda progress, check_hash, weights_only: state(
            weights.url, str(work / "checkpoints"), progress=progress, check_hash=check_hash, weights_only=weights_only
        )
        with patch.object(torchvision_models, "weights_of", lambda name: (weights, work / "checkpoints" / path.name)):
            return load.load_encoder("resnet18")

    def dataset_photo(data: bytes) -> object:
        """With Ghostscript installed, which Pillow would call to render the program."""
        at("a.jpg", data)
        for name in ("b.jpg", "c.jpg"):
            (work / name).write_bytes(jpeg())
        tool = folder / "bin/gs"
        tool.parent.mkdir(exist_ok=True)
        tool.write_text(f"#!/bin/sh\ntouch '{sprung}'\n")
        tool.chmod(0o755)
        found = Found(
            captions=[(f"{name}.jpg", "x") for name in "abc"],
            splits={"train": ["a.jpg"], "val": ["b.jpg"], "test": ["c.jpg"]},
        )
        with patch.dict(os.environ, PATH=f"{tool.parent}{os.pathsep}{os.environ['PATH']}"):
            return check(found, work, max_bad_share=0.5)

    return {
        "checkpoint": lambda data: load_checkpoint(at("checkpoint.safetensors", data)),
        "resume file": lambda data: loop.ResumeFile(at("lite.pt", data), "key").load("cpu"),
        "feature array": store,
        "package of an encoder": package,
        "torchvision's cache": torch_cache,
        "photo": lambda data: read_photo(at("a.jpg", data), 16),
        "photo of a dataset": dataset_photo,
    }
