"""Captions and references for CIDEr-D on validation, which stops a fine-tuning."""

import dataclasses
from collections.abc import Iterable, Sequence

from captionlab.core.records import Caption, Decoding, Split
from captionlab.data.text import clean
from captionlab.inference.decoding import beam_search
from captionlab.metrics.cider import Words
from captionlab.models.base import Decoder, Features
from captionlab.training.validation import Generate


def by_beam_search(decoding: Decoding) -> Generate:
    """Generates the best caption of each photo by beam search."""

    def generate(model: Decoder, features: Features) -> list[Sequence[int]]:
        return [found[0].tokens for found in beam_search(model, features, **dataclasses.asdict(decoding))]

    return generate


def references_of(captions: Iterable[Caption], split: Split) -> dict[str, list[Words]]:
    """The references of a split's photos, as the strict protocol cleans them."""
    references: dict[str, list[Words]] = {}
    for caption in captions:
        if caption.split == split:
            references.setdefault(caption.image, []).append(clean(caption.raw, "characters"))
    return references
