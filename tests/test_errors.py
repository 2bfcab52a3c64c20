import pytest

from captionlab.errors import first_line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError("no such file\nmore"), "no such file"),
        (RuntimeError("\n  shapes differ\r\nmore"), "shapes differ"),
        (TimeoutError(), "TimeoutError"),
        (ValueError(" \n"), "ValueError"),
    ],
)
def test_the_first_line_of_an_error_is_never_empty(error: Exception, line: str) -> None:
    assert first_line(error) == line
