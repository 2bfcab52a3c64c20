"""The sources of captioned photos, one module each, and what they hand to the checks they share.

A source knows its own layout and nothing else: it puts the photos as they are, flat, into the folder it is given and
returns what it read. What is amiss is found afterwards, for all of them, in ``checks``.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from captionlab.core.records import SPLITS, CaptionedImage, Split


@dataclass(frozen=True, kw_only=True, order=True)
class Problem:
    """Something amiss that the run can live with."""

    kind: str
    item: str  # the photo, the caption's id or the file
    detail: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a source read, unchecked. Photos are known by their file names in the images folder."""

    captions: list[tuple[str, str]]  # photo and caption as written, in the source's order
    splits: dict[Split, list[str]]  # photos
    problems: list[Problem] = field(default_factory=list)  # that only the source could see

    @classmethod
    def of(cls, records: Iterable[CaptionedImage]) -> "Found":
        """What a source that makes whole records has found."""
        captions: list[tuple[str, str]] = []
        splits: dict[Split, list[str]] = {split: [] for split in SPLITS}
        for record in records:
            captions += [(record.image, caption) for caption in record.captions]
            splits[record.split].append(record.image)
        return cls(captions=captions, splits=splits)
