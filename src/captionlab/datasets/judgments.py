"""Flickr8k's human judgments: ExpertAnnotations.txt and CrowdFlowerAnnotations.txt (Hodosh et al. 2013).

Knows their columns. Some copies are damaged, so invalid lines are skipped and counted.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from captionlab.core.results.judgments import JudgedCaption, Judges
from captionlab.data.text import nfc
from captionlab.datasets import Problem
from captionlab.datasets.reading import read_bytes

FILES: dict[Judges, str] = {"experts": "ExpertAnnotations.txt", "crowd": "CrowdFlowerAnnotations.txt"}


def read_judgments(
    folder: Path, captions: Mapping[str, str], references: Mapping[str, Sequence[str]]
) -> tuple[list[JudgedCaption], list[Problem]]:
    """The judged captions of both files, and the number of broken lines as problems. Either file may be missing.

    ``captions`` maps ids (``photo#number``) to captions, ``references`` photos to their captions. A line is broken if
    it is not UTF-8 or has other columns, marks out of range, or an unknown photo or caption.
    """
    judged: list[JudgedCaption] = []
    problems = []
    for judges, name in FILES.items():
        if not (folder / name).is_file():
            continue
        broken = 0
        for line in _lines(read_bytes(folder / name)):
            try:
                image, caption, marks = _parsed(judges, line.decode())
                own, text = references[image], captions[caption]
            except (ValueError, KeyError):  # UnicodeDecodeError is a ValueError
                broken += 1
                continue
            judged.append(
                JudgedCaption(judges=judges, image=image, caption=nfc(text), marks=marks, is_reference=text in own)
            )
        if broken:
            problems.append(Problem(kind="broken judgments", item=name, detail=f"{broken:,} lines are left out"))
    return judged, problems


def _lines(content: bytes) -> Iterator[bytes]:
    return (line.removesuffix(b"\r") for line in content.split(b"\n") if line.strip())


def _parsed(judges: Judges, line: str) -> tuple[str, str, tuple[float, ...]]:
    """Photo, caption id and marks of a line. Raises ValueError if the line is invalid."""
    image, caption, *numbers = line.split("\t")
    if judges == "experts":
        marks = [int(number) for number in numbers]
        if len(marks) != 3 or not all(1 <= mark <= 4 for mark in marks):
            raise ValueError(f"expected three marks from 1 to 4, got {numbers}")
        return image, caption, tuple(map(float, marks))
    _, yes, no = numbers  # the first is their share, rounded
    if int(yes) < 0 or int(no) < 0 or int(yes) + int(no) == 0:
        raise ValueError(f"expected the numbers of yes and no, got {numbers}")
    return image, caption, (int(yes) / (int(yes) + int(no)),)
