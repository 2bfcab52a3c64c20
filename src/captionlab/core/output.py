"""Standard output and standard error, whatever their encoding and wherever they go. Knows no message."""

import io
import json
import sys
from typing import Any


def escape_what_cannot_be_encoded() -> None:
    """From now on print a character that a stream's encoding does not have as an escape, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def json_line(value: Any) -> str:
    r"""JSON for standard output. Where its encoding is not Unicode it is ASCII: an escape such as \xe9 is not JSON."""
    encoding = (getattr(sys.stdout, "encoding", None) or "ascii").lower()
    return json.dumps(value, ensure_ascii=not encoding.startswith("utf"))
