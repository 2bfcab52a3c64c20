"""The files by which formats of datasets are known, for messages about a source in another format than expected."""

from pathlib import Path

from captionlab.datasets.captions_file import CAPTION_FILES

_FILES = {
    "dataset_*.json": "karpathy",
    "captions_*.json": "coco",
    "annotations/captions_*.json": "coco",
    "*.parquet": "parquet",
    "data/*.parquet": "parquet",
    "Flickr8k_text.zip": "flickr8k",
    "flickr30k_images/results.csv": "flickr30k",
    **dict.fromkeys(CAPTION_FILES, "folder"),
}


def other_format(source: Path) -> str | None:
    """A file of a known format in the source, and how to set that format; None without one."""
    for pattern, name in _FILES.items():
        if found := sorted(source.glob(pattern)):
            return f"{found[0].relative_to(source).as_posix()}; set dataset.format to {name}"
    return None


def but_has(source: Path, otherwise: str) -> str:
    """The end of a message that something is missing: what ``other_format`` says, or else ``otherwise``."""
    other = other_format(source)
    return f", but {other}" if other else f"; {otherwise}"
