"""The training stages on a tiny tree."""

import dataclasses
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from builders import digests, write_tree
from captionlab.config import Params
from captionlab.core.records import FEATURES, MODELS, Decoding
from captionlab.core.results import read_training
from captionlab.core.results.dataset import iter_cleaned
from captionlab.data.store import open_store
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner
from captionlab.metrics.scorer import Scorer
from captionlab.models.base import Features
from captionlab.training import fit, loop
from captionlab.training.fit import train_system
from captionlab.training.step import measure

if TYPE_CHECKING:
    from conftest import World

NAMES = ("baseline", "modified", "attention")


@pytest.fixture
def root(tmp_path: Path, world: "World", empty_database: Path) -> Path:
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    return write_tree(tmp_path, world)


@pytest.mark.parametrize("system", NAMES)
def test_training_writes_its_outputs(trained: Path, system: str) -> None:
    folder = trained / MODELS / system / "tiny"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.safetensors", "history.csv", "summary.json"]
    assert not list((trained / ".resume").rglob("*.pt"))
    training = read_training(folder)
    summary = training.summary
    assert [epoch.epoch for epoch in training.history] == list(range(1, summary.epochs + 1))
    assert min(training.history, key=lambda epoch: epoch.val_loss).epoch == summary.best_epoch
    captioner = Captioner.load(folder / "checkpoint.safetensors")
    identity = captioner.identity
    assert (identity.system, identity.dataset, identity.training_key) == (system, "tiny", summary.training_key)
    assert captioner.uses_regions == (system == "attention")
    assert summary.params["training.learning_rate"] == 0.03


@pytest.mark.parametrize("system", NAMES)
def test_a_reloaded_checkpoint_has_the_reported_loss(trained: Path, world: "World", system: str) -> None:
    folder = trained / MODELS / system / "tiny"
    training = read_training(folder)
    best = training.history[training.summary.best_epoch - 1]
    model = Captioner.load(folder / "checkpoint.safetensors").model
    val = measure(model, world.split("val", system == "attention"), 2, "cpu")
    assert val.loss == pytest.approx(best.val_loss, abs=1e-6)
    assert val.accuracy == pytest.approx(best.val_accuracy, abs=1e-6)


@pytest.mark.parametrize("system", NAMES)
def test_training_is_deterministic(trained: Path, root: Path, tiny_params: Params, system: str) -> None:
    train_system(tiny_params, root, system, "tiny")
    assert digests(root / MODELS / system) == digests(trained / MODELS / system)


@pytest.mark.parametrize("photos", [0, 1, 2, 100])
def test_the_first_validation_photos_are_captioned_after_each_epoch(
    root: Path, tiny_params: Params, world: "World", photos: int
) -> None:
    """Greedily. Of one photo CIDEr-D is always 0, and is left out. They look like training photos that are learnt."""
    pooled, places = np.load(root / FEATURES / "tiny/pooled.npy"), world.store.images
    for i in range(3):
        pooled[places.index(f"val{i}.jpg")] = pooled[places.index(f"train{i}.jpg")]
    np.save(root / FEATURES / "tiny/pooled.npy", pooled)
    training = dataclasses.replace(tiny_params.training, cider_photos=photos, learning_rate=0.02, epochs=30)
    train_system(dataclasses.replace(tiny_params, training=training), root, "baseline", "tiny")
    trained = read_training(root / MODELS / "baseline/tiny")
    best = trained.history[trained.summary.best_epoch - 1]
    if photos < 2:
        assert best.val_cider is None
        return
    images = world.split("val").images[:photos]
    references = {image: [own.raw for own in world.captions if own.image == image] for image in images}
    captioner = Captioner.load(root / MODELS / "baseline/tiny/checkpoint.safetensors")
    features = Features(torch.from_numpy(pooled[[places.index(image) for image in images]]))
    captions = dict(zip(images, captioner.describe(features, Decoding(beam=1)), strict=True))
    expected = Scorer(references).score({image: said[0].caption for image, said in captions.items()}).cider
    assert expected is not None
    assert best.val_cider == pytest.approx(expected, abs=1e-6)
    assert expected > 0.5


def test_a_killed_stage_resumes_to_the_same_bytes(
    trained: Path, root: Path, tiny_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, saved = loop.ResumeFile.save, []

    def killed(*given: Any) -> None:
        save(*given)
        saved.append(1)
        if len(saved) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(loop.ResumeFile, "save", killed)
        with pytest.raises(KeyboardInterrupt):
            train_system(tiny_params, root, "baseline", "tiny")
    assert not (root / MODELS / "baseline").exists()
    assert (root / ".resume/models/baseline/tiny.pt").exists()
    train_system(tiny_params, root, "baseline", "tiny")
    assert digests(root / MODELS / "baseline") == digests(trained / MODELS / "baseline")


def test_the_key_depends_on_everything_that_affects_training(root: Path, tiny_params: Params, tiny: Any) -> None:
    def key(changed: Params = tiny_params) -> str:
        return fit.training_key(changed, root, "baseline", "tiny")

    before = key()
    assert before == key()
    assert before != key(dataclasses.replace(tiny_params, baseline={"tiny": tiny("baseline", hidden=9)}))
    assert before != key(dataclasses.replace(tiny_params, training=dataclasses.replace(tiny_params.training, seed=2)))
    pooled = np.load(root / FEATURES / "tiny/pooled.npy")
    np.save(root / FEATURES / "tiny/pooled.npy", pooled + 1)
    assert before != key()


@pytest.mark.parametrize(("hidden", "takes"), [(300, r"1\.\d"), (1_000_000, r"16,000,\d\d\d\.\d")])
def test_a_system_that_is_too_large_is_refused(
    root: Path, tiny_params: Params, tiny: Any, hidden: int, takes: str
) -> None:
    """Before memory is allocated: the larger system would need 16 terabytes."""
    large = dataclasses.replace(tiny_params, baseline={"large": tiny("baseline", hidden=hidden)})
    with pytest.raises(CaptionlabError, match=rf"baseline\.large has .* takes {takes} MB.*max_megabytes \(1\)"):
        train_system(large, root, "baseline", "large")
    assert not (root / MODELS).exists()


def test_outputs_are_read_back(root: Path, world: "World") -> None:
    assert list(iter_cleaned(root)) == world.captions
    assert open_store(root / FEATURES / "tiny").images == world.store.images


def test_runs_are_stored_at_the_tracking_uri(trained: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{trained / 'runs.db'}")
    experiment = client.get_experiment_by_name("captionlab/tiny")
    assert experiment is not None
    names = {run.data.tags["mlflow.runName"] for run in client.search_runs([experiment.experiment_id])}
    assert names == {f"{system}.tiny" for system in NAMES}
    assert not (trained / "mlflow.db").exists()
