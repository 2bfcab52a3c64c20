"""The dataset and its cleaned captions, as ``download`` and ``clean_captions`` leave them: one reader and writer each.

Both files are read row by row: COCO's captions do not all fit into memory as rows.
"""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path

from captionlab.core.files import write_jsonl
from captionlab.core.records import CAPTIONS, DATASET, Caption, CaptionedImage, Split
from captionlab.core.typed import iter_records

_NAME = "dataset.jsonl"


def write_dataset(folder: Path, images: Iterable[CaptionedImage]) -> None:
    """Write dataset.jsonl into the folder that becomes artifacts/dataset."""
    write_jsonl(folder / _NAME, map(dataclasses.asdict, images))


def iter_dataset(root: Path) -> Iterator[CaptionedImage]:
    """Every photo of the dataset with its captions as written."""
    return iter_records(root / DATASET / _NAME, CaptionedImage)


def evaluated_photos(root: Path) -> dict[Split, list[str]]:
    """The photos of the validation and the test split."""
    images: dict[Split, list[str]] = {"val": [], "test": []}
    for record in iter_dataset(root):
        if record.split in images:
            images[record.split].append(record.image)
    return images


def write_cleaned(root: Path, captions: Iterable[Caption]) -> None:
    """Write the cleaned captions."""
    write_jsonl(root / CAPTIONS, map(dataclasses.asdict, captions))


def iter_cleaned(root: Path) -> Iterator[Caption]:
    """Every cleaned caption."""
    return iter_records(root / CAPTIONS, Caption)
