"""Downloads from a local server that drops connections, resumes, redirects and refuses."""

import hashlib
import os
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from captionlab.datasets import downloading
from captionlab.datasets.downloading import cache_folder, download
from captionlab.errors import CaptionlabError

CONTENT = bytes(range(256)) * 4_000  # 1 MB
MD5 = hashlib.md5(CONTENT, usedforsecurity=False).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path; the first part of the path selects the behaviour."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.drops = 0  # number of further responses that end early
        self.failures = 0  # number of further responses with 503
        self.sent: list[tuple[str, int, int]] = []  # path, status, offset

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.server_port}/{path}"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        server, kind = self.server, self.path.split("/")[1]
        tag = '"' + hashlib.sha256(server.content).hexdigest()[:8] + '"'
        offset = 0
        asked = self.headers.get("Range", "")
        if asked and kind != "norange" and self.headers.get("If-Range") == tag:
            offset = int(asked.removeprefix("bytes=").removesuffix("-"))
        status = 404 if kind == "gone" else 503 if server.failures else 206 if offset else 200
        server.sent.append((self.path, status, offset))
        if status >= 400:
            server.failures = max(0, server.failures - 1)
            self.send_error(status)
            return
        self.send_response(status)
        self.send_header("ETag", tag)
        self.send_header("Content-Length", str(len(server.content) - offset))
        if offset:
            self.send_header("Content-Range", f"bytes {offset}-{len(server.content) - 1}/{len(server.content)}")
        self.end_headers()
        rest = server.content[offset:]
        if server.drops:
            server.drops -= 1
            rest = rest[: len(rest) // 2]
        self.wfile.write(rest)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


def fetch(target: Path, *urls: str, md5: str | None = MD5) -> None:
    download(urls, target, md5=md5, pause_seconds=0.001)


def test_the_file_is_downloaded_and_nothing_else_is_left(server: Server, tmp_path: Path) -> None:
    fetch(tmp_path / "cache" / "file.zip", server.url("file.zip"))
    assert (tmp_path / "cache" / "file.zip").read_bytes() == CONTENT
    assert {path.name for path in (tmp_path / "cache").iterdir()} <= {"file.zip", ".file.zip.lock"}


def test_an_existing_file_is_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.zip").write_bytes(b"mine")
    fetch(tmp_path / "file.zip", server.url("file.zip"))
    assert (tmp_path / "file.zip").read_bytes() == b"mine"
    assert server.sent == []


def test_dropped_connections_are_resumed(server: Server, tmp_path: Path) -> None:
    server.drops = 8  # more than the allowed attempts without progress, but each of these makes progress
    fetch(tmp_path / "file.zip", server.url("file.zip"))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert len(server.sent) == 9
    assert [status for _, status, _ in server.sent] == [200] + [206] * 8
    assert server.sent[1][2] == len(CONTENT) // 2


def test_a_download_of_an_earlier_run_is_resumed(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.drops = 1
    with monkeypatch.context() as patched:
        patched.setattr(downloading, "ATTEMPTS", 0)
        with pytest.raises(CaptionlabError, match=r"ended after 512,000 of 1,024,000 bytes"):
            fetch(tmp_path / "file.zip", server.url("file.zip"))
    fetch(tmp_path / "file.zip", server.url("file.zip"))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.sent[-1] == ("/file.zip", 206, len(CONTENT) // 2)


def test_the_download_restarts_if_the_server_cannot_resume(server: Server, tmp_path: Path) -> None:
    server.drops = 2
    fetch(tmp_path / "file.zip", server.url("norange/file.zip"))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert [status for _, status, _ in server.sent] == [200, 200, 200]


def test_a_missing_file_is_requested_from_the_next_mirror_at_once(server: Server, tmp_path: Path) -> None:
    fetch(tmp_path / "file.zip", server.url("gone/file.zip"), server.url("file.zip"))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert [status for _, status, _ in server.sent] == [404, 200]


def test_a_busy_server_is_retried(server: Server, tmp_path: Path) -> None:
    server.failures = 2
    fetch(tmp_path / "file.zip", server.url("file.zip"))
    assert [status for _, status, _ in server.sent] == [503, 503, 200]


def test_a_busy_mirror_is_given_up_after_all_attempts(server: Server, tmp_path: Path) -> None:
    server.failures = 100
    with pytest.raises(CaptionlabError, match=r"cannot download file.zip .*503.*dataset.source"):
        fetch(tmp_path / "file.zip", server.url("file.zip"))
    assert len(server.sent) == downloading.ATTEMPTS


def test_the_error_names_every_mirror_in_one_line(server: Server, tmp_path: Path) -> None:
    closed = "http://127.0.0.1:9/file.zip"
    with pytest.raises(CaptionlabError) as caught:
        fetch(tmp_path / "file.zip", server.url("gone/file.zip"), closed)
    message = str(caught.value)
    assert "404" in message
    assert closed in message
    assert "\n" not in message
    assert not (tmp_path / "file.zip").exists()


def test_a_wrong_digest_leads_to_the_next_mirror(server: Server, tmp_path: Path) -> None:
    with pytest.raises(CaptionlabError, match="MD5"):
        fetch(tmp_path / "file.zip", server.url("file.zip"), server.url("other/file.zip"), md5="0" * 32)
    assert [path for path, _, _ in server.sent] == ["/file.zip", "/other/file.zip"]
    assert not (tmp_path / "file.zip").exists()


def test_versions_of_a_file_are_never_mixed(server: Server, tmp_path: Path) -> None:
    """A partial file is discarded if the server's tag has changed."""
    target = tmp_path / "file.zip"
    (tmp_path / ".file.zip.partial").write_bytes(b"old" * 1_000)
    (tmp_path / ".file.zip.partial.json").write_text(f'{{"url": "{server.url("file.zip")}", "tag": "\\"old\\""}}')
    fetch(target, server.url("file.zip"))
    assert target.read_bytes() == CONTENT


def test_a_partial_file_is_not_continued_from_another_mirror(server: Server, tmp_path: Path) -> None:
    (tmp_path / ".file.zip.partial").write_bytes(b"part of another mirror's file")
    (tmp_path / ".file.zip.partial.json").write_text('{"url": "http://elsewhere/file.zip", "tag": "x"}')
    fetch(tmp_path / "file.zip", server.url("file.zip"))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_full_disk_is_not_reported_as_a_network_error(server: Server, tmp_path: Path) -> None:
    """Simulated by a file size limit; the downloaded part is kept for the next run."""
    resource = pytest.importorskip("resource", reason="needs a system that limits the size of files")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(CONTENT) // 2, hard))
    try:
        with pytest.raises(CaptionlabError, match=r"cannot write .*free space"):
            fetch(tmp_path / "file.zip", server.url("file.zip"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(server.sent) == 1
    fetch(tmp_path / "file.zip", server.url("file.zip"))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_concurrent_downloads_fetch_the_file_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch, args=(tmp_path / "file.zip", server.url("file.zip"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert len(server.sent) == 1


def test_cache_folder_depends_on_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("CAPTIONLAB_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if os.name == "posix":
        assert cache_folder() == tmp_path / ".cache" / "captionlab"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "captionlab"
    monkeypatch.setenv("CAPTIONLAB_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
