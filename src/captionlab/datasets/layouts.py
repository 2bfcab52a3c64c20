"""The files by which formats of datasets are known, for messages about a source in another format than expected."""

from pathlib import Path

from captionlab.datasets.captions_file import CAPTION_FILES
from captionlab.datasets.reading import entries

_FILES = {
    "*.parquet": "parquet",
    "data/*.parquet": "parquet",
    "dataset_[fc]*.json": "karpathy",
    "captions_[tv]*.json": "coco",
    "annotations/captions_[tv]*.json": "coco",
    "Flickr8k_text.zip": "flickr8k",
    "Flickr8k_text/Flickr8k.token.txt": "flickr8k",
    "flickr30k_images/results.csv": "flickr30k",
    **dict.fromkeys(CAPTION_FILES, "folder"),
}


def other_format(source: Path) -> str | None:
    """A file of a known format in the source, and how to set that format or that folder; None without one."""
    if not source.is_dir():
        return None
    inner = [path for path in entries(source) if path.is_dir()]
    deeper = [path for place in inner for path in entries(place) if path.is_dir()]
    for place in (source, *inner, *deeper):
        for pattern, name in _FILES.items():
            if found := sorted(path for path in place.glob(pattern) if path.is_file()):
                there = "" if place == source else f", dataset.source to {place}"
                return f"{found[0].relative_to(source).as_posix()}; set dataset.format to {name}{there}"
    return None


def but_has(source: Path, otherwise: str) -> str:
    """The end of a message that something is missing: what ``other_format`` says, or else ``otherwise``."""
    other = other_format(source)
    return f", but {other}" if other else f"; {otherwise}"
