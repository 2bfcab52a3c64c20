"""What the tests share: a made-up world of twelve photos, small enough to be memorised, and what is slow to make."""

import dataclasses
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ["OMP_NUM_THREADS"] = "1"  # before torch; tiny tensors are slower on several cores
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"  # before MLflow
os.environ.pop("DVC_ROOT", None)  # under `dvc repro` it would send MLflow's runs into the real project
# Whose git signs commits would be asked for a password.
os.environ |= {"GIT_CONFIG_COUNT": "1", "GIT_CONFIG_KEY_0": "commit.gpgsign", "GIT_CONFIG_VALUE_0": "false"}

import sys

import numpy as np
import pytest
import torch

import unchecked

if not unchecked.pydantic_works():  # as on a machine for `make gpu`
    unchecked.stand_in()

from builders import tiny_system, untrained, write_tree
from captionlab import cli
from captionlab.config import (
    EncoderParams,
    ExtractFeaturesParams,
    Params,
    RetrievalParams,
    TrainingParams,
    load_params,
)
from captionlab.core.records import Caption, Decoding, Scores, Split
from captionlab.core.results import CaptionStatistics, ConfigurationDiagnostics, LanguageBias, WordAgreement
from captionlab.data.store import FeatureStore
from captionlab.data.vocab import Vocabulary
from captionlab.encoders.engines import TorchEngine
from captionlab.encoders.load import load_encoder
from captionlab.models.params import SystemParams
from captionlab.stages.evaluate import evaluate
from captionlab.stages.train_attention import train_attention
from captionlab.stages.train_baseline import train_baseline
from captionlab.stages.train_modified import train_modified
from captionlab.training.batches import CaptionedFeatures, SplitCaptions
from captionlab.training.checkpoint import save_checkpoint
from captionlab.training.header import Release

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

SPLITS: dict[Split, int] = {"train": 6, "val": 3, "test": 3}
# The folders and files that take longest.
LONGEST = (
    "test_pipeline.py", "test_torture.py", "core", "tuning", "serving", "tracking", "test_staleness.py",
)  # fmt: skip


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: no process of ``make test`` begins one of them when the others are done."""

    def place(item: pytest.Item) -> int:
        names = (item.path.name, item.path.parent.name)
        return next((place for place, name in enumerate(LONGEST) if name in names), len(LONGEST))

    items.sort(key=place)
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("cuda"):
                item.add_marker(pytest.mark.skip(reason="there is no NVIDIA GPU"))


@dataclasses.dataclass(frozen=True)
class World:
    """Photos with random features and captions that tell them apart."""

    store: FeatureStore
    captions: Sequence[Caption]
    vocab: Vocabulary

    def split(self, split: Split, grid: bool = False) -> CaptionedFeatures:
        return CaptionedFeatures.of(self.store, grid, SplitCaptions.of(self.captions, split, self.vocab))

    def one_caption_each(self) -> "World":
        first = {caption.image: caption for caption in reversed(self.captions)}
        return dataclasses.replace(self, captions=list(first.values()))


@pytest.fixture(scope="session")
def world() -> World:
    random = np.random.default_rng(0)
    captions: list[Caption] = []
    for split, count in SPLITS.items():
        for i in range(count):
            animal, colour = ("dog", "cat", "horse")[i % 3], ("black", "white")[i // 3]
            texts = [f"a {colour} {animal} runs", f"the {animal} runs over the {colour} grass", f"{colour} {animal}"]
            captions += [
                Caption(image=f"{split}{i}.jpg", split=split, raw=text, words=tuple(text.split()))
                for text in texts[: 1 + (i + 1) % 3]
            ]
    images = tuple(sorted({caption.image for caption in captions}, reverse=True))  # not the order of the captions
    return World(
        store=FeatureStore(
            encoder="tiny", preprocessing="square_bicubic", weights="0" * 16, images=images, side=2,
            pooled=random.normal(2, 3, (len(images), 10)).astype(np.float32),
            grid=random.normal(1, 2, (len(images), 4, 7)).astype(np.float16),
        ),
        captions=captions,
        vocab=Vocabulary.build((caption.words for caption in captions), cleaning="standard", min_count=1),
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny() -> Callable[..., SystemParams]:
    """A small configuration of a system, with changes."""

    return tiny_system


@pytest.fixture(scope="session")
def settings() -> Callable[..., TrainingParams]:
    """Training parameters, with changes."""

    def of(**changes: Any) -> TrainingParams:
        values: dict[str, Any] = {
            "seed": 1, "epochs": 3, "patience": 9, "batch_size": 2, "optimizer": "adamw", "learning_rate": 0.01,
            "weight_decay": 0.0, "schedule": "constant", "plateau_patience": 3, "plateau_factor": 0.2,
            "label_smoothing": 0.0, "doubly_stochastic": 0.0, "scheduled_sampling": 0.0, "clip_norm": 5.0,
            "ema_decay": 0.0, "precision": "fp32", "max_megabytes": 1.0,
        }  # fmt: skip
        return TrainingParams(**values | changes)

    return of


@pytest.fixture(scope="session")
def project_params() -> Params:
    """The repository's own params.yaml."""
    return load_params(Path(__file__).parents[1] / "params.yaml")


@pytest.fixture(scope="session")
def tiny_params(project_params: Params, settings: Callable[..., TrainingParams]) -> Params:
    """One tiny configuration of each of three systems, and retrieval, over the encoder of the made-up world."""
    systems: Any = {name: {"tiny": tiny_system(name)} for name in ("baseline", "modified", "attention")}
    return dataclasses.replace(
        project_params,
        device="cpu",
        dataset=dataclasses.replace(project_params.dataset, name="tiny"),
        extract_features=ExtractFeaturesParams(encoders={"tiny": EncoderParams(grid=2)}),
        training=settings(epochs=12, patience=4, learning_rate=0.03),
        evaluate=dataclasses.replace(project_params.evaluate, beams=(1, 3), max_words=7),
        report=dataclasses.replace(project_params.report, gallery=2),
        **systems,
        retrieval={"tiny": RetrievalParams(encoder="tiny", neighbours=(1, 3), consensus_k=2)},
    )


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, world: World, tiny_params: Params, empty_database: Path) -> Path:
    """A tree with the systems of ``tiny_params`` trained by their stages; to be read and not changed.

    The runs are in its runs.db: MLFLOW_TRACKING_URI says so.
    """
    root = write_tree(tmp_path_factory.mktemp("trained"), world)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_database, root / 'runs.db')}")
        for stage in (train_baseline, train_modified, train_attention):
            (line,) = stage(tiny_params, root, "tiny")
            assert "parameters" in line
    return root


@pytest.fixture(scope="session")
def evaluated(tmp_path_factory: pytest.TempPathFactory, trained: Path, tiny_params: Params) -> Path:
    """The tree of ``trained`` after evaluate, without METEOR; to be read and not changed."""
    root = tmp_path_factory.mktemp("evaluated")
    shutil.copytree(trained, root, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(root / "no_java"))
        evaluate(tiny_params, root)
    return root


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite file with MLflow's tables, to be copied: they take seconds to make."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("empty") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """The empty folder into which a dataset's photos go."""
    path = tmp_path / "images"
    path.mkdir()
    return path


@pytest.fixture
def pipeline(tmp_path: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project after a whole pipeline with two configurations, before ``track``; no captioner ships with it."""
    for name in ("DVC_ROOT", "DVC_EXP_NAME", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("captionlab.stages.track.RELEASED", Path("nothing"))
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    from tracked import write_pipeline  # needs MLflow, which the tests of a GPU do without

    write_pipeline(tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def path_without_java(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PATH with a Java that fails before the real one: METEOR takes eight seconds of a core."""
    java = tmp_path_factory.mktemp("no_java") / "java"
    java.write_text("#!/bin/sh\nexit 1\n")
    java.chmod(0o755)
    return f"{java.parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture
def no_java(path_without_java: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No METEOR in this test."""
    monkeypatch.setenv("PATH", path_without_java)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 KiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk]).returncode:
        pytest.skip("mounting a small disk needs root")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture(scope="module")
def browser() -> Iterator["Chrome"]:
    """A headless Chromium that keeps a log of what it asked for and of what it complained of."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed; pip install -e '.[dev]'")
    chromium, driver = shutil.which("chromium") or shutil.which("google-chrome"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.skip("no Chromium with its chromedriver is installed")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with selenium.Chrome(options=options, service=selenium.ChromeService(driver)) as chrome:
        yield chrome


RELEASE = Release(
    dataset_digest="d", photos={"train": 6, "val": 3, "test": 3}, bits=16, unchanged=0.999,
    scores=Scores(bleu_1=0.5, bleu_2=0.4, bleu_3=0.3, bleu_4=0.2, rouge_l=0.4, cider=0.5, meteor=None),
    intervals={"cider": (0.4, 0.6)},
    diagnostics=ConfigurationDiagnostics(
        language_bias=LanguageBias(
            right={"bleu_4": 0.2, "cider": 0.5}, wrong={"bleu_4": 0.1, "cider": 0.1},
            without={"bleu_4": 0.1, "cider": 0.2}, image_contribution={"bleu_4": 0.5, "cider": 0.8},
        ),
        caption_statistics=CaptionStatistics(
            distinct=0.5, repeated=0.0, copied=0.25, words=7, length=4.5, length_ratio=0.9,
            colours=WordAgreement(said=4, precision=0.75, expected=2, recall=0.5),
            counts=WordAgreement(said=0, precision=None, expected=0, recall=None),
        ),
    ),
)  # fmt: skip


@pytest.fixture(scope="session")
def released(tmp_path_factory: pytest.TempPathFactory, world: World, tiny: Callable[..., SystemParams]) -> Path:
    """A tiny attention system over a real encoder, with random weights that make it say several things.

    Validation chose beam 3 for it.
    """
    path = tmp_path_factory.mktemp("released") / "captioner.safetensors"
    encoder = load_encoder("efficientnet_lite0", 3)
    decoding = Decoding(beam=3, length_penalty=0.5, max_words=6)
    made = untrained(
        "attention", tiny("attention"), world.vocab, seed=5, deviation=0.5, decoding=decoding, encoder=encoder.name,
        encoder_weights=encoder.weights_digest, grid=3, pooled=1280, channels=1280,
    )  # fmt: skip
    noise = np.random.default_rng(0).integers(0, 256, (2, encoder.pixels, encoder.pixels, 3), dtype=np.uint8)
    made.model.standardise.fit([torch.from_numpy(TorchEngine(encoder, "cpu")(noise)[1])])
    save_checkpoint(path, dataclasses.replace(made, release=RELEASE), half=True)
    return path


Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def called(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["captionlab", *arguments])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        assert isinstance(caught.value.code, int)
        return caught.value.code, out, err

    return called


@pytest.fixture(scope="session")
def demo_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two tiny systems that have memorised some of the demo's drawn scenes."""
    from demo_project import write_demo_project  # needs Starlette

    folder = tmp_path_factory.mktemp("demo")
    write_demo_project(folder)
    return folder


@pytest.fixture(scope="module")
def demo_port(demo_root: Path) -> Iterator[int]:
    """The port of ``captionlab demo`` in that project."""
    from demo_project import demo

    with demo(demo_root) as port:
        yield port
