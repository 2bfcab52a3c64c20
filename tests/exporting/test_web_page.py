"""The web page of an export in Chromium, from a static file server; onnxruntime-web comes from npm.

Without npm the tests of captions are skipped; those of reading photos need the browser only.
"""

import io
import shutil
import subprocess
import tarfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image
from selenium.webdriver import Chrome
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from captionlab.core.records import Decoding
from captionlab.data.photos import PREPROCESSINGS, Pixels, read_photo
from captionlab.demo.examples import example_photo
from captionlab.exporting.onnx_folder import PAGE, WEB_VERSION, export
from exported import SCENES, load_runner, make_captioner

if TYPE_CHECKING:
    from conftest import World

pytestmark = [pytest.mark.browser, pytest.mark.slow]


@pytest.fixture(scope="module")
def web_runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder dist of onnxruntime-web."""
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("npm, which fetches onnxruntime-web, is not installed")
    folder = tmp_path_factory.mktemp("npm")
    command = [npm, "pack", "--prefer-offline", "--silent", f"onnxruntime-web@{WEB_VERSION}"]
    packed = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)
    if packed.returncode:
        pytest.skip(f"npm cannot fetch onnxruntime-web: {packed.stderr[-200:]}")
    with tarfile.open(next(folder.glob("*.tgz"))) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 has it, 3.11.2 does not
        archive.extractall(folder)
    return folder / "package/dist"


@pytest.fixture(scope="module", params=[False, True], ids=["whole", "int8"])
def folder(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, world: "World", web_runtime: Path
) -> Path:
    """An export and photos; these are PNGs, because browsers decode JPEGs slightly differently."""
    folder = tmp_path_factory.mktemp("page") / "export"
    captioner = make_captioner(world.vocab, "attention", Decoding(min_words=4, no_repeat_ngram=2))
    export(captioner, folder, int8=request.param, web_runtime=web_runtime)
    for name in SCENES:
        with Image.open(io.BytesIO(example_photo(name) or b"")) as image:
            image.save(folder / f"{name}.png")
    return folder


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of a static file server."""
    handler = partial(SimpleHTTPRequestHandler, directory=folder)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    with served(folder) as address:
        yield address


@pytest.fixture
def page(address: str, browser: Chrome) -> Chrome:
    """The page, with its model loaded."""
    browser.get(address)
    loading = "Loading the model …"
    WebDriverWait(browser, 60).until(lambda _: browser.find_element(By.ID, "caption").text != loading)
    assert browser.find_element(By.ID, "caption").text == ""
    return browser


def said(page: Chrome, photo: Path) -> str:
    page.find_element(By.ID, "photo").send_keys(str(photo))
    WebDriverWait(page, 60, 0.1).until(lambda _: page.find_element(By.ID, "photo").is_enabled())
    return page.find_element(By.ID, "caption").text


def pixels_of(browser: Chrome, photo: bytes, preprocessing: str = "square_bicubic") -> Pixels:
    """The (224, 224, 3) array that the page's script reads from a file."""
    found = browser.execute_async_script(
        "import('./captioner.js').then(async page => "
        "arguments[2]([...await page.readPhoto(new Blob([Uint8Array.from(arguments[0])]), 224, arguments[1])]))",
        list(photo),
        preprocessing,
    )
    return np.array(found, np.uint8).reshape(224, 224, 3)


def encoded(image: Image.Image, kind: str, turn: int = 1) -> bytes:
    out, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = turn
    image.save(out, kind, exif=exif)
    return out.getvalue()


def test_the_page_gives_the_captions_of_the_runner(page: Chrome, folder: Path) -> None:
    runner = load_runner(folder).Captioner()
    photos = sorted(folder.glob("*.png"))
    expected = [runner.caption(photo) for photo in photos]
    assert [said(page, photo) for photo in photos] == expected
    assert len(set(expected)) > 1
    assert page.find_element(By.ID, "shown").get_attribute("alt") == expected[-1]
    assert [entry["message"] for entry in page.get_log("browser")] == []


def test_the_page_opened_as_a_file_says_what_to_do(browser: Chrome, folder: Path) -> None:
    browser.get((folder / "index.html").as_uri())
    caption = browser.find_element(By.ID, "caption")
    WebDriverWait(browser, 20).until(lambda _: "python -m http.server" in str(caption.get_property("value")))


def test_a_file_that_is_not_a_photo_is_reported(page: Chrome, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("only words")
    assert said(page, tmp_path / "notes.txt").startswith("This photo cannot be captioned: ")
    assert not page.find_element(By.ID, "shown").is_displayed()


@pytest.mark.parametrize("size", [(500, 333), (101, 224), (40, 90), (1300, 1000)])
def test_the_page_resizes_as_captionlab_does(browser: Chrome, size: tuple[int, int]) -> None:
    """Equal for a PNG. Chromium decodes JPEGs slightly differently, and Pillow decodes large ones at reduced size."""
    small = np.random.default_rng(0).integers(0, 256, (9, 9, 3), np.uint8)
    image = Image.fromarray(small).resize(size)
    png, jpeg = encoded(image, "PNG"), encoded(image, "JPEG", turn=6)
    with served(PAGE) as address:
        browser.get(f"{address}captioner.js")  # not the page, which would load a model
        for interpolation, name in PREPROCESSINGS.items():
            np.testing.assert_array_equal(pixels_of(browser, png, name), read_photo(png, 224, interpolation))
        read = pixels_of(browser, jpeg)
    difference = np.abs(read.astype(int) - read_photo(jpeg, 224))
    assert difference.max() <= 4
    assert difference.mean() < 1
