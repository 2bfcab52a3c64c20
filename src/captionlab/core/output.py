"""Standard output and standard error, whatever their encoding and wherever they go. Knows no message."""

import io
import json
import os
import sys
from pathlib import Path
from typing import Any

from captionlab.errors import CaptionlabError


def check_streams() -> None:
    """Refuse a closed standard output, as after ``>&-``; a closed input is empty, a closed error output is discarded.

    Otherwise the next file that is opened would take the place of the closed one.
    """
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 - until the process ends
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stdout is None:
        raise CaptionlabError(f"standard output is closed; to discard the output send it to {os.devnull}")


def escape_what_cannot_be_encoded() -> None:
    """From now on print a character that a stream's encoding does not have as an escape, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def json_line(value: Any) -> str:
    r"""JSON for standard output. Where its encoding is not Unicode it is ASCII: an escape such as \xe9 is not JSON."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return json.dumps(value, ensure_ascii=not encoding.startswith("utf"))
