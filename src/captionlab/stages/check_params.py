"""Stage ``check_params``: it comes first and always runs, so that a wrong params.yaml is refused before any work."""

from pathlib import Path

from captionlab.config import Params


def check_params(params: Params, root: Path) -> list[str]:
    """Say what params.yaml holds; every stage's command checks it before it calls the stage."""
    return [
        f"check_params: params.yaml is valid; {len(params.configurations()) + len(params.retrieval)} configurations"
    ]
