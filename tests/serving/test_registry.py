"""MLflow's model registry: versions, aliases, and loading a registered model."""

import dataclasses
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from PIL import Image

from captionlab.commands.caption import Options, caption_photos
from captionlab.commands.export import export
from captionlab.commands.publish import publish
from captionlab.core.records import Decoding, Scores
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner, EnsembleCaptioner
from captionlab.serving import registry
from captionlab.training.checkpoint import load_checkpoint, save_checkpoint
from registered import CHOSEN, EXPERIMENT, TAGS, candidate, register


@pytest.fixture(autouse=True)
def _no_inherited_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DVC_ROOT", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def root(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # MLflow may create its default database in the current folder
    return tmp_path


def client(root: Path) -> MlflowClient:
    return MlflowClient(f"sqlite:///{root / 'mlflow.db'}")


def changed(released: Path, folder: Path, name: str) -> Path:
    """A checkpoint that differs only in its name."""
    made = load_checkpoint(released)
    save_checkpoint(folder / name, dataclasses.replace(made, identity=dataclasses.replace(made.identity, name=name)))
    return folder / name


def test_a_model_is_registered_once_without_pickle(root: Path, released: Path) -> None:
    first = register(root, candidate(released))
    assert (first.outcome, first.version, first.best) == ("created", 1, 1)
    again = register(root, candidate(released))
    assert (again.outcome, again.version, again.best) == ("present", 1, 1)
    experiment = client(root).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    (logged,) = client(root).search_logged_models([experiment.experiment_id])
    assert logged.status == "READY"
    version = client(root).get_model_version_by_alias("captionlab", "best-scenes")
    assert (version.source, version.tags["system"]) == (f"models:/{logged.model_id}", "attention")
    stored = root / "mlartifacts" / EXPERIMENT / "models" / logged.model_id / "artifacts"
    files = {str(path.relative_to(stored)) for path in stored.rglob("*") if path.is_file()}
    code = {"MLmodel", "conda.yaml", "python_env.yaml", "requirements.txt", "model.py"}
    assert files == {*code, "artifacts/checkpoint.safetensors"}
    assert not list((root / "elsewhere").iterdir())
    with registry.local_checkpoint(root, registry.best_model("scenes")) as path:
        registered, original = load_checkpoint(path), load_checkpoint(released)
    assert (registered.identity, registered.decoding) == (original.identity, CHOSEN)
    assert not path.exists()


def test_a_version_describes_its_scores(root: Path, released: Path) -> None:
    scores = Scores(bleu_1=0.6, bleu_2=0.4, bleu_3=0.3, bleu_4=0.21, rouge_l=0.5, cider=0.75, meteor=None)
    register(root, candidate(released, scores=scores))
    version = client(root).get_model_version("captionlab", "1")
    found = {key: version.tags[key] for key in ("dataset", "decoding", "test_bleu_4", "test_cider", "validation_cider")}
    assert found == {
        "dataset": "scenes", "decoding": "beam 2", "test_bleu_4": "0.2100", "test_cider": "0.7500",
        "validation_cider": "0.500000",
    }  # fmt: skip
    assert version.description == (
        "attention.tiny, trained on scenes. Decoding: beam 2, length penalty 0.4, at most 5 words. "
        "Scores: test BLEU-4 0.2100, test CIDEr 0.7500, validation CIDEr 0.500000."
    )
    assert register(root, candidate(released, scores=dataclasses.replace(scores, cider=0.8))).outcome == "present"
    version = client(root).get_model_version("captionlab", "1")
    assert version.tags["test_cider"] == "0.8000"
    assert "test CIDEr 0.8000" in (version.description or "")


def test_a_model_worse_than_retrieval_is_not_the_best(root: Path, released: Path) -> None:
    assert register(root, candidate(released), floor=0.51).best is None
    assert client(root).get_registered_model("captionlab").aliases == {}
    assert register(root, candidate(released), floor=0.5).best == 1
    assert list(client(root).get_registered_model("captionlab").aliases) == ["best-scenes"]
    assert register(root, candidate(released), floor=0.51).best is None  # retrieval has become better
    # as where the validation split is one photo, whose CIDEr is always 0
    assert register(root, candidate(released, score=0.0, result_key="other", dataset="one")).best is None
    assert client(root).get_registered_model("captionlab").aliases == {}


def test_the_alias_is_the_best_model_of_the_dataset(root: Path, released: Path, tmp_path: Path) -> None:
    def best(name: str, **changes: Any) -> int:
        path = changed(released, tmp_path, name)
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


# A process that is killed at the step given as its first argument.
DOOMED = f"""
import os, signal, sys
from pathlib import Path
from captionlab.core.records import Decoding, Scores
from captionlab.serving import registry
registry.configure_mlflow()
import mlflow
setattr(mlflow.MlflowClient, sys.argv[1], lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
candidate = registry.Candidate(
    name="attention.tiny", checkpoints=(Path(sys.argv[3]),), decoding={CHOSEN!r}, result_key="key", dataset="scenes",
    score=0.5, tags={TAGS!r},
)
registry.register(Path(sys.argv[2]), {EXPERIMENT!r}, candidate, 0.0)
"""


@pytest.mark.slow
def test_a_kill_before_the_version_leaves_no_duplicates(root: Path, released: Path) -> None:
    for method in ("log_model_artifacts", "create_model_version"):
        killed = subprocess.run([sys.executable, "-c", DOOMED, method, str(root), str(released)], check=False)
        assert killed.returncode == -signal.SIGKILL
    assert register(root, candidate(released)).outcome == "created"
    experiment = client(root).get_experiment_by_name(EXPERIMENT)
    assert experiment is not None
    assert len(client(root).search_logged_models([experiment.experiment_id])) == 1
    assert len(client(root).search_model_versions("name = 'captionlab'")) == 1
    assert len(list((root / "mlartifacts").rglob("checkpoint.safetensors"))) == 1


@pytest.mark.parametrize(
    "uri", ["models:/captionlab@best-scenes", "models:/captionlab/7", "models:/", "runs:/abc/model"]
)
def test_a_missing_model_is_one_error_line(root: Path, uri: str) -> None:
    with (
        pytest.raises(CaptionlabError, match=r"not found|Not a proper models:/ URI"),
        registry.local_checkpoint(root, uri),
    ):
        pass


def test_a_registered_model_uses_the_decoding_chosen_on_validation(
    root: Path, released: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    register(root, candidate(released))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    Image.effect_noise((64, 48), 80).save("holiday.jpg")
    model = registry.best_model("scenes")
    said = Captioner.load(released, decoding=CHOSEN).caption("holiday.jpg")
    assert len(said) == 2
    assert caption_photos(["holiday.jpg"], Options(model=model, top=4))
    assert capsys.readouterr().out.splitlines() == [sentence.caption for sentence in said]
    assert caption_photos(["holiday.jpg"], Options(model=model, decoding={"beam": 1}, top=4))
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_every_decoding_of_params_yaml_can_be_served(
    root: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    chosen = Decoding(beam=2, max_words=150, min_words=5)
    version = register(root, candidate(released, decoding=chosen)).version
    model = mlflow.pyfunc.load_model(f"models:/captionlab/{version}")
    Image.effect_noise((64, 48), 80).save("holiday.jpg")
    photos = pd.DataFrame({"image": [Path("holiday.jpg").read_bytes()]})
    assert len(model.predict(photos)["caption"][0].split()) >= 5
    with pytest.raises(MlflowException, match="min_words must be at most max_words, 3, not 5"):
        model.predict(photos, params={"max_words": 3})


def test_an_ensemble_is_registered_with_its_members(
    root: Path, released: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = load_checkpoint(released)
    with torch.no_grad():
        for parameter in made.model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.1)
    paths = (released, root / "other.safetensors")
    save_checkpoint(paths[1], made)
    assert register(root, candidate(released, checkpoints=paths, name="ensemble.both")).best == 1
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{root / 'mlflow.db'}")
    Image.effect_noise((64, 48), 80).save("holiday.jpg")
    model = registry.best_model("scenes")
    (said,) = EnsembleCaptioner.load(paths, decoding=CHOSEN).stream(["holiday.jpg"])
    assert not isinstance(said, CaptionlabError)
    assert caption_photos(["holiday.jpg"], Options(model=model, top=4))
    assert capsys.readouterr().out.splitlines() == [sentence.caption for sentence in said]
    served: Any = mlflow.pyfunc.load_model(model)
    assert "captionlab: ensemble of attention.tiny, attention.tiny, trained on tiny, beam 2" in capsys.readouterr().err
    answer = served.predict(pd.DataFrame({"image": [Path("holiday.jpg").read_bytes()]}))
    assert answer["caption"][0] == said[0].caption
    with pytest.raises(CaptionlabError, match="is an ensemble; only a single system can be exported"):
        export(Path("onnx"), model, int8=False, web_runtime=None)
    with pytest.raises(CaptionlabError, match="is an ensemble; only a released system can be published"):
        publish(Path("hub"), model, None)


def test_each_dataset_has_an_alias_of_its_own() -> None:
    names = ["scenes", "a-b", "a_b", "a.b", "a b", "fotos é"]
    aliases = [registry.best_alias(name) for name in names]
    assert aliases[:3] == ["best-scenes", "best-a-b", "best-a_b"]
    assert len(set(aliases)) == len(names)
    assert all(re.fullmatch("[A-Za-z0-9_-]+", alias) for alias in aliases)


@pytest.mark.parametrize(("uri", "said"), [
    ("sqlite+bad", "is not the address of a database"),
    ("sqlite+bad:///runs.db", "cannot be used"),
])  # fmt: skip
def test_an_address_that_is_no_database_is_one_error_line(
    tmp_path: Path, released: Path, monkeypatch: pytest.MonkeyPatch, uri: str, said: str
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    (tmp_path / "runs.db").touch()
    monkeypatch.chdir(tmp_path)
    with (
        pytest.raises(CaptionlabError, match=said) as caught,
        registry.local_checkpoint(tmp_path, registry.best_model("scenes")),
    ):
        pass
    assert "\n" not in str(caught.value)
    with pytest.raises(CaptionlabError, match=said):
        register(tmp_path, candidate(released))


def test_looking_up_a_model_creates_no_database(tmp_path: Path) -> None:
    with (
        pytest.raises(CaptionlabError, match="dvc repro"),
        registry.local_checkpoint(tmp_path, registry.best_model("scenes")),
    ):
        pass
    assert not list(tmp_path.iterdir())
