"""The scorer: equal to pycocoevalcap under the strict protocol and to the reports' code under theirs."""

import json
import math
import random
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import astuple, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nltk.translate.bleu_score import corpus_bleu

from captionlab.core.records import Protocol, Scores
from captionlab.errors import CaptionlabError
from captionlab.metrics import meteor
from captionlab.metrics.cider import CiderD
from captionlab.metrics.meteor import Meteor
from captionlab.metrics.scorer import Scorer, _longest_common_subsequence, _most, _torchtext_bleu
from coco import coco_scores

GOLDEN = json.loads((Path(__file__).parents[1] / "assets/metrics_golden.json").read_text(encoding="utf-8"))
REFERENCES: dict[str, list[str]] = GOLDEN["references"]
HYPOTHESES: dict[str, str] = GOLDEN["hypotheses"]

needs_java = pytest.mark.skipif(shutil.which("java") is None, reason="METEOR needs a Java")

WORDS = ["a", "the", "dog", "cat", "man", "runs", "sits", "on", "in", "snow", "grass", "red"]
captions = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
long_captions = st.lists(st.sampled_from(WORDS), min_size=4, max_size=9).map(" ".join)
photos = st.dictionaries(st.text("xyz", min_size=1, max_size=3), st.lists(long_captions, min_size=1, max_size=4))


def score(
    references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str], protocol: Protocol = "strict"
) -> Scores:
    return Scorer(references, protocol).score(hypotheses)


def score_with_meteor(references: Mapping[str, Sequence[str]], hypotheses: Mapping[str, str]) -> Scores:
    with Meteor() as java:
        return Scorer(references).score(hypotheses, java)


# ---- the strict protocol against pycocoevalcap


def test_scores_equal_the_golden_file() -> None:
    ours = score(REFERENCES, HYPOTHESES)
    for name, expected in GOLDEN["scores"].items():
        if name != "meteor":
            assert getattr(ours, name) == pytest.approx(expected, abs=1e-9), name


def test_the_golden_file_equals_pycocoevalcap() -> None:
    references = {image: [" ".join(words) for words in own] for image, own in _strict_words(REFERENCES).items()}
    hypotheses = {
        image: " ".join(own[0]) for image, own in _strict_words({i: [c] for i, c in HYPOTHESES.items()}).items()
    }
    bleus, rouge_l, cider = coco_scores(references, hypotheses)
    assert [*bleus, rouge_l, cider] == pytest.approx(list(GOLDEN["scores"].values())[:6], abs=1e-12)


def _strict_words(texts: dict[str, list[str]]) -> dict[str, list[list[str]]]:
    """An independent implementation of the standard cleaning: keeps letters, digits and blanks."""
    return {
        image: ["".join(c for c in text.lower() if c.isalnum() or c == " ").split() for text in own]
        for image, own in texts.items()
    }


@pytest.mark.parametrize("seed", range(60))
def test_random_captions_score_as_in_pycocoevalcap(seed: int) -> None:
    generator = random.Random(seed)
    words = WORDS[: generator.randint(3, len(WORDS))]

    def caption(least: int) -> str:
        return " ".join(generator.choices(words, k=generator.randint(least, 12)))

    images = [f"{number}.jpg" for number in range(generator.randint(1, 25))]
    references = {image: [caption(1) for _ in range(generator.randint(1, 6))] for image in images}
    hypotheses = {image: caption(0) for image in images}
    references["match"] = [caption(6)]
    hypotheses["match"] = references["match"][0]  # so that n-grams of every order match
    bleus, rouge_l, cider = coco_scores(references, hypotheses)
    ours = score(references, hypotheses)
    assert astuple(ours)[:6] == pytest.approx([*bleus, rouge_l, cider], abs=1e-9)


def test_bleu_without_a_match_is_zero_without_a_warning() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ours = score({"a": ["two red dogs run"]}, {"a": "red dogs sleep"})
    assert ours.bleu_2 > 0
    assert (ours.bleu_3, ours.bleu_4) == (0.0, 0.0)


def test_empty_captions_score_zero() -> None:
    assert astuple(score({"a": ["a dog"], "b": ["a cat"]}, {"a": "", "b": " . "}))[:6] == (0.0,) * 6


def test_a_reference_without_words_is_accepted() -> None:
    ours = score({"a": ["...", "a dog runs fast"], "b": ["!"]}, {"a": "a dog runs fast", "b": "a cat"})
    assert all(math.isfinite(value) for value in astuple(ours)[:6])
    assert ours.rouge_l == pytest.approx(0.5)


def test_bleu_equals_nltk_without_short_captions() -> None:
    references = {"a": ["a dog runs in the snow", "the dog plays"], "b": ["a man sits on the red grass"]}
    hypotheses = {"a": "a dog runs in snow", "b": "a man sits on the grass"}
    expected = corpus_bleu([[r.split() for r in references[i]] for i in "ab"], [hypotheses[i].split() for i in "ab"])
    assert score(references, hypotheses).bleu_4 == pytest.approx(expected, abs=1e-15)


def test_case_and_punctuation_are_ignored() -> None:
    ours = score({"a": ["A dog's T-shirt , wet ."]}, {"a": "a DOGS tshirt wet"})
    assert (ours.bleu_1, ours.bleu_4, ours.rouge_l) == pytest.approx((1, 1, 1))


def test_start_and_end_tokens_do_not_count() -> None:
    references = {"a": ["an unk dog at the start of the end"]}
    plain = score(references, {"a": "dog"})
    marked = score(references, {"a": "<start> dog <unk> <end>"})
    assert plain.bleu_1 == pytest.approx(math.exp(1 - 9 / 1))
    assert marked.bleu_1 == pytest.approx(0.25 * math.exp(1 - 9 / 4))  # one word of four, and longer


# ---- properties


@given(photos.filter(bool))
@settings(max_examples=60, deadline=None)
def test_perfect_captions_score_1(references: dict[str, list[str]]) -> None:
    ours = score(references, {image: own[0] for image, own in references.items()})
    assert (ours.bleu_1, ours.bleu_2, ours.bleu_3, ours.bleu_4) == pytest.approx((1, 1, 1, 1))
    assert ours.rouge_l == pytest.approx(1)
    for protocol in ("report_a", "report_b"):
        assert score(references, {i: own[0] for i, own in references.items()}, protocol).bleu_1 == pytest.approx(1)


@given(photos.filter(bool), st.data())
@settings(max_examples=60, deadline=None)
def test_order_does_not_matter_and_scores_stay_in_range(references: dict[str, list[str]], data: st.DataObject) -> None:
    hypotheses = {image: data.draw(captions) for image in references}
    shuffled = {image: references[image][::-1] for image in data.draw(st.permutations(list(references)))}
    ours = score(references, hypotheses)
    again = score(shuffled, dict(reversed(hypotheses.items())))
    assert astuple(again)[:6] == pytest.approx(astuple(ours)[:6], abs=1e-12)
    assert all(0 <= value <= 1 + 1e-12 for value in astuple(ours)[:5])
    assert 0 <= (ours.cider or 0) <= 10 + 1e-9


@given(photos.filter(bool))
@settings(max_examples=60, deadline=None)
def test_a_start_word_never_raises_a_strict_score(references: dict[str, list[str]]) -> None:
    """CIDEr-D with one reference: of several, longer ones may be nearer to a longer caption."""
    plain = {image: own[0] for image, own in references.items()}
    started = {image: f"<start> {text}" for image, text in plain.items()}
    with_start, without = astuple(score(references, started)), astuple(score(references, plain))
    assert all(higher > lower for higher, lower in zip(without[:5], with_start[:5], strict=True))
    alone = {image: own[:1] for image, own in references.items()}
    assert (score(alone, started).cider or 0) <= (score(alone, plain).cider or 0)


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abcd"), max_size=12))
def test_longest_common_subsequence_equals_dynamic_programming(a: list[str], b: list[str]) -> None:
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    assert _longest_common_subsequence(tuple(a), tuple(b)) == table[-1][-1]


# ---- CIDEr-D as a reward


def test_cider_of_each_caption_equals_the_golden_file() -> None:
    words = _strict_words(REFERENCES)
    references = [[tuple(caption) for caption in words[image]] for image in sorted(words)]
    spoken = _strict_words({image: [caption] for image, caption in HYPOTHESES.items()})
    hypotheses = [tuple(spoken[image][0]) for image in sorted(spoken)]
    ours = CiderD(references).scores(hypotheses, references)
    assert ours.shape == (len(REFERENCES),)
    np.testing.assert_allclose(ours, list(GOLDEN["cider_of_each"][image] for image in sorted(words)), atol=1e-9)


def test_cider_uses_the_given_idf() -> None:
    own = [[("a", "dog")]]
    dogs = CiderD([[("a", "dog")], [("the", "dog")], [("a", "cat")]])
    cats = CiderD([[("a", "cat")], [("the", "cat")], [("a", "dog")]])
    assert dogs.scores([("dog",)], own)[0] < cats.scores([("dog",)], own)[0]  # "dog" is rarer among the cats
    assert CiderD(own).scores([("a", "dog")], own)[0] == 0  # one document: no word is rarer than another


def test_cider_scores_several_samples_of_one_photo() -> None:
    documents: list[list[tuple[str, ...]]] = [
        [("a", "red", "dog", "runs"), ("dog", "runs")],
        [("a", "cat")],
        [("the", "snow")],
    ]
    samples: list[tuple[str, ...]] = [("a", "red", "dog", "runs"), ("a", "cat"), ()]
    cider = CiderD(documents)
    together = cider.scores(samples, [documents[0]] * 3)
    assert together[0] > together[1] > together[2] == 0
    assert [cider.scores([sample], [documents[0]])[0] for sample in samples] == pytest.approx(list(together))


# ---- the reports' protocols


def report_b_as_printed(references: dict[str, list[str]], hypotheses: dict[str, str]) -> list[float]:
    """Report B's `preprocess_captions` and `evaluate_model`, line by line, with given captions."""

    def preprocess_captions(captions: list[str]) -> list[str]:
        captions = [caption.lower() for caption in captions]
        captions = [caption.replace("[^A-Za-z]", "") for caption in captions]
        captions = [caption.replace(r"\s+", " ") for caption in captions]
        captions = [" ".join(word for word in caption.split() if len(word) > 1) for caption in captions]
        return ["startseq " + caption + " endseq" for caption in captions]

    actual, predicted = [], []
    for image, captions in references.items():
        actual.append([caption.split() for caption in preprocess_captions(captions)])
        yhat = "startseq " + hypotheses[image] + " endseq"
        predicted.append(yhat.split())
    return [
        corpus_bleu(actual, predicted, weights=weights)
        for weights in [(1.0, 0, 0, 0), (0.5, 0.5, 0, 0), (0.3, 0.3, 0.3, 0), (0.25, 0.25, 0.25, 0.25)]
    ]


def test_report_b_scores_equal_its_code() -> None:
    references = {
        "a": ["A black dog's ball , wet .", "Two t-shirts hang on a line in the sun"],
        "b": ["The man is sitting on a bench .", "An old man sits"],
        "c": ["Children play .", "A child"],
    }
    said = {"a": "black dog's ball", "b": "man is sitting on the bench", "c": "play"}  # as after the report's tokenizer
    ours = score(references, said, "report_b")
    bleus = [ours.bleu_1, ours.bleu_2, ours.bleu_3, ours.bleu_4]
    assert bleus == pytest.approx(report_b_as_printed(references, said), abs=1e-15)
    assert (ours.rouge_l, ours.cider, ours.meteor) == (None, None, None)
    with_articles = {"a": "a black dog's ball", "b": "a man is sitting on the bench", "c": "play"}
    assert score(references, with_articles, "report_b") == ours  # one-letter words are dropped


def test_report_b_keeps_punctuation_in_references_only() -> None:
    ours = score({"a": ["Dogs, running"]}, {"a": "dogs, running"}, "report_b")
    assert ours.bleu_1 == pytest.approx(3 / 4)  # startseq, running and endseq match; "dogs" is not "dogs,"


def test_report_b_bleu_3_weights_sum_to_less_than_one() -> None:
    ours = score({"a": ["one two three four five"]}, {"a": "one two six four five"}, "report_b")
    assert ours.bleu_3 == pytest.approx((6 / 7 * 4 / 6 * 2 / 5) ** 0.3)


def test_torchtext_rule() -> None:
    """The example in torchtext's documentation, and its tie rule."""
    candidates: list[tuple[str, ...]] = [("My", "full", "pytorch", "test"), ("Another", "Sentence")]
    references: list[list[tuple[str, ...]]] = [
        [("My", "full", "pytorch", "test"), ("Completely", "Different")],
        [("No", "Match")],
    ]

    def bleu(references: list[list[tuple[str, ...]]], said: list[tuple[str, ...]]) -> list[float]:
        return _torchtext_bleu(references, [_most(own) for own in references], said)

    assert bleu(references, candidates)[3] == pytest.approx(0.8408964276313782, abs=1e-7)
    long_first: list[list[tuple[str, ...]]] = [
        [("a", "b", "c"), ("a",)]
    ]  # both differ by one word: torchtext takes the first, others the shorter one
    assert bleu(long_first, [("a", "b")])[0] == pytest.approx(math.exp(1 - 3 / 2))
    assert bleu([long_first[0][::-1]], [("a", "b")])[0] == 1


def test_report_a_counts_start_and_end() -> None:
    ours = score({"a": ["It's a dog , running ."]}, {"a": "a cat"}, "report_a")
    # reference: <sos> it is a dog running <eos> (7 words), caption: <sos> a cat <eos> (4 words, of which 3 match)
    assert ours.bleu_1 == pytest.approx(3 / 4 * math.exp(1 - 7 / 4))
    assert (ours.bleu_2, ours.bleu_3, ours.bleu_4) == (0.0, 0.0, 0.0)
    assert (ours.rouge_l, ours.cider, ours.meteor) == (None, None, None)


# ---- METEOR


@pytest.mark.slow
@needs_java
def test_meteor_for_several_systems_at_once_and_in_any_language(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "JAVA_TOOL_OPTIONS", "-Duser.language=de -Duser.country=DE -Duser.language.format=de"
    )  # the default locale has a decimal comma
    perfect = {image: own[0] for image, own in REFERENCES.items()}
    mixed = {image: (HYPOTHESES if number % 2 else perfect)[image] for number, image in enumerate(perfect)}
    systems = {"golden": HYPOTHESES, "perfect": perfect, "silent": dict.fromkeys(perfect, ""), "mixed": mixed}
    with Meteor() as java:
        found = Scorer(REFERENCES).score_all(systems, java)
    assert found["golden"].meteor == pytest.approx(GOLDEN["scores"]["meteor"], abs=1e-9)
    assert found["perfect"].meteor is not None
    assert found["perfect"].meteor > 0.9
    assert found["silent"].meteor == 0
    assert found["mixed"] == score_with_meteor(REFERENCES, mixed)  # although all its captions were scored before
    alone = score(REFERENCES, HYPOTHESES)
    assert replace(found["golden"], meteor=None) == alone


@pytest.mark.slow
@needs_java
def test_meteor_equals_what_its_program_says_of_several_references() -> None:
    """Captions that match as a whole or not at all, equally good references, and references that are left out."""
    draw = random.Random(1)
    references = [
        [tuple(draw.choices(WORDS, k=draw.randrange(9))) for _ in range(draw.randrange(1, 6))] for _ in range(300)
    ]
    hypotheses = [
        draw.choice(own) if draw.random() < 0.3 else tuple(draw.choices(WORDS, k=draw.randrange(9)))
        for own in references
    ]
    with Meteor() as java:
        for left_out in (0, 1):
            known = [own[left_out if len(own) > 1 else 0 :] for own in references]
            scored = java.scores(known, [hypotheses])
            assert scored
            (found,) = scored
            program = java._program
            assert program
            counts = []
            for own, words in zip(known, hypotheses, strict=True):
                program._send("SCORE", *map(" ".join, own), " ".join(words))
                counts.append(program._read())
            program._send("EVAL", *counts)
            expected = [float(program._read()) for _ in (*counts, "all")]
            assert [*found.captions, found.corpus] == expected
            assert 1 in found.captions
            assert 0 in found.captions


@pytest.mark.parametrize("behaviour", ["exit 3", "exec /bin/sleep 30", "while read line; do echo Error; done"])
def test_meteor_is_missing_if_java_fails(behaviour: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = tmp_path / "java"
    java.write_text(f"#!/bin/sh\n{behaviour}\n")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(meteor, "_STARTUP_SECONDS", 0.5)
    with pytest.warns(RuntimeWarning, match="METEOR is left out"):
        ours = score_with_meteor({"a": ["a dog runs"]}, {"a": "a dog"})
    assert ours.meteor is None
    assert ours.bleu_1 > 0


@needs_java
def test_a_java_that_does_not_start_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_JAVA_OPTIONS", "-Xmx512m")  # less than METEOR's heap
    with pytest.warns(RuntimeWarning, match=r"METEOR is left out: Java gave no score \(.*heap size.*\)$"):
        assert score_with_meteor({"a": ["a dog runs"]}, {"a": "a dog"}).meteor is None


def test_an_exception_of_java_is_in_the_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the stack; and a Java that prints more than a pipe holds goes on."""
    java = tmp_path / "java"
    printed = r"Picked up JAVA_TOOL_OPTIONS: -X\nprogress\nException in thread: no memory\n\tat edu.cmu.Meteor\n"
    java.write_text(
        f"#!{sys.executable}\nimport sys\nsys.stderr.write('Picked up\\n' * 20_000 + '{printed}')\ninput()\n"
    )
    java.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    reason = r"it stopped or took too long; .*progress; Exception in thread: no memory"
    with pytest.warns(RuntimeWarning, match=rf"^METEOR is left out: Java gave no score \({reason}\)$"):
        assert score_with_meteor({"a": ["a dog runs"]}, {"a": "a dog"}).meteor is None


def test_meteor_is_missing_without_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score_with_meteor({"a": ["a dog runs"]}, {"a": "a dog"}).meteor is None


# ---- invalid input


def test_ids_must_match() -> None:
    scorer = Scorer({"a": ["x"], "b": ["x"], "c": ["x"], "d": ["x"], "e": ["x"]})
    with pytest.raises(
        CaptionlabError, match=r"4 without a hypothesis \(b, c, d, \.\.\.\) and 1 without references \(z\)"
    ):
        scorer.score({"a": "x", "z": "x"})


@pytest.mark.parametrize("references", [{}, {"a": []}])
def test_references_are_required(references: dict[str, list[str]]) -> None:
    with pytest.raises(CaptionlabError, match="no references"):
        Scorer(references)
