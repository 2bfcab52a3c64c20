"""The registered model for real: an MLflow database, the server's own process, photos over HTTP. No mocks."""

import base64
import dataclasses
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pytest
import torch
from mlflow import MlflowClient
from PIL import Image

from builders import identity, tiny_system
from captionlab.commands.caption import Options, caption_photos
from captionlab.core.records import Decoding
from captionlab.data.vocab import Vocabulary
from captionlab.encoders.load import load_encoder
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner
from captionlab.models.build import build_model
from captionlab.serving import registry
from captionlab.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint

PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # MLflow calls uvicorn by its name
PAGE = Path(__file__).parents[2] / "docs/serving.md"
EXPERIMENT = "captionlab/scenes"
TAGS = {"system": "baseline", "configuration": "lite0", "dataset_digest": "abc"}
CHOSEN = Decoding(beam=3, length_penalty=0.4, max_words=9)  # on validation


@pytest.fixture(autouse=True)
def _no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A system that looks at photos through a real encoder and knows five words."""
    vocab = Vocabulary.build([("a", "dog", "runs", "on", "grass")], cleaning="standard", min_count=1)
    torch.manual_seed(1)
    config = tiny_system("baseline", encoder="efficientnet_lite0")
    model = build_model(config, vocab=len(vocab), pooled=1280, channels=0)
    weights = load_encoder("efficientnet_lite0").weights_digest
    about = identity(
        "baseline", config, encoder=config.encoder, encoder_weights=weights, grid=0, pooled=1280, channels=0
    )
    path = tmp_path_factory.mktemp("trained") / "checkpoint.safetensors"
    save_checkpoint(path, Checkpoint(model=model, vocab=vocab, identity=about))
    return path


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # MLflow likes to make its default database where it is called
    return tmp_path


def candidate(checkpoint: Path, **changes: Any) -> registry.Candidate:
    values: dict[str, Any] = {
        "name": "baseline.lite0", "checkpoint": checkpoint, "decoding": CHOSEN, "result_key": "key",
        "dataset": "scenes", "score": 0.5, "tags": TAGS,
    }  # fmt: skip
    return registry.Candidate(**values | changes)


def register(root: Path, candidate: registry.Candidate, floor: float = 0.0) -> registry.Registered:
    return registry.register(root, EXPERIMENT, candidate, floor)


def client(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


def changed(checkpoint: Path, folder: Path, name: str) -> Path:
    """Another checkpoint, by its name alone."""
    made = load_checkpoint(checkpoint)
    save_checkpoint(folder / name, dataclasses.replace(made, identity=dataclasses.replace(made.identity, name=name)))
    return folder / name


def test_a_model_is_registered_once_and_holds_no_pickle(root: Path, checkpoint: Path) -> None:
    first = register(root, candidate(checkpoint))
    assert (first.outcome, first.version, first.best) == ("created", 1, 1)
    again = register(root, candidate(checkpoint))
    assert (again.outcome, again.version, again.best) == ("present", 1, 1)
    experiment = client(root).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (logged,) = client(root).search_logged_models([experiment.experiment_id])
    assert logged.status == "READY"
    version = client(root).get_model_version_by_alias("captionlab", "best-scenes")
    assert (version.source, version.tags["system"]) == (f"models:/{logged.model_id}", "baseline")
    stored = root / "mlartifacts" / EXPERIMENT / "models" / logged.model_id / "artifacts"
    files = {str(path.relative_to(stored)) for path in stored.rglob("*") if path.is_file()}
    code = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "model.py"}
    assert files == {*code, "artifacts/checkpoint.safetensors"}
    assert not list((root / "elsewhere").iterdir())
    with registry.local_checkpoint(root, registry.best_model("scenes")) as path:
        registered, original = load_checkpoint(path), load_checkpoint(checkpoint)
    assert (registered.identity, registered.decoding) == (original.identity, CHOSEN)
    assert not path.exists()


def test_what_is_worse_than_retrieval_is_not_the_best(root: Path, checkpoint: Path) -> None:
    assert register(root, candidate(checkpoint), floor=0.51).best is None
    assert client(root).get_registered_model("captionlab").aliases == {}
    assert register(root, candidate(checkpoint), floor=0.5).best == 1


def test_the_alias_stands_for_the_best_of_the_dataset(root: Path, checkpoint: Path, tmp_path: Path) -> None:
    def best(name: str, **changes: Any) -> int:
        path = changed(checkpoint, tmp_path, name)
        found = register(root, candidate(path, **changes))
        assert found.best is not None
        return found.best

    assert best("first", score=0.5) == 1
    assert best("worse", score=0.4) == 1
    assert best("better", score=0.6) == 3
    assert best("equal, but newer", score=0.6) == 4
    other = TAGS | {"dataset_digest": "def"}
    assert best("of another dataset", score=0.1, dataset="flickr8k", tags=other) == 5
    aliases = client(root).get_registered_model("captionlab").aliases
    assert {alias: int(version) for alias, version in aliases.items()} == {"best-scenes": 4, "best-flickr8k": 5}
    assert best("worse", score=0.4) == 4  # back to the first dataset: its best, nothing new
    assert best("worse", score=0.7) == 2  # evaluated in another way


# A process that is killed at the very step named first.
DOOMED = f"""
import os, signal, sys
from pathlib import Path
from captionlab import Decoding
from captionlab.serving import registry
registry.configure_mlflow()
import mlflow
setattr(mlflow.MlflowClient, sys.argv[1], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
candidate = registry.Candidate(
    name="baseline.lite0", checkpoint=Path(sys.argv[3]), decoding={CHOSEN!r}, result_key="key", dataset="scenes",
    score=0.5, tags={TAGS!r},
)
registry.register(Path(sys.argv[2]), {EXPERIMENT!r}, candidate, 0.0)
"""


@pytest.mark.slow
def test_a_kill_before_the_version_leaves_nothing_double(root: Path, checkpoint: Path) -> None:
    for method in ("log_model_artifacts", "create_model_version"):
        killed = subprocess.run([sys.executable, "-c", DOOMED, method, str(root), str(checkpoint)], check=False)
        assert killed.returncode == -signal.SIGKILL
    assert register(root, candidate(checkpoint)).outcome == "created"
    experiment = client(root).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert len(client(root).search_logged_models([experiment.experiment_id])) == 1
    assert len(client(root).search_model_versions("name = 'captionlab'")) == 1
    assert len(list((root / "mlartifacts").rglob("checkpoint.safetensors"))) == 1


@pytest.mark.parametrize(
    "uri", ["models:/captionlab@best-scenes", "models:/captionlab/7", "models:/", "runs:/abc/model"]
)
def test_a_model_that_is_not_there_is_an_error_of_one_line(root: Path, uri: str) -> None:
    with pytest.raises(CaptionlabError, match="not found"), registry.local_checkpoint(root, uri):
        pass


def test_photos_are_described_by_a_registered_model(
    root: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(root, candidate(checkpoint))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    Path("holiday.jpg").write_bytes(photo("green"))
    model = registry.best_model("scenes")
    said = Captioner.load(checkpoint, decoding=CHOSEN).caption(photo("green"))
    assert len(said) == 3
    assert caption_photos(["holiday.jpg"], Options(model=model, top=3))
    assert capsys.readouterr().out.splitlines() == [sentence.caption for sentence in said]
    assert caption_photos(["holiday.jpg"], Options(model=model, beam=1, top=3))
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_looking_for_a_model_makes_no_database(tmp_path: Path) -> None:
    with (
        pytest.raises(CaptionlabError, match="dvc repro"),
        registry.local_checkpoint(tmp_path, registry.best_model("scenes")),
    ):
        pass
    assert not list(tmp_path.iterdir())


def photo(colour: str) -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (64, 48), colour).save(out, "JPEG")
    return out.getvalue()


def coded(data: bytes) -> str:
    return base64.b64encode(data).decode()


@pytest.fixture
def server(root: Path, checkpoint: Path) -> Iterator[str]:
    register(root, candidate(checkpoint))
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "models", "serve", "--env-manager", "local"]
    command += ["--model-uri", registry.best_model("scenes"), "--port", str(port)]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}", "PATH": PATH}
    with (root / "server.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 240
        while not answers(f"http://127.0.0.1:{port}/ping"):
            assert process.poll() is None, (root / "server.log").read_text()
            assert time.monotonic() < deadline, (root / "server.log").read_text()
            time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/invocations"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(url: str) -> bool:
    try:
        urllib.request.urlopen(url, timeout=1).close()
    except OSError:
        return False
    return True


def ask(url: str, body: Any) -> tuple[int, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, json.load(reply)
    except HTTPError as error:
        return error.code, json.load(error)


@pytest.mark.slow
def test_a_server_of_the_registered_model_captions_photos(server: str, root: Path, checkpoint: Path) -> None:
    photos = [photo("green"), photo("white")]
    expected = [
        {
            "image": number,
            "caption": said[0].caption,
            "log_prob": pytest.approx(said[0].log_prob, abs=1e-3),
            "alternatives": [
                {"caption": each.caption, "log_prob": pytest.approx(each.log_prob, abs=1e-3)} for each in said[1:2]
            ],
        }
        for number, said in enumerate(Captioner.load(checkpoint, decoding=CHOSEN).caption(photos, beam=2))
    ]
    records = [{"image": coded(data)} for data in photos]
    params = {"beam": 2, "top": 2}
    assert ask(server, {"dataframe_records": records, "params": params}) == (200, {"predictions": expected})
    rows = [[record["image"]] for record in records]
    split = {"columns": ["image"], "data": rows}
    assert ask(server, {"dataframe_split": split, "params": params}) == (200, {"predictions": expected})
    columns = {"image": [record["image"] for record in records]}
    assert ask(server, {"inputs": columns, "params": params}) == (200, {"predictions": expected})
    status, by_default = ask(server, {"dataframe_records": records})
    assert status == 200
    said = Captioner.load(checkpoint, decoding=CHOSEN).caption(photos)
    assert [
        [row["caption"], *(other["caption"] for other in row["alternatives"])] for row in by_default["predictions"]
    ] == [[sentence.caption for sentence in sentences] for sentences in said]
    assert [len(sentences) for sentences in said] == [3, 3]  # as validation chose

    (root / "holiday.jpg").write_bytes(photos[0])
    (shown,) = re.findall(r"^(echo .*\n +curl .*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shown = shown.replace("http://127.0.0.1:5001/invocations", server)
    answer = subprocess.run(["bash", "-c", shown], cwd=root, check=True, capture_output=True, text=True).stdout
    (row,) = json.loads(answer)["predictions"]
    assert (row["image"], len(row["alternatives"])) == (0, 2)

    for image, sentence in {
        "%%%": "photo 1 is not base64",
        coded(b"no photo at all"): "photo 1: cannot read the photo",
        coded(photos[0][:300]): "photo 1: cannot read the photo",
        5: "photo 1 is not base64",
        "": "photo 1: cannot read the photo",
    }.items():
        status, refusal = ask(server, {"dataframe_records": [records[0], {"image": image}]})
        assert (status, sentence in refusal["message"]) == (400, True), refusal
        assert "Traceback" not in json.dumps(refusal)
        assert len(json.dumps(refusal)) < 1000
    for wrong in ({"beam": 0}, {"beam": 51}, {"beam": "wide"}, {"top": 0}, {"length_penalty": -1.0}):
        status, refusal = ask(server, {"dataframe_records": records, "params": wrong})
        assert (status, "Traceback" in json.dumps(refusal)) == (400, False), refusal
    assert ask(server, {"dataframe_records": records[:1] * 65})[0] == 400
    assert ask(server, {"dataframe_records": records, "params": params}) == (200, {"predictions": expected})

    # The same without a server; in this test, because it shares what is registered.
    (root / "request.json").write_text(json.dumps({"dataframe_records": records, "params": params}))
    command = [sys.executable, "-m", "mlflow", "models", "predict", "--env-manager", "local"]
    command += ["--model-uri", registry.best_model("scenes"), "--content-type", "json"]
    command += ["--input-path", str(root / "request.json"), "--output-path", str(root / "answer.json")]
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}", "PATH": PATH}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    assert json.loads((root / "answer.json").read_text()) == {"predictions": expected}
