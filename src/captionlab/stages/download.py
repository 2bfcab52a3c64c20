"""Stage ``download``: the dataset named in params.yaml, from wherever it lies, to artifacts/dataset.

After this stage nobody knows where the photos came from.
"""

import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

from captionlab.config import DatasetParams, Params
from captionlab.core.files import atomic_folder, write_json, write_jsonl
from captionlab.core.records import DATASET, SPLITS
from captionlab.datasets import Found, Problem
from captionlab.datasets.checks import check
from captionlab.errors import CaptionlabError

_NAMED_IN_SUMMARY = 3


def download(params: Params, root: Path) -> list[str]:
    """Collect, check and write the dataset; the closing lines say what was found and what is amiss.

    An earlier dataset is replaced as a whole, or kept if this one fails.
    """
    dataset = params.dataset
    with atomic_folder(root / DATASET) as folder:
        images = folder / "images"
        images.mkdir()
        found, truth, words = _collect(dataset, root, images)
        checked = check(found, images, max_bad_share=dataset.max_bad_share)
        kept = {record.image for record in checked.records}
        for path in images.iterdir():
            if path.name not in kept:
                path.unlink()
        splits = Counter(record.split for record in checked.records)
        captions = sum(len(record.captions) for record in checked.records)
        write_jsonl(folder / "dataset.jsonl", map(dataclasses.asdict, checked.records))
        if truth:
            write_jsonl(folder / "truth.jsonl", truth)
            write_json(folder / "words.json", words)
        manifest = {
            "name": dataset.name,
            "format": dataset.resolved_format,
            "digest": checked.digest,
            "images": len(kept),
            "captions": captions,
            "splits": {split: splits[split] for split in SPLITS},
            "set_aside": checked.set_aside,
            "problems": [dataclasses.asdict(problem) for problem in checked.problems],
        }
        write_json(folder / "manifest.json", manifest)
    shares = ", ".join(f"{splits[split]:,} {split}" for split in SPLITS)
    aside = f"; {checked.set_aside:,} photos that no split names are set aside" if checked.set_aside else ""
    lines = [f"download: {len(kept):,} photos ({shares}), {captions:,} captions{aside}"]
    if checked.problems:
        lines.append(f"download: {_summary(checked.problems)}; all in {DATASET}/manifest.json")
    return lines


def _collect(dataset: DatasetParams, root: Path, images: Path) -> tuple[Found, list[dict[str, Any]], dict[str, Any]]:
    """Run the source; only scenes know the truth of what they show, and what their words mean.

    Imports wait: pyarrow alone takes a second.
    """
    kind = dataset.resolved_format
    source = root / Path(dataset.source).expanduser()
    if not source.is_dir():
        raise CaptionlabError(f"dataset.source {dataset.source} is not a folder; set it to the folder of the dataset")
    match kind:
        case "flickr8k":
            from captionlab.datasets.flickr8k import flickr8k

            return flickr8k(source, images), [], {}
        case "parquet":
            from captionlab.datasets.parquet import parquet

            return parquet(source, images), [], {}
        case "folder":
            from captionlab.datasets.folder import folder

            shares = {"val_share": dataset.val_share, "test_share": dataset.test_share}
            return folder(source, images, **shares, seed=dataset.split_seed), [], {}
        case _:
            from captionlab.datasets.scenes import scene_words, scenes

            records, truth = scenes(source, dataset.scenes, images)
            return Found.of(records), truth, scene_words(source)


def _summary(problems: list[Problem]) -> str:
    """Each kind with its number and its first items."""
    kinds = Counter(problem.kind for problem in problems)
    parts = []
    for kind, count in sorted(kinds.items()):
        items = [problem.item for problem in problems if problem.kind == kind]
        more = ", ..." if count > _NAMED_IN_SUMMARY else ""
        parts.append(f"{kind}: {count:,} ({', '.join(items[:_NAMED_IN_SUMMARY])}{more})")
    return "; ".join(parts)
