"""Addresses of tracking servers and databases in messages, never with a password. Knows text only."""

import re
from urllib.parse import parse_qsl, quote, unquote


def shown(uri: str) -> str:
    """The address without credentials and query, which may hold a password.

    Parsers of URLs are of no use here: they disagree on a password with an unencoded ``@`` or ``/``, and take a part of
    it for the host or the path. So everything before the last ``@`` is left out.
    """
    scheme, rest = _parts(uri)
    before, at, host = rest.rpartition("@")
    # A local path may have an @, as /home/me@work; a colon before it means that a user and a password do, too.
    is_path = rest.startswith(("/", ".")) and (scheme in ("sqlite://", "file://") or not scheme) and ":" not in before
    if is_path or not (scheme or at):
        return f"{scheme}{rest.split('?')[0]}"
    if re.search("[?#]", before):  # the password has it, or the query has the @
        host = "..."
    return f"{scheme}{re.split('[?#]', host)[0]}"


def reason(error: Exception, uri: str) -> str | None:
    """What an error says, in one short line; None where it quotes a part of the address's password."""
    if re.fullmatch(r"[^/]*:\d+(/.*)?", uri):  # MLflow's own errors are about other things
        return "it does not begin with http:// or https://"
    said = " ".join(str(error).split())
    if _words(said) & _secrets(uri):
        return None
    return re.sub(r"//\S*@", "//...@", said)[:200]  # another address, such as the registry's


def _parts(uri: str) -> tuple[str, str]:
    """The scheme with its colon and slashes, which a user may have forgotten, and what follows it."""
    scheme, separator, rest = uri.partition("://")
    return (f"{scheme}{separator}", rest) if separator else ("", uri)


def _secrets(uri: str) -> set[str]:
    """The words of the password, or of a user name without one, and of the query's values; encoded or not."""
    rest = _parts(uri)[1]
    credentials = rest.rpartition("@")[0]
    user, separator, password = credentials.partition(":")
    query = re.split("[?#]", rest, maxsplit=1)[1:]
    texts = [password if separator else user, *(value for part in query for _, value in parse_qsl(part))]
    return {word for text in texts for form in (text, unquote(text), quote(text)) for word in _words(form)}


def _words(text: str) -> set[str]:
    return set(re.findall(r"\w+", text.casefold()))
