"""The error type that users see, and how text from files is shown safely. Knows nothing else of the project."""

from collections.abc import Sequence

_LONGEST = 1000  # characters; messages quote names and texts of any length
_END = 200


def printable(text: str) -> str:
    """The text with everything escaped that would not show on a terminal, or would control it."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def first_line(error: BaseException) -> str:
    """An error's message up to its first line break, or the name of its type where it has no message."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def one_line(error: object) -> str:
    """An error's whole message on one line, or the name of its type where it has no message."""
    return " ".join(str(error).split()) or type(error).__name__


def some_of(names: Sequence[str]) -> str:
    """The first three of the names, as a message gives them."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


class CaptionlabError(Exception):
    """An error that the user can put right; the message is one line that says what to do.

    The command line prints the message and exits with 1; it shows a traceback only with ``--traceback``. Unprintable
    characters are escaped, and the middle of a very long message is left out.
    """

    def __init__(self, message: str) -> None:
        if len(message) > _LONGEST:
            message = f"{message[: _LONGEST - _END]} ... {message[-_END:]}"
        super().__init__(printable(message))
