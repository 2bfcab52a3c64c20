"""Stage ``download``: read the dataset named in params.yaml, check it, and write artifacts/dataset.

The later stages do not depend on the source of the photos.
"""

import dataclasses
import os
from collections import Counter
from functools import partial
from pathlib import Path

from captionlab.config import DatasetParams, Params
from captionlab.core.dataset_source import source_folder
from captionlab.core.files import atomic_folder, write_json, write_jsonl
from captionlab.core.records import DATASET, SPLITS
from captionlab.core.results import Manifest, write_manifest
from captionlab.core.results.dataset import write_dataset
from captionlab.core.results.judgments import write_judged
from captionlab.data.text import nfc
from captionlab.datasets import Problem
from captionlab.datasets.checks import check, read_photos, usable
from captionlab.datasets.sources import read
from captionlab.datasets.splits import completed
from captionlab.errors import CaptionlabError, some_of


def download(params: Params, root: Path) -> list[str]:
    """Read, check and write the dataset; the returned lines give its size and its problems.

    An earlier dataset is replaced completely, or kept if this one fails.
    """
    dataset = params.dataset
    source = _source(dataset, root)
    with atomic_folder(root / DATASET) as folder:
        images = folder / "images"
        images.mkdir()
        found = read(dataset, source, images)
        photos = read_photos(images)
        found = completed(found, photos, dataset, partial(usable, found, photos))
        checked = check(found, photos, max_bad_share=dataset.max_bad_share)
        kept = {record.image for record in checked.records}
        for path in images.iterdir():
            if nfc(path.name) not in kept:
                path.unlink()
        splits = Counter(record.split for record in checked.records)
        captions = sum(len(record.captions) for record in checked.records)
        write_dataset(folder, checked.records)
        if found.truth:
            write_jsonl(folder / "truth.jsonl", found.truth)
            write_json(folder / "words.json", found.words)
        if judged := [each for each in found.judged if nfc(each.image) in kept]:
            write_judged(folder, judged)
        manifest = Manifest(
            name=dataset.name,
            format=dataset.resolved_format,
            digest=checked.digest,
            images=len(kept),
            captions=captions,
            splits={split: splits[split] for split in SPLITS},
            split_source=found.split_source,
            set_aside=checked.set_aside,
            problems=[dataclasses.asdict(problem) for problem in checked.problems],
        )
        write_manifest(folder, manifest)
    sizes = ", ".join(f"{splits[split]:,} {split}" for split in SPLITS)
    aside = f"; {checked.set_aside:,} photos without a split are left out" if checked.set_aside else ""
    lines = [f"download: {len(kept):,} photos ({sizes}), {captions:,} captions{aside}"]
    lines.append(f"download: splits: {found.split_source}")
    if checked.problems:
        lines.append(f"download: {_summary(checked.problems)}; all are in {DATASET}/manifest.json")
    if single := [split for split in SPLITS if split != "train" and splits[split] == 1]:
        lines.append(
            f"download: warning: only one photo for {' and '.join(single)}, and CIDEr of one photo is always 0; add"
            f" photos, or raise {' and '.join(f'dataset.{split}_share' for split in single)} if drawn at random"
        )
    return [*lines, *(f"download: {note}" for note in found.notes)]


def _source(dataset: DatasetParams, root: Path) -> Path:
    """The folder that ``dataset.source`` names, which can be read."""
    source = source_folder(root, dataset.source)
    if not os.access(source, os.R_OK | os.X_OK):
        raise CaptionlabError(
            f"cannot read the folder {source}; change its permissions, or set dataset.source to another"
        )
    return source


def _summary(problems: list[Problem]) -> str:
    """Each kind of problem with its number and its first items."""
    kinds = Counter(problem.kind for problem in problems)
    parts = []
    for kind, count in sorted(kinds.items()):
        items = [problem.item for problem in problems if problem.kind == kind]
        parts.append(f"{kind}: {count:,} ({some_of(items)})")
    return "; ".join(parts)
