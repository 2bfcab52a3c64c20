"""The one error type that users see. Knows nothing else of the project."""


class CaptionlabError(Exception):
    """Something the user can put right; the message is one line that says what to do.

    The command line prints the message and exits with 1; a traceback is shown only with ``--traceback``.
    """
