"""The gallery page: captions and attention overlays."""

import base64
import dataclasses
import io
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from captionlab.core.attention_overlay import overlay_opacity
from captionlab.core.records import DATASET, EVALUATION, NO_WORDS
from captionlab.core.results.photos import (
    PhotoCaptions,
    SaidCaption,
    read_attention,
    read_photo_captions,
    write_attention,
    write_photo_captions,
)
from captionlab.report import results
from captionlab.report.gallery import gallery_html
from results_tree import toys, write_results


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_results(tmp_path, toys())
    return tmp_path


def gallery(root: Path) -> str:
    found = results.load(toys(), root)
    return gallery_html(found, [(run, read_photo_captions(root, run.name)) for run in found.runs], root)


def test_photos_are_read_as_encoders_read_them(root: Path) -> None:
    """A transparent one is white, and one without an end marker is complete."""
    photos = sorted((root / DATASET / "images").iterdir())
    for number, path in enumerate(photos):
        if number % 2:
            Image.new("RGBA", (40, 40), (0, 0, 0, 0)).save(path, "PNG")
        else:
            path.write_bytes(path.read_bytes().removesuffix(b"\xff\xd9"))
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
        for content in re.findall(r"data:image/jpeg;base64,([^\"]+)", gallery(root))
    ]
    assert shown
    assert any((photo > 250).all() for photo in shown)


def test_each_word_carries_its_attention_overlay(root: Path) -> None:
    page = gallery(root)
    drawn = []
    for content in re.findall(r"data:image/png;base64,([^\"]+)", page):
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            grey_opacity_SS2 = np.asarray(image)
        assert (grey_opacity_SS2[..., 0] == 0).all()
        drawn.append(grey_opacity_SS2[..., 1].tolist())
    expected = [overlay_opacity(weights_R).tolist() for entry in read_attention(root, "attention.lite2")
                for weights_R in entry.maps]  # fmt: skip
    assert drawn == expected
    assert page.count("Attention overlay: the less a word attended to a region, the darker the region.") == 1


def test_an_empty_caption_is_not_blank(root: Path) -> None:
    def without_words(row: PhotoCaptions) -> PhotoCaptions:
        return dataclasses.replace(row, captions=dict.fromkeys(row.captions, SaidCaption(caption="", log_prob=None)))

    assert NO_WORDS not in gallery(root)
    names = [run.name for run in results.load(toys(), root).runs]
    for name in names:
        write_photo_captions(root / EVALUATION, name, map(without_words, read_photo_captions(root, name)))
    maps = [dataclasses.replace(entry, words=(), maps=()) for entry in read_attention(root, "attention.lite2")]
    write_attention(root / EVALUATION, "attention.lite2", maps)
    page = gallery(root)
    assert page.count(NO_WORDS) == toys().report.gallery * 3 * len(names)  # the chosen decoding and two others
    assert not re.search(r"<bdi>\s*</bdi>", page)
