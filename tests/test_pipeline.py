"""The whole pipeline for real, on a few drawn scenes: DVC runs it, MLflow keeps it, nothing is faked.

The tests build on one another's repository and run in the order they stand in.
"""

import csv
import json
import shutil

import pytest

from captionlab.config import SYSTEMS
from captionlab.core.records import PROTOCOLS
from captionlab.core.results import read_evaluation
from repository import Repository


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Repository:
    return Repository(tmp_path_factory.mktemp("pipeline") / "captionlab")


def test_repro_runs_everything_and_renders_the_table(repository: Repository) -> None:
    said = repository.run("dvc", "repro")
    assert repository.ran(said) == {
        "check_params", "download", "clean_captions", "build_vocab", "extract_features@efficientnet_lite0",
        *(f"train_{system}@tiny" for system in SYSTEMS), "evaluate", "report", "track",
    }  # fmt: skip
    with (repository.folder / "reports/scenes/comparison.csv").open(newline="") as table:
        measured = [
            row for row in csv.DictReader(table) if row["source"] == "measured" and row["protocol"] in PROTOCOLS
        ]
    assert {row["system"] for row in measured} == {*SYSTEMS, "retrieval"}
    assert {row["decoding"] for row in measured} == {"greedy", "beam 3", "1 neighbour", "3 neighbours"}
    assert "Attribute accuracy" in (repository.folder / "reports/scenes/comparison-all.md").read_text()
    evaluation = read_evaluation(repository.folder)
    scored = {
        (own.system, decoded.decoding.label, protocol): scores
        for own in evaluation.configurations
        for decoded in own.decodings
        for protocol, scores in decoded.test.items()
    }
    shown = {(row["system"], row["decoding"], row["protocol"]): float(row["bleu_4"]) for row in measured}
    assert shown == pytest.approx({key: scores.bleu_4 for key, scores in scored.items()}, abs=1e-6)
    runs = repository.mlflow_runs()
    assert sorted(runs) == sorted(f"{system}.tiny" for system in (*SYSTEMS, "retrieval"))
    assert all(len(tags) == 1 for tags in runs.values())
    repository.commit("first results")


def test_repro_again_runs_only_what_always_runs_and_changes_nothing(repository: Repository) -> None:
    said = repository.run("dvc", "repro")
    assert repository.ran(said) == {"check_params", "track"}
    assert repository.run("git", "status", "--porcelain") == ""
    assert all(len(tags) == 1 for tags in repository.mlflow_runs().values())


def test_the_same_parameters_give_the_same_bytes(repository: Repository) -> None:
    said = repository.run("dvc", "repro", "-f", "-s", "train_attention@tiny", "evaluate", "report")
    assert {"train_attention@tiny", "evaluate", "report"} <= repository.ran(said)
    assert repository.run("git", "status", "--porcelain") == ""


def test_two_queued_workers_land_in_one_database(repository: Repository, no_java: None) -> None:
    for name, hidden in (("queued-a", 20), ("queued-b", 28)):
        repository.run("dvc", "exp", "run", "--queue", "--name", name, "-S", f"baseline.tiny.hidden={hidden}")
    repository.run("dvc", "exp", "run", "--run-all", "--jobs", "2")
    tags = repository.mlflow_runs()["baseline.tiny"]
    for name in ("queued-a", "queued-b"):
        assert sum(tag.get("dvc_experiment") == name and "captionlab.result_key" in tag for tag in tags) == 1
    assert repository.run("git", "status", "--porcelain") == ""


def test_plots_and_metrics_are_there(repository: Repository) -> None:
    assert "baseline.tiny" in repository.run("dvc", "metrics", "show")
    repository.run("dvc", "plots", "show", "--out", "plots")
    assert "Validation loss" in (repository.folder / "plots/index.html").read_text()
    shutil.rmtree(repository.folder / "plots")


def test_a_wrong_parameter_is_one_line(repository: Repository) -> None:
    said = repository.run("dvc", "exp", "run", "-S", "training.epochs=many", ok=False)
    assert "captionlab: " in said
    assert "training.epochs must be an integer, not 'many'" in said
    assert "Traceback" not in said
    repository.run("git", "checkout", "-q", "--", ".")


def test_an_encoder_without_features_is_refused_before_dvc_misses_its_folder(repository: Repository) -> None:
    for target in ([], ["train_baseline@tiny"]):
        said = repository.run("dvc", "exp", "run", *target, "-S", "baseline.tiny.encoder=resnet18", ok=False)
        assert "baseline.tiny.encoder 'resnet18' is not in extract_features.encoders (efficientnet_lite0)" in said
        assert "No such file" not in said
        repository.run("git", "checkout", "-q", "--", ".")


@pytest.mark.parametrize(("override", "message"), [
    ("dataset.source=nowhere/on/this/machine", "dataset.source nowhere/on/this/machine is not a folder"),
    ("+guests.blip.captions=nowhere.json", "guests.blip.captions nowhere.json is not a file"),
    ("+extract_features.encoders.vgg99={grid: 0}", "unknown encoder 'vgg99'; known: efficientnet_lite0, "),
])  # fmt: skip
def test_what_is_missing_is_named_before_dvc_misses_it(repository: Repository, override: str, message: str) -> None:
    said = repository.run("dvc", "exp", "run", "-S", override, ok=False)
    assert message in said
    assert "No such file" not in said
    repository.run("git", "checkout", "-q", "--", ".")


def test_a_checkpoint_of_another_vocabulary_is_refused(repository: Repository) -> None:
    vocab = repository.folder / "artifacts/vocab/vocab.json"
    whole = vocab.read_text()
    words = json.loads(whole)
    words["words"] = words["words"][:-1]
    vocab.unlink()  # it may be a link into DVC's cache
    vocab.write_text(json.dumps(words))
    said = repository.run("captionlab", "evaluate", ok=False)
    assert said.startswith("captionlab: baseline.tiny was trained with a vocabulary of")
    vocab.write_text(whole)
