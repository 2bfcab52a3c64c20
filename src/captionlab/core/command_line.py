"""What every command has in common: arguments that are refused, and the line for an error that none expects."""

import errno
import shlex
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
    """One line for an error that no command expects: a full disk or memory, or a fault of captionlab."""
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return f"cannot write the output: {error.strerror}; free space"
    if isinstance(error, RuntimeError) and "out of memory" in str(error):  # CUDA's and MPS's
        return (
            "not enough memory on the GPU; use a smaller batch_size or system, stop other programs on it, or compute "
            "on the CPU: CUDA_VISIBLE_DEVICES= before the command"
        )
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error)):
        return "not enough memory; use a smaller batch_size or system, or stop other programs"
    what = " ".join(f"{type(error).__name__}: {error}".split())
    command = shlex.join(["captionlab", "--traceback", *sys.argv[1:]])
    return f"unexpected error ({what}); `{command}` shows where it occurred"
