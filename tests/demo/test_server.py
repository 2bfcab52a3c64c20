"""The demo's server over HTTP: the real command, and the application in this process."""

import http.client
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from captionlab.demo import server
from captionlab.demo.examples import example_photo
from captionlab.demo.lineup import Lineup
from captionlab.errors import CaptionlabError
from demo_project import KNOWN
from servers import wait_until

QUERY = "/caption?beam=5&length_penalty=0.7"


def ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], dict[str, str]]:
    """Send a request; returns the status, the body (as JSON, or with ``text`` as text) and the headers."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers or {}, encode_chunked=not isinstance(body, bytes))
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    content = json.loads(text) if answer.headers.get_content_type() == "application/json" else {"text": text}
    return answer.status, content, dict(answer.headers)


def sentences(answer: dict[str, Any], system: str = "attention") -> list[str]:
    own = next(one for one in answer["systems"] if one["system"] == system and one["name"] == "tiny")
    return [" ".join(caption["words"]) for caption in own["captions"]]


def test_every_system_describes_a_photo_and_keeps_it_for_the_next_request(demo_port: int) -> None:
    for example in KNOWN:
        status, answer, _ = ask(demo_port, "POST", QUERY, example_photo(example.name))
        assert status == 200
        assert sentences(answer)[0] == sentences(answer, "baseline")[0] == example.label.lower()
    assert len(sentences(answer)) == 5
    status, again, _ = ask(demo_port, "POST", f"/caption?beam=1&photo={answer['photo']}")
    assert (status, len(sentences(again))) == (200, 1)
    status, own, _ = ask(demo_port, "POST", f"/caption?photo={answer['photo']}")
    assert (status, len(sentences(own))) == (200, 3)  # the beam that validation chose


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "message"), [
    ("GET", "/", None, {"Host": "evil.example"}, 421, "not known by that name"),
    ("GET", "/", None, {"Host": "127.0.0.1.evil.example:8000"}, 421, "not known by that name"),
    ("GET", "/", None, {"Host": "[::"}, 421, "not known by that name"),
    ("POST", QUERY, b"x", {"Origin": "http://evil.example"}, 403, "other pages"),
    ("GET", "/static/../server.py", None, {}, 404, "Not Found"),
    ("GET", "/static/..%2fserver.py", None, {}, 404, "Not Found"),
    ("GET", "/static/%2e%2e/%2e%2e/%2e%2e/%2e%2e/etc/passwd", None, {}, 404, "Not Found"),
    ("GET", "/examples/..%2f..%2fserver.py", None, {}, 404, "Not Found"),
    ("GET", "/examples/no.jpg", None, {}, 404, "no such example"),
    ("GET", "/caption", None, {}, 405, "Method Not Allowed"),
    ("POST", QUERY, b"not a photo", {}, 422, "photo"),
    ("POST", QUERY, b"", {}, 422, "empty"),
    ("POST", QUERY, None, {"Content-Length": "20000001"}, 413, "the limit is 20 MB"),
    ("POST", QUERY, b"x" * 20_000_001, {"Transfer-Encoding": "chunked"}, 413, "the limit is 20 MB"),
    ("POST", QUERY + "&photo=0", b"", {}, 404, "send it again"),
    ("POST", "/caption?beam=11&length_penalty=1", b"x", {}, 400, "beam must be a number from 1 to 10"),
    ("POST", "/caption?beam=1&length_penalty=nan", b"x", {}, 400, "length_penalty must be a number from 0 to 2"),
])  # fmt: skip
def test_a_bad_request_is_refused_with_a_message(
    demo_port: int, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int, message: str
) -> None:
    """The parameters are the parts of a request and of its answer."""
    sent: Any = iter([body[:10_000_000], body[10_000_000:]]) if body and "Transfer-Encoding" in headers else body
    answered, answer, answer_headers = ask(demo_port, method, path, sent, headers)
    assert (answered, message in answer["error"]) == (status, True), answer
    assert "default-src 'none'" in answer_headers["content-security-policy"]


@contextmanager
def served(lineup: Lineup) -> Iterator[int]:
    """The application in this process with any line-up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            server.application(lineup, set()), http="h11", ws="none", log_config=None, timeout_graceful_shutdown=3
        )
        running = uvicorn.Server(config)
        thread = threading.Thread(target=running.run, args=[[listener]])
        thread.start()
        try:
            yield listener.getsockname()[1]
        finally:
            running.should_exit = True
            thread.join(20)
        assert not thread.is_alive()


class Waiting(Lineup):
    """Systems that block until they are released."""

    def __init__(self) -> None:
        super().__init__([])
        self.release = threading.Event()

    def warm_up(self) -> None:
        pass

    def add(self, photo: bytes) -> str:
        self.release.wait(30)
        self._features["digest"] = {}
        return "digest"


def test_too_many_photos_are_refused_and_the_page_is_still_served() -> None:
    lineup = Waiting()
    with served(lineup) as port:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(port, "POST", QUERY, b"photo")[0]))
            for _ in range(server.WAITING + 4)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(answers) >= 3)
        refused = list(answers)
        status, page, _ = ask(port, "GET", "/")
        lineup.release.set()
        for thread in threads:
            thread.join(20)
    assert refused == [503] * 3
    assert (status, "<h1>captionlab</h1>" in page["text"]) == (200, True)
    assert sorted(answers) == [200] * (server.WAITING + 1) + [503] * 3


@pytest.mark.parametrize(
    "beginning",
    [
        "",
        "GET / HTTP/1.1\r\nHost: localhost\r\n",
        "POST /caption HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nx",
    ],
    ids=["nothing", "half a header", "half a body"],
)
def test_unfinished_requests_block_neither_others_nor_shutdown(beginning: str) -> None:
    lineup = Waiting()
    lineup.release.set()
    with ExitStack() as connections, served(lineup) as port:  # the server stops while they are open
        for _ in range(3 * server.WAITING):
            connection = connections.enter_context(socket.create_connection(("127.0.0.1", port), timeout=20))
            connection.sendall(beginning.encode())
        assert ask(port, "GET", "/")[0] == 200
        assert ask(port, "POST", QUERY, b"photo")[0] == 200


def test_a_photo_that_arrives_too_slowly_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "BODY_SECONDS", 0.3)
    with served(Waiting()) as port, socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
        slow.sendall(f"POST {QUERY} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx".encode())
        assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_an_interrupted_upload_is_no_error_of_the_server(caplog: pytest.LogCaptureFixture) -> None:
    with served(Waiting()) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as leaving:
            leaving.sendall(f"POST {QUERY} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx".encode())
        assert ask(port, "GET", "/")[0] == 200
    assert "Traceback" not in caplog.text


def test_a_port_in_use_is_one_error_line(tmp_path: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(CaptionlabError, match="choose another --port"),
    ):
        server.serve(tmp_path, host="127.0.0.1", port=other.getsockname()[1], open_browser=False)


@pytest.mark.parametrize("host", ["a..b", "192.0.2.1"])
def test_a_host_that_is_not_this_computer_is_one_error_line(tmp_path: Path, host: str) -> None:
    with pytest.raises(CaptionlabError, match=rf"cannot listen at {host}, port 0 \([^()]+\); choose another --host$"):
        server.serve(tmp_path, host=host, port=0, open_browser=False)
