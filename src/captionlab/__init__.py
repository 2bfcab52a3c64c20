"""captionlab: train, compare and use image-captioning systems."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from captionlab.errors import CaptionlabError
    from captionlab.inference.captioner import Captioner, Sentence

__version__ = "0.1.0"
__all__ = ["Captioner", "CaptionlabError", "Sentence"]


def __getattr__(name: str) -> Any:
    """Import what is asked for, when it is asked for: the command line must not wait for torch."""
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module 'captionlab' has no attribute {name!r}")
    module = "errors" if name == "CaptionlabError" else "inference.captioner"
    return getattr(import_module(f"captionlab.{module}"), name)
