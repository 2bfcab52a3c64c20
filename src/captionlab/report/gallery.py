"""The gallery: a page of test photos with every system's captions and attention overlays.

It contains photos and references, so it is never published with the tables. ``evaluate`` selects the photos by score.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from captionlab.core import records
from captionlab.core.attention_overlay import DESCRIPTION, overlay_opacity
from captionlab.core.results.photos import PhotoCaptions, SaidCaption, read_attention, read_gallery
from captionlab.data.photos import read_upright
from captionlab.report.render import page
from captionlab.report.results import Results, Run
from captionlab.report.tables import ranked

_PIXELS = 224  # longer side of a photo on the page
_UNFOLDED = 6  # systems whose captions are visible at first; the others are in a collapsed section
_TERCILES = {
    "best": "From the best third",
    "middle": "From the middle third",
    "worst": "From the worst third",
}

Captions = Sequence[tuple[Run, Sequence[PhotoCaptions]]]
Overlays = Mapping[tuple[str, str], tuple[str, ...]]  # by (configuration, photo): a data URI for each word


@dataclass(frozen=True, kw_only=True)
class RunCaptions:
    """One configuration's captions of a photo.

    ``words`` are those of the chosen decoding as (word, attention overlay as a data URI or None); ``others`` are the
    captions of the other decodings as (decoding, caption).
    """

    system: str
    name: str
    decoding: str
    words: tuple[tuple[str, str | None], ...]
    others: tuple[tuple[str, str], ...]


@dataclass(frozen=True, kw_only=True)
class Card:
    """A photo of the page; CIDEr-D and rank are those of the configuration that the photos are ranked by."""

    image: str
    photo: str  # data URI
    width: int
    height: int
    references: tuple[str, ...]
    captions: tuple[RunCaptions, ...]
    cider: float
    rank: int


def gallery_html(results: Results, captions: Captions, root: Path) -> str:
    """The gallery as a self-contained HTML page."""
    gallery = read_gallery(root)
    by_run = {run.name: {entry.image: entry for entry in own} for run, own in captions}
    runs = ranked(results.runs)
    overlays = {key: own for run in runs for key, own in _overlays(root, run).items()}
    selected_by = by_run[gallery.selected_by]
    terciles: dict[str, list[Card]] = {title: [] for title in _TERCILES.values()}
    for chosen in gallery.photos:
        image = chosen.image
        photo = read_upright(root / records.DATASET / "images" / image, _PIXELS)
        terciles[_TERCILES[chosen.tercile]].append(
            Card(
                image=image,
                photo=_jpeg(photo),
                width=photo.width,
                height=photo.height,
                references=selected_by[image].references,
                captions=tuple(_run_captions(run, image, by_run[run.name][image].captions, overlays) for run in runs),
                cider=chosen.cider,
                rank=chosen.rank,
            )
        )
    return page(
        "gallery.html.j2",
        name=results.manifest.name,
        gallery=gallery,
        unfolded=_UNFOLDED,
        terciles=terciles,
        with_attention=list(dict.fromkeys(name for name, _ in overlays)),
        overlay_description=DESCRIPTION,
    )


def _run_captions(run: Run, image: str, captions: Mapping[str, SaidCaption], overlays: Overlays) -> RunCaptions:
    words = captions[run.best_decoding].caption.split()
    own: Sequence[str | None] = overlays.get((run.name, image)) or [None] * len(words)
    return RunCaptions(
        system=run.system,
        name=run.name,
        decoding=run.best_decoding,
        words=tuple(zip(words, own, strict=True)) or ((records.NO_WORDS, None),),
        others=tuple(
            (decoding, other.caption or records.NO_WORDS)
            for decoding, other in captions.items()
            if decoding != run.best_decoding
        ),
    )


def _overlays(root: Path, run: Run) -> Overlays:
    """The attention overlays of one configuration; empty without attention."""
    return {(run.name, entry.image): tuple(map(_overlay, entry.maps)) for entry in read_attention(root, run.name)}


def _jpeg(photo: Image.Image) -> str:
    out = io.BytesIO()
    photo.save(out, format="JPEG", quality=82)
    return _data_uri(out.getvalue(), "jpeg")


def _overlay(weights: Sequence[float]) -> str:
    """The attention overlay as a black PNG with one pixel per region, which the browser scales up."""
    opacity = overlay_opacity(weights)
    pixels = np.stack([np.zeros_like(opacity), opacity], axis=-1)  # grey and opacity
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG", optimize=True)
    return _data_uri(out.getvalue(), "png")


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
