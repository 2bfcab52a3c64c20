"""captionlab publish: the repository's files, and their upload to a local server with the Hub's API."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import Mock

import pytest
from huggingface_hub import HfApi, ModelCard
from ruamel.yaml import YAML

from builders import digests
from captionlab.commands.publish import publish
from captionlab.core.files import read_json
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner
from captionlab.training.checkpoint import load_checkpoint, save_checkpoint
from hub_server import Hub, hub

if TYPE_CHECKING:
    from conftest import World


def call(hub: Hub, folder: Path, *arguments: str, token: str = "hf_test") -> subprocess.CompletedProcess[str]:
    """Run the command in a new process, because huggingface_hub reads its address and token when it is imported."""
    environment = {
        **os.environ, "HF_ENDPOINT": hub.address, "HF_TOKEN": token, "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1", "HF_HOME": str(folder / "hf"),
    }  # fmt: skip
    command = [sys.executable, "-m", "captionlab.cli", "publish", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_the_folder_has_the_layout_of_the_hub(released: Path, tmp_path: Path) -> None:
    line, advice = publish(tmp_path / "hub", str(released), None)
    assert line.startswith("attention.tiny is written to ")
    assert line.endswith("nothing was uploaded")
    assert "--repo OWNER/NAME" in advice
    assert sorted(digests(tmp_path / "hub")) == ["LICENSE.md", "README.md", "config.json", "model.safetensors"]
    assert (tmp_path / "hub/model.safetensors").read_bytes() == released.read_bytes()
    assert Captioner.load(tmp_path / "hub/model.safetensors").release
    config = read_json(tmp_path / "hub/config.json")
    assert (config["encoder"], config["decoding"]["beam"]) == ("efficientnet_lite0", 3)
    card = ModelCard.load(tmp_path / "hub/README.md")
    assert card.data.pipeline_tag == "image-to-text"
    assert (card.data.license, card.data.license_link) == ("other", "LICENSE.md")
    assert "captionlab's code is MIT.\n" in (tmp_path / "hub/LICENSE.md").read_text()
    assert "## " not in (tmp_path / "hub/LICENSE.md").read_text()
    assert {result.metric_type: result.metric_value for result in card.data.eval_results or []} == {
        "bleu_4": 0.2, "rouge_l": 0.4, "cider": 0.5,
    }  # fmt: skip
    YAML(typ="safe").load((tmp_path / "hub/README.md").read_text().split("---\n")[1])
    assert "## Limitations" in card.text
    assert 'hf_hub_download("OWNER/NAME", "model.safetensors")' in card.text


def test_the_licence_is_that_of_the_data_and_not_of_its_name(released: Path, tmp_path: Path) -> None:
    """Drawn scenes are under the project's own licence; photos of one's own may have any name."""
    checkpoint = load_checkpoint(released)
    assert checkpoint.release is not None
    drawn, flickr8k = "captionlab generates the drawn scenes", "Flickr8k holds 8,000 photos"
    unknown = "The terms of this data are not known to captionlab"
    for name, form, licence, terms in (
        ("mine", "scenes", "mit", drawn), ("flickr8k", "scenes", "mit", drawn), ("scenes", "folder", "other", unknown),
        ("scenes", None, "other", unknown), ("mine", "flickr8k", "other", flickr8k),
        ("flickr8k", None, "other", flickr8k), ("flickr8k_karpathy", "karpathy", "other", flickr8k),
        ("flickr8k", "folder", "other", unknown),
    ):  # fmt: skip
        release = dataclasses.replace(checkpoint.release, format=form)
        identity = dataclasses.replace(checkpoint.identity, dataset=name)
        path = tmp_path / f"{name}.{form}.safetensors"
        save_checkpoint(path, dataclasses.replace(checkpoint, identity=identity, release=release))
        publish(tmp_path / f"hub {name} {form}", str(path), None)
        card = ModelCard.load(tmp_path / f"hub {name} {form}/README.md")
        assert card.data.license == licence
        assert [text for text in (drawn, flickr8k, unknown) if text in card.text] == [terms]
        assert (tmp_path / f"hub {name} {form}/LICENSE.md").exists() == (licence == "other")


def test_the_folder_is_uploaded_to_the_given_repository(released: Path, tmp_path: Path) -> None:
    with hub() as server:
        done = call(server, tmp_path, "out", "--model", str(released), "--repo", "me/captioner", "--private")
        assert (done.returncode, done.stderr) == (0, "")
        assert server.private
        assert done.stdout.endswith(f"uploaded: {server.address}/me/captioner/commit/1\n")
        assert server.created == ["me/captioner"]
        assert server.files == {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir()}
        assert server.tokens == {"Bearer hf_test"}
        assert list(server.large.values()) == [server.files["model.safetensors"]]
        assert b'hf_hub_download("me/captioner"' in server.files["README.md"]


def test_nothing_is_sent_without_a_repository(released: Path, tmp_path: Path) -> None:
    with hub() as server:
        assert call(server, tmp_path, "out", "--model", str(released)).returncode == 0
        assert server.requests == []


def test_a_failed_upload_is_one_line_and_keeps_the_folder(released: Path, tmp_path: Path) -> None:
    with hub() as server:
        address = server.address
    done = call(Hub(address), tmp_path, "out", "--model", str(released), "--repo", "me/captioner")
    assert done.returncode == 1
    assert done.stderr.startswith("captionlab: me/captioner cannot be uploaded (")
    assert done.stderr.count("\n") == 1
    assert (tmp_path / "out/README.md").exists()


def test_metadata_that_the_hub_refuses_are_named(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HfApi, "create_repo", lambda *_, **__: None)
    refused = 'Invalid metadata in README.md.\n- "license_link" must be a URL'
    monkeypatch.setattr(HfApi, "upload_folder", Mock(side_effect=ValueError(refused)))
    with pytest.raises(CaptionlabError, match=r'\(Invalid metadata in README\.md\. - "license_link" must be a URL\);'):
        publish(tmp_path / "out", str(released), "me/captioner")


@pytest.mark.parametrize("repository", ["captioner", "a/b/c", "https://huggingface.co/me/captioner"])
def test_a_repository_without_owner_is_refused_before_anything_is_written(tmp_path: Path, repository: str) -> None:
    with pytest.raises(CaptionlabError, match="must be OWNER/NAME"):
        publish(tmp_path / "out", None, repository)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("model", "reason"), [
    ("retrieval.lite2", "retrieval has no weights"), ("ensemble.both", "it is an ensemble of several"),
])  # fmt: skip
def test_a_row_without_a_checkpoint_is_refused(tmp_path: Path, model: str, reason: str) -> None:
    with pytest.raises(CaptionlabError, match=f"^{model} has no checkpoint: {reason}; name a trained system$"):
        publish(tmp_path / "out", model, None)


def test_captioners_without_scores_and_nonempty_folders_are_refused(
    world: "World", released: Path, tmp_path: Path
) -> None:
    path = tmp_path / "trained.safetensors"
    save_checkpoint(path, dataclasses.replace(load_checkpoint(released), release=None))
    with pytest.raises(CaptionlabError, match="has no scores for its model card; make it the released captioner first"):
        publish(tmp_path / "out", str(path), None)
    with pytest.raises(CaptionlabError, match="is not empty; name a new or empty folder"):
        publish(tmp_path, str(released), None)
    (tmp_path / "file").touch()
    with pytest.raises(CaptionlabError, match="file is not a folder; name a new or empty one"):
        publish(tmp_path / "file", str(released), None)
