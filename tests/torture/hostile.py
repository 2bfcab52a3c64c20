"""Malicious files that try to run code: pickles as weights and arrays, a PostScript program as a photo."""

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
from captionlab.datasets.checks import check, read_photos
from captionlab.encoders import efficientnet_lite, load, torchvision_models
from captionlab.errors import CaptionlabError
from captionlab.training import loop
from captionlab.training.checkpoint import load_checkpoint
from torture.parsers.inputs import jpeg
from torture.tally import Tally

PART = "Malicious files"


class Exploit:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch '{self._marker}'",)


def hostile(folder: Path) -> list[Tally]:
    """Give each malicious file to each reader: its code must not run, and the file must be refused."""
    marker = folder / "marker"
    tally = Tally(part=PART, fault="code in a file of weights or features, or in a photo")
    pickle.loads(pickle.dumps(Exploit(marker)))
    tally.check(marker.exists(), "the exploit does not work outside captionlab")
    for name, payload in _payloads(marker).items():
        for reader, read in _readers(folder, marker).items():
            marker.unlink(missing_ok=True)
            error_text = ""
            try:
                read(payload)
            except CaptionlabError as error:
                error_text = str(error)
            except Exception as error:
                error_text = f"{type(error).__name__}: {error}"
                tally.lost.append(f"{name} as {reader}: {error_text[:200]}")
            ignored = reader == "resume file"  # an invalid one is ignored, and the training starts from the beginning
            tally.check(
                not marker.exists() and (bool(error_text) or ignored),
                f"{name} as {reader} ran or was accepted: {error_text[:200]}",
            )
    return [tally]


def _payloads(marker: Path) -> dict[str, bytes]:
    exploit = Exploit(marker)
    saved, array, archive = io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"model": exploit, "key": exploit}, saved)
    np.save(array, np.array([exploit, exploit], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(archive, "w") as out:
        out.writestr("archive/data.pkl", pickle.dumps(exploit))
        out.writestr("archive/version", "3")
    script = f"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%touch {marker}) (w) file\n%%EOF\n"
    return {
        "a pickle": pickle.dumps(exploit),
        "torch.save": saved.getvalue(),
        "numpy.save": array.getvalue(),
        "a zip of a pickle": archive.getvalue(),
        "a PostScript program": script.encode(),
    }


def _readers(folder: Path, marker: Path) -> dict[str, Callable[[bytes], object]]:
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
        """The file's name contains its digest, as torchvision expects."""
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
        """Put a fake Ghostscript on PATH, which Pillow would call to render the program."""
        at("a.jpg", data)
        for name in ("b.jpg", "c.jpg"):
            (work / name).write_bytes(jpeg())
        ghostscript = folder / "bin/gs"
        ghostscript.parent.mkdir(exist_ok=True)
        ghostscript.write_text(f"#!/bin/sh\ntouch '{marker}'\n")
        ghostscript.chmod(0o755)
        found = Found(
            captions=[(f"{name}.jpg", "x") for name in "abc"],
            splits={"train": ["a.jpg"], "val": ["b.jpg"], "test": ["c.jpg"]},
        )
        with patch.dict(os.environ, PATH=f"{ghostscript.parent}{os.pathsep}{os.environ['PATH']}"):
            return check(found, read_photos(work), max_bad_share=0.5)

    return {
        "checkpoint": lambda data: load_checkpoint(at("checkpoint.safetensors", data)),
        "resume file": lambda data: loop.ResumeFile(at("lite.pt", data), "key").load("cpu"),
        "feature array": store,
        "package of an encoder": package,
        "torchvision's cache": torch_cache,
        "photo": lambda data: read_photo(at("a.jpg", data), 16),
        "photo of a dataset": dataset_photo,
    }
