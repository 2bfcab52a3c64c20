"""The stage finetune, and later stages on fine-tuned systems and ensembles."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from builders import digests
from captionlab.config import EnsembleParams, FinetuneParams, Params
from captionlab.core.files import read_jsonl, write_jsonl
from captionlab.core.records import CAPTIONS, MODELS, Decoding
from captionlab.core.results import Evaluation, read_evaluation, read_training
from captionlab.errors import CaptionlabError
from captionlab.models.params import SystemParams
from captionlab.report import results
from captionlab.stages.evaluate import evaluate
from captionlab.stages.finetune import finetune
from captionlab.stages.track import track

REWARDED = FinetuneParams(
    system="attention", config="tiny", samples=2, cross_entropy=0.5, training={"epochs": 2, "patience": 1}
)
DISTILLED = FinetuneParams(
    system="attention", config="tiny", teachers=("tiny",), cross_entropy=0.5, training={"epochs": 2}
)  # fmt: skip


@pytest.fixture(scope="module")
def params(tiny_params: Params) -> Params:
    return dataclasses.replace(
        tiny_params,
        finetune={"rewarded": REWARDED, "distilled": DISTILLED},
        ensemble={
            "one": EnsembleParams(members=("attention.tiny",)),
            "three": EnsembleParams(members=("attention.tiny", "finetune.rewarded", "baseline.tiny")),
            "reranked": EnsembleParams(members=("attention.tiny",), neighbours=2, consensus_weight=100.0),
        },
    )


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, trained: Path, params: Params, empty_database: Path) -> Path:
    """A tree with both fine-tunings, evaluated with the ensembles; its runs are in mlflow.db."""
    root = Path(shutil.copytree(trained, tmp_path_factory.mktemp("finetuned") / "tree"))
    shutil.copy(empty_database, root / "mlflow.db")
    for name in params.finetune:
        (line,) = finetune(params, root, name)
        assert line.startswith(f"finetune.{name}: ")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(root / "no_java"))
        evaluate(params, root)
    return root


@pytest.fixture(scope="module")
def evaluation(root: Path) -> Evaluation:
    return read_evaluation(root)


@pytest.mark.parametrize("name", ["rewarded", "distilled"])
def test_finetuning_writes_its_outputs(root: Path, trained: Path, name: str) -> None:
    folder = root / MODELS / "finetune" / name
    assert {path.name for path in folder.iterdir()} == {"checkpoint.safetensors", "history.csv", "summary.json"}
    history = read_training(folder).history
    assert len(history) == 2
    assert None not in [epoch.val_cider for epoch in history]
    assert [epoch.train_reward is not None for epoch in history] == [name == "rewarded"] * 2
    assert digests(root / MODELS / "attention") == digests(trained / MODELS / "attention")  # what they started from


@pytest.mark.parametrize("name", ["rewarded", "distilled"])
def test_finetuning_is_deterministic(root: Path, params: Params, name: str) -> None:
    first = digests(root / MODELS / "finetune" / name)
    finetune(params, root, name)
    assert digests(root / MODELS / "finetune" / name) == first


def test_finetuned_systems_and_ensembles_are_rows_of_the_comparison(evaluation: Evaluation, params: Params) -> None:
    keys = [each.key for each in evaluation.configurations]
    assert keys == [*(f"{system}.{name}" for system, name in params.configurations()), "retrieval.tiny"]


def test_an_ensemble_of_one_scores_as_its_member(evaluation: Evaluation) -> None:
    alone, single = evaluation["ensemble.one"], evaluation["attention.tiny"]
    assert (alone.decodings, alone.chosen) == (single.decodings, single.chosen)
    assert (alone.loss, alone.accuracy) == pytest.approx((single.loss, single.accuracy), abs=2e-6)


def test_a_single_candidate_is_not_ranked_again(evaluation: Evaluation) -> None:
    reranked, alone = evaluation["ensemble.reranked"].decodings[0], evaluation["ensemble.one"].decodings[0]
    assert alone.decoding == Decoding(beam=1, max_words=7)
    assert reranked == alone


def test_an_ensemble_counts_the_parameters_of_its_members(root: Path, params: Params) -> None:
    runs = {run.name: run for run in results.load(params, root).runs}
    members = [runs[name].row().parameters or 0 for name in ("attention.tiny", "finetune.rewarded", "baseline.tiny")]
    assert runs["ensemble.three"].row().parameters == sum(members)


def test_finetuned_systems_and_ensembles_are_runs_in_mlflow(root: Path, params: Params) -> None:
    assert "9 runs in MLflow's experiment captionlab/tiny" in track(params, root)[0]
    assert "9 already there" in track(params, root)[0]


def test_one_validation_photo_is_too_few(root: Path, params: Params, tmp_path: Path) -> None:
    """Its CIDEr would always be 0."""
    shutil.copytree(root, tmp_path / "tree")
    rows = read_jsonl(root / CAPTIONS)
    first = next(row["image"] for row in rows if row["split"] == "val")
    write_jsonl(tmp_path / "tree" / CAPTIONS, [row for row in rows if row["split"] != "val" or row["image"] == first])
    with pytest.raises(
        CaptionlabError, match=r"finetune\.distilled is stopped by CIDEr, which needs two validation ph"
    ):
        finetune(params, tmp_path / "tree", "distilled")


def test_what_cannot_be_finetuned_is_refused(
    trained: Path, tiny_params: Params, tiny: Callable[..., SystemParams]
) -> None:
    params = dataclasses.replace(
        tiny_params,
        attention={"tiny": tiny("attention", dropout=0.5)},  # type: ignore[dict-item]
        finetune={"x": REWARDED},
    )
    with pytest.raises(CaptionlabError, match=r"has another configuration than params\.yaml"):
        finetune(params, trained, "x")
    with pytest.raises(CaptionlabError, match=r"finetune has no entry 'y'; params\.yaml has x"):
        finetune(params, trained, "y")
