"""Standard output in encodings that lack some characters."""

import json
import os
import subprocess
import sys

import pytest

TEXT = "caf\u00e9 \u65e5\u672c \U0001f415"
SCRIPT = f"""
import sys
from captionlab.core.output import escape_what_cannot_be_encoded, json_line
escape_what_cannot_be_encoded()
print({TEXT!r})
print({TEXT!r}, file=sys.stderr)
print(json_line([{TEXT!r}]))
"""


@pytest.mark.parametrize(("encoding", "expected"), [
    ("utf-8", TEXT),
    ("cp1252", "caf\u00e9 \\u65e5\\u672c \\U0001f415"),
    ("ascii", "caf\\xe9 \\u65e5\\u672c \\U0001f415"),
])  # fmt: skip
def test_characters_outside_the_encoding_are_escaped_and_json_stays_valid(encoding: str, expected: str) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", SCRIPT], env=environment, capture_output=True, timeout=60, check=True)
    text, line = done.stdout.decode(encoding).splitlines()
    assert text == expected
    assert done.stderr.decode(encoding).splitlines() == [expected]
    assert json.loads(line) == [TEXT]
    if encoding == "utf-8":
        assert TEXT in line
