"""The pages under docs/ that promise to work: each is followed to the letter in a copy of this project.

A fenced block says what it is. ``python FILE`` is a new file, ``diff FILE`` changes one whose lines it shows, ``sh`` is
run, all in the page's order; ``text`` and ``console`` are only read. Nothing else is done but to make the copy small
(one system, few scenes, MLflow's tables at hand), and what a page asks of its reader: photos, or a network for weights.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from captionlab.config import SECTIONS, ScenesParams
from captionlab.datasets.scenes import scenes
from captionlab.encoders import load
from repository import ROOT, Repository

PAGES = ("add-a-decoder", "add-an-encoder", "own-photos", "experiments-by-hand")


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    kind: str
    file: str
    text: str


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / f"docs/{page}.md").read_text(encoding="utf-8")
    for kind, file, inside in re.findall(r"^```(\w*) ?(\S*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        yield Block(kind, file, inside)


class Reader(Repository):
    """Somebody with a small copy of the project, who does what a page says."""

    def _write_params(self) -> None:
        path = self.folder / "params.yaml"
        yaml = YAML()
        yaml.width = 200
        params = yaml.load(path)
        params["dataset"]["scenes"] |= {"train": 12, "val": 4, "test": 4}
        params["build_vocab"]["min_count"] = 1
        encoders = params["extract_features"]["encoders"]
        for name in [name for name in encoders if name != "efficientnet_lite0"]:
            del encoders[name]
        params["training"] |= {"epochs": 1, "batch_size": 4}
        for name in [name for name in params["baseline"] if name != "lite0"]:
            del params["baseline"][name]
        for system in set(SECTIONS) - {"baseline"}:
            params[system] = {}
            params.ca.items.pop(system)  # the comment behind the key, which would part it from its value
        params["baseline"]["lite0"] |= {"embedding": 16, "hidden": 16}
        params["evaluate"] |= {"beams": [1], "max_words": 12}
        params["report"]["gallery"] = 2
        yaml.dump(params, path)

    def follow(self, page: str) -> list[str]:
        """Do all that the page says; what each block's commands printed."""
        said = []
        for block in blocks(page):
            path = self.folder / block.file
            match block.kind:
                case "sh":
                    said.append(self.run("bash", "-euo", "pipefail", "-c", block.text))
                case "python":
                    assert not path.exists(), f"{page}: {block.file} is there already"
                    path.write_text(block.text, encoding="utf-8")
                case "diff":
                    path.write_text(changed(path.read_text(encoding="utf-8"), block), encoding="utf-8")
                case kind:
                    assert kind in ("text", "console", "yaml"), f"{page}: what is a block of {kind!r}?"
        return said


def changed(text: str, block: Block) -> str:
    """The text with the block's lines taken out and put in where its unchanged lines stand."""
    lines = block.text.splitlines(keepends=True)
    assert all(line[0] in " +-" for line in lines if line.strip()), f"a line of the diff to {block.file} has no sign"
    before = "".join(line[1:] or "\n" for line in lines if not line.startswith("+"))
    after = "".join(line[1:] or "\n" for line in lines if not line.startswith("-"))
    assert f"\n{text}".count(f"\n{before}") == 1, f"{block.file} does not hold, once:\n{before}"
    return f"\n{text}".replace(f"\n{before}", f"\n{after}").removeprefix("\n")


@pytest.fixture
def reader(tmp_path: Path, no_java: None, empty_database: Path) -> Reader:
    reader = Reader(tmp_path / "captionlab")
    shutil.copy(empty_database, reader.folder)
    return reader


def caption_in(said: str, photo: str) -> str:
    found = re.search(rf"{re.escape(photo)}\t(.*)", said)
    assert found, said
    return found[1]


def assert_a_caption_stands_last(said: str) -> None:
    """What ``captionlab caption`` says of one photo: words alone. DVC's last lines hold more than words."""
    assert re.fullmatch(r"[a-z ]*", said.splitlines()[-1]), said


def stale(reader: Reader) -> str:
    (line,) = re.findall(r"^.{4}  artifacts .*$", reader.run("captionlab", "doctor"), re.MULTILINE)
    return line


def test_add_a_decoder(reader: Reader) -> None:
    *_, trained, everything = reader.follow("add-a-decoder")
    assert reader.ran(trained) >= {"train_gru@small"}
    assert not reader.ran(trained) & {"train_baseline@lite0", "evaluate"}
    assert_a_caption_stands_last(trained)
    assert "2 configurations compared" in everything
    assert "gru.small" in (reader.folder / "reports/scenes/comparison.md").read_text()
    assert sorted(reader.mlflow_runs()) == ["baseline.lite0", "gru.small"]
    assert stale(reader).startswith("ok")


def downloaded(model: str, folder: Path) -> None:
    """Put weights where timm's download would have put them; drawn at random, which only a test may do."""
    load._import_torchvision()  # before timm, which imports it
    import timm
    from safetensors.torch import save_file

    cfg = timm.get_pretrained_cfg(model)
    assert cfg is not None
    assert cfg.hf_hub_id is not None
    place = folder / f"hub/models--{cfg.hf_hub_id.replace('/', '--')}"
    (place / "snapshots/abc").mkdir(parents=True)
    (place / "refs").mkdir()
    (place / "refs/main").write_text("abc")
    save_file(timm.create_model(model).state_dict(), place / "snapshots/abc/model.safetensors")


def test_add_an_encoder(reader: Reader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    downloaded("mobilenetv3_small_100", tmp_path / "hf")
    through_timm, own, everything = reader.follow("add-an-encoder")
    assert reader.ran(through_timm) >= {"extract_features@timm_mobilenetv3_small_100", "train_baseline@mobile"}
    assert reader.ran(own) >= {"extract_features@colours", "train_baseline@colours"}
    for said in (through_timm, own):
        assert_a_caption_stands_last(said)
    assert reader.ran(everything) >= {"train_baseline@lite0", "evaluate"}
    assert not reader.ran(everything) & {"train_baseline@mobile", "train_baseline@colours"}
    said = reader.run("captionlab", "doctor")
    assert re.search(r"^ok .*timm_mobilenetv3_small_100 +at hand", said, re.MULTILINE), said
    assert re.search(r"^ok .*colours +at hand", said, re.MULTILINE), said


def test_own_photos(reader: Reader, tmp_path: Path) -> None:
    photos = reader.folder / "data/mine/Images"
    photos.mkdir(parents=True)
    found, _ = scenes(ROOT / "assets/scenes", ScenesParams(train=50, val=0, test=0, seed=3), photos)
    lines = [f"{photo.image},{caption}" for photo in found for caption in photo.captions[:2]]
    (photos.parent / "captions.txt").write_text("\n".join(["image,caption", *lines, ""]), encoding="utf-8")
    first, trained, everything = reader.follow("own-photos")
    assert "download: 50 photos (40 train, 5 val, 5 test), 100 captions" in first
    assert reader.ran(trained) == {"clean_captions", "build_vocab", "extract_features@efficientnet_lite0",
                                   "train_baseline@lite0"}  # fmt: skip
    captions = [caption_in(trained, photo.image) for photo in found]
    assert len(captions) == 50
    known = json.loads((reader.folder / "artifacts/vocab/vocab.json").read_text())["words"]
    assert {word for caption in captions for word in caption.split()} <= set(known)
    assert any(captions)
    assert "mine is whole: 50 of 50 photos, 100 of 100 captions" in everything
    assert re.search(r"^ok    artifacts ", everything, re.MULTILINE), everything
    assert (reader.folder / "reports/mine/comparison.html").exists()
    assert reader.run("git", "status", "--porcelain", "data") == ""


def test_experiments_by_hand(reader: Reader) -> None:
    said = reader.follow("experiments-by-hand")
    first, run, shown, diffs, restored, applied, removed, again, cache = said
    assert reader.ran(first) >= {"download", "train_baseline@lite0", "track"}
    assert reader.ran(run) == {"train_baseline@lite0", "evaluate", "report", "track"}
    assert "wider" in shown
    assert re.search(r"params.yaml +baseline.lite0.hidden +16 +512", diffs), diffs
    assert "reports/scenes/metrics.json" in diffs
    assert "curves.png" in (reader.folder / "artifacts/plots/index.html").read_text()
    assert "artifacts/models/baseline/lite0" in restored
    assert "wider" in applied
    assert "hidden: 512" in (reader.folder / "params.yaml").read_text()
    assert "wider" in removed
    assert reader.ran(again) == {"track"}
    assert re.search(r"^ok    artifacts ", again, re.MULTILINE), again
    assert re.search(r"^ok    cache .* files, .* GB, as DVC stored them$", cache, re.MULTILINE), cache
    runs = reader.mlflow_runs()["baseline.lite0"]
    assert sorted(tags.get("dvc_experiment", "") for tags in runs) == ["", "wider"]
    assert reader.run("git", "status", "--porcelain") == ""
