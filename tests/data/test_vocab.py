"""Vocabulary: order, indices, round trips and errors."""

import copy
import json
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionlab.core.tokens import END, PAD, SPECIALS, START, UNK
from captionlab.data.vocab import Vocabulary
from captionlab.errors import CaptionlabError

words = st.text(alphabet="abcdé7'", min_size=1, max_size=3)
captions = st.lists(st.lists(words, max_size=8), min_size=1).filter(any)


def small() -> Vocabulary:
    text = [["a", "dog", "runs"], ["a", "cat", "runs"], ["a", "bird"]]
    return Vocabulary.build(text, cleaning="standard", min_count=1)


def test_words_are_sorted_by_frequency_then_alphabetically() -> None:
    assert small().words == (*SPECIALS, "a", "runs", "bird", "cat", "dog")


def test_rare_words_are_left_out_and_lower_the_coverage() -> None:
    text = [["a", "dog", "runs"], ["a", "cat", "runs"]]
    vocabulary = Vocabulary.build(text, cleaning="standard", min_count=2)
    assert vocabulary.words == (*SPECIALS, "a", "runs")
    assert vocabulary.coverage(text) == pytest.approx(4 / 6)
    assert vocabulary.coverage([]) == 1.0


def test_decode_stops_at_end_and_skips_special_tokens() -> None:
    vocabulary = small()
    dog = vocabulary.index["dog"]
    assert vocabulary.decode([START, PAD, UNK, dog, END, dog]) == "dog"
    assert vocabulary.decode([]) == ""


@pytest.mark.parametrize("number", [-1, 9])
def test_decode_refuses_an_unknown_index(number: int) -> None:
    with pytest.raises(ValueError, match="9"):
        small().decode([number])


@pytest.mark.parametrize("min_count", [0, 4])
def test_an_empty_vocabulary_is_refused(min_count: int) -> None:
    with pytest.raises(CaptionlabError, match="min_count"):
        Vocabulary.build([["a", "a", "a"]], cleaning="standard", min_count=min_count)


@given(captions)
def test_encode_and_decode_round_trip(text: list[list[str]]) -> None:
    vocabulary = Vocabulary.build(text, cleaning="standard", min_count=1)
    for caption in text:
        numbers = vocabulary.encode(caption)
        assert numbers[0] == START
        assert numbers[-1] == END
        assert vocabulary.decode(numbers) == " ".join(caption)
    assert vocabulary.coverage(text) == 1.0


@given(captions, st.integers(1, 3))
def test_unknown_words_become_unk(text: list[list[str]], min_count: int) -> None:
    counts = [word for caption in text for word in caption]
    if max(map(counts.count, counts)) < min_count:
        return
    vocabulary = Vocabulary.build(text, cleaning="standard", min_count=min_count)
    for caption in text:
        kept = [counts.count(word) >= min_count for word in caption]
        assert [number != UNK for number in vocabulary.encode(caption)[1:-1]] == kept


def test_unknown_words_are_dropped_if_unk_is_not_trained() -> None:
    vocabulary = small()
    assert vocabulary.encode(["a", "grey", "cat"]) == vocabulary.encode(["a", "cat"])
    assert vocabulary.encode(["grey"]) == [START, END]


@given(captions, st.randoms())
def test_order_of_captions_does_not_matter(text: list[list[str]], random: Any) -> None:
    shuffled = copy.copy(text)
    random.shuffle(shuffled)
    one = Vocabulary.build(text, cleaning="standard", min_count=1)
    other = Vocabulary.build(shuffled, cleaning="standard", min_count=1)
    assert one == other
    assert one.digest == other.digest


@given(captions)
def test_json_round_trip(text: list[list[str]]) -> None:
    vocabulary = Vocabulary.build(text, cleaning="report_b", min_count=1)
    again = Vocabulary.from_json(json.loads(json.dumps(vocabulary.to_json())), "here")
    assert again == vocabulary
    assert again.digest == vocabulary.digest


def test_digest_depends_on_words_order_and_cleaning() -> None:
    value = small().to_json()
    swapped = {**value, "words": [*value["words"][:-2], *value["words"][:-3:-1]]}
    variants = [value, swapped, {**value, "cleaning": "report_a"}, {**value, "words": value["words"][:-1]}]
    assert len({Vocabulary.from_json(variant, "here").digest for variant in variants}) == len(variants)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"words": None}, "list of strings"),
        ({"words": [*SPECIALS, "a", 7]}, "list of strings"),
        ({"words": ["a", "b"]}, "first words"),
        ({"words": [*SPECIALS, "a", "a"]}, "twice"),
        ({"words": [*SPECIALS, "<end>"]}, "twice"),
        ({"words": [*SPECIALS, "a b"]}, "blank"),
        ({"words": [*SPECIALS, ""]}, "empty"),
        ({"cleaning": "mine"}, "cleaning"),
        ({"cleaning": ["standard"]}, "cleaning"),
        ({"min_count": 0}, "min_count"),
        ({"min_count": True}, "min_count"),
        ({"more": 1}, "keys"),
    ],
)
def test_broken_json_is_refused_by_name(change: dict[str, Any], fault: str) -> None:
    with pytest.raises(CaptionlabError, match=fault) as caught:
        Vocabulary.from_json({**small().to_json(), **change}, "artifacts/vocab/vocab.json")
    assert str(caught.value).startswith("artifacts/vocab/vocab.json")


@pytest.mark.parametrize("value", [None, [], "words", {}])
def test_other_json_is_refused(value: Any) -> None:
    with pytest.raises(CaptionlabError, match="is not a valid vocabulary"):
        Vocabulary.from_json(value, "here")


def test_needs_no_torch() -> None:
    code = "import sys, captionlab.data.vocab; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unpaired_surrogate_is_refused() -> None:
    """JSON can encode it, UTF-8 cannot."""
    words = [*SPECIALS, "dog", json.loads('"\\ud800"')]
    with pytest.raises(CaptionlabError, match="a word contains half a character"):
        Vocabulary.from_json({"cleaning": "standard", "min_count": 1, "words": words}, "vocab.json")
