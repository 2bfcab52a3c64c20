"""What every command has in common: arguments that are refused, and the line for an error that none expects."""

import errno
import sys
from itertools import pairwise

from captionlab.errors import CaptionlabError


def refuse_empty(arguments: list[str]) -> None:
    """An unset variable of the shell must not mean the current folder, or no option at all."""
    for before, argument in pairwise(arguments):
        if argument == "":
            raise CaptionlabError(f"the argument after {before} is empty; is a variable unset?")
        if argument.startswith("--") and argument.endswith("="):
            raise CaptionlabError(f"{argument.removesuffix('=')} is empty; is a variable unset?")


def internal_error(error: Exception) -> str:
    """One line for an error that no command expects: standard output on a full disk, or a fault of captionlab."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"cannot write the output: {error.strerror}; free space"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    command = " ".join(["captionlab", "--traceback", *sys.argv[1:]])
    return f"unexpected error ({what}); `{command}` shows where it occurred"
