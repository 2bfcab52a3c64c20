"""The how-to pages under docs/ and the notebook: each is followed step by step in a copy of this project.

The fenced blocks of a page are executed in order. ``python FILE`` creates a file, ``diff FILE`` changes the lines that
it shows, ``sh`` is run in a shell; ``text`` is not executed. The copy is made small first (one configuration, few
scenes, MLflow's tables already created) and its results are computed. A test provides what its page expects of the
reader, such as photos.
"""

import os
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from ruamel.yaml import YAML

from captionlab.config import SECTIONS, ScenesParams
from captionlab.core.files import read_json
from captionlab.data.text import clean
from captionlab.datasets.scenes import scene_words, scenes
from hub import downloaded
from repository import ROOT, Repository


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
    """A small copy of the project, in which the steps of a page are executed."""

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
            params.ca.items.pop(system)  # the comment between the key and its value
        params["baseline"]["lite0"] |= {"embedding": 16, "hidden": 16}
        params["evaluate"] |= {"beams": [1], "max_words": 12}
        params["report"]["gallery"] = 2
        yaml.dump(params, path)

    def follow(self, page: str) -> list[str]:
        """Execute the blocks of the page; returns the output of each ``sh`` block."""
        said = []
        for block in blocks(page):
            path = self.folder / block.file
            match block.kind:
                case "sh":
                    said.append(self.run("bash", "-euo", "pipefail", "-c", block.text))
                case "python":
                    assert not path.exists(), f"{page}: {block.file} exists already"
                    path.write_text(block.text, encoding="utf-8")
                case "diff":
                    path.write_text(changed(path.read_text(encoding="utf-8"), block), encoding="utf-8")
                case kind:
                    assert kind == "text", f"{page}: unknown kind of block {kind!r}"
        return said


def changed(text: str, block: Block) -> str:
    """The text with a diff applied; the diff has no line numbers, so its unchanged lines must occur exactly once."""
    lines = block.text.splitlines(keepends=True)
    assert all(line[0] in " +-" for line in lines if line.strip()), f"diff of {block.file}: a line has no sign"
    before = "".join(line[1:] or "\n" for line in lines if not line.startswith("+"))
    after = "".join(line[1:] or "\n" for line in lines if not line.startswith("-"))
    assert f"\n{text}".count(f"\n{before}") == 1, f"{block.file} does not contain exactly once:\n{before}"
    return f"\n{text}".replace(f"\n{before}", f"\n{after}").removeprefix("\n")


def page_links() -> dict[str, list[str]]:
    """Where each Markdown page that is in git links to in the repository, as ``path`` or ``path#anchor``."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "*.md"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, text=True).stdout.split()
    links = {}
    for name in filter(lambda name: (ROOT / name).exists(), names):
        text = re.sub(r"^```.*?^```$", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        found = re.findall(r"\]\(([^)\s]+)\)", text)
        places = (link if link[0] != "#" else f"{Path(name).name}{link}" for link in found if "://" not in link)
        links[name] = [os.path.normpath(Path(name).parent / place) for place in places]
    return links


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to the headings of a page."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere() -> None:
    for name, links in page_links().items():
        for link in links:
            path, _, anchor = link.partition("#")
            assert (ROOT / path).exists(), f"{name} links to {path}, which does not exist"
            assert not anchor or anchor in anchors(ROOT / path), f"{name} links to {link}, which has no such heading"


def test_every_page_can_be_reached_from_the_readme() -> None:
    links = page_links()
    reached: set[str] = set()
    ahead = ["README.md"]
    while ahead:
        name = ahead.pop()
        if name not in reached:
            reached.add(name)
            ahead += [link.partition("#")[0] for link in links.get(name, [])]
    missing = {name for name in links if name.startswith("docs/")} - reached
    assert not missing, f"no page links to {sorted(missing)}; list them in docs/README.md"


def test_the_index_lists_every_experiment() -> None:
    folder = ROOT / "docs/experiments"
    listed = re.findall(r"^- (20.*)$", (folder / "README.md").read_text(encoding="utf-8"), re.MULTILINE)
    pages = (page for page in folder.glob("*.md") if page.name != "README.md")
    entries = [entry for page in pages for entry in re.findall(r"^## (.*)$", page.read_text("utf-8"), re.MULTILINE)]
    assert sorted(listed) == sorted(entries)


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 180


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory, path_without_java: str, empty_database: Path) -> Reader:
    """A project after ``dvc repro report``, with an empty MLflow database; to be copied."""
    reader = Reader(tmp_path_factory.mktemp("reported") / "captionlab")
    shutil.copy(empty_database, reader.folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path_without_java)
        reader.run("dvc", "repro", "report")
    reader.commit("results")
    shutil.copy(empty_database, reader.folder)
    return reader


@pytest.fixture
def reader(tmp_path: Path, no_java: None, reported: Reader) -> Reader:
    return reported.copy(tmp_path / "captionlab")


def caption_in(said: str, photo: str) -> str:
    found = re.search(rf"{re.escape(photo)}\t(.*)", said)
    assert found, said
    return found[1]


def assert_is_caption(said: str) -> None:
    """Nothing but the one line of a caption."""
    assert re.fullmatch(r"[a-z ]+\n", said), said


@pytest.mark.docs
def test_add_a_decoder(reader: Reader) -> None:
    *_, trained, captioned, everything = reader.follow("add-a-decoder")
    assert reader.ran(trained) == {"check_params", "train_modified@gru"}
    assert_is_caption(captioned)
    assert "2 configurations compared" in everything
    assert "modified.gru" in (reader.folder / "reports/scenes/comparison.md").read_text()
    assert sorted(reader.mlflow_runs()) == ["baseline.lite0", "modified.gru"]


@pytest.mark.docs
def test_add_an_encoder(reader: Reader, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    downloaded("mobilenetv3_small_100", tmp_path / "hf")
    through_timm, first_caption, *_, own, second_caption, everything = reader.follow("add-an-encoder")
    extracted = "extract_features@timm_mobilenetv3_small_100"
    assert reader.ran(through_timm) == {"check_params", extracted, "train_baseline@mobile"}
    assert reader.ran(own) == {"check_params", "extract_features@colours", "train_baseline@colours"}
    for said in (first_caption, second_caption):
        assert_is_caption(said)
    assert reader.ran(everything) == {"check_params", "evaluate", "report", "track"}
    assert "3 configurations compared" in everything
    said = reader.run("captionlab", "doctor")
    assert re.search(r"^ok    artifacts ", said, re.MULTILINE), said
    assert re.search(r"^ok .*timm_mobilenetv3_small_100 +installed", said, re.MULTILINE), said
    assert re.search(r"^ok .*colours +installed", said, re.MULTILINE), said


@pytest.mark.docs
def test_own_photos(reader: Reader, tmp_path: Path) -> None:
    photos = reader.folder / "data/mine/Images"
    photos.mkdir(parents=True)
    found, _ = scenes(ROOT / "assets/scenes", ScenesParams(train=28, val=1, test=1, seed=3), photos)
    lines = [f"{photo.image},{caption}" for photo in found for caption in photo.captions[:2]]
    (photos.parent / "captions.txt").write_text("\n".join(["image,caption", *lines, ""]), encoding="utf-8")
    first, trained = reader.follow("own-photos")
    assert "download: 30 photos (24 train, 3 val, 3 test), 60 captions" in first
    assert reader.ran(trained) >= {"build_vocab", "extract_features@efficientnet_lite012_380", "train_attention@mine"}
    captions = {photo.image: caption_in(trained, photo.image) for photo in found}
    assert len(set(captions.values())) > 20
    kinds = scene_words(ROOT / "assets/scenes")["kinds"]
    named = [
        bool({kinds[word] for word in captions[photo.image].split() if word in kinds} & shown)
        for photo in found
        if (shown := {kinds[word] for text in photo.captions for word in clean(text, "standard") if word in kinds})
    ]
    assert sum(named) > len(named) / 2, "most captions name something that their photo shows"
    assert (reader.folder / "reports/mine/comparison.html").exists()
    assert reader.run("git", "status", "--porcelain", "data") == ""


@pytest.fixture(scope="module")
def experimenter(
    tmp_path_factory: pytest.TempPathFactory, path_without_java: str, reported: Reader
) -> tuple[Reader, list[str]]:
    """The project of a reader who followed experiments-by-hand, and the output of each ``sh`` block."""
    reader = reported.copy(tmp_path_factory.mktemp("experiments") / "captionlab")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", path_without_java)
        return reader, reader.follow("experiments-by-hand")


def test_the_readmes_table_of_experiments_has_at_most_12_columns() -> None:
    """With the drawn scenes and one changed parameter."""
    (pattern,) = re.findall(r"dvc exp show .*--drop '([^']+)'", (ROOT / "README.md").read_text("utf-8"))
    metrics = read_json(ROOT / "reports/scenes/metrics.json")
    names = [f"{key}.{name}" for key, own in metrics.items() for name in own]
    shown = [name for name in names if not re.match(pattern, name)]
    assert shown == [name for name in names if name.endswith(".val_cider")]
    assert len(["Experiment", *shown, "the parameter"]) <= 12


@pytest.mark.docs
@pytest.mark.xdist_group("experiments")
def test_experiments_by_hand(experimenter: tuple[Reader, list[str]]) -> None:
    reader, said = experimenter
    first, run, shown, diffs, restored, applied, removed, again, cache = said
    assert reader.ran(first) == {"check_params", "track"}
    assert reader.ran(run) == {"check_params", "train_baseline@lite0", "evaluate", "report", "track"}
    assert "wider" in shown
    (header,) = (line for line in shown.splitlines() if "Experiment" in line)
    assert len(re.split(r"\s{2,}", header.strip())) <= 12
    assert re.search(r"params.yaml +baseline.lite0.hidden +16 +512", diffs), diffs
    assert "reports/scenes/metrics.json" in diffs
    assert "Validation loss" in (reader.folder / "artifacts/plots/index.html").read_text()
    assert "artifacts/models/baseline/lite0" in restored
    assert "wider" in applied
    assert "hidden: 512" in (reader.folder / "params.yaml").read_text()
    assert "wider" in removed
    assert reader.ran(again) == {"check_params", "track"}
    assert re.search(r"^ok    artifacts ", again, re.MULTILINE), again
    assert re.search(r"^ok    cache .* files, .* GB, all intact$", cache, re.MULTILINE), cache
    runs = reader.mlflow_runs()["baseline.lite0"]
    assert sorted(tags.get("dvc_experiment", "") for tags in runs) == ["", "wider"]
    assert {tags["name"] for tags in runs} == {"baseline.lite0", "baseline.lite0 (wider)"}
    assert reader.run("git", "status", "--porcelain") == ""


def output(notebook: Any, source: str) -> str:
    """The text output of the cell that contains ``source``."""
    (cell,) = (cell for cell in notebook.cells if cell.cell_type == "code" and source in cell.source)
    return "".join(found.get("text") or found.data["text/plain"] for found in cell.outputs)


@pytest.mark.docs
@pytest.mark.xdist_group("experiments")
def test_the_quickstart_notebook(experimenter: tuple[Reader, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    """In a project with two runs of baseline.lite0 in MLflow, one of them an experiment."""
    folder = experimenter[0].folder
    monkeypatch.setenv("PYTHONPATH", str(folder / "src"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    notebook = nbformat.reads((folder / "notebooks/quickstart.ipynb").read_text(encoding="utf-8"), 4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": folder / "notebooks"}}).execute()
    assert "a group of people stand in front of a large building" in output(notebook, "captioner.caption(photo)")
    assert "baseline" in output(notebook, "comparison.csv")
    compared = dict(line.split(maxsplit=1) for line in output(notebook, "mlflow.search_runs").splitlines()[1:])
    assert compared["params.hidden"].split() == ["16", "512"]
    assert {"metrics.bleu_4", "metrics.cider"} <= compared.keys()
    kinds = [kind for cell in notebook.cells for found in cell.get("outputs", []) for kind in found.get("data", {})]
    assert (kinds.count("image/jpeg"), kinds.count("image/png")) == (2, 1)


class Fork(Reader):
    """The whole project. What its ``make`` would download is installed already: in the environment of the tests."""

    def _write_params(self) -> None:
        environment = self.folder / ".venv"
        here = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
        here.mkdir(parents=True)
        (here / "dependencies.pth").write_text(sysconfig.get_path("purelib"), encoding="utf-8")


@pytest.mark.docs
def test_make_it_yours(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"NO_DEPS": "1", "NO_INDEX": "1", "NO_BUILD_ISOLATION": "false"}.items():
        monkeypatch.setenv(f"PIP_{name}", value)
    fork = Fork(tmp_path / "mylab")
    shutil.copy(empty_database, fork.folder)
    *_, repro, checked = fork.follow("make-it-yours")
    assert fork.ran(repro) == {"check_params", "download", "train", "evaluate", "report", "track"}
    assert re.search(r"reports/digits/metrics.json +0\.9\d+ +0\.9", repro), repro
    (run,) = fork.mlflow_runs()["linear"]
    assert run["dataset"] == "digits"
    assert "1 in mlflow.db" in checked
    assert re.search(r"\d+ passed", checked), checked
    assert "every stage is up to date" in checked
    words = "captionlab|caption|encoder|torch|photo|flickr|efficientnet|java|chrome|preset|tune"
    left = fork.run("git", "grep", "-iE", words, "--", ":!constraints.txt", ":!LICENSE", ":!tests", ok=False)
    assert left == ""
    assert fork.run("git", "grep", "-ilE", "captionlab|flickr|efficientnet", "--", "tests", ok=False) == ""
    assert fork.run("git", "status", "--porcelain") == ""
