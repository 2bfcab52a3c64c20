"""What flows between the stages, and where each stage leaves it. Knows shapes and paths, no behaviour."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
Protocol = Literal["strict", "report_a", "report_b"]
PROTOCOLS: tuple[Protocol, ...] = ("strict", "report_a", "report_b")

PARAMS_VALID = Path("artifacts/params_valid.txt")
DATASET = Path("artifacts/dataset")
CAPTIONS = Path("artifacts/captions/captions.jsonl")
VOCAB = Path("artifacts/vocab/vocab.json")
FEATURES = Path("artifacts/features")
MODELS = Path("artifacts/models")
EVALUATION = Path("artifacts/evaluation")
TIMINGS = Path("artifacts/timings")
REPORTS = Path("reports")
RELEASED = Path(__file__).parents[1] / "released/captioner.safetensors"  # ships with the package
CHECKPOINT = "checkpoint.safetensors"  # in the folder of a trained system

NO_WORDS = "(no words)"  # shown to readers in place of an empty caption
LONGEST_CAPTION = 10_000  # characters; longer captions are refused: they take hours to learn and to score


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """One photo of a dataset. ``image`` is its file name under ``artifacts/dataset/images`` and its id everywhere."""

    image: str
    split: Split
    captions: tuple[str, ...]  # as written


@dataclass(frozen=True, kw_only=True, slots=True)
class Caption:
    """One cleaned caption; ``words`` is empty when cleaning left nothing."""

    image: str
    split: Split
    raw: str
    words: tuple[str, ...]


MAX_BEAM, MAX_LENGTH_PENALTY, MAX_WORDS = 50, 10, 1000  # of a decoding that is asked for


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How captions are searched and ranked. The defaults are for a system whose decoding was never chosen."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012 - read by pydantic, which tells the kinds of decoding apart

    beam: int = 5  # hypotheses kept; 1 is greedy search
    length_penalty: float = 0.7  # score = log probability / length ** length_penalty, the end token counted
    max_words: int = 30
    min_words: int = 1
    no_repeat_ngram: int = 0  # no sequence of this many words twice in a caption; 0 allows it

    def __post_init__(self) -> None:
        """A caption has at least one word."""
        for name in ("beam", "max_words", "min_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.min_words > self.max_words:
            raise ValueError(f"min_words must be at most max_words, {self.max_words}, not {self.min_words}")

    @property
    def label(self) -> str:
        """As tables and files name it."""
        parts = ["greedy" if self.beam == 1 else f"beam {self.beam}"]
        if self.min_words > 1:
            parts.append(f"{self.min_words} words or more")
        if self.no_repeat_ngram:
            parts.append(f"no {self.no_repeat_ngram}-gram twice")
        return ", ".join(parts)

    @property
    def full_label(self) -> str:
        """Its name with the length penalty and the most words, which tables state once."""
        penalty = "" if self.beam == 1 else f", length penalty {self.length_penalty:g}"
        return f"{self.label}{penalty}, at most {self.max_words} words"


@dataclass(frozen=True, kw_only=True)
class Neighbours:
    """How a retrieved caption is chosen: from the captions of the nearest training photos."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    neighbours: int

    @property
    def label(self) -> str:
        """As tables and files name it."""
        return f"{self.neighbours} neighbour{'s' if self.neighbours > 1 else ''}"

    @property
    def full_label(self) -> str:
        """The same; it has no other part."""
        return self.label


@dataclass(frozen=True, kw_only=True)
class Given:
    """Captions that another captioner wrote."""

    __pydantic_config__ = {"extra": "forbid"}  # noqa: RUF012

    source: str  # the file, as params.yaml names it

    @property
    def label(self) -> str:
        """As tables and files name it."""
        return "as given"


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Corpus scores, all from 0 to 1 except CIDEr-D, which runs from 0 to 10. None where it could not be computed.

    The protocols of the two reports have BLEU only; METEOR needs Java.
    """

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float | None
    cider: float | None
    meteor: float | None
