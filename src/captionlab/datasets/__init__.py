"""Dataset readers, one module for each format, and what they return.

A reader knows its format only: it writes the photo files unchanged into one folder and returns the captions and splits.
``checks`` validates the result of every reader. ``sources`` lists the readers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from captionlab.core.records import SPLITS, CaptionedImage, Split
from captionlab.core.results.judgments import JudgedCaption


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """A defect of a dataset that does not stop the run by itself."""

    kind: str
    item: str  # the photo, the caption's id or the file
    detail: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a reader returns, unchecked. Photos are identified by their file names in the images folder."""

    captions: list[tuple[str, str]]  # (photo, caption as written), in the source's order
    splits: dict[Split, list[str]]  # photos of each split; splits that the source lacks are missing
    split_source: str = ""  # where the splits come from; empty if the source has none
    problems: list[Problem] = field(default_factory=list)  # problems that only the reader can find
    notes: list[str] = field(default_factory=list)  # messages for the user
    judged: list[JudgedCaption] = field(default_factory=list)  # captions with human judgments
    truth: list[dict[str, Any]] = field(default_factory=list)  # of drawn scenes only: what each photo shows
    words: dict[str, Any] = field(default_factory=dict)  # of drawn scenes only: what the captions' words mean

    @classmethod
    def of(cls, records: Iterable[CaptionedImage]) -> "Found":
        """Convert complete records, from a reader that makes them."""
        captions: list[tuple[str, str]] = []
        splits: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for record in records:
            captions += [(record.image, caption) for caption in record.captions]
            splits[record.split].append(record.image)
        return cls(captions=captions, splits=splits)
