"""The registered model, served by MLflow in its own process and requested over HTTP."""

import base64
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import numpy as np
import pytest
from PIL import Image

from captionlab.inference.captioner import Captioner, Sentence
from captionlab.serving import registry
from registered import CHOSEN, candidate, register
from servers import answers, wait_until

pytestmark = pytest.mark.slow

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow runs uvicorn by name
PAGE = Path(__file__).parents[2] / "docs/serving.md"
TWO = {"beam": 4, "top": 2}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, empty_database: Path, released: Path) -> Path:
    """A project in which a model is registered."""
    root = tmp_path_factory.mktemp("registered")
    shutil.copy(empty_database, root / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
            patch.delenv(name, raising=False)
        register(root, candidate(released))
    return root


@pytest.fixture(scope="module")
def environment(root: Path) -> dict[str, str]:
    return {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}", "PATH": PATH}


@pytest.fixture(scope="module")
def server(root: Path, environment: dict[str, str]) -> Iterator[str]:
    """The URL of the served model."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", registry.best_model("scenes"), "--port", str(port)]
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        wait_until(lambda: answers(f"http://127.0.0.1:{port}/ping") or process.poll() is not None, 240, pause=0.2)
        assert process.poll() is None, (root / "server.log").read_text()
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ask(url: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        return error.code, json.load(error)


def noise(seed: int) -> bytes:
    out = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


PHOTOS = [noise(1), noise(2)]
RECORDS = [{"image": coded(data)} for data in PHOTOS]


@pytest.fixture(scope="module")
def expected(released: Path) -> list[dict[str, Any]]:
    """The two best captions of each photo at beam 4, as in the response."""

    def shown(sentence: Sentence) -> dict[str, Any]:
        return {"caption": sentence.caption, "log_prob": pytest.approx(sentence.log_prob, abs=1e-3)}

    said = Captioner.load(released, decoding=CHOSEN).caption(PHOTOS, beam=4)
    return [
        {"image": number, **shown(best), "alternatives": [shown(second)]}
        for number, (best, second, *_) in enumerate(said)
    ]


@pytest.mark.parametrize(
    "body",
    [
        {"dataframe_records": RECORDS},
        {"dataframe_split": {"columns": ["image"], "data": [[record["image"]] for record in RECORDS]}},
        {"inputs": {"image": [record["image"] for record in RECORDS]}},
    ],
    ids=lambda body: next(iter(body)),
)
def test_photos_are_captioned_in_every_format_of_mlflow(
    server: str, expected: list[dict[str, Any]], body: dict[str, Any]
) -> None:
    assert ask(server, body | {"params": TWO}) == (200, {"predictions": expected})


def test_the_default_decoding_is_the_one_chosen_on_validation(server: str, released: Path) -> None:
    status, answer = ask(server, {"dataframe_records": RECORDS})
    assert status == 200
    said = Captioner.load(released, decoding=CHOSEN).caption(PHOTOS)
    assert [len(sentences) for sentences in said] == [2, 2]
    assert [
        [row["caption"], *(other["caption"] for other in row["alternatives"])] for row in answer["predictions"]
    ] == [[sentence.caption for sentence in sentences] for sentences in said]


def test_the_request_in_the_documentation_works(server: str, tmp_path: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(PHOTOS[0])
    (shown,) = re.findall(r"^(echo .*\n +curl .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shown = shown.replace("http://127.0.0.1:5001/invocations", server)
    answer = subprocess.run(["bash", "-c", shown], cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    (row,) = json.loads(answer)["predictions"]
    assert (row["image"], len(row["alternatives"])) == (0, 2)


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        ("%%%", "photo 1 is not base64"),
        (coded(b"no photo at all"), "photo 1: cannot read the photo"),
        (coded(PHOTOS[0][:300]), "photo 1: cannot read the photo"),
        (5, "photo 1 is not base64"),
        ("", "photo 1: cannot read the photo"),
    ],
)
def test_an_invalid_photo_is_refused_and_the_server_continues(
    server: str, expected: list[dict[str, Any]], image: object, sentence: str
) -> None:
    status, refusal = ask(server, {"dataframe_records": [RECORDS[0], {"image": image}]})
    assert (status, sentence in refusal["message"]) == (400, True), refusal
    assert "Traceback" not in json.dumps(refusal)
    assert len(json.dumps(refusal)) < 1000
    assert ask(server, {"dataframe_records": RECORDS, "params": TWO}) == (200, {"predictions": expected})


@pytest.mark.parametrize("wrong", [{"beam": 0}, {"beam": 51}, {"beam": "wide"}, {"top": 0}, {"length_penalty": -1.0}])
def test_parameters_out_of_range_are_refused(server: str, wrong: dict[str, Any]) -> None:
    status, refusal = ask(server, {"dataframe_records": RECORDS, "params": wrong})
    assert (status, "Traceback" in json.dumps(refusal)) == (400, False), refusal


def test_a_request_takes_64_photos(server: str) -> None:
    status, refusal = ask(server, {"dataframe_records": RECORDS[:1] * 65})
    assert (status, "65 photos; a request takes 64" in refusal["message"]) == (400, True), refusal


def test_mlflow_predicts_without_a_server(
    root: Path, environment: dict[str, str], expected: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "request.json").write_text(json.dumps({"dataframe_records": RECORDS, "params": TWO}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "local"]
    command += ["--model-uri", registry.best_model("scenes"), "--content-type", "json"]
    command += ["--input-path", str(tmp_path / "request.json"), "--output-path", str(tmp_path / "answer.json")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert json.loads((tmp_path / "answer.json").read_text()) == {"predictions": expected}
