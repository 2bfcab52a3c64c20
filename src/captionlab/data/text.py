"""Cleaning and tokenising: a caption as written in, words out.

Knows nothing of files, photos or vocabularies, and imports nothing of ours.
"""

import re
import string
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Literal, get_args

Cleaning = Literal["standard", "characters", "report_a", "report_b"]
CLEANINGS: tuple[str, ...] = get_args(Cleaning)

# Report A's `decontracted`, which the report calls but does not print: the rules that all published copies share, in
# their order. It runs before lowercasing, so the first rule does not match "Won't", which becomes "Wo not".
_CONTRACTIONS = (
    ("won't", "will not"),
    ("can't", "can not"),
    ("n't", " not"),
    ("'re", " are"),
    ("'s", " is"),
    ("'d", " would"),
    ("'ll", " will"),
    ("'t", " not"),
    ("'ve", " have"),
    ("'m", " am"),
)

# What the Keras Tokenizer turns into blanks by default: all ASCII punctuation but the apostrophe.
_KERAS_FILTERS = string.punctuation.replace("'", "") + "\t\n"
_KERAS_BLANKS = str.maketrans(_KERAS_FILTERS, " " * len(_KERAS_FILTERS))

# Variation selectors are marks by category, but belong to no word.
_VARIATIONS = frozenset(map(chr, (*range(0xFE00, 0xFE10), *range(0xE0100, 0xE01F0))))
# Between words, though no blanks to Python: the zero-width space of Khmer and Thai, and Tibetan's tsheg.
_BLANKS = frozenset("\u200b\u0f0b\u0f0c")
# Written without spaces: Thai and Lao, Burmese, Khmer, New Tai Lue, Tai Tham, kana and bopomofo, Han, Javanese,
# half-width katakana. Tibetan has the tsheg.
_UNSPACED = (
    r"\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1980-\u19df\u1a20-\u1aaf\u3005-\u3007\u3040-\u312f\u31a0-\u31bf"
    r"\u31f0-\u31ff\u3400-\u9fff\ua980-\ua9df\uf900-\ufaff\uff66-\uff9d\U00020000-\U0003ffff"
)
# Such a letter with its marks; to Python, those of half-width katakana are letters themselves.
_LETTERS = rf"[{_UNSPACED}][\W\uff9e\uff9f]*"
_CHARACTER = re.compile(rf"{_LETTERS}|[^{_UNSPACED}]+")  # such a letter, or a word of others
_LETTER = re.compile(_LETTERS)


def is_unsplit(words: Iterable[str]) -> bool:
    """Whether words hold more than one letter, in the mean, of a language that is written without spaces."""
    letters = [len(_LETTER.findall(word)) for word in words]
    return sum(letters) > len(letters)


def nfc(text: str) -> str:
    """The text in Unicode's composed form: an accented letter is one character, however it was typed."""
    return unicodedata.normalize("NFC", text)


def clean(raw: str, cleaning: Cleaning) -> tuple[str, ...]:
    """The caption's words under the named cleaning; empty when no word is left.

    ``standard`` lowercases and deletes punctuation and symbols without leaving a gap, so that "T-shirt" is "tshirt"
    and "o'clock" is "oclock"; digits and one-letter words stay, and so do the letters of every alphabet.
    ``characters`` makes, after that, a word of every letter of Chinese, Japanese, Thai and the other languages that
    are written without spaces.
    """
    match cleaning:
        case "standard":
            return _standard(raw)
        case "characters":
            return _with_letters(part for word in _standard(raw) for part in _CHARACTER.findall(word))
        case "report_a":
            return _report_a(raw)
        case "report_b":
            return keras_words(report_b_text(raw))


def report_b_text(raw: str) -> str:
    """Report B's caption before its tokenizer: lowercase, without words of one character.

    Its two ``str.replace`` calls pass regular expressions, which ``str.replace`` takes literally and never finds, so
    punctuation and digits stay.
    """
    return " ".join(word for word in nfc(raw).lower().split() if len(word) > 1)


def keras_words(text: str) -> tuple[str, ...]:
    """Words as the Keras Tokenizer finds them with its default filters ("t-shirt" is "t" and "shirt")."""
    return tuple(word for word in text.lower().translate(_KERAS_BLANKS).split(" ") if word)


def _report_a(raw: str) -> tuple[str, ...]:
    """Write contractions out, turn every run of other than ASCII letters and digits into a blank, lowercase."""
    raw = nfc(raw)
    for short, long in _CONTRACTIONS:
        raw = raw.replace(short, long)
    return tuple(re.sub("[^A-Za-z0-9]+", " ", raw).lower().split())


def _standard(raw: str) -> tuple[str, ...]:
    return _with_letters(nfc("".join(map(_without_punctuation, nfc(raw).lower()))).split())


def _with_letters(words: Iterable[str]) -> tuple[str, ...]:
    """Without those of marks alone, which are left of some emoji."""
    return tuple(word for word in words if any(map(str.isalnum, word)))


@lru_cache(maxsize=4096)
def _without_punctuation(character: str) -> str:
    """The character, or nothing if it is punctuation (P*), a symbol (S*), a control (C*) or chooses an emoji's look.

    Marks that separate words are a blank.
    """
    if character.isspace():
        return character
    if character in _BLANKS:
        return " "
    return "" if unicodedata.category(character)[0] in "PSC" or character in _VARIATIONS else character
