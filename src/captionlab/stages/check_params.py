"""Stage ``check_params``: it comes first and always runs, so that a wrong params.yaml is refused before any work."""

from pathlib import Path

from captionlab.config import Params
from captionlab.core.files import write_text
from captionlab.core.records import PARAMS_VALID


def check_params(params: Params, root: Path) -> list[str]:
    """Say what params.yaml holds; every stage's command checks it before it calls the stage.

    The first stage that reads data depends on the file written, so that this one runs before any other, for a single
    target too.
    """
    write_text(root / PARAMS_VALID, "params.yaml is valid\n")
    return [
        f"check_params: params.yaml is valid; {len(params.configurations()) + len(params.retrieval)} configurations"
    ]
