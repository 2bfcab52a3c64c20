"""Where a captioner looked, word by word, as one picture. Knows photos and weights, not where they come from."""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

TILE = 240  # the longer side of the photo in each tile, in pixels
_GAP, _LINE = 12, 30
_VEIL = 0.82  # how dark it is where a word did not look, from 0 to 1
_COLUMNS = 5
_INK, _PAPER = "#1f2430", "#ffffff"


def attention_map(photo: Image.Image, words: Sequence[str], weights_TR: Sequence[Sequence[float]]) -> Image.Image:
    """The RGB photo once as it is and once a word, dark where that word did not look; R regions are a square grid."""
    photo = photo.copy()
    photo.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    tiles = [(photo, ""), *((_veiled(photo, own_R), word) for word, own_R in zip(words, weights_TR, strict=True))]
    columns = min(_COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    width, height = TILE + _GAP, photo.height + _LINE + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), _PAPER)
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(20)
    for place, (tile, word) in enumerate(tiles):
        x, y = _GAP + place % columns * width, _GAP + place // columns * height
        sheet.paste(tile, (x, y + _LINE))
        draw.text((x, y), word, _INK, font)
    return sheet


def _veiled(photo: Image.Image, weights_R: Sequence[float]) -> Image.Image:
    side = math.isqrt(len(weights_R))
    looked = np.asarray(weights_R, dtype=np.float32).reshape(side, side)
    looked /= max(float(looked.max()), 1e-12)
    veil = Image.fromarray(np.round(255 * _VEIL * (1 - looked)).astype(np.uint8))
    veil = veil.resize(photo.size, Image.Resampling.BICUBIC)
    return Image.composite(Image.new("RGB", photo.size), photo, veil)
