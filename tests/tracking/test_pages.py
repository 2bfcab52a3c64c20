"""MLflow's pages in Chromium: the runs of an experiment, their charts, and runs compared."""

import json
import socket
from contextlib import closing, suppress
from pathlib import Path

import pytest
from mlflow import MlflowClient
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
        client = MlflowClient()
        (found_experiment,) = client.search_experiments(filter_string=f"name = '{EXPERIMENT}'")
        experiment = found_experiment.experiment_id
        for name in ("third", "fourth", "fifth", "sixth"):
            run = client.create_run(experiment, run_name=name)
            client.log_metric(run.info.run_id, "bleu_4", 0.3)
        runs = client.search_runs([experiment], order_by=["start_time"])
        for count in (2, 6):
            chosen = json.dumps([run.info.run_id for run in runs[:count]])
            compared = f"http://127.0.0.1:{port}/#/compare-runs?runs={chosen}&experiments={json.dumps([experiment])}"
            # The first chart is of BLEU-4, and rows that do not differ can be hidden.
            shown(browser, compared, "bleu_4", *(run.info.run_name for run in runs[:count]), "Show diff only", "cider")


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
