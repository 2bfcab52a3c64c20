"""The captioner that a command's --model names."""

from pathlib import Path

from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner, Device, EnsembleCaptioner
from captionlab.serving.registry import local_checkpoint

WITHOUT_CHECKPOINT = ("ensemble", "guests", "retrieval")  # systems of the comparison that have none of their own


def load_captioner(model: str | None, device: Device = "auto") -> Captioner | EnsembleCaptioner:
    """Load a trained system, a checkpoint or an MLflow model by name; None is the released captioner.

    Raises CaptionlabError as ``local_checkpoint`` and the captioners' ``load`` do, and for systems without a
    checkpoint.
    """
    system = (model or "").partition(".")[0]
    if model and system in WITHOUT_CHECKPOINT and not Path(model).exists():
        raise CaptionlabError(f"{model} has no checkpoint: {system} has no weights; name a trained system")
    if model is None:
        return Captioner.load(device=device)
    with local_checkpoint(Path.cwd(), model) as path:
        return EnsembleCaptioner.load(sorted(path.iterdir()), device) if path.is_dir() else Captioner.load(path, device)
