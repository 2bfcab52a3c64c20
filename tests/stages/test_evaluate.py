"""The stage evaluate on three tiny systems: outputs, and selection on validation."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from builders import digests
from captionlab.config import EnsembleParams, Params, RetrievalParams
from captionlab.core.files import read_json, read_jsonl, write_json
from captionlab.core.records import CAPTIONS, DATASET, EVALUATION, MODELS, PROTOCOLS, VOCAB, Decoding, Neighbours, Split
from captionlab.core.results import Evaluation, checkpoint_of, read_diagnostics, read_evaluation
from captionlab.core.results.dataset import iter_dataset
from captionlab.core.results.further_scores import read_further_scores
from captionlab.core.results.judgments import JudgedCaption, read_agreements, write_judged
from captionlab.core.results.photos import read_attention, read_gallery, read_photo_captions
from captionlab.errors import CaptionlabError
from captionlab.evaluation.candidates import Candidates, Finder, Members
from captionlab.evaluation.captioned import Captioned
from captionlab.evaluation.rows import RowCaptioner, _version
from captionlab.inference.captioner import Captioner, Sentence
from captionlab.inference.clip_score import ClipScorer
from captionlab.metrics.meteor import Meteor
from captionlab.metrics.scorer import Scorer
from captionlab.stages.evaluate import _gallery, _score, evaluate
from captionlab.training.step import measure
from photo_sets import jpegs
from tiny_transformers import clip

if TYPE_CHECKING:
    from conftest import World

NAMES = ("baseline", "modified", "attention")


@pytest.fixture(autouse=True)
def _without_java(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """METEOR takes seconds to start; tests/metrics tests it."""
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))


@pytest.fixture
def copy(evaluated: Path, tmp_path: Path) -> Path:
    """A copy of the tree for changes."""
    return Path(shutil.copytree(evaluated, tmp_path / "copy"))


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
            expected = dataclasses.asdict(Scorer(references, protocol).score(captions))
            assert dataclasses.asdict(each.test[protocol]) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("system", NAMES)
def test_the_decoding_is_chosen_on_validation(
    evaluated: Path, tiny_params: Params, world: "World", system: str
) -> None:
    captioner = Captioner.load(checkpoint_of(evaluated, system, "tiny"))
    data = world.split("val", system == "attention")
    references = {image: [caption.raw for caption in world.captions if caption.image == image] for image in data.images}
    scored = read_evaluation(evaluated)[f"{system}.tiny"]
    ciders = []
    for decoding in tiny_params.evaluate.decodings:
        said = captioner.describe(data.features(range(3)), decoding)
        captions = {image: photo[0].caption for image, photo in zip(data.images, said, strict=True)}
        ciders.append(Scorer(references).score(captions).cider or 0.0)
    assert [each.val_cider for each in scored.decodings] == pytest.approx(ciders, abs=1e-6)
    assert ciders[scored.chosen] == max(ciders) == pytest.approx(scored.val_cider, abs=1e-6)
    metrics = read_json(evaluated / "reports/tiny/metrics.json")[f"{system}.tiny"]
    best = scored.best.test["strict"]
    assert metrics == {"val_cider": scored.val_cider, "bleu_4": best.bleu_4, "cider": best.cider}
    test = measure(captioner.model, world.split("test", system == "attention"), 50, "cpu")
    assert (scored.loss, scored.accuracy) == pytest.approx((test.loss, test.accuracy), abs=1e-5)


def test_the_least_number_of_words_and_repeated_words_are_chosen_like_the_beam(copy: Path, tiny_params: Params) -> None:
    wanted = dataclasses.replace(tiny_params.evaluate, min_words=(1, 5), no_repeat_ngram=(0, 1))
    evaluate(dataclasses.replace(tiny_params, evaluate=wanted), copy)
    scored = read_evaluation(copy)["attention.tiny"]
    assert [each.decoding for each in scored.decodings] == wanted.decodings
    assert len(scored.decodings) == 2 * 2 * 2
    assert scored.val_cider == max(each.val_cider for each in scored.decodings)
    for row in read_photo_captions(copy, "attention.tiny"):
        for decoding in wanted.decodings:
            words = row.captions[decoding.label].caption.split()
            assert len(words) >= decoding.min_words
            assert not decoding.no_repeat_ngram or len(set(words)) == len(words)


REFERENCES: dict[Split, dict[str, Sequence[str]]] = {
    split: {f"{split}0": ["a black dog runs over the grass"], f"{split}1": ["the white cat sleeps in a box"]}
    for split in ("val", "test")
}


def captioned(name: str, right: Mapping[Split, int | None]) -> Captioned:
    """A system whose captions are the references under one decoding of each split, and otherwise wrong."""
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


def test_the_test_split_does_not_affect_the_decoding() -> None:
    (scored,) = _score([captioned("tiny", {"val": 1, "test": 0})], REFERENCES, Meteor())
    assert scored.best.decoding == Decoding(beam=3)
    assert scored.best.test["strict"].cider == 0.0  # its score on test, which is not the best there


def test_the_test_split_does_not_affect_the_ranking() -> None:
    """Nor the gallery, whose photos are ranked by the configuration that is best on validation."""
    rivals = [captioned("leads_on_test", {"val": None, "test": 0}), captioned("leads_on_val", {"val": 1, "test": None})]
    scored = _score(rivals, REFERENCES, Meteor())
    evaluation = Evaluation(dataset="tiny", dataset_digest="abc", idf="", configurations=scored)
    assert (scored[0].best.test["strict"].cider or 0) > (scored[1].best.test["strict"].cider or 0)
    assert evaluation.best.key == "baseline.leads_on_val"
    gallery = _gallery(rivals, evaluation.best, REFERENCES["test"], photos=2)
    assert (gallery.selected_by, gallery.decoding) == ("baseline.leads_on_val", "beam 3")
    assert {photo.cider for photo in gallery.photos} == {0.0}


def test_the_closing_line_and_the_gallery_name_the_best_on_validation(copy: Path, tiny_params: Params) -> None:
    best = read_evaluation(copy).best
    test = best.best.test["strict"]
    (line,) = evaluate(tiny_params, copy)
    assert line == (
        f"evaluate: 4 configurations on 3 test photos; the best on validation is {best.key} "
        f"({best.best.decoding.label}), on test BLEU-4 {test.bleu_4:.3f} and CIDEr {test.cider:.3f}"
    )
    shown = read_gallery(copy)
    assert (shown.selected_by, shown.decoding, shown.ranked) == (best.key, best.best.decoding.label, 3)


def test_the_gallery_has_photos_from_each_third_of_the_ranking(evaluated: Path) -> None:
    shown = read_gallery(evaluated)
    assert [photo.tercile for photo in shown.photos] == ["best", "middle"]  # two photos for three thirds
    assert [photo.rank for photo in shown.photos] == [1, 2]
    rows = read_photo_captions(evaluated, shown.selected_by)
    captions = {row.image: row.captions[shown.decoding].caption for row in rows}
    scores = Scorer({row.image: row.references for row in rows}).cider_by_image(captions)
    assert [photo.cider for photo in shown.photos] == pytest.approx(sorted(scores.values(), reverse=True)[:2], abs=1e-6)
    metrics = read_json(evaluated / "reports/tiny/metrics.json")
    assert sum(scores.values()) / 3 == pytest.approx(metrics[shown.selected_by]["cider"], abs=1e-6)


def test_every_word_has_an_attention_map(evaluated: Path) -> None:
    assert [path.name for path in (evaluated / EVALUATION / "attention").iterdir()] == ["attention.tiny.json"]
    maps = read_attention(evaluated, "attention.tiny")
    assert [entry.image for entry in maps] == [photo.image for photo in read_gallery(evaluated).photos]
    chosen = read_evaluation(evaluated)["attention.tiny"].best.decoding.label
    rows = {row.image: row for row in read_photo_captions(evaluated, "attention.tiny")}
    for entry in maps:
        assert " ".join(entry.words) == rows[entry.image].captions[chosen].caption
        assert len(entry.maps) == len(entry.words)
        assert [sum(shares) for shares in entry.maps] == pytest.approx([1] * len(entry.maps), abs=1e-4)


def test_the_retrieval_row_has_training_captions(evaluated: Path, world: "World") -> None:
    scored = read_evaluation(evaluated)["retrieval.tiny"]
    assert (scored.loss, scored.accuracy) == (None, None)
    assert [each.decoding for each in scored.decodings] == [Neighbours(neighbours=1), Neighbours(neighbours=3)]
    assert scored.val_cider == max(each.val_cider for each in scored.decodings)
    learnt = {" ".join(caption.words) for caption in world.captions if caption.split == "train"}
    rows = read_photo_captions(evaluated, "retrieval.tiny")
    assert [row.image for row in rows] == ["test0.jpg", "test1.jpg", "test2.jpg"]
    assert [list(row.captions) for row in rows] == [["1 neighbour", "3 neighbours"]] * 3
    assert {said.caption for row in rows for said in row.captions.values()} <= learnt
    found = read_diagnostics(evaluated).configurations["retrieval.tiny"]
    assert found.caption_statistics.copied == 1.0


def test_a_row_that_params_yaml_no_longer_names_is_refused(evaluated: Path, tmp_path: Path) -> None:
    """As after another preset was applied."""
    (tmp_path / EVALUATION).parent.mkdir()
    (tmp_path / EVALUATION).symlink_to(evaluated / EVALUATION)
    shutil.copy(Path(__file__).parents[2] / "params.yaml", tmp_path)
    with pytest.raises(CaptionlabError, match=r"retrieval has no entry 'tiny'; params\.yaml has lite2"):
        RowCaptioner.load(tmp_path, "retrieval.tiny")


def test_rows_that_compare_with_other_captions_or_otherwise_have_another_version(tmp_path: Path) -> None:
    (tmp_path / CAPTIONS).parent.mkdir(parents=True)
    (tmp_path / CAPTIONS).write_text("a dog")
    retrieval = RetrievalParams(encoder="efficientnet_lite0", neighbours=(1,), consensus_k=1)
    ensemble = EnsembleParams(members=("attention.a",), neighbours=10, consensus_weight=1.0)
    configs = (
        retrieval, dataclasses.replace(retrieval, consensus_k=4),
        ensemble, dataclasses.replace(ensemble, consensus_weight=2.0),
    )  # fmt: skip
    versions = {_version(tmp_path, "weights", config) for config in configs}
    (tmp_path / CAPTIONS).write_text("a cat")
    assert len({*versions, *(_version(tmp_path, "weights", config) for config in configs)}) == 8


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
    del metrics["val_cider"]
    assert own.language_bias.right == pytest.approx(metrics, abs=1e-6)
    for score_name, value in metrics.items():
        low, high = found.intervals[key][score_name]
        assert low <= value <= high
    assert own.attributes is None  # only for drawn scenes
    assert set(found.pairs[key]) == {f"{name}.tiny" for name in (*NAMES, "retrieval")} - {key}


def test_scores_record_their_inputs(evaluated: Path) -> None:
    found = read_evaluation(evaluated)
    assert (found.dataset, found.dataset_digest) == ("tiny", "abc")
    assert found.idf == "references of the scored split"


def test_a_second_evaluation_gives_the_same_bytes_without_decoding(
    copy: Path, tiny_params: Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = digests(copy / EVALUATION)
    searched: list[Members] = []
    search = Finder.search

    def spied(finder: Finder, members: Members) -> Candidates:
        searched.append(members)
        return search(finder, members)

    monkeypatch.setattr(Finder, "search", spied)
    evaluate(tiny_params, copy)
    assert searched == []
    assert digests(copy / EVALUATION) == before
    shutil.rmtree(copy / ".resume")
    more = dataclasses.replace(tiny_params, ensemble={"one": EnsembleParams(members=("attention.tiny",))})
    evaluate(more, copy)
    assert searched == [((system, "tiny"),) for system in NAMES]  # the ensemble of one has the same members
    evaluate(tiny_params, copy)
    assert digests(copy / EVALUATION) == before


def test_another_vocabulary_is_refused(copy: Path, tiny_params: Params, world: "World") -> None:
    size = len(world.vocab)
    write_json(copy / VOCAB, dataclasses.replace(world.vocab, words=(*world.vocab.words, "zebra")).to_json())
    with pytest.raises(CaptionlabError, match=f"vocabulary of {size} words.* another of {size + 1}; train it again"):
        evaluate(tiny_params, copy)


def test_a_missing_checkpoint_is_refused_and_old_scores_are_kept(copy: Path, tiny_params: Params) -> None:
    before = digests(copy / EVALUATION)
    (copy / MODELS / "attention/tiny/checkpoint.safetensors").unlink()
    with pytest.raises(CaptionlabError, match="does not exist; train the system first"):
        evaluate(tiny_params, copy)
    assert digests(copy / EVALUATION) == before


def test_scores_of_an_earlier_version_are_replaced(copy: Path, tiny_params: Params) -> None:
    before = digests(copy / EVALUATION)
    write_json(copy / EVALUATION / "scores.json", {"signature": {}, "systems": []})
    shutil.rmtree(copy / ".resume")
    evaluate(tiny_params, copy)
    assert digests(copy / EVALUATION) == before


def test_no_output_names_this_machine(evaluated: Path) -> None:
    for path in (path for folder in (MODELS, EVALUATION) for path in (evaluated / folder).rglob("*.*")):
        assert str(evaluated).encode() not in path.read_bytes(), path


def test_scores_are_compared_with_the_judgments_of_a_dataset(copy: Path, tiny_params: Params, world: "World") -> None:
    """Including photo fit, which needs features; without judgments there is no agreement."""
    assert read_agreements(copy) == {}
    captions = [caption for caption in world.captions if caption.split == "test"]
    judged = [
        JudgedCaption(
            judges="experts", image=photo.image, caption=caption.raw, is_reference=photo.image == caption.image,
            marks=(4.0,) if photo.image == caption.image else (1.0, 2.0),
        )
        for photo in captions
        for caption in captions
    ]  # fmt: skip
    write_judged(copy / DATASET, judged)
    evaluate(tiny_params, copy)
    (found,) = read_agreements(copy).values()
    assert {"bleu_4", "cider", "photo_fit"} <= found.scores.keys()
    assert found.pairs == sum(not each.is_reference for each in judged)


def test_clip_scores_the_chosen_captions(copy: Path, tiny_params: Params) -> None:
    folder = clip(copy / "clip")
    (copy / DATASET / "images").mkdir(exist_ok=True)
    photos = jpegs(copy / DATASET / "images", [record.image for record in iter_dataset(copy) if record.split == "test"])
    asked = dataclasses.replace(tiny_params.evaluate, clip=str(folder))
    evaluate(dataclasses.replace(tiny_params, evaluate=asked), copy)
    rows = read_photo_captions(copy, "attention.tiny")
    chosen = read_evaluation(copy)["attention.tiny"].best.decoding.label
    pairs = [(row.image, row.captions[chosen].caption) for row in rows]
    expected = ClipScorer(str(folder)).scores(pairs, photos, {row.image: row.references for row in rows})
    found = read_further_scores(copy).configurations["attention.tiny"]
    assert found == {name: pytest.approx(values.mean(), abs=1e-5) for name, values in expected.items()}


def test_a_clip_that_is_not_here_is_said_and_stops_nothing(copy: Path, tiny_params: Params) -> None:
    assert read_further_scores(copy).scores == ()
    asked = dataclasses.replace(tiny_params.evaluate, clip="no/such-model", spice=False)
    lines = evaluate(dataclasses.replace(tiny_params, evaluate=asked), copy)
    assert lines[0].startswith(
        "evaluate: without clip_score, ref_clip_score: no/such-model is neither a folder with CLIP's weights nor"
    )
    found = read_further_scores(copy)
    assert found.configurations["attention.tiny"] == {"clip_score": None, "ref_clip_score": None}
