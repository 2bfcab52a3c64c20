"""MLflow's experiment page in Chromium."""

import socket
from contextlib import closing, suppress
from pathlib import Path

import pytest
from selenium.common.exceptions import TimeoutException
from selenium.webdriver import Chrome
from selenium.webdriver.support.ui import WebDriverWait

from captionlab.stages.track import track
from captionlab.tracking.runs import comparison_page
from servers import serving
from tracked import EXPERIMENT, PARAMS

pytestmark = [pytest.mark.browser, pytest.mark.slow]


def test_the_page_opens_on_bleu_4_cider_and_validation_loss(
    pipeline: Path, browser: Chrome, monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    with serving(pipeline, port):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
        track(PARAMS, pipeline)
        page = f"http://127.0.0.1:{port}{comparison_page(pipeline, EXPERIMENT)}"
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.set_window_size(1900, 1200)
        found = shown(browser, page, "bleu_4", "cider", "val_loss", "encoder", "hidden")
        assert "bleu_1" not in found
        charts = f"{page}&compareRunsMode=CHART"
        shown(browser, charts, "bleu_4", "cider", "val_loss", "bleu_1")  # charts, in order


def shown(browser: Chrome, page: str, *names: str) -> list[str]:
    """Wait until a page's lines have the names in this order; a page that does not finish loading is reloaded."""

    def lines(browser: Chrome) -> list[str]:
        text = browser.execute_script("return document.body.innerText").splitlines()
        found = [line for line in dict.fromkeys(text) if line in names]
        return text if found == list(names) else []

    for _ in range(3):
        browser.get("about:blank")
        browser.get(page)
        with suppress(TimeoutException):
            return WebDriverWait(browser, 30, 0.5).until(lines)
    raise AssertionError(f"the page does not show {names}: {browser.execute_script('return document.body.innerText')}")
