"""Outputs of training and evaluation: round trips, and errors for damaged files."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from captionlab.config import Params
from captionlab.core.records import EVALUATION, MODELS, Decoding, Neighbours
from captionlab.core.results import (
    Evaluation,
    checkpoint_of,
    chosen_decoding,
    read_diagnostics,
    read_evaluation,
    read_manifest,
    read_members,
    read_summary,
    read_training,
    recipe,
    write_evaluation,
    write_training,
)
from captionlab.core.results.further_scores import read_further_scores
from captionlab.core.results.judgments import read_agreements
from captionlab.core.results.photos import (
    AttentionMap,
    read_attention,
    read_gallery,
    read_photo_captions,
    write_photo_captions,
)
from captionlab.errors import CaptionlabError
from results_tree import configuration_scores, history, photo_captions, toys, training, write_results


@pytest.fixture(scope="module")
def params() -> Params:
    return toys()


@pytest.fixture
def root(params: Params, tmp_path: Path) -> Path:
    write_results(tmp_path, params)
    return tmp_path


def read_maps(root: Path) -> list[AttentionMap]:
    return read_attention(root, "attention.lite2")


READERS: dict[str, Callable[[Path], Any]] = {
    "artifacts/dataset/manifest.json": read_manifest,
    "artifacts/models/baseline/lite0/summary.json": lambda root: read_summary(root / MODELS / "baseline/lite0"),
    "artifacts/models/baseline/lite0/history.csv": lambda root: read_training(root / MODELS / "baseline/lite0"),
    "artifacts/evaluation/scores.json": read_evaluation,
    "artifacts/evaluation/diagnostics.json": read_diagnostics,
    "artifacts/evaluation/gallery.json": read_gallery,
    "artifacts/evaluation/judgments.json": read_agreements,
    "artifacts/evaluation/further_scores.json": read_further_scores,
    "artifacts/evaluation/captions/baseline.lite0.jsonl": lambda root: read_photo_captions(root, "baseline.lite0"),
}
SPOILT: dict[str, Callable[[str], str]] = {
    "cut in two": lambda text: text[: len(text) // 2],
    "of another shape": lambda _: '[{"a": 1}]',
}


@pytest.mark.parametrize("name", READERS)
def test_a_missing_file_is_named(root: Path, name: str) -> None:
    (root / name).unlink()
    with pytest.raises(CaptionlabError, match=r"does not exist; run the stage that writes it \(dvc repro\)") as caught:
        READERS[name](root)
    assert str(caught.value).startswith(f"{root / name} ")


@pytest.mark.parametrize("spoil", SPOILT)
@pytest.mark.parametrize("name", [*READERS, "artifacts/evaluation/attention/attention.lite2.json"])
def test_a_damaged_file_is_named_with_the_reason_in_one_line(root: Path, name: str, spoil: str) -> None:
    path = root / name
    path.write_text(SPOILT[spoil](path.read_text("utf-8")), "utf-8")
    read = READERS.get(name, read_maps)
    with pytest.raises(CaptionlabError) as caught:
        read(root)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert any(fault in message for fault in ("is not valid JSON (", "is not what its stage writes (", "lacks epoch"))
    assert "\n" not in message


def test_a_field_of_the_wrong_type_is_named(root: Path) -> None:
    path = root / EVALUATION / "scores.json"
    path.write_text(path.read_text("utf-8").replace('"beam": 3', '"beam": "wide"', 1), "utf-8")
    with pytest.raises(
        CaptionlabError, match=r"scores\.json is not what its stage writes \(configurations\.0\.decodings"
    ):
        read_evaluation(root)


def test_evaluation_and_its_decodings_are_read_back(root: Path) -> None:
    configurations = (
        configuration_scores("attention", "a", val=0.2, test=0.1), configuration_scores("retrieval", "r", 0.1, 0.3),
    )  # fmt: skip
    evaluation = Evaluation(dataset="d", dataset_digest="x", idf="i", configurations=configurations)
    write_evaluation(root / EVALUATION, evaluation)
    found = read_evaluation(root)
    assert found == evaluation
    assert isinstance(found["attention.a"].best.decoding, Decoding)
    assert isinstance(found["retrieval.r"].best.decoding, Neighbours)
    assert found.best.key == "attention.a"  # on test retrieval is better
    with pytest.raises(
        CaptionlabError, match=r"baseline\.b has not been evaluated; run dvc repro, or captionlab evaluate"
    ):
        found["baseline.b"]


def test_captions_and_history_are_read_back(root: Path) -> None:
    rows = photo_captions(configuration_scores("retrieval", "r", 0.1, 0.1), said="a dog")
    write_photo_captions(root / EVALUATION, "retrieval.r", rows)
    assert read_photo_captions(root, "retrieval.r") == rows
    assert {said.log_prob for row in rows for said in row.captions.values()} == {None}
    finetuned = tuple(dataclasses.replace(epoch, val_cider=0.5, train_reward=0.25) for epoch in history(4))
    sizes = {"encoder": "tiny", "embedding": 8, "hidden": 8, "layers": 1}
    for epochs in (history(4), finetuned):
        made = training("baseline", "b", sizes, epochs, "key")
        write_training(root / MODELS / "baseline/b", made)
        found = read_training(root / MODELS / "baseline/b")
        assert found.summary == made.summary
        assert [epoch.rounded() for epoch in found.history] == [epoch.rounded() for epoch in epochs]


def test_a_history_without_the_best_epoch_is_refused(root: Path) -> None:
    path = root / MODELS / "baseline/lite0/history.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:3]))
    with pytest.raises(
        CaptionlabError, match=r"history\.csv lacks epoch 6, which summary\.json names as the best; train"
    ):
        read_training(root / MODELS / "baseline/lite0")


def test_the_sizes_of_members_are_summed(root: Path) -> None:
    found = read_members(root, [("baseline", "lite0"), ("attention", "lite2")])
    assert (found.encoder, found.parameters) == ("efficientnet_lite0, efficientnet_lite2", 2 * 256_000)
    assert found.megabytes == pytest.approx(9.6)


def test_the_chosen_decoding_is_known_only_for_the_projects_checkpoints(root: Path, tmp_path: Path) -> None:
    path = checkpoint_of(root, "attention", "lite2")
    assert chosen_decoding(path) == Decoding(beam=3)
    others = [
        checkpoint_of(root, "attention", "new"), path.with_name("copy.safetensors"), path.parents[1] / path.name,
        path.parents[2] / "a/b/c" / path.name, tmp_path / path.name, Path("/") / path.name, Path("/a") / path.name,
    ]  # fmt: skip
    assert [chosen_decoding(other) for other in others] == [None] * len(others)
    (root / EVALUATION / "scores.json").unlink()
    assert chosen_decoding(path) is None


def test_teachers_with_other_seeds_have_the_same_recipe(tmp_path: Path) -> None:
    """Each is distilled from its initial model and the next seed; other differences make another recipe."""

    def written(system: str, name: str, **settings: Any) -> None:
        sizes = {"encoder": "tiny", "embedding": 8, "hidden": 8, "layers": 1}
        made = training(system, name, sizes | settings, history(2), "key")
        write_training(tmp_path / MODELS / system / name, made)

    for seed in (1, 2, 3):
        written("attention", f"seed{seed}", **{"training.seed": seed})
    written("attention", "wide", hidden=16, **{"training.seed": 1})

    def distilled(name: str, config: str, *teachers: str) -> str:
        told = {"finetune.system": "attention", "finetune.config": config, "finetune.teachers": list(teachers)}
        written("finetune", name, **told)
        return recipe(tmp_path, "finetune", name)

    first = distilled("first", "seed1", "seed1", "seed2")
    assert distilled("second", "seed2", "seed2", "seed3") == first
    assert distilled("third", "seed1", "seed1") != first
    assert distilled("fourth", "seed1", "seed1", "wide") != first
    assert distilled("fifth", "wide", "seed1", "seed2") != first
