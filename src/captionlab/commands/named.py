"""The captioner that a command's --model names."""

from pathlib import Path

from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner, Device, EnsembleCaptioner
from captionlab.serving.registry import local_checkpoint

_WITHOUT_CHECKPOINT = ("ensemble", "guests", "retrieval")  # systems of the comparison that have none of their own


def names_no_checkpoint(model: str) -> bool:
    """Whether it names a row of the comparison without a checkpoint of its own, and not a file that is called so."""
    return model.partition(".")[0] in _WITHOUT_CHECKPOINT and not Path(model).exists()


def load_captioner(model: str | None, device: Device = "auto") -> Captioner | EnsembleCaptioner:
    """Load a trained system, a checkpoint or an MLflow model by name; None is the released captioner.

    Raises CaptionlabError as ``local_checkpoint`` and the captioners' ``load`` do, and for systems without a
    checkpoint.
    """
    if model is None:
        return Captioner.load(device=device)
    if names_no_checkpoint(model):
        system = model.partition(".")[0]
        raise CaptionlabError(f"{model} has no checkpoint: {system} has no weights; name a trained system")
    with local_checkpoint(Path.cwd(), model) as path:
        return EnsembleCaptioner.load(sorted(path.iterdir()), device) if path.is_dir() else Captioner.load(path, device)
