"""What ``captionlab export`` does. Knows names and what it reports."""

from pathlib import Path

from captionlab.commands.named import load_captioner
from captionlab.errors import CaptionlabError
from captionlab.exporting.onnx_folder import export as write
from captionlab.inference.captioner import Captioner


def export(folder: Path, model: str | None, *, int8: bool, web_runtime: Path | None) -> list[str]:
    """Export the captioner that ``model`` names; returns what to tell the user.

    Raises CaptionlabError as ``load_captioner`` and ``exporting.onnx_folder.export`` do, and for an ensemble.
    """
    captioner = load_captioner(model, "cpu")
    if not isinstance(captioner, Captioner):
        raise CaptionlabError(f"{model} is an ensemble; only a single system can be exported")
    write(captioner, folder, int8=int8, web_runtime=web_runtime)
    megabytes = sum(file.stat().st_size for file in folder.glob("*.onnx")) / 1e6
    return [
        f"{captioner.name} is exported to {folder} ({megabytes:.1f} MB)",
        f"to caption a photo: python {folder / 'caption.py'} photo.jpg (needs onnxruntime, numpy and pillow)",
        f"in a browser: python -m http.server --directory {folder}, then open http://localhost:8000",
    ]
