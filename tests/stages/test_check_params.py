"""The stage check_params: models that would be missed hours later."""

import dataclasses
import sys
from pathlib import Path

import pytest

from captionlab.config import Params
from captionlab.core.params import ImageToTextParams
from captionlab.core.records import FEATURES, PARAMS_VALID, Split
from captionlab.core.results.guests import GuestCaptions, guest_folder, write_guest
from captionlab.errors import CaptionlabError
from captionlab.stages.check_params import check_params


@pytest.fixture
def params(tiny_params: Params, tmp_path: Path) -> Params:
    """With a guest model ``other`` that is not here."""
    for name in tiny_params.extract_features.encoders:
        (tmp_path / FEATURES / name).mkdir(parents=True)  # encoders are not what is tested
    (tmp_path / "data/mine").mkdir(parents=True)
    dataset = dataclasses.replace(tiny_params.dataset, format="folder", source="data/mine")
    models = {"other": ImageToTextParams(model="no-one/other")}
    return dataclasses.replace(tiny_params, dataset=dataset, guest_models=models)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asks the network"))
    return tmp_path / "hub"


def test_a_dataset_cannot_be_called_scenes(params: Params, tmp_path: Path) -> None:
    dataset = dataclasses.replace(params.dataset, name="scenes")
    with pytest.raises(CaptionlabError, match=r"^dataset\.name is scenes, .*; set dataset\.name to a name of its own$"):
        check_params(dataclasses.replace(params, dataset=dataset, guest_models={}), tmp_path)


def test_a_guest_model_that_is_not_here_is_said_at_once(params: Params, cache: Path, tmp_path: Path) -> None:
    with pytest.raises(
        CaptionlabError, match=r"^guest_models\.other: the model no-one/other is neither .* hf download no-one/other$"
    ):
        check_params(params, tmp_path)
    assert not (tmp_path / PARAMS_VALID).exists()
    folder = dataclasses.replace(params, guest_models={"other": ImageToTextParams(model="./models/other")})
    with pytest.raises(CaptionlabError, match=r"\./models/other is neither .*; name a folder that exists$"):
        check_params(folder, tmp_path)
    (tmp_path / "models/other").mkdir(parents=True)
    check_params(folder, tmp_path)


def test_a_guest_model_in_the_cache_is_found(params: Params, cache: Path, tmp_path: Path) -> None:
    stored = cache / "models--no-one--other"
    (stored / "refs").mkdir(parents=True)
    (stored / "refs/main").write_text("0" * 40)
    (stored / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (stored / "snapshots" / ("0" * 40) / "config.json").write_text("{}")
    check_params(params, tmp_path)
    assert (tmp_path / PARAMS_VALID).exists()


def test_a_missing_library_is_said_at_once(params: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "no-one/other").mkdir(parents=True)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(CaptionlabError, match=r"^guest_models\.other: transformers is not installed: pip install"):
        check_params(params, tmp_path)


def test_a_guest_model_that_has_captioned_need_not_be_here(params: Params, cache: Path, tmp_path: Path) -> None:
    """As on another machine after dvc pull."""
    folder = guest_folder(tmp_path, "other")
    captions: dict[Split, dict[str, str]] = {"test": {"a.jpg": "a dog"}}
    write_guest(folder, GuestCaptions(source="no-one/other", captions=captions))
    check_params(params, tmp_path)
    write_guest(folder, GuestCaptions(source="no-one/before", captions=captions))  # by another model
    with pytest.raises(CaptionlabError, match="no-one/other"):
        check_params(params, tmp_path)
    next(folder.iterdir()).write_text("{")
    with pytest.raises(CaptionlabError, match="no-one/other"):
        check_params(params, tmp_path)
