"""The demo page: the real server on loopback, over systems trained in a second, with HTTP by hand and in Chromium."""

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import uvicorn

from builders import identity
from captionlab.core.records import Decoding
from captionlab.core.results import checkpoint_of
from captionlab.core.tokens import PAD
from captionlab.data.vocab import Vocabulary
from captionlab.demo import lineup, server
from captionlab.demo.examples import EXAMPLES, example_photo
from captionlab.demo.lineup import Lineup
from captionlab.encoders.load import load_encoder
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner
from captionlab.models.build import build_model
from captionlab.models.params import SystemParams
from captionlab.training.checkpoint import Checkpoint, save_checkpoint

pytest.importorskip("selenium", reason="selenium is not installed; pip install -e '.[dev]'")
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

KNOWN = EXAMPLES[:4]  # the examples that the tiny systems learn by heart
QUERY = "/caption?beam=5&length_penalty=0.7"


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, tiny: Callable[..., SystemParams]) -> Path:
    """A project with two tiny systems over a real encoder that know four of the examples by heart."""
    folder = tmp_path_factory.mktemp("demo")
    captions = [example.label.lower().split() for example in KNOWN]
    vocab = Vocabulary.build(captions, cleaning="standard", min_count=1)
    sequences = [torch.tensor(vocab.encode(words)) for words in captions]
    tokens_BT = torch.nn.utils.rnn.pad_sequence(sequences, batch_first=True, padding_value=PAD)
    weights = load_encoder("efficientnet_lite0").weights_digest
    for system, grid in (("attention", 3), ("baseline", 0)):
        torch.manual_seed(1)
        config = tiny(system, encoder="efficientnet_lite0", hidden=32, embedding=32)
        model = build_model(config, vocab=len(vocab), pooled=1280, channels=1280)
        about = identity(
            system, config, encoder="efficientnet_lite0", encoder_weights=weights, grid=grid, pooled=1280, channels=1280
        )
        captioner = Captioner(model, vocab, about, Decoding(), "cpu")
        features = captioner.features([example_photo(example.name) or b"" for example in KNOWN])
        model.standardise.fit([features.pooled_PD if features.grid_PRC is None else features.grid_PRC])
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for _ in range(60):
            logits_BTV = model.train()(features, tokens_BT[:, :-1])
            loss = torch.nn.functional.cross_entropy(
                logits_BTV.flatten(0, 1), tokens_BT[:, 1:].flatten(), ignore_index=PAD
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        save_checkpoint(checkpoint_of(folder, system, "tiny"), Checkpoint(model=model, vocab=vocab, identity=about))
    return folder


@pytest.fixture(scope="module")
def port(root: Path) -> Iterator[int]:
    """The real command, on a port of its own choice; Ctrl-C ends it cleanly."""
    command = [sys.executable, "-m", "captionlab.cli", "demo", "--port", "0", "--no-open"]
    environment = {**os.environ, "PYTHONPATH": str(Path(server.__file__).parents[2])}
    with subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout
        line = running.stdout.readline()
        assert line.startswith("the demo is at http://127.0.0.1:"), line
        yield int(line.split(":")[2].split("/")[0])
        running.send_signal(2)
        assert running.wait(20) == 0
        assert running.stdout.read() == "stopped\n"


def ask(
    port: int, method: str, path: str, body: Any = None, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, Any], dict[str, str]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, body, headers or {}, encode_chunked=not isinstance(body, bytes))
    answer = connection.getresponse()
    text = answer.read().decode(errors="replace")
    connection.close()
    said = json.loads(text) if answer.headers.get_content_type() == "application/json" else {"text": text}
    return answer.status, said, dict(answer.headers)


def sentences(answer: dict[str, Any], system: str = "attention") -> list[str]:
    own = next(one for one in answer["systems"] if one["system"] == system and one["name"] == "tiny")
    return [" ".join(caption["words"]) for caption in own["captions"]]


def test_every_system_describes_a_photo_and_keeps_it_for_the_next_beam(port: int) -> None:
    for example in KNOWN:
        status, said, _ = ask(port, "POST", QUERY, example_photo(example.name))
        assert status == 200
        assert sentences(said)[0] == sentences(said, "baseline")[0] == example.label.lower()
    for one in (one for one in said["systems"] if one["name"] == "tiny"):
        best = one["captions"][0]
        assert 0.5 < best["probability"] <= 1
        assert ("attention" in best) == (one["system"] == "attention")
        for look in best.get("attention", []):
            assert len(look) == 9
            assert sum(look) == pytest.approx(1, abs=1e-3)
    status, again, _ = ask(port, "POST", f"/caption?beam=1&length_penalty=0.7&photo={said['photo']}")
    assert (status, len(sentences(again))) == (200, 1)
    assert len(sentences(said)) == 5


@pytest.mark.parametrize(("method", "path", "body", "headers", "status", "sentence"), [
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
    ("POST", QUERY, b"not a photo", {}, 422, "no photo"),
    ("POST", QUERY, b"", {}, 422, "empty"),
    ("POST", QUERY, None, {"Content-Length": "20000001"}, 413, "the limit is 20 MB"),
    ("POST", QUERY, b"x" * 20_000_001, {"Transfer-Encoding": "chunked"}, 413, "the limit is 20 MB"),
    ("POST", QUERY + "&photo=0", b"", {}, 404, "send it again"),
    ("POST", "/caption?beam=11&length_penalty=1", b"x", {}, 400, "beam must be a number from 1 to 10"),
    ("POST", "/caption?beam=1&length_penalty=nan", b"x", {}, 400, "length_penalty must be a number from 0 to 2"),
])  # fmt: skip
def test_what_is_wrong_is_refused_in_words(
    port: int, method: str, path: str, body: bytes | None, headers: dict[str, str], status: int, sentence: str
) -> None:
    sent: Any = iter([body[:10_000_000], body[10_000_000:]]) if body and "Transfer-Encoding" in headers else body
    answered, said, sent_headers = ask(port, method, path, sent, headers)
    assert (answered, sentence in said["error"]) == (status, True), said
    assert "default-src 'none'" in sent_headers["content-security-policy"]


@contextmanager
def served(lineup: Lineup) -> Iterator[int]:
    """The server in this process, over any line-up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            server.application(lineup, set()), http=server.PatientProtocol, ws="none", log_config=None
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


class Stuck(Lineup):
    """Systems whose work takes until they are released."""

    def __init__(self) -> None:
        super().__init__([])
        self.release = threading.Event()

    def warm_up(self) -> None:
        pass

    def see(self, photo: bytes) -> str:
        self.release.wait(30)
        self._seen["digest"] = {}
        return "digest"


def test_too_many_photos_are_refused_and_the_page_still_comes() -> None:
    stuck = Stuck()
    with served(stuck) as port:
        answers: list[int] = []
        threads = [
            threading.Thread(target=lambda: answers.append(ask(port, "POST", QUERY, b"photo")[0]))
            for _ in range(server.WAITING + 4)
        ]
        for thread in threads:
            thread.start()
        deadline = time.monotonic() + 20
        while len(answers) < 3 and time.monotonic() < deadline:
            time.sleep(0.02)
        refused = list(answers)
        status, page, _ = ask(port, "GET", "/")
        stuck.release.set()
        for thread in threads:
            thread.join(20)
    assert refused == [503] * 3
    assert (status, "<h1>captionlab</h1>" in page["text"]) == (200, True)
    assert sorted(answers) == [200] * (server.WAITING + 1) + [503] * 3


def test_slow_clients_are_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(server, "BODY_SECONDS", 0.3)
    with served(Stuck()) as port:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as half:
            half.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            assert half.recv(100) == b""
        with socket.create_connection(("127.0.0.1", port), timeout=20) as slow:
            slow.sendall(f"POST {QUERY} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n\r\nx".encode())
            assert slow.recv(100).startswith(b"HTTP/1.1 408 ")


def test_a_port_in_use_or_a_project_without_systems_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as other,
        pytest.raises(CaptionlabError, match="choose another --port"),
    ):
        server.serve(tmp_path, host="127.0.0.1", port=other.getsockname()[1], open_browser=False)
    monkeypatch.setattr(lineup, "RELEASED", tmp_path / "not shipped")
    with pytest.raises(CaptionlabError, match=r"no trained system in .*; train some first"):
        server.serve(tmp_path, host="127.0.0.1", port=0, open_browser=False)


# --- in a browser


@pytest.fixture
def chrome(port: int, browser: Chrome) -> Iterator[Chrome]:
    """The page, at a phone's width; afterwards no other host was asked and nothing was complained of."""
    size = {"width": 360, "height": 780, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(f"http://127.0.0.1:{port}/")
    until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "#examples button")) == len(EXAMPLES))
    yield browser
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    own = f"http://127.0.0.1:{port}/"
    assert {own, f"{own}static/demo.css", f"{own}systems"} <= set(asked)
    assert all(url.startswith((own, f"blob:{own}")) for url in asked), asked
    complaints = [entry["message"] for entry in browser.get_log("browser") if " 422 " not in entry["message"]]
    assert complaints == []


def until(chrome: Chrome, condition: Callable[[], bool]) -> None:
    WebDriverWait(chrome, 30, 0.1).until(lambda _: condition())


def text(chrome: Chrome, selector: str) -> str:
    return str(chrome.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector))


def press(chrome: Chrome, key: str) -> None:
    chrome.switch_to.active_element.send_keys(key)


DROP = """
const carried = new DataTransfer();
const bytes = Uint8Array.from(atob(arguments[1]), letter => letter.charCodeAt(0));
carried.items.add(new File([bytes], arguments[0]));
document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
"""
LIT = "const {data} = heat.getContext('2d').getImageData(0, 0, 112, 112); return new Set(data).size"


def test_the_page_by_keyboard(chrome: Chrome) -> None:
    card = ".card[data-system=attention][data-name=tiny]"
    chrome.find_element(By.CSS_SELECTOR, "#examples button").send_keys(Keys.ENTER)
    until(chrome, lambda: text(chrome, f"{card} li span") == KNOWN[0].label.lower())
    assert text(chrome, "#glance") == f"{KNOWN[0].label}. Drawn by captionlab"
    assert len(chrome.find_elements(By.CSS_SELECTOR, f"{card} li")) == 5

    chrome.execute_script("document.querySelector('#examples li:last-child button').focus()")
    press(chrome, Keys.TAB)  # the beam width
    for _ in range(3):
        press(chrome, Keys.ARROW_LEFT)
    assert text(chrome, "#beam-value") == "2"
    until(chrome, lambda: len(chrome.find_elements(By.CSS_SELECTOR, f"{card} li")) == 2)
    until(chrome, lambda: chrome.find_element(By.ID, "systems").get_attribute("aria-busy") == "false")

    heat = chrome.find_element(By.ID, "heat")
    assert not heat.is_displayed()
    press(chrome, Keys.TAB)  # the length penalty
    for _ in range(5):  # a sentence a Tab, the released captioner's first
        press(chrome, Keys.TAB)
        if chrome.execute_script("return document.activeElement.closest(arguments[0]) !== null", card):
            break
    assert chrome.switch_to.active_element.text == "a"
    assert heat.is_displayed()
    press(chrome, Keys.ARROW_RIGHT)
    assert chrome.switch_to.active_element.text == "brown"
    assert text(chrome, "#glance").startswith("“brown”: it looked most at the ")
    assert chrome.execute_script(LIT) > 20  # many colours: a map, not a plain veil
    press(chrome, Keys.ESCAPE)
    assert not heat.is_displayed()
    wide = chrome.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1] == 360


def test_dropped_files(chrome: Chrome) -> None:
    import base64

    chrome.execute_script(DROP, "notes.txt", base64.b64encode(b"only words").decode())
    until(chrome, lambda: "no photo" in text(chrome, "#trouble"))
    assert chrome.find_element(By.ID, "trouble").is_displayed()
    name = "<img src=x onerror=alert(1)>.jpg"
    chrome.execute_script(DROP, name, base64.b64encode(example_photo(KNOWN[3].name) or b"").decode())
    until(chrome, lambda: text(chrome, ".card[data-system=baseline][data-name=tiny] li span") == KNOWN[3].label.lower())
    assert text(chrome, "#glance") == name
    assert not chrome.find_element(By.ID, "trouble").is_displayed()
    chrome.execute_script("document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: new DataTransfer()}))")
    assert text(chrome, "#trouble") == "The clipboard holds no photo. Copy one, then paste it here."
