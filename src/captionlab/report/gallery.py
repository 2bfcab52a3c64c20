"""A page of test photos with what every system said and where attention looked. Holds photos and references, so it is
never published with the tables. The photos are those that ``evaluate`` chose by score.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from captionlab.core import records
from captionlab.core.photo_results import PhotoCaptions, SaidCaption, read_attention, read_gallery
from captionlab.report.render import page
from captionlab.report.results import Results, Run
from captionlab.report.tables import ranked

_PIXELS = 224  # the longer side of a photo in the page
_SYSTEMS = 6  # whose captions are open to view; the others fold away
_OPACITY = 0.82  # how dark the regions are that a word did not look at, from 0 to 1
_TERCILES = {
    "best": "From the best third",
    "middle": "From the middle third",
    "worst": "From the worst third",
}

Captions = Sequence[tuple[Run, Sequence[PhotoCaptions]]]
Overlays = Mapping[tuple[str, str], tuple[str, ...]]  # by configuration and photo: a data URI a word


@dataclass(frozen=True, kw_only=True)
class Said:
    """One configuration's captions of a photo: the chosen decoding's words, and the others as (decoding, caption).

    ``words`` are (word, overlay). An overlay is a picture to lay over the photo, dark where attention was low, or None.
    """

    system: str
    name: str
    decoding: str
    words: tuple[tuple[str, str | None], ...]
    others: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One photo of the gallery, with the CIDEr-D of the judging configuration's caption and its rank by it."""

    image: str
    photo: str
    width: int
    height: int
    references: tuple[str, ...]
    said: tuple[Said, ...]
    cider: float
    rank: int


def gallery_html(results: Results, captions: Captions, root: Path) -> str:
    """The gallery as one page that needs no other file and no network."""
    gallery = read_gallery(root)
    said = {run.name: {entry.image: entry for entry in own} for run, own in captions}
    runs = ranked(results.runs)
    overlays = {key: own for run in runs for key, own in _overlays(root, run).items()}
    selected_by = said[gallery.selected_by]
    terciles: dict[str, list[Shown]] = {title: [] for title in _TERCILES.values()}
    for chosen in gallery.photos:
        image = chosen.image
        photo = _photo(root, image)
        terciles[_TERCILES[chosen.tercile]].append(
            Shown(
                image=image,
                photo=_jpeg(photo),
                width=photo.width,
                height=photo.height,
                references=selected_by[image].references,
                said=tuple(_said(run, image, said[run.name][image].captions, overlays) for run in runs),
                cider=chosen.cider,
                rank=chosen.rank,
            )
        )
    return page(
        "gallery.html.j2",
        name=results.manifest.name,
        gallery=gallery,
        most=_SYSTEMS,
        terciles=terciles,
        with_attention=list(dict.fromkeys(name for name, _ in overlays)),
    )


def _said(run: Run, image: str, captions: Mapping[str, SaidCaption], overlays: Overlays) -> Said:
    words = captions[run.best_decoding].caption.split()
    own: Sequence[str | None] = overlays.get((run.name, image)) or [None] * len(words)
    return Said(
        system=run.system,
        name=run.name,
        decoding=run.best_decoding,
        words=tuple(zip(words, own, strict=True)),
        others=tuple((name, said.caption) for name, said in captions.items() if name != run.best_decoding),
    )


def _overlays(root: Path, run: Run) -> Overlays:
    """What evaluate kept of one configuration's attention; nothing for one without attention."""
    return {
        (run.name, entry.image): tuple(_overlay(weights, entry.grid) for weights in entry.maps)
        for entry in read_attention(root, run.name)
    }


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


def _overlay(weights: Sequence[float], side: int) -> str:
    """A black PNG of side x side pixels, clear where the weight is greatest; the browser stretches it smoothly."""
    looked = np.asarray(weights, dtype=np.float64).reshape(side, side)
    looked = looked / max(float(looked.max()), 1e-12)
    pixels = np.zeros((side, side, 2), dtype=np.uint8)  # grey and opacity
    pixels[..., 1] = np.round(255 * _OPACITY * (1 - looked))
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    return _data_uri(out.getvalue(), "png")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
