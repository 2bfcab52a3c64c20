"""A page of test photos with what every system said and where attention looked. Holds photos and references, so it is
never published with the tables. Photos are chosen by score, not by hand.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from captionlab import files, records
from captionlab.cider import CiderD
from captionlab.report.render import page
from captionlab.report.results import Results, Run
from captionlab.text import clean

_PIXELS = 224  # the longer side of a photo in the page
_VEIL = 0.82  # how dark the regions are that a word did not look at, from 0 to 1

Captions = Sequence[tuple[Run, Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one configuration said of a photo: the best decoding, and the others as (decoding, caption)."""

    system: str
    name: str
    decoding: str
    caption: str
    others: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One photo of the gallery; ``score`` is the judging configuration's CIDEr-D for it."""

    image: str
    photo: str
    references: tuple[str, ...]
    said: tuple[Said, ...]
    score: float


@dataclass(frozen=True, kw_only=True)
class Look:
    """One photo with a veil a word: dark where attention did not look."""

    name: str
    image: str
    photo: str  # once a page, as every word shows it
    width: int
    height: int
    words: tuple[tuple[str, str], ...]  # word, veil as a data URI


def gallery_html(results: Results, captions: Captions, root: Path, photos: int) -> str:
    """The gallery as one page: ``photos`` test photos and every photo whose attention was kept."""
    judge, entries = max(captions, key=lambda pair: pair[0].row().cider or 0.0)
    scores = sentence_scores(entries, judge.best_decoding)
    said = {run.name: {entry["image"]: entry for entry in own} for run, own in captions}

    def shown(place: int) -> Shown:
        image = entries[place]["image"]
        return Shown(
            image=image,
            photo=_jpeg(_photo(root, image)),
            references=tuple(entries[place]["references"]),
            said=tuple(_said(run, said[run.name][image]["captions"]) for run, _ in captions),
            score=float(scores[place]),
        )

    chosen = choose(scores, photos)
    return page(
        "gallery.html.j2",
        name=results.manifest["name"],
        judge=judge,
        thirds=[(title, [shown(place) for place in places]) for title, places in chosen.items()],
        looks=[look for run, _ in captions if run.system == "attention" for look in _looks(root, run)],
    )


def sentence_scores(entries: Sequence[Mapping[str, Any]], decoding: str) -> npt.NDArray[np.float64]:
    """(N,) CIDEr-D of each photo's caption, idf from all the references given, under the strict protocol."""
    references = [[clean(raw, "standard") for raw in entry["references"]] for entry in entries]
    words = [clean(entry["captions"][decoding]["caption"], "standard") for entry in entries]
    return CiderD(references).scores(words, references)


def choose(scores: npt.NDArray[np.float64], photos: int) -> dict[str, list[int]]:
    """Places of about ``photos`` photos: as many from each third of the ranking, at even steps, best first."""
    ranking = np.argsort(-scores, kind="stable")
    chosen = {}
    shares = [photos // 3 + (third < photos % 3) for third in range(3)]
    titles = ("The best third", "The middle third", "The worst third")
    for title, third, share in zip(titles, np.array_split(ranking, 3), shares, strict=True):
        count = min(share, len(third))
        steps = (np.arange(count) + 0.5) * len(third) / max(1, count)
        chosen[title] = [int(third[int(step)]) for step in steps]
    return chosen


def _said(run: Run, captions: Mapping[str, Mapping[str, Any]]) -> Said:
    others = tuple((name, said["caption"]) for name, said in captions.items() if name != run.best_decoding)
    best = captions[run.best_decoding]["caption"]
    return Said(system=run.system, name=run.name, decoding=run.best_decoding, caption=best, others=others)


def _looks(root: Path, run: Run) -> list[Look]:
    looks = []
    for entry in files.read_json(root / records.EVALUATION / "attention" / f"{run.name}.json"):
        photo = _photo(root, entry["image"])
        veils = [_veil(weights, entry["grid"]) for weights in entry["maps"]]
        looks.append(
            Look(
                name=run.name,
                image=entry["image"],
                photo=_jpeg(photo),
                width=photo.width,
                height=photo.height,
                words=tuple(zip(entry["words"], veils, strict=True)),
            )
        )
    return looks


def _photo(root: Path, image: str) -> Image.Image:
    """The photo, upright and small."""
    with Image.open(root / records.DATASET / "images" / image) as source:
        photo = ImageOps.exif_transpose(source).convert("RGB")
    photo.thumbnail((_PIXELS, _PIXELS))
    return photo


def _jpeg(photo: Image.Image) -> str:
    out = io.BytesIO()
    photo.save(out, format="JPEG", quality=82)
    return _data_uri(out.getvalue(), "jpeg")


def _veil(weights: Sequence[float], side: int) -> str:
    """A black PNG of side x side pixels, clear where the weight is greatest; the browser stretches it smoothly."""
    looked = np.asarray(weights, dtype=np.float64).reshape(side, side)
    looked = looked / max(float(looked.max()), 1e-12)
    pixels = np.zeros((side, side, 4), dtype=np.uint8)
    pixels[..., 3] = np.round(255 * _VEIL * (1 - looked))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    return _data_uri(out.getvalue(), "png")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
