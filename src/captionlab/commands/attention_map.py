"""The attention overlays of one caption as one picture. Knows photos and weights, not where they come from."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from captionlab.core.attention_overlay import overlay_opacity

TILE = 240  # the longer side of the photo in each tile, in pixels
_GAP, _LINE = 12, 30
_COLUMNS = 5
_INK, _PAPER = "#1f2430", "#ffffff"


def attention_map(photo: Image.Image, words: Sequence[str], weights_TR: Sequence[Sequence[float]]) -> Image.Image:
    """A sheet of tiles: the RGB photo, then the photo under the attention overlay of each of the T words.

    The R regions of a word are a square grid, row by row.
    """
    photo = photo.copy()
    photo.thumbnail((TILE, TILE), Image.Resampling.LANCZOS)
    tiles = [(photo, ""), *((_with_overlay(photo, own_R), word) for word, own_R in zip(words, weights_TR, strict=True))]
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


def _with_overlay(photo: Image.Image, weights_R: Sequence[float]) -> Image.Image:
    opacity = Image.fromarray(overlay_opacity(weights_R)).resize(photo.size, Image.Resampling.BILINEAR)
    return Image.composite(Image.new("RGB", photo.size), photo, opacity)
