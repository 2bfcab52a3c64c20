"""The readers of datasets, one module a format, and what they return to the checks they share.

A reader knows its format alone: it writes the photos' files unchanged, flat, into the folder it is given and returns
the captions and splits it read. ``checks`` finds what is wrong with them, for every format. ``sources`` names the
readers.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from captionlab.core.judgments import JudgedCaption
from captionlab.core.records import SPLITS, CaptionedImage, Split


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """Something wrong with a dataset that does not stop the run by itself."""

    kind: str
    item: str  # the photo, the caption's id or the file
    detail: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a reader found, unchecked. Photos are known by their file names in the images folder."""

    captions: list[tuple[str, str]]  # photo and caption as written, in the source's order
    splits: dict[Split, list[str]]  # photos; the splits that the source does not give are missing
    split_source: str = ""  # where the splits come from; empty where the source gives none
    problems: list[Problem] = field(default_factory=list)  # that only the reader could see
    notes: list[str] = field(default_factory=list)  # sentences that the user should read
    judged: list[JudgedCaption] = field(default_factory=list)  # captions that people judged beside a photo
    truth: list[dict[str, Any]] = field(default_factory=list)  # of drawn scenes: what each photo shows
    words: dict[str, Any] = field(default_factory=dict)  # of drawn scenes: what the captions' words mean

    @classmethod
    def of(cls, records: Iterable[CaptionedImage]) -> "Found":
        """What a reader that makes whole records has found."""
        captions: list[tuple[str, str]] = []
        splits: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for record in records:
            captions += [(record.image, caption) for caption in record.captions]
            splits[record.split].append(record.image)
        return cls(captions=captions, splits=splits)
