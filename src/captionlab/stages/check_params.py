"""Stage ``check_params``: it comes first and always runs, so that a wrong params.yaml is refused before any work."""

from pathlib import Path

from captionlab.config import Params
from captionlab.core.files import dvc_imports, write_text
from captionlab.core.records import PARAMS_VALID
from captionlab.errors import CaptionlabError


def check_params(params: Params, root: Path) -> list[str]:
    """Say what params.yaml holds; every stage's command checks it before it calls the stage.

    Raises CaptionlabError where a file that it names is missing: of that, too, DVC says only that a file is missing.

    The first stage that reads data depends on the file written, so that this one runs before any other, for a single
    target too.
    """
    source = params.dataset.source
    if not (root / source).is_dir() and source not in dvc_imports(root):
        raise CaptionlabError(f"dataset.source {source} is not a folder; set it to the folder of the dataset")
    for name, guest in params.guests.items():
        if not (root / guest.captions).is_file():
            raise CaptionlabError(f"guests.{name}.captions {guest.captions} is not a file; put the captions there")
    write_text(root / PARAMS_VALID, "params.yaml is valid\n")
    return [
        f"check_params: params.yaml is valid; {len(params.configurations()) + len(params.retrieval)} configurations"
    ]
