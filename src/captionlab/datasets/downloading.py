"""Downloads into the user's cache folder, from several mirrors and with resumption.

Knows nothing of what the files contain.
"""

import hashlib
import http.client
import json
import os
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from pathlib import Path

from filelock import FileLock
from tqdm import tqdm

from captionlab.errors import CaptionlabError

ATTEMPTS = 5  # consecutive attempts at one mirror without new data
TIMEOUT_SECONDS = 30.0
_BLOCK_BYTES = 1 << 18
_FINAL_STATUSES = {400, 401, 403, 404, 405, 410, 451}  # not worth a retry
_NETWORK_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


class _MirrorFailedError(Exception):
    """This mirror does not serve the file; the next one is tried."""


class _InterruptedError(Exception):
    """The connection ended early. The received part is kept, and the download is retried."""


def cache_folder() -> Path:
    """The folder of downloads: CAPTIONLAB_CACHE, or else captionlab in XDG_CACHE_HOME or ~/.cache."""
    if own := os.environ.get("CAPTIONLAB_CACHE"):
        return Path(own).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "captionlab"


def download(mirrors: Sequence[str], target: Path, *, md5: str | None = None, pause_seconds: float = 1.0) -> None:
    """Download a file to ``target`` from the first mirror that serves it completely; an existing file is kept.

    An interrupted download, of this run or an earlier one, is resumed. ``md5`` is the published digest, if any.
    ``pause_seconds`` is the wait before the second attempt and doubles with each further one. Raises CaptionlabError
    with the reason of each mirror if none serves the file, and if the disk cannot be written.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock")):  # queued experiments may start together
            if target.exists():
                return
            reasons = []
            for url in mirrors:
                try:
                    _download_from(url, target, md5, pause_seconds)
                    return
                except _MirrorFailedError as error:
                    reasons.append(f"{url}: {error}")
    except OSError as error:
        reason = error.strerror or str(error)
        raise CaptionlabError(f"cannot write {target}: {reason}; free space or set CAPTIONLAB_CACHE") from error
    raise CaptionlabError(
        f"cannot download {target.name} ({'; '.join(reasons)}); try later, or download it yourself and set"
        " dataset.source to its folder"
    )


def _download_from(url: str, target: Path, md5: str | None, pause_seconds: float) -> None:
    """Download the complete file from one mirror to ``target``, or raise _MirrorFailedError."""
    partial, state = target.with_name(f".{target.name}.partial"), target.with_name(f".{target.name}.partial.json")
    attempt = 1
    while True:
        before = _size(partial)
        try:
            _fetch(url, partial, state)
            break
        except _InterruptedError as error:
            attempt = 1 if _size(partial) > before else attempt + 1
            if attempt > ATTEMPTS:
                raise _MirrorFailedError(f"{error}, {ATTEMPTS} times") from error
            time.sleep(pause_seconds * 2 ** max(0, attempt - 2))  # attempt 1: the last one made progress
    state.unlink(missing_ok=True)
    if md5 is not None and (found := _md5(partial)) != md5:
        partial.unlink()
        raise _MirrorFailedError(f"the file's MD5 is {found}, the published one {md5}")
    partial.replace(target)


def _fetch(url: str, partial: Path, state: Path) -> None:
    """Send one request: append the missing part to ``partial``, or restart if the server cannot resume."""
    headers = {"User-Agent": "captionlab"}
    start, tag = _size(partial), _tag_of(state, url)
    if start and tag:  # with If-Range, a server whose file has changed sends all of it
        headers |= {"Range": f"bytes={start}-", "If-Range": tag}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
            resumed = response.status == http.HTTPStatus.PARTIAL_CONTENT and _starts_at(response, start)
            offset = start if resumed else 0
            length = response.headers.get("Content-Length")
            total = offset + int(length) if length and length.isdigit() else None
            if not resumed:
                tag = response.headers.get("ETag", "")
                tag = response.headers.get("Last-Modified", "") if not tag or tag.startswith("W/") else tag
                partial.unlink(missing_ok=True)
                state.write_text(json.dumps({"url": url, "tag": tag}), encoding="utf-8")
            _append(response, partial, offset, total)
    except urllib.error.HTTPError as error:
        if error.code == http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:
            partial.unlink(missing_ok=True)
        if error.code in _FINAL_STATUSES:
            raise _MirrorFailedError(f"{error.code} {error.reason}") from error
        raise _InterruptedError(f"{error.code} {error.reason}") from error
    except _NETWORK_ERRORS as error:
        reason = getattr(error, "reason", None) or error
        raise _InterruptedError(str(reason) or type(error).__name__) from error


def _append(response: http.client.HTTPResponse, partial: Path, offset: int, total: int | None) -> None:
    bar = tqdm(
        desc=partial.name.removeprefix(".").removesuffix(".partial"),
        initial=offset,
        total=total,
        unit="B",
        unit_scale=True,
        disable=None,
    )
    with bar, partial.open("ab") as out:
        while block := response.read(_BLOCK_BYTES):
            out.write(block)
            bar.update(len(block))
    if total is not None and _size(partial) != total:  # read() does not raise when the server closes the connection
        raise _InterruptedError(f"the connection ended after {_size(partial):,} of {total:,} bytes")


def _starts_at(response: http.client.HTTPResponse, start: int) -> bool:
    return re.match(rf"bytes {start}-", response.headers.get("Content-Range", "")) is not None


def _tag_of(state: Path, url: str) -> str:
    """The server's tag of the partial file; empty if unknown or from another mirror."""
    try:
        known = json.loads(state.read_text(encoding="utf-8"))
        return str(known["tag"]) if known["url"] == url else ""
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return ""


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with path.open("rb") as source:
        return hashlib.file_digest(source, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
