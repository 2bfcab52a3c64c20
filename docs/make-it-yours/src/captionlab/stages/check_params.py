"""Stage ``check_params``: it comes first and always runs, so that a wrong params.yaml is refused before any work."""

from pathlib import Path

from captionlab.config import Params


def check_params(params: Params, root: Path) -> list[str]:
    """Every stage's command reads and checks params.yaml before it calls the stage."""
    return ["check_params: params.yaml is valid"]
