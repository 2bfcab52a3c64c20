"""The vocabulary: the words a system can say, and their numbers.

Knows nothing of files, tensors or photos.
"""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from captionlab.core.files import digest_of
from captionlab.core.tokens import END, SPECIALS, START, UNK
from captionlab.data.text import CLEANINGS, Cleaning
from captionlab.errors import CaptionlabError


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """``words[number]`` is the word; the special tokens come first."""

    words: tuple[str, ...]
    cleaning: Cleaning  # how captions became these words
    min_count: int  # in the training captions

    @classmethod
    def build(cls, captions: Iterable[Sequence[str]], *, cleaning: Cleaning, min_count: int) -> "Vocabulary":
        """The words that occur at least ``min_count`` times, by falling frequency, then in code point order.

        Raises CaptionlabError when there are none.
        """
        if min_count < 1:
            raise CaptionlabError(f"build_vocab.min_count is {min_count}; it must be at least 1")
        counts = Counter(word for words in captions for word in words)
        kept = sorted((word for word, count in counts.items() if count >= min_count), key=lambda w: (-counts[w], w))
        if not kept:
            raise CaptionlabError(
                f"no word of the training captions occurs {min_count} times; lower build_vocab.min_count"
            )
        return cls(words=(*SPECIALS, *kept), cleaning=cleaning, min_count=min_count)

    @classmethod
    def from_json(cls, value: Any, origin: str) -> "Vocabulary":
        """The vocabulary that ``to_json`` gave; CaptionlabError, with the name ``origin``, for any other value."""
        fault = _fault(value)
        if fault:
            raise CaptionlabError(f"{origin} is not a valid vocabulary: {fault}; run build_vocab again")
        return cls(words=tuple(value["words"]), cleaning=value["cleaning"], min_count=value["min_count"])

    def with_words(self, words: Iterable[str]) -> "Vocabulary":
        """The same vocabulary with those of ``words`` that it lacks at its end."""
        return dataclasses.replace(self, words=tuple(dict.fromkeys([*self.words, *words])))

    def to_json(self) -> dict[str, Any]:
        """Plain JSON, in the order in which it is written."""
        return {"cleaning": self.cleaning, "min_count": self.min_count, "words": list(self.words)}

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def index(self) -> dict[str, int]:
        """Word to number."""
        return {word: number for number, word in enumerate(self.words)}

    @cached_property
    def digest(self) -> str:
        """Identifies this vocabulary: any other word, order or cleaning gives another digest."""
        return digest_of(self.to_json())

    def encode(self, words: Iterable[str]) -> list[int]:
        """START, the words' numbers, END; an unknown word is UNK.

        With a ``min_count`` of 1 no training caption contains UNK and no system learns to say it: unknown words are
        left out, as report B's Keras Tokenizer does.
        """
        numbers = [self.index.get(word, UNK) for word in words]
        return [START, *(number for number in numbers if number != UNK or self.min_count > 1), END]

    def decode(self, numbers: Iterable[int]) -> str:
        """The sentence up to the first END, without special tokens.

        Raises ValueError for a number without a word.
        """
        words = []
        for number in map(int, numbers):
            if not 0 <= number < len(self.words):
                raise ValueError(f"no word has number {number}; the vocabulary has {len(self.words)} words")
            if number == END:
                break
            if number >= len(SPECIALS):
                words.append(self.words[number])
        return " ".join(words)

    def coverage(self, captions: Iterable[Sequence[str]]) -> float:
        """The share (0 to 1) of all words in the captions that are in the vocabulary; 1 where there are none."""
        known = total = 0
        for words in captions:
            total += len(words)
            known += sum(word in self.index for word in words)
        return known / total if total else 1.0


def read_words(checkpoint: Path) -> list[str]:
    """The words of a checkpoint's vocabulary, special tokens included. Reads no weights and needs no torch."""
    try:
        with safe_open(checkpoint, framework="numpy") as file:
            words: list[str] = json.loads(file.metadata()["captionlab"])["vocabulary"]["words"]
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise CaptionlabError(f"cannot read the vocabulary of {checkpoint} ({error})") from error
    return words


def _fault(value: Any) -> str | None:
    """Why a JSON value is not a vocabulary; None where it is one."""
    if not isinstance(value, dict) or set(value) != {"cleaning", "min_count", "words"}:
        return "it must have exactly the keys cleaning, min_count and words"
    words = value["words"]
    if value["cleaning"] not in CLEANINGS:
        return f"its cleaning is {value['cleaning']!r}, not one of {', '.join(CLEANINGS)}"
    if type(value["min_count"]) is not int or value["min_count"] < 1:
        return f"its min_count is {value['min_count']!r}, not a whole number from 1"
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        return "its words are not a list of strings"
    if tuple(words[: len(SPECIALS)]) != SPECIALS:
        return f"its first words are not {' '.join(SPECIALS)}"
    if len(set(words)) != len(words):
        return "it has a word twice"
    if any("\ud800" <= character <= "\udfff" for word in words for character in word):
        return "a word contains half a character"
    if any(word.split() != [word] for word in words):
        return "a word is empty or contains a blank"
    return None
