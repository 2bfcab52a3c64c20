"""From artifacts to trained and scored systems: the training stages and evaluate on a tiny tree, run for real."""

import dataclasses
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from builders import digests, write_tree
from captionlab.commands import release as releasing
from captionlab.commands.release import CARD, RELEASED, release
from captionlab.config import (
    SYSTEMS,
    EncoderParams,
    EnsembleParams,
    ExtractFeaturesParams,
    FinetuneParams,
    Params,
    RetrievalParams,
    TrainingParams,
)
from captionlab.core.devices import choose_device, uses_bf16
from captionlab.core.files import read_json, read_jsonl, write_json, write_jsonl
from captionlab.core.photo_results import read_attention, read_gallery
from captionlab.core.photo_results import read_captions as read_photo_captions
from captionlab.core.records import (
    CAPTIONS,
    EVALUATION,
    FEATURES,
    MODELS,
    PROTOCOLS,
    VOCAB,
    Decoding,
    Neighbours,
    Split,
)
from captionlab.core.results import (
    CaptionStatistics,
    ConfigurationDiagnostics,
    Diagnostics,
    Evaluation,
    LanguageBias,
    WordAgreement,
    checkpoint_of,
    read_diagnostics,
    read_evaluation,
    read_training,
    write_diagnostics,
    write_evaluation,
)
from captionlab.data.store import open_store
from captionlab.errors import CaptionlabError
from captionlab.evaluation.candidates import Candidates, Finder, Members, _mean_photo
from captionlab.inference.captioner import Captioner, EnsembleCaptioner, Sentence
from captionlab.metrics.scorer import Scorer, score
from captionlab.models.params import SystemParams
from captionlab.report import results
from captionlab.stages.evaluate import Captioned, _gallery, _score, evaluate
from captionlab.stages.finetune import finetune
from captionlab.stages.track import track
from captionlab.stages.train_attention import train_attention
from captionlab.stages.train_baseline import train_baseline
from captionlab.stages.train_modified import train_modified
from captionlab.training import fit, loop
from captionlab.training.checkpoint import load_checkpoint, save_checkpoint
from captionlab.training.fit import read_captions, train_system
from captionlab.training.step import measure
from results_tree import configuration_scores

if TYPE_CHECKING:
    from conftest import World

NAMES = ("baseline", "modified", "attention")


@pytest.fixture(scope="module", autouse=True)
def environment(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[None]:
    """MLflow in a database of our own; METEOR, which tests/metrics/test_scorer.py tests, without its slow Java."""
    folder = tmp_path_factory.mktemp("mlflow")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shutil.copy(empty_database, folder)}")
        git = shutil.which("git")
        bare = folder / "bin"
        bare.mkdir()
        if git:
            (bare / "git").symlink_to(git)
        patch.setenv("PATH", str(bare))
        yield


@pytest.fixture(scope="module")
def params(
    project_params: Params, tiny: Callable[..., SystemParams], settings: Callable[..., TrainingParams]
) -> Params:
    return dataclasses.replace(
        project_params,
        device="cpu",
        dataset=dataclasses.replace(project_params.dataset, name="tiny"),
        extract_features=ExtractFeaturesParams(encoders={"tiny": EncoderParams(grid=2)}),
        training=settings(epochs=12, patience=4, learning_rate=0.03),
        evaluate=dataclasses.replace(project_params.evaluate, beams=(1, 3), max_words=7),
        report=dataclasses.replace(project_params.report, gallery=2),
        **{name: {"tiny": tiny(name)} if name in NAMES else {} for name in SYSTEMS},  # type: ignore[arg-type]
        retrieval={"tiny": RetrievalParams(encoder="tiny", neighbours=(1, 3), consensus_k=2)},
    )


@pytest.fixture
def root(tmp_path: Path, world: "World") -> Path:
    return write_tree(tmp_path, world)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, world: "World", params: Params) -> Path:
    """A tree with its three systems trained."""
    root = write_tree(tmp_path_factory.mktemp("trained"), world)
    for stage in (train_baseline, train_modified, train_attention):
        (line,) = stage(params, root, "tiny")
        assert "parameters" in line
    return root


@pytest.fixture(scope="module")
def evaluated(trained: Path, params: Params) -> Path:
    (line,) = evaluate(params, trained)
    assert line.startswith("evaluate: 4 configurations on 3 test photos; the best on validation is ")
    return trained


@pytest.mark.parametrize("system", NAMES)
def test_what_a_training_leaves(trained: Path, system: str) -> None:
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
def test_a_reloaded_checkpoint_measures_what_training_reported(trained: Path, world: "World", system: str) -> None:
    folder = trained / MODELS / system / "tiny"
    training = read_training(folder)
    best = training.history[training.summary.best_epoch - 1]
    model = Captioner.load(folder / "checkpoint.safetensors").model
    val = measure(model, world.split("val", system == "attention"), 2, "cpu")
    assert val.loss == pytest.approx(best.val_loss, abs=1e-6)
    assert val.accuracy == pytest.approx(best.val_accuracy, abs=1e-6)


@pytest.mark.parametrize("system", NAMES)
def test_trained_twice_gives_the_same_bytes(trained: Path, root: Path, params: Params, system: str) -> None:
    train_system(params, root, system, "tiny")
    assert digests(root / MODELS / system) == digests(trained / MODELS / system)


def test_a_killed_stage_goes_on_to_the_same_bytes(
    trained: Path, root: Path, params: Params, monkeypatch: pytest.MonkeyPatch
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
            train_system(params, root, "baseline", "tiny")
    assert not (root / MODELS / "baseline").exists()
    assert (root / ".resume/models/baseline/tiny.pt").exists()
    train_system(params, root, "baseline", "tiny")
    assert digests(root / MODELS / "baseline") == digests(trained / MODELS / "baseline")


def test_the_key_changes_with_what_decides_the_training(root: Path, params: Params, tiny: Any) -> None:
    def key(changed: Params = params) -> str:
        return fit.training_key(changed, root, "baseline", "tiny")

    before = key()
    assert before == key()
    assert before != key(dataclasses.replace(params, baseline={"tiny": tiny("baseline", hidden=9)}))
    assert before != key(dataclasses.replace(params, training=dataclasses.replace(params.training, seed=2)))
    pooled = np.load(root / FEATURES / "tiny/pooled.npy")
    np.save(root / FEATURES / "tiny/pooled.npy", pooled + 1)
    assert before != key()


@pytest.mark.parametrize(("hidden", "takes"), [(300, r"1\.\d"), (1_000_000, r"16,000,\d\d\d\.\d")])
def test_a_system_that_is_too_large_is_refused(root: Path, params: Params, tiny: Any, hidden: int, takes: str) -> None:
    """Before memory is taken: the larger one's weights would need 16 terabytes."""
    large = dataclasses.replace(params, baseline={"large": tiny("baseline", hidden=hidden)})
    with pytest.raises(CaptionlabError, match=rf"baseline\.large has .* takes {takes} MB.*max_megabytes \(1\)"):
        train_system(large, root, "baseline", "large")
    assert not (root / MODELS).exists()


@pytest.mark.parametrize("system", NAMES)
def test_scores_are_those_of_the_saved_captions(evaluated: Path, system: str) -> None:
    rows = read_photo_captions(evaluated, f"{system}.tiny")
    assert [row.image for row in rows] == ["test0.jpg", "test1.jpg", "test2.jpg"]
    references = {row.image: row.references for row in rows}
    decodings = read_evaluation(evaluated)[f"{system}.tiny"].decodings
    assert [each.decoding for each in decodings] == [Decoding(beam=beam, max_words=7) for beam in (1, 3)]
    for each in decodings:
        captions = {row.image: row.captions[each.decoding.label].caption for row in rows}
        for protocol in PROTOCOLS:
            expected = dataclasses.asdict(score(references, captions, protocol))
            assert dataclasses.asdict(each.test[protocol]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("system", NAMES)
def test_the_decoding_is_chosen_on_validation(evaluated: Path, params: Params, world: "World", system: str) -> None:
    captioner = Captioner.load(checkpoint_of(evaluated, system, "tiny"))
    data = world.split("val", system == "attention")
    references = {image: [caption.raw for caption in world.captions if caption.image == image] for image in data.images}
    scored = read_evaluation(evaluated)[f"{system}.tiny"]
    ciders = []
    for decoding in params.evaluate.decodings:
        said = captioner.describe(data.features(range(3)), decoding)
        captions = {image: photo[0].caption for image, photo in zip(data.images, said, strict=True)}
        ciders.append(score(references, captions).cider or 0.0)
    assert [each.val.cider for each in scored.decodings] == pytest.approx(ciders, abs=1e-6)
    assert ciders[scored.chosen] == max(ciders) == pytest.approx(scored.val_cider, abs=1e-6)
    metrics = read_json(evaluated / "reports/tiny/metrics.json")[f"{system}.tiny"]
    best = scored.best.test["strict"]
    assert metrics == {"bleu_4": best.bleu_4, "cider": best.cider}
    test = measure(captioner.model, world.split("test", system == "attention"), 50, "cpu")
    assert (scored.loss, scored.accuracy) == pytest.approx((test.loss, test.accuracy), abs=1e-5)


REFERENCES: dict[Split, dict[str, Sequence[str]]] = {
    split: {f"{split}0": ["a black dog runs over the grass"], f"{split}1": ["the white cat sleeps in a box"]}
    for split in ("val", "test")
}


def captioned(name: str, right: Mapping[Split, int | None]) -> Captioned:
    """A system whose captions are the references under the decoding in this place of each split, else wrong."""
    wrong = Sentence(caption="a horse", log_prob=-1.0, score=-0.5, tokens=())
    return Captioned(
        system="baseline", name=name, loss=1.0, accuracy=0.5,
        decodings=[Decoding(beam=1), Decoding(beam=3)], without_photo=["a", "a"],
        sentences={
            split: [
                {
                    image: dataclasses.replace(wrong, caption=texts[0]) if place == right[split] else wrong
                    for image, texts in REFERENCES[split].items()
                }
                for place in (0, 1)
            ]
            for split in REFERENCES
        },
    )  # fmt: skip


def test_the_test_split_has_no_say_in_the_decoding() -> None:
    (scored,) = _score([captioned("tiny", {"val": 1, "test": 0})], REFERENCES)
    assert scored.best.decoding == Decoding(beam=3)
    assert scored.best.test["strict"].cider == 0.0  # what it then gets on test, not the best there


def test_the_test_split_has_no_say_in_what_is_best() -> None:
    """Nor in the gallery: the photos are ranked by the captions of the configuration that leads on validation."""
    rivals = [captioned("leads_on_test", {"val": None, "test": 0}), captioned("leads_on_val", {"val": 1, "test": None})]
    scored = _score(rivals, REFERENCES)
    evaluation = Evaluation(dataset="tiny", dataset_digest="abc", idf="", configurations=scored)
    assert (scored[0].best.test["strict"].cider or 0) > (scored[1].best.test["strict"].cider or 0)
    assert evaluation.best.key == "baseline.leads_on_val"
    gallery = _gallery(rivals, evaluation.best, REFERENCES["test"], photos=2)
    assert (gallery.selected_by, gallery.decoding) == ("baseline.leads_on_val", "beam 3")
    assert {photo.cider for photo in gallery.photos} == {0.0}


def test_the_closing_line_and_the_gallery_name_the_best_on_validation(evaluated: Path, params: Params) -> None:
    best = read_evaluation(evaluated).best
    test = best.best.test["strict"]
    (line,) = evaluate(params, evaluated)
    assert line == (
        f"evaluate: 4 configurations on 3 test photos; the best on validation is {best.key} "
        f"({best.best.decoding.label}), on test BLEU-4 {test.bleu_4:.3f} and CIDEr {test.cider:.3f}"
    )
    shown = read_gallery(evaluated)
    assert (shown.selected_by, shown.decoding, shown.ranked) == (best.key, best.best.decoding.label, 3)


def test_the_gallery_holds_photos_of_each_third_by_the_best_configurations_score(evaluated: Path) -> None:
    shown = read_gallery(evaluated)
    assert [photo.tercile for photo in shown.photos] == ["best", "middle"]  # two photos for three thirds
    assert [photo.rank for photo in shown.photos] == [1, 2]
    rows = read_photo_captions(evaluated, shown.selected_by)
    captions = {row.image: row.captions[shown.decoding].caption for row in rows}
    scores = Scorer({row.image: row.references for row in rows}).cider_by_image(captions)
    assert [photo.cider for photo in shown.photos] == pytest.approx(sorted(scores.values(), reverse=True)[:2], abs=1e-6)
    metrics = read_json(evaluated / "reports/tiny/metrics.json")
    assert sum(scores.values()) / 3 == pytest.approx(metrics[shown.selected_by]["cider"], abs=1e-6)


def test_attention_maps_fit_their_captions(evaluated: Path) -> None:
    assert [path.name for path in (evaluated / EVALUATION / "attention").iterdir()] == ["attention.tiny.json"]
    maps = read_attention(evaluated, "attention.tiny")
    assert [entry.image for entry in maps] == [photo.image for photo in read_gallery(evaluated).photos]
    chosen = read_evaluation(evaluated)["attention.tiny"].best.decoding.label
    rows = {row.image: row for row in read_photo_captions(evaluated, "attention.tiny")}
    for entry in maps:
        assert " ".join(entry.words) == rows[entry.image].captions[chosen].caption
        assert len(entry.maps) == len(entry.words)
        assert [sum(shares) for shares in entry.maps] == pytest.approx([1] * len(entry.maps), abs=1e-4)


def test_the_retrieval_row_borrows_training_captions(evaluated: Path, world: "World") -> None:
    scored = read_evaluation(evaluated)["retrieval.tiny"]
    assert (scored.loss, scored.accuracy) == (None, None)
    assert [each.decoding for each in scored.decodings] == [Neighbours(neighbours=1), Neighbours(neighbours=3)]
    assert scored.best.val.cider == max(each.val.cider or 0.0 for each in scored.decodings)
    learnt = {" ".join(caption.words) for caption in world.captions if caption.split == "train"}
    rows = read_photo_captions(evaluated, "retrieval.tiny")
    assert [row.image for row in rows] == ["test0.jpg", "test1.jpg", "test2.jpg"]
    assert [list(row.captions) for row in rows] == [["1 neighbour", "3 neighbours"]] * 3
    assert {said.caption for row in rows for said in row.captions.values()} <= learnt
    found = read_diagnostics(evaluated).configurations["retrieval.tiny"]
    assert found.caption_statistics.copied == 1.0


def test_a_retrieved_caption_has_no_probability(evaluated: Path) -> None:
    for key in ("retrieval.tiny", "baseline.tiny"):
        rows = read_jsonl(evaluated / EVALUATION / f"captions/{key}.jsonl")
        log_probs = {said["log_prob"] for row in rows for said in row["captions"].values()}
        if key == "retrieval.tiny":
            assert log_probs == {None}
        else:
            assert max(log_probs) < 0


@pytest.mark.parametrize("system", [*NAMES, "retrieval"])
def test_diagnostics_are_of_the_chosen_decoding(evaluated: Path, system: str) -> None:
    key = f"{system}.tiny"
    found = read_diagnostics(evaluated)
    own = found.configurations[key]
    metrics = read_json(evaluated / "reports/tiny/metrics.json")[key]
    assert own.language_bias.right == pytest.approx(metrics, abs=1e-6)
    for score_name, value in metrics.items():
        low, high = found.intervals[key][score_name]
        assert low <= value <= high
    assert own.attributes is None  # which only drawn scenes know
    assert set(found.pairs[key]) == {f"{name}.tiny" for name in (*NAMES, "retrieval")} - {key}


@pytest.mark.parametrize("grid", [False, True])
def test_no_photo_is_the_mean_of_the_training_photos(world: "World", grid: bool) -> None:
    train = world.split("train", grid)
    mean, every = _mean_photo(train, photos_per_block=4), train.features(range(6))
    torch.testing.assert_close(mean.pooled_PD, every.pooled_PD.mean(0, keepdim=True))
    assert (mean.grid_PRC is not None) == grid
    if mean.grid_PRC is not None and every.grid_PRC is not None:
        expected_PRC = every.grid_PRC.float().mean(0, keepdim=True)
        torch.testing.assert_close(mean.grid_PRC.float(), expected_PRC, atol=5e-3, rtol=1e-3)


def test_scores_say_what_they_were_computed_against(evaluated: Path) -> None:
    found = read_evaluation(evaluated)
    assert (found.dataset, found.dataset_digest) == ("tiny", "abc")
    assert found.idf == "references of the scored split"


def test_evaluated_twice_gives_the_same_bytes_and_decodes_once(
    evaluated: Path, params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(evaluated / EVALUATION)
    searched: list[Members] = []
    search = Finder.search

    def spied(finder: Finder, members: Members) -> Candidates:
        searched.append(members)
        return search(finder, members)

    monkeypatch.setattr(Finder, "search", spied)
    evaluate(params, evaluated)
    assert searched == []
    assert digests(evaluated / EVALUATION) == before
    shutil.rmtree(evaluated / ".resume")
    more = dataclasses.replace(params, ensemble={"one": EnsembleParams(members=("attention.tiny",))})
    evaluate(more, evaluated)
    assert searched == [((system, "tiny"),) for system in NAMES]  # the ensemble of one has the same members
    evaluate(params, evaluated)
    assert digests(evaluated / EVALUATION) == before


@pytest.fixture
def shop(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of the tree to release from."""
    shutil.copytree(evaluated / "artifacts", tmp_path / "shop/artifacts")
    return tmp_path / "shop"


@pytest.mark.parametrize("name", [f"{system}.tiny" for system in NAMES])
def test_a_released_system_says_the_same_and_carries_its_scores(shop: Path, world: "World", name: str) -> None:
    line, back = release(shop, name)
    assert back == "to go back: git restore src/captionlab/released/captioner.safetensors docs/model-card.md"
    assert line.startswith(f"{name} is released as src/captionlab/released/captioner.safetensors (0.0 MB, 16 bits; ")
    system = name.split(".")[0]
    trained = checkpoint_of(shop, system, "tiny")
    ours, theirs = Captioner.load(shop / RELEASED), Captioner.load(trained)
    assert theirs.release is None
    assert ours.release is not None
    best = read_evaluation(shop)[name].best
    assert ours.decoding == theirs.decoding == best.decoding
    assert (ours.release.scores, ours.release.dataset_digest) == (best.test["strict"], "abc")
    assert ours.release.photos == {"train": 6, "val": 3, "test": 3}
    assert ours.vocab == theirs.vocab
    assert ours.identity == theirs.identity
    assert (shop / RELEASED).stat().st_size < trained.stat().st_size
    features = world.split("test", system == "attention").features(range(3))
    said = [each.describe(features) for each in (ours, theirs)]
    assert [photo[0].tokens for photo in said[0]] == [photo[0].tokens for photo in said[1]]
    card = (shop / CARD).read_text(encoding="utf-8")
    assert f"| CIDEr-D | {best.test['strict'].cider:.3f} |" in card
    assert "n/a (needs Java)" in card
    assert "## Language bias" in card


def test_the_best_on_validation_is_released_with_what_evaluate_found(shop: Path) -> None:
    name = "modified.tiny"
    configurations = (
        configuration_scores("baseline", "tiny", val=0.2, test=0.5),
        configuration_scores("modified", "tiny", val=0.3, test=0.1),
        configuration_scores("retrieval", "tiny", val=0.9, test=0.9),  # it has no checkpoint
    )
    evaluation = dataclasses.replace(read_evaluation(shop), configurations=configurations)
    write_evaluation(shop / EVALUATION, evaluation)
    per_score = {"bleu_4": 0.5, "cider": 1.0}
    colours = WordAgreement(said=4, precision=0.75, expected=0, recall=None)
    found = ConfigurationDiagnostics(
        language_bias=LanguageBias(right=per_score, wrong=per_score, without=per_score, image_contribution=per_score),
        caption_statistics=CaptionStatistics(
            distinct=0.5, repeated=0.25, copied=0.125, words=7, length=4.5, colours=colours,
            counts=WordAgreement(said=0, precision=None, expected=0, recall=None),
        ),
    )  # fmt: skip
    diagnostics = Diagnostics(
        settings={}, configurations={name: found}, intervals={name: {"cider": (0.25, 1.75)}}, pairs={}
    )
    write_diagnostics(shop / EVALUATION, diagnostics)
    line, _ = release(shop)
    assert line.startswith("modified.tiny ")
    card = (shop / CARD).read_text(encoding="utf-8")
    assert "| CIDEr-D | 0.300 [0.250, 1.750] |" in card
    assert "| CIDEr-D | 1.000 | 1.000 | 1.000 | 1.000 |" in card
    assert "50 % of the captions are different" in card
    assert "Of the colours it names, 75 %" in card
    assert "Of the counts" not in card
    before = digests(shop / "src") | digests(shop / "docs")
    release(shop)
    assert digests(shop / "src") | digests(shop / "docs") == before


def test_weights_that_16_bits_would_change_stay_in_32(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releasing, "MIN_UNCHANGED", 1.1)
    line, _ = release(shop, "baseline.tiny")
    assert "32 bits" in line
    loaded = Captioner.load(shop / RELEASED)
    assert loaded.release is not None
    assert (loaded.release.bits, loaded.release.unchanged) == (32, 1.0)
    original = Captioner.load(shop / MODELS / "baseline/tiny/checkpoint.safetensors").model.state_dict()
    assert all(value.equal(original[key]) for key, value in loaded.model.state_dict().items())


def test_what_cannot_be_released_is_refused(shop: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CaptionlabError, match=r"'oracle' is not trained and scored; there are attention\.tiny, base"):
        release(shop, "oracle")
    monkeypatch.setattr(releasing, "MAX_MEGABYTES", 0.001)
    with pytest.raises(CaptionlabError, match=r"baseline\.tiny takes 0\.0 MB, more than the 0\.001 of a release"):
        release(shop, "baseline.tiny")
    assert not (shop / "src").exists()
    shutil.rmtree(shop / MODELS)
    with pytest.raises(CaptionlabError, match="no trained and scored system to release; run dvc repro"):
        release(shop)


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    shutil.copytree(trained / "artifacts", tmp_path / "copy/artifacts", ignore=shutil.ignore_patterns("evaluation"))
    return tmp_path / "copy"


def test_another_vocabulary_is_refused(copy: Path, params: Params, world: "World") -> None:
    size = len(world.vocab)
    write_json(copy / VOCAB, dataclasses.replace(world.vocab, words=(*world.vocab.words, "zebra")).to_json())
    with pytest.raises(CaptionlabError, match=f"vocabulary of {size} words.* another of {size + 1}; train it again"):
        evaluate(params, copy)


def test_a_missing_checkpoint_is_refused_and_old_scores_stay(copy: Path, params: Params) -> None:
    write_json(copy / EVALUATION / "scores.json", {})
    (copy / MODELS / "attention/tiny/checkpoint.safetensors").unlink()
    with pytest.raises(CaptionlabError, match="does not exist; train the system first"):
        evaluate(params, copy)
    assert [path.name for path in (copy / EVALUATION).iterdir()] == ["scores.json"]


def test_a_test_photo_without_words_is_refused(copy: Path, params: Params) -> None:
    rows = [row | {"words": []} if row["image"] == "test1.jpg" else row for row in read_jsonl(copy / CAPTIONS)]
    write_jsonl(copy / CAPTIONS, rows)
    with pytest.raises(CaptionlabError, match=r"1 photos of split test have no caption with words, test1\.jpg for one"):
        evaluate(params, copy)


def test_the_tree_is_read_back(root: Path, world: "World") -> None:
    assert read_captions(root) == world.captions
    assert open_store(root / FEATURES / "tiny").images == world.store.images


def test_the_runs_are_in_mlflow(trained: Path) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("captionlab/tiny")
    assert experiment is not None
    names = {run.data.tags["mlflow.runName"] for run in client.search_runs([experiment.experiment_id])}
    assert {f"{system}.tiny" for system in NAMES} <= names
    assert not (trained / "mlflow.db").exists()


def test_devices() -> None:
    assert choose_device("cpu") == "cpu"
    assert choose_device("auto") in ("cpu", "cuda", "mps")
    assert not uses_bf16("fp32", "cpu")
    for device in ("cuda", "mps"):
        assert not uses_bf16("auto", device)
        with pytest.raises(CaptionlabError, match=f"bf16, which is for CPUs; on {device} use auto or fp32"):
            uses_bf16("bf16", device)

    if not torch.cuda.is_available():
        with pytest.raises(CaptionlabError, match=r"device is cuda.*use auto"):
            choose_device("cuda")
    if torch.ops.mkldnn._is_mkldnn_bf16_supported():
        assert uses_bf16("bf16", "cpu")
    else:
        assert not uses_bf16("auto", "cpu")
        with pytest.raises(CaptionlabError, match="bf16, which this CPU cannot compute; use auto or fp32"):
            uses_bf16("bf16", "cpu")


def test_no_output_names_this_machine(evaluated: Path) -> None:
    for path in (path for folder in (MODELS, EVALUATION) for path in (evaluated / folder).rglob("*.*")):
        assert str(evaluated).encode() not in path.read_bytes(), path


def test_finetuned_systems_and_ensembles_are_rows_of_the_comparison(
    trained: Path, params: Params, tmp_path: Path
) -> None:
    root = tmp_path / "tree"
    shutil.copytree(trained, root)
    params = dataclasses.replace(
        params,
        dataset=dataclasses.replace(params.dataset, name="rows"),  # an experiment of its own, in this tree
        finetune={
            "rewarded": FinetuneParams(
                system="attention", config="tiny", samples=2, cross_entropy=0.5, training={"epochs": 2, "patience": 1}
            ),
            "taught": FinetuneParams(
                system="attention", config="tiny", teachers=("tiny",), cross_entropy=0.5, training={"epochs": 2}
            ),
        },
        ensemble={
            "one": EnsembleParams(members=("attention.tiny",)),
            "three": EnsembleParams(members=("attention.tiny", "finetune.rewarded", "baseline.tiny")),
            "reranked": EnsembleParams(members=("attention.tiny",), neighbours=2, consensus_weight=100.0),
        },
    )
    before = digests(root / MODELS / "attention")
    finetune(params, root, "rewarded")
    (line,) = finetune(params, root, "taught")
    assert line.startswith("finetune.taught: ")
    assert digests(root / MODELS / "attention") == before
    first = digests(root / MODELS / "finetune")
    assert {Path(name).name for name in first} == {"checkpoint.safetensors", "history.csv", "summary.json"}
    history = read_training(root / MODELS / "finetune/rewarded").history
    assert len(history) == 2
    assert all((epoch.val_cider or -1) >= 0 and (epoch.train_reward or -1) >= 0 for epoch in history)
    finetune(params, root, "rewarded")
    finetune(params, root, "taught")
    assert digests(root / MODELS / "finetune") == first

    evaluate(params, root)
    evaluation = read_evaluation(root)
    keys = [each.key for each in evaluation.configurations]
    assert keys == [*(f"{system}.{name}" for system, name in params.configurations()), "retrieval.tiny"]
    alone, single = evaluation["ensemble.one"], evaluation["attention.tiny"]
    assert (alone.decodings, alone.chosen) == (single.decodings, single.chosen)
    assert (alone.loss, alone.accuracy) == pytest.approx((single.loss, single.accuracy), abs=2e-6)
    reranked = evaluation["ensemble.reranked"]
    assert alone.decodings[0].decoding == Decoding(beam=1, max_words=7)
    assert reranked.decodings[0] == alone.decodings[0]  # a single candidate is not ranked
    runs = {run.name: run for run in results.load(params, root).runs}
    members = [runs[name].row().parameters or 0 for name in ("attention.tiny", "finetune.rewarded", "baseline.tiny")]
    assert runs["ensemble.three"].row().parameters == sum(members)
    assert "9 runs in MLflow" in track(params, root)[0]
    assert "9 already there" in track(params, root)[0]


def test_an_ensemble_wants_one_vocabulary(trained: Path, tmp_path: Path) -> None:
    paths = [trained / MODELS / system / "tiny/checkpoint.safetensors" for system in ("attention", "baseline")]
    checkpoint = load_checkpoint(paths[1])
    vocab = dataclasses.replace(checkpoint.vocab, words=(*checkpoint.vocab.words[:-1], "zebra"))
    save_checkpoint(tmp_path / "other.safetensors", dataclasses.replace(checkpoint, vocab=vocab))
    both = EnsembleCaptioner.load(paths)
    assert [member.identity.system for member in both.members] == ["attention", "baseline"]
    assert both.sources == {"tiny": True}  # the baseline reads the pooled vectors beside the grid
    with pytest.raises(CaptionlabError, match="know different words; an ensemble needs one vocabulary"):
        EnsembleCaptioner.load([paths[0], tmp_path / "other.safetensors"])


def test_a_checkpoint_of_other_sizes_is_not_finetuned(
    trained: Path, params: Params, tiny: Callable[..., SystemParams]
) -> None:
    params = dataclasses.replace(
        params,
        attention={"tiny": tiny("attention", dropout=0.5)},  # type: ignore[dict-item]
        finetune={"x": FinetuneParams(system="attention", config="tiny", samples=2, cross_entropy=0.5)},
    )
    with pytest.raises(CaptionlabError, match=r"is of another configuration than params\.yaml"):
        finetune(params, trained, "x")
    with pytest.raises(CaptionlabError, match=r"finetune has no entry 'y'; params\.yaml has x"):
        finetune(params, trained, "y")
