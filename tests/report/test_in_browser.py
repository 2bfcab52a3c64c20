"""The report's pages in headless Chromium, from disk, by mouse and keyboard."""

import io
import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.select import Select

from captionlab.stages.report import report
from results_tree import toys, write_results

pytestmark = pytest.mark.browser

VAL_CIDER = 2  # its column


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("report")
    write_results(root, toys())
    report(toys(), root)
    return root / "reports/toys"


@pytest.fixture
def comparison(browser: Chrome, folder: Path) -> Iterator[Chrome]:
    yield from opened(browser, folder / "comparison.html")


@pytest.fixture
def gallery(browser: Chrome, folder: Path) -> Iterator[Chrome]:
    yield from opened(browser, folder / "gallery/index.html")


def opened(chrome: Chrome, page: Path) -> Iterator[Chrome]:
    """The page, 1200 pixels wide in light mode; afterwards checks for console errors and network requests."""
    show_as(chrome, 1200)
    chrome.get_log("browser")
    chrome.get_log("performance")
    chrome.get(page.as_uri())
    yield chrome
    assert chrome.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in chrome.get_log("performance")]
    asked = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert page.as_uri() in asked
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}


def show_as(chrome: Chrome, width: int, scheme: str = "light") -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    chrome.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def shown_rows(chrome: Chrome, table: str = "section") -> list[list[str]]:
    """The text of the cells of visible rows."""
    script = """return [...document.querySelectorAll(arguments[0] + " tbody tr")].filter(row => row.offsetParent)
                .map(row => [...row.cells].map(cell => cell.innerText.trim()))"""
    rows: list[list[str]] = chrome.execute_script(script, table)
    return rows


def press(chrome: Chrome, *keys: str) -> None:
    ActionChains(chrome).send_keys(*keys).perform()


def test_tables_are_sorted_by_keyboard(comparison: Chrome) -> None:
    names = ["attention.lite2", "baseline.lite2_wide", "baseline.lite0", "modified.lite2", "retrieval.lite2"]
    assert [row[0] for row in shown_rows(comparison)] == names
    comparison.find_element(By.ID, "all").send_keys("")
    for _ in range(20):
        press(comparison, Keys.TAB)
        if comparison.switch_to.active_element.text == "CIDEr, val":
            break
    head = comparison.switch_to.active_element.find_element(By.XPATH, "..")
    assert head.get_attribute("aria-sort") == "descending"  # the initial state
    press(comparison, Keys.ENTER)
    assert head.get_attribute("aria-sort") == "ascending"
    assert [row[0] for row in shown_rows(comparison)] == names[::-1]
    press(comparison, Keys.SPACE)
    assert head.get_attribute("aria-sort") == "descending"
    assert [row[0] for row in shown_rows(comparison)] == names
    first = comparison.find_element(By.CSS_SELECTOR, "section thead button")
    first.click()
    assert [row[0] for row in shown_rows(comparison)] == sorted(names)
    assert [th.text for th in comparison.find_elements(By.CSS_SELECTOR, "[aria-sort]")] == ["Configuration"]


def test_all_decodings_can_be_shown(comparison: Chrome) -> None:
    assert comparison.find_element(By.CSS_SELECTOR, "section .count").text == "5 of 15 rows"
    comparison.find_element(By.ID, "all").click()
    rows = shown_rows(comparison)
    assert len(rows) == 15
    assert [float(row[VAL_CIDER]) for row in rows] == sorted((float(row[VAL_CIDER]) for row in rows), reverse=True)


def test_rows_are_filtered_by_system_source_and_text(comparison: Chrome) -> None:
    box = comparison.find_element(By.CSS_SELECTOR, "[value=attention]")
    box.send_keys(Keys.SPACE)
    assert [row[0] for row in shown_rows(comparison)] == [
        "baseline.lite2_wide",
        "baseline.lite0",
        "modified.lite2",
        "retrieval.lite2",
    ]
    box.send_keys(Keys.SPACE)
    search = comparison.find_element(By.ID, "search")
    search.send_keys("WIDE base", Keys.ENTER)
    assert [row[0] for row in shown_rows(comparison)] == ["baseline.lite2_wide"]
    search.clear()
    search.send_keys(" ")
    source = Select(comparison.find_element(By.ID, "source"))
    source.select_by_value("stated")
    assert shown_rows(comparison) == []
    stated = shown_rows(comparison, "details")
    assert len(stated) == 10 + 2 + 7
    assert all("words" in row[-2] or "tokenisation" in row[-2] for row in stated)  # each with its protocol
    source.select_by_value("measured")
    rows = shown_rows(comparison, "details")
    assert [row[-1] for row in rows].count("measured") == 2 * 5  # under either report's protocol
    assert not [row for row in rows if row in stated]


def test_the_page_is_complete_without_javascript(browser: Chrome, folder: Path) -> None:
    page, scripts = re.subn(r"<script>.*?</script>", "", (folder / "comparison.html").read_text("utf-8"), flags=re.S)
    assert scripts == 1
    (folder / "plain.html").write_text(page, "utf-8")
    for _ in opened(browser, folder / "plain.html"):
        assert len(shown_rows(browser)) == 15
        assert not browser.find_element(By.CLASS_NAME, "controls").is_displayed()
        assert not browser.find_elements(By.TAG_NAME, "button")


def test_the_table_header_is_sticky(comparison: Chrome) -> None:
    comparison.find_element(By.ID, "all").click()
    box = comparison.find_element(By.CSS_SELECTOR, "section .box")
    comparison.execute_script("arguments[0].style.maxHeight = '150px'; arguments[0].scrollTop = 100", box)
    head = comparison.find_element(By.CSS_SELECTOR, "section thead th")
    assert comparison.execute_script("return arguments[0].scrollTop", box) == 100
    assert abs(head.rect["y"] - box.rect["y"]) < 3


def test_a_phone_shows_a_score_without_scrolling(comparison: Chrome) -> None:
    for scheme in ("light", "dark"):
        show_as(comparison, 360, scheme)
        comparison.refresh()
        score = comparison.find_element(By.CSS_SELECTOR, "section tbody td.number")
        box = score.rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert box["y"] + box["height"] <= 600
        assert float(score.text) > 0
        assert not comparison.find_element(By.ID, "search").is_displayed()
        comparison.find_element(By.CSS_SELECTOR, ".filter summary").send_keys(Keys.ENTER)
        assert comparison.find_element(By.ID, "search").is_displayed()


def pixels(chrome: Chrome) -> NDArray[np.int64]:
    """(H, W) brightness of a screenshot."""
    with Image.open(io.BytesIO(chrome.get_screenshot_as_png())) as shot:
        return np.asarray(shot.convert("L")).astype(np.int64)


@pytest.mark.parametrize("width", [1280, 1024, 360])
def test_row_lines_continue_from_the_sticky_first_column(comparison: Chrome, width: int) -> None:
    show_as(comparison, width)
    comparison.refresh()
    comparison.execute_script("document.getElementById('all').click(); document.querySelector('.filter').open = false")
    comparison.execute_script("document.querySelector('section .box').scrollLeft = 30")
    rows: list[list[float]] = comparison.execute_script("""
        return [...document.querySelectorAll("section tbody tr")].slice(0, -1).map(row => {
          const {right, bottom} = row.cells[0].getBoundingClientRect();
          return [right, bottom];
        }).filter(([right, bottom]) => bottom < innerHeight - 10)
    """)
    assert len(rows) > 5
    shown = pixels(comparison)
    for right, bottom in rows:
        around = slice(round(bottom) - 6, round(bottom) + 6)
        in_column, beside = (shown[around, round(right) + offset] for offset in (-3, 8))
        assert in_column.min() < 230
        assert in_column.argmin() == beside.argmin()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_shadow_indicates_more_columns(comparison: Chrome, scheme: str) -> None:
    show_as(comparison, 1280, scheme)
    comparison.refresh()
    box = comparison.find_element(By.CSS_SELECTOR, "section .box")
    assert comparison.execute_script("return arguments[0].scrollWidth > arguments[0].clientWidth", box)
    row = comparison.find_elements(By.CSS_SELECTOR, "section tbody tr:not([hidden])")[1].rect
    right = round(box.rect["x"] + box.rect["width"]) - 3

    def contrast() -> int:
        """The contrast between the box's right edge and its background, in the padding of a row."""
        shown = pixels(comparison)
        return abs(int(shown[round(row["y"]) + 3, right] - shown[round(row["y"]) + 3, round(box.rect["x"]) + 3]))

    assert contrast() > 20
    comparison.execute_script("arguments[0].scrollLeft = arguments[0].scrollWidth", box)
    assert contrast() < 3


@pytest.mark.parametrize("page", ["comparison", "gallery"])
def test_the_pages_fit_a_phone_and_have_a_dark_mode(page: str, request: pytest.FixtureRequest) -> None:
    chrome: Chrome = request.getfixturevalue(page)
    body = chrome.find_element(By.TAG_NAME, "body")
    light = body.value_of_css_property("background-color"), body.value_of_css_property("color")
    show_as(chrome, 360, "dark")
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= 360
    dark = body.value_of_css_property("background-color"), body.value_of_css_property("color")
    assert [brightness(colour) > 150 for colour in (*light, *dark)] == [True, False, False, True]


def brightness(colour: str) -> float:
    """The mean of the channels of ``rgba(r, g, b, a)``."""
    return sum(int(channel) for channel in colour.partition("(")[2].split(",")[:3]) / 3


def visible_overlays(chrome: Chrome) -> list[WebElement]:
    overlays = chrome.find_elements(By.CLASS_NAME, "overlay")
    return [overlay for overlay in overlays if overlay.value_of_css_property("visibility") == "visible"]


@pytest.mark.parametrize("width", [1200, 360])
def test_hovering_over_a_word_shows_its_map(gallery: Chrome, width: int) -> None:
    show_as(gallery, width)
    assert visible_overlays(gallery) == []
    card = gallery.find_elements(By.CLASS_NAME, "card")[1]
    word = card.find_elements(By.CLASS_NAME, "word")[2]
    ActionChains(gallery).scroll_to_element(word).move_to_element(word).perform()
    (overlay,) = visible_overlays(gallery)
    assert overlay == word.find_element(By.TAG_NAME, "img")
    photo = card.find_element(By.CSS_SELECTOR, "figure img")
    for side in ("x", "y", "width", "height"):
        assert abs(overlay.rect[side] - photo.rect[side]) < 1.5, side
    assert photo.get_property("naturalWidth") == 224
    ActionChains(gallery).move_to_element(gallery.find_element(By.TAG_NAME, "h1")).perform()
    assert visible_overlays(gallery) == []


def test_words_are_reached_by_keyboard(gallery: Chrome) -> None:
    for _ in range(10):
        press(gallery, Keys.TAB)
        if gallery.switch_to.active_element.get_attribute("class") == "word":
            break
    first = gallery.switch_to.active_element
    (overlay,) = visible_overlays(gallery)
    assert overlay == first.find_element(By.TAG_NAME, "img")
    press(gallery, Keys.ARROW_RIGHT)
    second = gallery.switch_to.active_element
    assert second != first
    (overlay,) = visible_overlays(gallery)
    assert overlay == second.find_element(By.TAG_NAME, "img")
    press(gallery, Keys.ARROW_LEFT, Keys.ARROW_LEFT)
    assert gallery.switch_to.active_element == first
    press(gallery, Keys.TAB)  # one Tab stop per caption
    assert gallery.switch_to.active_element.get_attribute("class") != "word"


def test_the_pages_link_to_one_another(gallery: Chrome, folder: Path) -> None:
    gallery.find_element(By.LINK_TEXT, "comparison.html").click()
    assert gallery.current_url == (folder / "comparison.html").as_uri()
    gallery.find_element(By.LINK_TEXT, "gallery/index.html").click()
    assert gallery.current_url == (folder / "gallery/index.html").as_uri()
