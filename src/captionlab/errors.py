"""The one error type that users see. Knows nothing else of the project."""

_MOST = 1000  # characters; file names and captions of strangers stand in messages
_TAIL = 200


class CaptionlabError(Exception):
    """Something the user can put right; the message is one line that says what to do.

    The command line prints the message and exits with 1; a traceback is shown only with ``--traceback``. What a
    terminal would not print, or would obey, stands as an escape, and a message of a megabyte is cut in its middle.
    """

    def __init__(self, message: str) -> None:
        if len(message) > _MOST:
            message = f"{message[: _MOST - _TAIL]} ... {message[-_TAIL:]}"
        shown = (c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in message)
        super().__init__("".join(shown))
