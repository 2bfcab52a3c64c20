"""Flickr30k as published: ``results.csv``, or ``results_20130124.token``, and a folder of photos.

Knows the published counts; ``folder`` reads the files.
"""

from pathlib import Path

from captionlab.datasets import Found
from captionlab.datasets.folder import folder
from captionlab.datasets.listed import check_counts

PUBLISHED = {"photos": 31_783, "captions": 158_915}
_CAPTION_FILES = ("results.csv", "results_20130124.token")


def flickr30k(source: Path, images: Path, published: dict[str, int] = PUBLISHED) -> Found:
    """Copy the photos into ``images`` and read captions and splits, as ``folder`` does.

    ``source`` is the folder with the captions, or the folder that contains it as ``flickr30k_images``. There is no
    published split; Karpathy's is the format ``karpathy``. Raises CaptionlabError if a file is missing or cannot be
    read, or the counts differ from the published ones.
    """
    inner = source / "flickr30k_images"
    place = inner if any((inner / name).is_file() for name in _CAPTION_FILES) else source
    found = folder(place, images, _CAPTION_FILES, source)
    repeats = sum(problem.kind == "duplicate caption" for problem in found.problems)
    counts = {"photos": sum(1 for _ in images.iterdir()), "captions": len(found.captions) + repeats}
    check_counts(place, counts, published, "use dataset.format folder for a selection of your own")
    return found
