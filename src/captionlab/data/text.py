"""Cleaning and tokenising: a caption as written in, words out.

Knows nothing of files, photos or vocabularies, and imports nothing of ours.
"""

import re
import string
import unicodedata
from functools import lru_cache
from typing import Literal, get_args

Cleaning = Literal["standard", "report_a", "report_b"]
CLEANINGS: tuple[str, ...] = get_args(Cleaning)

# Report A's `decontracted`, which the report calls but does not print: the rules that every copy of it shares, in
# their order. It runs before lowercasing, so "Won't" misses the first rule and becomes "Wo not".
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

# What the Keras Tokenizer turns into blanks unless told otherwise: all ASCII punctuation but the apostrophe.
_KERAS_FILTERS = string.punctuation.replace("'", "") + "\t\n"
_KERAS_BLANKS = str.maketrans(_KERAS_FILTERS, " " * len(_KERAS_FILTERS))


def clean(raw: str, cleaning: Cleaning) -> tuple[str, ...]:
    """The caption's words under the named cleaning; empty when nothing is left.

    ``standard`` lowercases and deletes punctuation and symbols without leaving a gap, so that "T-shirt" is "tshirt"
    and "o'clock" is "oclock"; digits and one-letter words stay, and letters of every alphabet do.
    """
    match cleaning:
        case "standard":
            return tuple("".join(map(_without_punctuation, raw.lower())).split())
        case "report_a":
            return _report_a(raw)
        case "report_b":
            return keras_words(report_b_text(raw))


def report_b_text(raw: str) -> str:
    """Report B's caption before its tokenizer: lowercase, without words of one character.

    Its two ``str.replace`` calls are given regular expressions, which ``str.replace`` takes literally and never
    finds, so punctuation and digits stay.
    """
    return " ".join(word for word in raw.lower().split() if len(word) > 1)


def keras_words(text: str) -> tuple[str, ...]:
    """Words as the Keras Tokenizer finds them with its default filters ("t-shirt" is "t" and "shirt")."""
    return tuple(word for word in text.lower().translate(_KERAS_BLANKS).split(" ") if word)


def _report_a(raw: str) -> tuple[str, ...]:
    """Contractions written out, every run of other than ASCII letters and digits to a blank, lowercase."""
    for short, long in _CONTRACTIONS:
        raw = raw.replace(short, long)
    return tuple(re.sub("[^A-Za-z0-9]+", " ", raw).lower().split())


@lru_cache(maxsize=4096)
def _without_punctuation(character: str) -> str:
    """The character, or nothing if it is punctuation (P*), a symbol (S*) or an invisible control that is no blank."""
    if character.isspace():
        return character
    return "" if unicodedata.category(character)[0] in "PSC" else character
