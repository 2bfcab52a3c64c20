"""captionlab: train, compare and use image-captioning systems."""

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captionlab.core.records import Decoding
    from captionlab.errors import CaptionlabError
    from captionlab.evaluation.rows import RowCaptioner
    from captionlab.inference.captioner import Captioner, EnsembleCaptioner, Sentence

# By default OpenMP's threads spin while they wait for one another, which slows down whatever else runs on their cores.
# With GNU's OpenMP, a spin a 300th as long keeps the speed of a quiet machine (bench/shared.py). It is read when torch
# is loaded, so it has to be set before. LLVM's KMP_BLOCKTIME, where it is set, still takes precedence.
if "OMP_WAIT_POLICY" not in os.environ:
    os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    os.environ.setdefault("GOMP_SPINCOUNT", "1000")

__version__ = "0.1.0"
__all__ = ["Captioner", "CaptionlabError", "Decoding", "EnsembleCaptioner", "RowCaptioner", "Sentence"]

_MODULES = {
    "Captioner": "inference.captioner",
    "CaptionlabError": "errors",
    "Decoding": "core.records",
    "EnsembleCaptioner": "inference.captioner",
    "RowCaptioner": "evaluation.rows",
    "Sentence": "inference.captioner",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: the command line must not wait for torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'captionlab' has no attribute {name!r}")
    return getattr(import_module(f"captionlab.{_MODULES[name]}"), name)
