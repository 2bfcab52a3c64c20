"""Cleaning: hand-made cases, properties, and the known counts on the real captions."""

import string
import unicodedata
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from captionlab.data.text import CLEANINGS, Cleaning, clean, is_unsplit, keras_words, report_b_text

TEXT_ZIP = Path(__file__).parents[2] / "../shared/flickr8k/Flickr8k_text.zip"
cleanings = st.sampled_from(CLEANINGS)


@pytest.mark.parametrize(
    ("cleaning", "raw", "words"),
    [
        ("standard", "A dog 's T-shirt , at 4 o'clock .", "a dog s tshirt at 4 oclock"),
        ("standard", "Été en_forêt №5!", "été enforêt 5"),
        ("standard", " ... ", ""),
        ("standard", "a dog ❤️ 👍🏽 1️⃣", "a dog 1⃣"),
        ("standard", "❤️", ""),
        ("standard", "Cafe\u0301 e\u2060\u0301", "café é"),
        ("standard", "ឆ្កែ\u200bរត់", "ឆ្កែ រត់"),
        ("standard", "ཁྱི་རྒྱུག།", "ཁྱི རྒྱུག"),
        ("characters", "ཁྱི་རྒྱུག།", "ཁྱི རྒྱུག"),
        ("standard", "一只狗在跑。", "一只狗在跑"),
        ("characters", "一只狗在跑。", "一 只 狗 在 跑"),
        ("characters", "T恤和iPhone手机!", "t 恤 和 iphone 手 机"),
        ("characters", "ที่ 犬が走る", "ที่ 犬 が 走 る"),
        ("characters", "ｲﾇｶﾞ走る", "ｲ ﾇ ｶﾞ 走 る"),
        ("characters", "ㄍㄡ", "ㄍ ㄡ"),
        ("characters", "\u1982\u19b1\u1983", "\u1982 \u19b1 \u1983"),
        ("characters", "\u1a20\u1a63\u1a21", "\u1a20\u1a63 \u1a21"),
        ("characters", "\ua98f\ua9b6\ua990", "\ua98f\ua9b6 \ua990"),
        ("characters", "A dog 's T-shirt , 한국어 हिन्दी", "a dog s tshirt 한국어 हिन्दी"),
        ("report_a", "He can't; she won't. It's the dog's", "he can not she will not it is the dog is"),
        ("report_a", "Won't", "wo not"),
        ("report_a", "They do n't, we're 4 o'clock", "they do not we are 4 o clock"),
        ("report_a", "été", "t"),
        ("report_a", "e\u0301te\u0301", "t"),
        ("report_b", "un e\u0301te\u0301", "un été"),
        ("report_b", "A dog 's T-shirt , at 4 o'clock .", "dog 's t shirt at o'clock"),
        ("report_b", "I see 42 cats; (two) <end>", "see 42 cats two end"),
    ],
)
def test_cleaning_matches_hand_made_cases(cleaning: Cleaning, raw: str, words: str) -> None:
    assert " ".join(clean(raw, cleaning)) == words


@pytest.mark.parametrize("words", ["ｲﾇｶﾞ走る", "ㄍㄡ", "\u1982\u1983", "\u1a20\u1a21", "\ua98f\ua990", "一只狗"])
def test_languages_without_spaces_are_known(words: str) -> None:
    assert is_unsplit([words])
    assert not is_unsplit(clean(words, "characters"))


def test_tibetan_is_split_at_its_marks() -> None:
    assert not is_unsplit(clean("ཁྱི་རྒྱུག་", "standard"))


@given(st.text(), cleanings)
def test_words_have_no_blanks_and_are_not_empty(raw: str, cleaning: Cleaning) -> None:
    assert all(word and (cleaning == "report_b" or word.split() == [word]) for word in clean(raw, cleaning))


@given(st.text(), st.sampled_from(["standard", "characters", "report_a"]))
def test_cleaning_is_idempotent(raw: str, cleaning: Cleaning) -> None:
    words = clean(raw, cleaning)
    assert clean(" ".join(words), cleaning) == words


@given(st.text())
def test_standard_keeps_every_letter_and_digit_and_drops_punctuation(raw: str) -> None:
    kept = "".join(clean(raw, "standard"))
    lowered = unicodedata.normalize("NFC", raw).lower()
    assert [c for c in unicodedata.normalize("NFD", lowered) if c.isalnum()] == [
        c for c in unicodedata.normalize("NFD", kept) if c.isalnum()
    ]
    assert not set(kept) & set(string.punctuation)


@given(st.text(), cleanings)
def test_both_unicode_forms_of_an_accent_are_one_word(raw: str, cleaning: Cleaning) -> None:
    composed, decomposed = (unicodedata.normalize(form, raw) for form in ("NFC", "NFD"))
    assert clean(composed, cleaning) == clean(decomposed, cleaning)


@given(st.text(), st.sampled_from(["standard", "characters"]))
def test_a_word_has_a_letter_or_digit(raw: str, cleaning: Cleaning) -> None:
    assert all(any(map(str.isalnum, word)) for word in clean(raw, cleaning))


@given(st.text())
def test_characters_differ_from_standard_only_in_spacing(raw: str) -> None:
    standard, characters = clean(raw, "standard"), clean(raw, "characters")
    assert [c for c in "".join(standard) if c.isalnum()] == [c for c in "".join(characters) if c.isalnum()]
    if raw.isascii():
        assert standard == characters


@given(st.text(alphabet=string.printable))
def test_report_a_keeps_only_ascii_words(raw: str) -> None:
    assert set("".join(clean(raw, "report_a"))) <= set(string.ascii_lowercase + string.digits)


@given(st.text())
def test_report_b_drops_one_letter_words_before_tokenisation(raw: str) -> None:
    assert all(len(word) > 1 for word in report_b_text(raw).split())


@pytest.fixture(scope="module")
def training_captions() -> list[str]:
    """The raw captions of Flickr8k's training photos."""
    if not TEXT_ZIP.exists():
        pytest.skip(f"{TEXT_ZIP} is not here, so the golden numbers cannot be counted")
    with zipfile.ZipFile(TEXT_ZIP) as opened:
        train = set(opened.read("Flickr_8k.trainImages.txt").decode().split())
        lines = opened.read("Flickr8k.token.txt").decode().split("\n")
    pairs = [line.split("\t") for line in lines if line]
    return [caption for key, caption in pairs if key.rpartition("#")[0] in train]


def test_report_a_counts_8256_raw_words_and_40_in_the_longest(training_captions: list[str]) -> None:
    captions = [f"<start> {caption} <end>".split() for caption in training_captions]
    assert len(captions) == 30_000
    assert len({word for words in captions for word in words}) == 8_256
    assert max(map(len, captions)) == 40


def test_report_a_counts_1651_frequent_words(training_captions: list[str]) -> None:
    """The report's count uses another cleaning than ``report_a``: without punctuation, words of two letters or more."""
    delete = str.maketrans("", "", string.punctuation)
    counts: Counter[str] = Counter()
    for caption in training_captions:
        words = caption.lower().translate(delete).split()
        counts.update(["startseq", *(word for word in words if len(word) > 1 and word.isalpha()), "endseq"])
    assert sum(count >= 10 for count in counts.values()) == 1_651


def test_report_b_counts_7367_words_and_34_in_the_longest(training_captions: list[str]) -> None:
    framed = [f"startseq {report_b_text(caption)} endseq" for caption in training_captions]
    assert len({word for caption in framed for word in keras_words(caption)}) == 7_367
    assert max(len(caption.split()) for caption in framed) == 34
    words = {word for caption in training_captions for word in clean(caption, "report_b")}
    assert len(words | {"startseq", "endseq"}) == 7_367
