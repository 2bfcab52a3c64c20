"""The stages that DVC runs again after an edit of the source, with the real dvc.yaml and commands that only create each
stage's outputs. Stages that depend on changed outputs are not tested.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from captionlab.config import SYSTEMS
from repository import ROOT, Repository

SOURCE = Path("src/captionlab")
TRAININGS = {f"train_{system}" for system in SYSTEMS}
LATER = {"finetune", "evaluate"}  # these load and run any system
UNTOUCHED = (  # edits that affect no results
    "cli/stages.py", "config.py", "errors.py", "core/results/__init__.py", "tracking/runs.py", "serving/model.py",
    "commands/caption.py", "demo/server.py", "exporting/onnx_graphs.py", "tuning/search.py", "stages/track.py",
)  # fmt: skip
STALE: dict[str, set[str]] = {  # by the file that is edited
    "datasets/scenes.py": {"download"},
    "data/photos.py": {"download", "extract_features", "guest_models", "report"} | LATER,
    "data/text.py": {"download", "clean_captions", "build_vocab", "guests"} | LATER,
    "data/caption_formats.py": {"guests"} | LATER,
    "data/vocab.py": {"build_vocab"} | TRAININGS | LATER,
    "data/store.py": {"extract_features"} | TRAININGS | LATER,
    "encoders/load.py": {"extract_features"} | TRAININGS | LATER,
    "encoders/torchvision_models.py": {"extract_features", "guest_models"} | TRAININGS | LATER,
    "models/build.py": TRAININGS | LATER,
    "models/base.py": TRAININGS | LATER,
    "models/baseline.py": {"train_baseline"} | LATER,
    "models/modified/bilstm.py": {"train_modified"} | LATER,
    "models/modified/merge.py": {"train_modified", "train_attention"} | LATER,  # one kind of attention has its head
    "models/attention/regions.py": {"train_attention"} | LATER,
    "models/ensemble.py": LATER,
    "training/losses.py": TRAININGS | LATER,
    "finetuning/self_critical.py": {"finetune"},
    "inference/decoding.py": LATER,
    "metrics/cider.py": TRAININGS | LATER,
    "metrics/scorer.py": {"evaluate"},
    "evaluation/retrieval.py": {"evaluate"},
    "report/tables.py": {"report"},
    "core/attention_overlay.py": {"report"},
    "stages/download.py": {"download"},
    "stages/clean_captions.py": {"clean_captions"},
    "stages/build_vocab.py": {"build_vocab"},
    "stages/extract_features.py": {"extract_features"},
    "stages/train_baseline.py": {"train_baseline"},
    "stages/train_modified.py": {"train_modified"},
    "stages/train_attention.py": {"train_attention"},
    "stages/finetune.py": {"finetune"},
    "inference/image_to_text.py": {"guest_models"} | LATER,
    "stages/guests.py": {"guests"},
    "stages/guest_models.py": {"guest_models"},
    "stages/evaluate.py": {"evaluate"},
    "stages/report.py": {"report"},
}
MAKE = 'for out; do mkdir -p "$(dirname "$out")"; echo "$out" > "$out"; done\n'


class Outline(Repository):
    """A copy of the project whose stages create their outputs at once."""

    def _write_params(self) -> None:
        super()._write_params()
        yaml = YAML()
        params = yaml.load(self.folder / "params.yaml")
        params["guest_models"] = {"other": {"model": "models/other"}}
        params["guests"] = {"tiny": {"captions": "guest.json"}}
        (self.folder / "guest.json").write_text("{}", encoding="utf-8")
        params["finetune"] = {"tiny": {"system": "attention", "config": "tiny", "samples": 2, "cross_entropy": 0.2}}
        yaml.dump(params, self.folder / "params.yaml")
        pipeline = yaml.load(self.folder / "dvc.yaml")
        for stage in pipeline["stages"].values():
            each = stage.get("do", stage)
            made = [*each.get("outs", []), *each.get("metrics", []), *each.get("plots", [])]
            names = [out if isinstance(out, str) else next(iter(out)) for out in made]
            each["cmd"] = " ".join(["sh", "make.sh", *names])
        yaml.dump(pipeline, self.folder / "dvc.yaml")
        (self.folder / "make.sh").write_text(MAKE)


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Outline:
    outline = Outline(tmp_path_factory.mktemp("outline") / "captionlab")
    outline.run("dvc", "repro")
    return outline


@pytest.fixture(scope="module")
def dvc(repository: Outline) -> Iterator[Any]:
    """Run DVC in this process, because a new process would take a second for each edit."""
    from dvc.repo import Repo

    with Repo(str(repository.folder)) as repo:
        yield repo


def stale(dvc: Any) -> set[str]:
    """The stages that would run again, without their items and without those that always run."""
    addresses = {address for address, changes in dvc.status().items() if changes != ["always changed"]}
    return {address.rpartition(":")[2].partition("@")[0] for address in addresses}


def stale_with(repository: Outline, **changes: Any) -> set[str]:
    """The stages that would run again with these values in params.yaml."""
    from dvc.repo import Repo

    path, yaml = repository.folder / "params.yaml", YAML()
    before = path.read_text(encoding="utf-8")
    params = yaml.load(before)
    params.update(changes)
    yaml.dump(params, path)
    with Repo(str(repository.folder)) as dvc:
        found = stale(dvc)
    path.write_text(before, encoding="utf-8")
    return found


def test_nothing_is_stale_after_a_run(dvc: Any) -> None:
    assert stale(dvc) == set()


@contextmanager
def edited(repository: Outline, *names: str) -> Iterator[None]:
    """Append a comment to files of the package."""
    paths = [repository.folder / SOURCE / name for name in names]
    before = [path.read_text(encoding="utf-8") for path in paths]
    for path, text in zip(paths, before, strict=True):
        path.write_text(f"{text}# edited\n", encoding="utf-8")
    yield
    for path, text in zip(paths, before, strict=True):
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("name", STALE)
def test_an_edit_makes_these_stages_stale(repository: Outline, dvc: Any, name: str) -> None:
    with edited(repository, name):
        found = stale(dvc)
    assert found == STALE[name]


@pytest.mark.parametrize("system", [*SYSTEMS, "finetune"])
def test_without_a_configuration_its_rows_are_computed_again(repository: Outline, system: str) -> None:
    """DVC keeps the outputs of a stage that is no longer there."""
    assert {"evaluate", "report"} <= stale_with(repository, **{system: {}})


def test_another_released_captioner_may_have_other_words(repository: Outline, dvc: Any) -> None:
    path = repository.folder / SOURCE / "released/captioner.safetensors"
    before = path.read_bytes()
    path.write_bytes(before + b"edited")
    found = stale(dvc)
    path.write_bytes(before)
    assert found == {"build_vocab"}


def test_another_device_evaluates_again(repository: Outline) -> None:
    assert {"extract_features", *TRAININGS, *LATER} <= stale_with(repository, device="cpu")


def test_an_edit_outside_the_stages_code_makes_none_stale(repository: Outline, dvc: Any) -> None:
    with edited(repository, *UNTOUCHED):
        found = stale(dvc)
    assert found == set()


def test_a_file_of_every_folder_is_edited() -> None:
    modules = [path.relative_to(ROOT / SOURCE) for path in (ROOT / SOURCE).rglob("*.py")]
    folders = {path.parts[0] for path in modules if len(path.parts) > 1}
    assert folders == {Path(name).parts[0] for name in (*UNTOUCHED, *STALE) if "/" in name}
