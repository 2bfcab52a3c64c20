"""What flows between the stages, and where each stage leaves it. Knows shapes and paths, no behaviour."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")

DATASET = Path("artifacts/dataset")
CAPTIONS = Path("artifacts/captions/captions.jsonl")
VOCAB = Path("artifacts/vocab/vocab.json")
FEATURES = Path("artifacts/features")
MODELS = Path("artifacts/models")
EVALUATION = Path("artifacts/evaluation")
TIMINGS = Path("artifacts/timings")
REPORTS = Path("reports")

LONGEST_CAPTION = 10_000  # characters; what is longer is no caption, and takes hours to learn and to score


@dataclass(frozen=True, kw_only=True)
class CaptionedImage:
    """One photo of a dataset. ``image`` is its file name under ``artifacts/dataset/images`` and its id everywhere."""

    image: str
    split: Split
    captions: tuple[str, ...]  # as written


@dataclass(frozen=True, kw_only=True)
class Caption:
    """One cleaned caption; ``words`` is empty when cleaning left nothing."""

    image: str
    split: Split
    raw: str
    words: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Corpus scores, all from 0 to 1 except CIDEr-D, which runs from 0 to 10. None where it could not be had.

    The protocols of the two reports know BLEU only; METEOR needs a Java.
    """

    bleu_1: float
    bleu_2: float
    bleu_3: float
    bleu_4: float
    rouge_l: float | None
    cider: float | None
    meteor: float | None
