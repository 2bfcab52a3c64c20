"""The captioner that a command's --model names."""

from pathlib import Path

from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner, Device, EnsembleCaptioner
from captionlab.serving.registry import local_checkpoint

_WITHOUT_CHECKPOINT = ("ensemble", "guests", "retrieval")  # systems of the comparison that have none of their own


def names_no_checkpoint(model: str) -> bool:
    """Whether it names a row of the comparison without a checkpoint of its own, and not a file that is called so."""
    return model.partition(".")[0] in _WITHOUT_CHECKPOINT and not Path(model).exists()


def refuse_row_without_checkpoint(model: str) -> None:
    """Raise CaptionlabError for a row of the comparison without a checkpoint of its own."""
    if names_no_checkpoint(model):
        system = model.partition(".")[0]
        reason = "it is an ensemble of several" if system == "ensemble" else f"{system} has no weights"
        raise CaptionlabError(f"{model} has no checkpoint: {reason}; name a trained system")


def load_captioner(model: str | None, device: Device = "auto") -> Captioner | EnsembleCaptioner:
    """Load a trained system, a checkpoint or an MLflow model by name; None is the released captioner.

    Raises CaptionlabError as ``local_checkpoint`` and the captioners' ``load`` do, and for systems without a
    checkpoint.
    """
    if model is None:
        return Captioner.load(device=device)
    refuse_row_without_checkpoint(model)
    with local_checkpoint(Path.cwd(), model) as path:
        return EnsembleCaptioner.load(sorted(path.iterdir()), device) if path.is_dir() else Captioner.load(path, device)
