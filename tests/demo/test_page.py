"""The demo page in Chromium: keyboard, mouse and dropped files, with the real server."""

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from selenium.webdriver import Chrome, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from captionlab.core.attention_overlay import overlay_opacity
from captionlab.demo.examples import EXAMPLES, Example, example_photo
from demo_project import KNOWN

pytestmark = pytest.mark.browser

ATTENTION = ".card[data-system=attention][data-name=tiny]"
BASELINE = ".card[data-system=baseline][data-name=tiny]"
GROUP = "#systems details:has(.card[data-name={}])"


@pytest.fixture
def chrome(demo_port: int, browser: Chrome) -> Iterator[Chrome]:
    """The page at a phone's width; afterwards checks for requests to other hosts and console errors."""
    size = {"width": 360, "height": 780, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.execute_cdp_cmd("Network.clearBrowserCache", {})
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(f"http://127.0.0.1:{demo_port}/")
    until(browser, lambda: len(browser.find_elements(By.CSS_SELECTOR, "#examples button")) == len(EXAMPLES))
    yield browser
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    own = f"http://127.0.0.1:{demo_port}/"
    assert {own, f"{own}static/demo.css", f"{own}systems"} <= set(asked)
    assert all(url.startswith((own, f"blob:{own}")) for url in asked), asked
    errors = [entry["message"] for entry in browser.get_log("browser") if " 422 " not in entry["message"]]
    assert errors == []


def until(chrome: Chrome, condition: Callable[[], bool]) -> None:
    WebDriverWait(chrome, 30, 0.1).until(lambda _: condition())


def settled(chrome: Chrome) -> None:
    """Wait until no request is running."""
    until(chrome, lambda: chrome.find_element(By.ID, "systems").get_attribute("aria-busy") == "false")


def text(chrome: Chrome, selector: str) -> str:
    return str(chrome.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector))


def press(chrome: Chrome, key: str) -> None:
    chrome.switch_to.active_element.send_keys(key)


def choose_example(chrome: Chrome, example: Example) -> None:
    chrome.find_element(By.CSS_SELECTOR, f"#examples [title='{example.label}']").send_keys(Keys.ENTER)
    until(chrome, lambda: text(chrome, "#status") == f"{example.label}. {example.credit}")
    settled(chrome)


DROP = """
const carried = new DataTransfer();
const bytes = Uint8Array.from(atob(arguments[1]), letter => letter.charCodeAt(0));
carried.items.add(new File([bytes], arguments[0]));
document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: carried, bubbles: true, cancelable: true}));
"""


def drop(chrome: Chrome, name: str, content: bytes) -> None:
    chrome.execute_script(DROP, name, base64.b64encode(content).decode())


def test_the_page_works_by_keyboard(chrome: Chrome) -> None:
    choose_example(chrome, KNOWN[0])
    assert text(chrome, f"{ATTENTION} li span") == KNOWN[0].label.lower()
    chrome.execute_script("document.querySelector('#examples li:last-child button').focus()")
    for _ in range(3):  # own decoding, beam width, length penalty
        press(chrome, Keys.TAB)
    overlay = chrome.find_element(By.ID, "overlay")
    for _ in range(9):  # each Tab stop is a caption or a collapsed section, starting with the released captioner
        press(chrome, Keys.TAB)
        if chrome.execute_script("return document.activeElement.closest(arguments[0]) !== null", ATTENTION):
            break
        assert chrome.execute_script("return document.activeElement.closest('#systems') !== null")
    assert chrome.switch_to.active_element.text == "a"
    assert overlay.is_displayed()
    press(chrome, Keys.ARROW_RIGHT)
    assert chrome.switch_to.active_element.text == "brown"
    assert text(chrome, "#status").startswith("“brown”: most attention ")
    press(chrome, Keys.ESCAPE)
    assert not overlay.is_displayed()
    wide = chrome.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
    assert wide[0] <= wide[1] == 360


def test_each_system_uses_its_own_decoding_until_a_slider_moves(chrome: Chrome) -> None:
    def shown() -> list[tuple[str, int]]:
        cards = [chrome.find_element(By.CSS_SELECTOR, card) for card in (ATTENTION, BASELINE)]
        return [
            (card.find_element(By.CLASS_NAME, "used").text, len(card.find_elements(By.TAG_NAME, "li")))
            for card in cards
        ]

    choose_example(chrome, KNOWN[0])
    own = chrome.find_element(By.ID, "own")
    assert own.is_selected()
    assert shown() == [("beam 3, length penalty 0.7", 3), ("beam 5, length penalty 0.7", 5)]
    assert text(chrome, "#beam-value") == "own"

    chrome.find_element(By.ID, "beam").send_keys(Keys.ARROW_LEFT * 3)
    settled(chrome)
    assert not own.is_selected()
    assert (text(chrome, "#beam-value"), text(chrome, "#length_penalty-value")) == ("2", "0.7")
    assert shown() == [("beam 2, length penalty 0.7", 2)] * 2
    chrome.find_element(By.ID, "length_penalty").send_keys(Keys.HOME)
    settled(chrome)
    assert shown() == [("beam 2, length penalty 0", 2)] * 2

    own.send_keys(Keys.SPACE)
    settled(chrome)
    assert shown() == [("beam 3, length penalty 0.7", 3), ("beam 5, length penalty 0.7", 5)]


@pytest.mark.parametrize(("drawn", "fitting", "other", "says"), [
    (True, "tiny", "released", "cannot describe drawn scenes"),
    (False, "released", "tiny", "cannot describe photos"),
])  # fmt: skip
def test_systems_of_the_other_kind_of_photo_are_folded_away(
    chrome: Chrome, drawn: bool, fitting: str, other: str, says: str
) -> None:
    def displayed(name: str) -> bool:
        return chrome.find_element(By.CSS_SELECTOR, f".card[data-name={name}]").is_displayed()

    assert displayed("released")
    assert not displayed("tiny")
    choose_example(chrome, next(example for example in EXAMPLES if example.drawn == drawn))
    assert displayed(fitting)
    assert not displayed(other)
    assert "cannot describe" not in chrome.find_element(By.CSS_SELECTOR, GROUP.format(fitting)).text
    assert f"trained on {'scenes' if drawn else 'flickr8k'}" in text(chrome, f".card[data-name={fitting}] h3")
    folded = chrome.find_element(By.CSS_SELECTOR, GROUP.format(other))
    folded.find_element(By.TAG_NAME, "summary").send_keys(Keys.ENTER)
    assert displayed(other)
    assert says in folded.text


def test_the_overlay_is_that_of_the_gallery(chrome: Chrome) -> None:
    choose_example(chrome, KNOWN[2])
    photo = base64.b64encode(example_photo(KNOWN[2].name) or b"").decode()
    answer: Any = chrome.execute_async_script("""
        const bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0));
        fetch("/caption", {method: "POST", body: bytes}).then(answer => answer.json()).then(arguments[1])
    """, photo)  # fmt: skip
    system = next(one for one in answer["systems"] if (one["system"], one["name"]) == ("attention", "tiny"))
    weights_TR = system["captions"][0]["attention"]
    words = chrome.find_elements(By.CSS_SELECTOR, f"{ATTENTION} li:first-child .word")
    assert len(words) == len(weights_TR)
    for word, weights_R in zip(words, weights_TR, strict=True):
        word.click()
        pixels = chrome.execute_script("""
            const {width, height} = overlay;
            const copy = new OffscreenCanvas(width, height).getContext("2d", {willReadFrequently: true});
            copy.drawImage(overlay, 0, 0);
            return [...copy.getImageData(0, 0, width, height).data]
        """)  # fmt: skip
        rgba_SS4 = np.array(pixels).reshape(3, 3, 4)
        assert (rgba_SS4[..., :3] == 0).all()
        assert (rgba_SS4[..., 3] == overlay_opacity(weights_R)).all()
        assert (rgba_SS4[..., 3].min(), len(np.unique(rgba_SS4[..., 3])) > 1) == (0, True)


def test_dropped_files_are_captioned(chrome: Chrome) -> None:
    drop(chrome, "notes.txt", b"only words")
    until(chrome, lambda: "photo" in text(chrome, "#error"))
    assert chrome.find_element(By.ID, "error").is_displayed()
    name = "<img src=x onerror=alert(1)>.jpg"
    drop(chrome, name, example_photo(KNOWN[3].name) or b"")
    until(chrome, lambda: text(chrome, f"{BASELINE} li span") == KNOWN[3].label.lower())
    assert text(chrome, "#status") == name
    assert not chrome.find_element(By.ID, "error").is_displayed()
    chrome.execute_script("document.dispatchEvent(new ClipboardEvent('paste', {clipboardData: new DataTransfer()}))")
    assert text(chrome, "#error") == "There is no photo in the clipboard. Copy one, then paste it here."
