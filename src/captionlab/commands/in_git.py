"""Whether git can bring back a file that a command is about to replace. Knows git's command, and no content."""

import subprocess
from pathlib import Path


def is_in_git(path: Path) -> bool:
    """Whether ``git restore`` would write the file as it is now; False without git, and for an unknown file."""
    command = ["git", "show", f":./{path.name}"]  # the index, which `git restore` writes
    try:
        kept = subprocess.run(command, cwd=path.parent, capture_output=True, check=True).stdout
        return kept == path.read_bytes()
    except (OSError, subprocess.SubprocessError):
        return False
