"""The stage track with a real MLflow database."""

import dataclasses
import json
import shutil
from pathlib import Path

import mlflow
import mlflow.data
import pandas as pd
import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from captionlab.config import EnsembleParams, load_params
from captionlab.core.params import GuestParams
from captionlab.core.records import EVALUATION, MODELS, Decoding
from captionlab.core.results import Training, read_evaluation, read_training, write_evaluation, write_training
from captionlab.core.results.photos import read_photo_captions
from captionlab.metrics.scorer import Scorer
from captionlab.serving import registry
from captionlab.stages.track import track
from captionlab.training.checkpoint import load_checkpoint
from results_tree import FURTHER, QUOTED, SENTINEL, write_results
from tracked import (
    CURVES,
    EXPERIMENT,
    PARAMS,
    REPOSITORY,
    epoch_metrics,
    expected,
    experiment_id,
    points,
    runs,
    train,
    write_pipeline,
)


def test_a_guest_gets_a_run_and_is_never_registered(pipeline: Path) -> None:
    params = dataclasses.replace(PARAMS, guests={"friend": GuestParams(captions="friend.json")})
    write_results(pipeline, params)
    lines = track(params, pipeline)
    (run,) = runs(pipeline)["guests.friend"]
    assert run.data.params["captions"] == "friend.json"
    assert run.data.params["decoding"] == "as given"
    assert run.data.metrics["bleu_4"] == 0.3
    assert "val/cider" not in run.data.metrics
    assert lines[1].startswith("baseline.")
    assert "0 created, 0 completed" in track(params, pipeline)[0]


def test_runs_without_live_tracking_are_published_from_files(pipeline: Path) -> None:
    lines = track(PARAMS, pipeline)
    assert "2 created, 0 completed, 0 already there" in lines[0]
    found = runs(pipeline)
    assert sorted(found) == ["baseline.lite0", "baseline.lite1"]
    (run,) = found["baseline.lite1"]
    assert run.info.status == "FINISHED"
    decoding = {"decoding": "beam 3", "evaluate.length_penalty": "0.7", "evaluate.max_words": "30"}
    settings = read_training(pipeline / MODELS / "baseline/lite1").summary.params
    data = {key: run.data.params[key] for key in ("clean_captions.cleaning", "build_vocab.min_count")}
    assert data == {"clean_captions.cleaning": "standard", "build_vocab.min_count": "3"}
    of_data = {key: value for key, value in run.data.params.items() if key.startswith(("clean_", "build_", "extract_"))}
    assert run.data.params == {key: str(value) for key, value in settings.items()} | decoding | of_data
    assert (settings["hidden"], settings["training.seed"]) == (256, 1)
    scores = read_evaluation(pipeline)["baseline.lite1"]
    expected_scores = {
        "": scores.best.test["strict"], "val/": scores.best.val, "with_greedy/": scores.decodings[0].test["strict"],
        "with_beam_3/": scores.decodings[1].test["strict"], "with_beam_5/": scores.decodings[2].test["strict"],
        "with_report_a/": scores.best.test["report_a"], "with_report_b/": scores.best.test["report_b"],
    }  # fmt: skip
    expected_metrics = {
        f"{prefix}{key}": value
        for prefix, of in expected_scores.items()
        if of is not None
        for key, value in dataclasses.asdict(of).items()
        if value is not None
    }
    expected_metrics |= {"parameters": 256_000, "megabytes": 4.8, "epochs": 3, "test_loss": 2.79, "test_accuracy": 0.51}
    found_metrics = {key: value for key, value in run.data.metrics.items() if key not in epoch_metrics("lite1", 1)}
    assert found_metrics == pytest.approx(expected_metrics, abs=1e-4)
    assert found_metrics["bleu_4"] == 0.21
    for key in CURVES:
        assert points(pipeline, run, key) == expected("lite1", key)
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith(("mlflow.", "captionlab."))}
    assert tags == {
        "system": "baseline",
        "configuration": "lite1",
        "encoder": PARAMS.baseline["lite1"].encoder,
        "dataset": "scenes",
        "dataset_digest": "0123456789abcdef",
        "decoding": "beam 3",
    }
    stored = pipeline / "mlartifacts" / EXPERIMENT / run.info.run_id / "artifacts"
    names = sorted(path.name for path in stored.iterdir())
    assert names == ["comparison.csv", "evaluation.json", "history.csv", "summary.json"]
    timings = (pipeline / "reports/scenes/timings.csv").read_text()
    assert timings == "stage,item,seconds,peak_megabytes\ntrain_baseline,lite1,1.5,900.0\n"


def test_a_decoding_of_several_parts_is_a_name_that_mlflow_allows(pipeline: Path) -> None:
    evaluation = read_evaluation(pipeline)
    several = [Decoding(beam=3, min_words=4), None, Decoding(beam=3, min_words=4, no_repeat_ngram=3)]
    configurations = tuple(
        dataclasses.replace(own, decodings=tuple(
            dataclasses.replace(each, decoding=decoding or each.decoding)
            for each, decoding in zip(own.decodings, several, strict=True)
        )) if own.key == "baseline.lite1" else own
        for own in evaluation.configurations
    )  # fmt: skip
    write_evaluation(pipeline / EVALUATION, dataclasses.replace(evaluation, configurations=configurations))
    track(PARAMS, pipeline)
    (run,) = runs(pipeline)["baseline.lite1"]
    prefixes = {key.partition("/")[0] for key in run.data.metrics if key.startswith("with_beam")}
    parts = "with_beam_3_4_words_or_more"
    assert prefixes == {parts, "with_beam_3", f"{parts}_no_3-gram_twice"}


def test_an_experiment_names_its_runs(pipeline: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    track(PARAMS, pipeline)
    for name in ("dandy-hues", "sly-newt"):
        monkeypatch.setenv("DVC_EXP_NAME", name)
        write_training(pipeline / MODELS / "baseline/lite1", another_training(pipeline, name))
        track(PARAMS, pipeline)
    assert sorted(runs(pipeline)) == [
        "baseline.lite0", "baseline.lite1", "baseline.lite1 (dandy-hues)", "baseline.lite1 (sly-newt)"
    ]  # fmt: skip
    (plain,), (changed,) = runs(pipeline)["baseline.lite1"], runs(pipeline)["baseline.lite1 (sly-newt)"]
    assert "mlflow.runColor" in plain.data.tags
    assert "mlflow.runColor" not in changed.data.tags


def test_a_run_with_another_vocabulary_has_another_name(pipeline: Path) -> None:
    """Its configuration is the same, and so is the dataset."""
    for count in (1, 2):
        params = dataclasses.replace(PARAMS, build_vocab=dataclasses.replace(PARAMS.build_vocab, min_count=count))
        write_training(pipeline / MODELS / "baseline/lite1", another_training(pipeline, f"of {count}"))
        track(params, pipeline)
    (second,) = runs(pipeline)["baseline.lite1 build_vocab.min_count=2"]
    assert second.data.params["build_vocab.min_count"] == "2"


def another_training(root: Path, key: str) -> Training:
    training = read_training(root / MODELS / "baseline/lite1")
    return dataclasses.replace(training, summary=dataclasses.replace(training.summary, training_key=key))


def evaluation_table(run: Run) -> pd.DataFrame:
    """The run's part of the table of all runs, as docs/mlflow.md reads it."""
    mlflow.set_experiment(experiment_id=run.info.experiment_id)
    table = mlflow.load_table("evaluation.json", extra_columns=["run_id"])
    own = table[table["run_id"] == run.info.run_id]
    assert 0 < len(own) < len(table)
    return own.drop(columns="run_id").dropna(axis="columns", how="all")


def test_a_run_has_every_caption_with_its_cider_and_no_reference(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{pipeline / 'mlflow.db'}")
    track(PARAMS, pipeline)
    (run,) = runs(pipeline)["baseline.lite1"]
    table = evaluation_table(run)
    rows = read_photo_captions(pipeline, "baseline.lite1")
    assert table["image"].tolist() == [row.image for row in rows]
    assert table["caption"].tolist() == [row.captions["beam 3"].caption for row in rows]
    assert table["references"].tolist() == [len(row.references) for row in rows]
    references = {row.image: row.references for row in rows}
    found = Scorer(references).score(dict(zip(table["image"], table["caption"], strict=True)))
    assert table["cider"].mean() == pytest.approx(found.cider, abs=1e-4)
    stored = pipeline / "mlartifacts" / EXPERIMENT / run.info.run_id / "artifacts"
    for path in stored.iterdir():
        assert SENTINEL not in path.read_text()


def test_every_run_has_the_dataset(pipeline: Path) -> None:
    with_retrieval = dataclasses.replace(PARAMS, retrieval=load_params(REPOSITORY / "params.yaml").retrieval)
    write_results(pipeline, with_retrieval, epochs=3)
    track(with_retrieval, pipeline)
    found = [run for group in runs(pipeline).values() for run in group]
    assert len(found) == 3
    for run in found:
        assert run.inputs is not None
        (used,) = run.inputs.dataset_inputs
        dataset = used.dataset
        assert (dataset.name, dataset.digest) == ("scenes", "0123456789abcdef")
        assert json.loads(dataset.profile or "") == {"train": 40, "val": 8, "test": 12}
        assert mlflow.data.get_source(dataset).to_dict() == {"uri": "data/scenes"}
        assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "training"}


def test_the_experiment_page_shows_the_main_columns(pipeline: Path) -> None:
    """As stored in MLflow's format; tests/tracking/test_pages.py checks the page."""
    (pipeline / "reports/scenes/comparison.html").write_text("<p>The comparison")
    track(PARAMS, pipeline)
    client = MlflowClient(f"sqlite:///{pipeline / 'mlflow.db'}")
    experiment = experiment_id(client)
    (run,) = runs(pipeline)["baseline.lite0"]
    link = f"#/experiments/{experiment}/runs/{run.info.run_id}/artifacts/comparison.html"
    assert run.data.tags["mlflow.note.content"] == f"Report: [comparison.html]({link})"
    view = json.loads(client.get_experiment(experiment).tags["mlflow.sharedViewState.captionlab"])
    assert view["selectedColumns"][:4] == [
        "metrics.`val/cider`",
        "metrics.`bleu_4`",
        "metrics.`cider`",
        "metrics.`val_loss`",
    ]
    assert (view["orderByKey"], view["orderByAsc"]) == ("metrics.`val/cider`", False)
    assert [chart["displayName"] for chart in view["compareRunCharts"][:-1]] == ["bleu_4", "cider", "val_loss"]
    sections = [section["name"] for section in view["compareRunSections"]]
    assert (sections[:2], sections[-2:]) == (["Model metrics", "val"], ["with_report_a", "with_report_b"])
    assert max(run.data.metrics).startswith("with_report_b/")  # by name, too


def test_publishing_again_changes_nothing(pipeline: Path) -> None:
    track(PARAMS, pipeline)
    before = {name: [run.to_dictionary() for run in group] for name, group in runs(pipeline).items()}
    lines = track(PARAMS, pipeline)
    assert "0 created, 0 completed, 2 already there" in lines[0]
    assert lines[1].startswith("baseline.lite0 is version 1 of the model captionlab (present)")
    assert {name: [run.to_dictionary() for run in group] for name, group in runs(pipeline).items()} == before


def test_retrieval_is_a_run_and_worse_systems_are_never_the_best_model(
    pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{pipeline / 'mlflow.db'}")
    with_retrieval = dataclasses.replace(PARAMS, retrieval=load_params(REPOSITORY / "params.yaml").retrieval)
    write_results(pipeline, with_retrieval, {"retrieval.lite2": (0.3, 0.3)}, epochs=3)
    lines = track(with_retrieval, pipeline)
    assert "3 created, 0 completed, 0 already there" in lines[0]
    assert lines[1].endswith(f"{registry.best_model('scenes')}: none is better than retrieval")
    (run,) = runs(pipeline)["retrieval.lite2"]
    assert (run.data.tags["decoding"], run.data.metrics["bleu_4"]) == ("3 neighbours", 0.3)
    assert "test_loss" not in run.data.metrics
    stored = pipeline / "mlartifacts" / EXPERIMENT / run.info.run_id / "artifacts"
    assert sorted(path.name for path in stored.iterdir()) == ["comparison.csv", "evaluation.json"]
    assert not [path for path in stored.iterdir() if QUOTED in path.read_text()]
    assert list(evaluation_table(run)) == ["image", "references", "cider"]

    write_results(pipeline, with_retrieval, {"retrieval.lite2": (0.1, 0.1)}, epochs=3)
    assert track(with_retrieval, pipeline)[1].endswith(f"{registry.best_model('scenes')} is version 1")


def test_an_ensemble_is_registered_unless_it_needs_training_captions(pipeline: Path) -> None:
    members = ("baseline.lite0", "baseline.lite1")
    reranked = EnsembleParams(members=members, neighbours=5, consensus_weight=0.5)
    with_ensembles = dataclasses.replace(
        PARAMS, ensemble={"both": EnsembleParams(members=members), "reranked": reranked}
    )
    quality = {"ensemble.both": (0.3, 0.3), "ensemble.reranked": (0.4, 0.4)}
    write_results(pipeline, with_ensembles, quality, epochs=3)
    lines = track(with_ensembles, pipeline)
    assert lines[1].startswith("ensemble.both is version 1 of the model captionlab (created)")
    with registry.local_checkpoint(pipeline, "models:/captionlab/1") as path:
        assert len([load_checkpoint(member) for member in path.iterdir()]) == 2


def test_further_scores_are_metrics(pipeline: Path) -> None:
    write_results(pipeline, PARAMS, epochs=3, judged=True)
    track(PARAMS, pipeline)
    (run,) = runs(pipeline)["baseline.lite0"]
    assert {key: run.data.metrics.get(key) for key in FURTHER} == FURTHER
    assert "above_people" not in run.data.tags


def test_scores_above_people_are_a_tag(pipeline: Path) -> None:
    write_results(pipeline, PARAMS, epochs=3, judged=True, quality={"baseline.lite1": (0.19, 0.19)})
    track(PARAMS, pipeline)
    (run,) = runs(pipeline)["baseline.lite1"]
    assert run.data.tags["above_people"] == "bleu_4"


def test_the_released_captioner_has_its_own_version_and_alias(
    pipeline: Path, released: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("captionlab.stages.track.RELEASED", released)
    assert track(PARAMS, pipeline)[2] == "models:/captionlab@released is version 2"
    with registry.local_checkpoint(pipeline, "models:/captionlab@released") as path:
        registered = load_checkpoint(path)
    shipped = load_checkpoint(released)
    assert (registered.identity, registered.decoding) == (shipped.identity, shipped.decoding)
    assert track(PARAMS, pipeline)[2] == "models:/captionlab@released is version 2"


def test_a_new_evaluation_of_the_same_training_is_a_second_run(pipeline: Path) -> None:
    train(pipeline)
    track(PARAMS, pipeline)
    write_pipeline(pipeline, bleu=0.25)
    assert "2 created, 0 completed, 0 already there" in track(PARAMS, pipeline)[0]
    first, second = runs(pipeline)["baseline.lite0"]
    assert (first.data.metrics["bleu_4"], second.data.metrics["bleu_4"]) == (0.2, 0.25)
    for run in (first, second):
        assert points(pipeline, run, "train_loss") == expected("lite0", "train_loss")
    assert "0 created, 0 completed, 2 already there" in track(PARAMS, pipeline)[0]


def test_a_queued_experiment_logs_to_the_original_database(
    pipeline: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    clone = tmp_path_factory.mktemp("clone")
    write_pipeline(clone)
    monkeypatch.setenv("DVC_ROOT", str(pipeline))
    monkeypatch.setenv("DVC_EXP_NAME", "sly-newt")
    track(PARAMS, clone)
    assert not (clone / "mlflow.db").exists()
    found = runs(pipeline)
    assert sorted(found) == ["baseline.lite0 (sly-newt)", "baseline.lite1 (sly-newt)"]
    (run,) = found["baseline.lite0 (sly-newt)"]
    assert run.data.tags["dvc_experiment"] == "sly-newt"
    assert run.info.artifact_uri.startswith((pipeline / "mlartifacts").as_uri())


def test_a_moved_repository_keeps_its_runs(pipeline: Path, tmp_path: Path) -> None:
    track(PARAMS, pipeline)
    moved = tmp_path / "moved"
    moved.mkdir()
    for name in ("mlflow.db", "mlartifacts", "artifacts", "reports"):
        shutil.move(pipeline / name, moved / name)
    assert "0 created, 0 completed, 2 already there" in track(PARAMS, moved)[0]


def test_a_deleted_experiment_is_restored(pipeline: Path) -> None:
    track(PARAMS, pipeline)
    client = MlflowClient(f"sqlite:///{pipeline / 'mlflow.db'}")
    client.delete_experiment(experiment_id(client))
    track(PARAMS, pipeline)
    assert {name: len(group) for name, group in runs(pipeline).items()} == {"baseline.lite0": 1, "baseline.lite1": 1}
