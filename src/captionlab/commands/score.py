"""The files of ``captionlab score``: two JSON files in, scores out.

Knows the files' shapes, not how scores are made.
"""

import json
from pathlib import Path
from typing import Any

from captionlab.core.records import LONGEST_CAPTION, Scores
from captionlab.errors import CaptionlabError
from captionlab.metrics.scorer import score


def score_files(references: Path, hypotheses: Path) -> Scores:
    """Score captions under the strict protocol.

    ``references`` is a JSON object that maps an image id to a list of reference strings, ``hypotheses`` one that maps
    an image id to one string. Raises CaptionlabError naming the file for anything else, and naming some ids when the
    two do not hold the same ones. An empty hypothesis is allowed and scores 0.
    """
    known = _read_object(references)
    for image, captions in known.items():
        if not isinstance(captions, list) or not captions:
            raise CaptionlabError(f"{references}: image {image!r} must have a list of at least one reference string")
        if not all(isinstance(caption, str) and caption.strip() for caption in captions):
            raise CaptionlabError(f"{references}: image {image!r} has a reference that is no text or blank")
        _check_length(references, image, captions)
    generated = _read_object(hypotheses)
    for image, caption in generated.items():
        if not isinstance(caption, str):
            raise CaptionlabError(f"{hypotheses}: image {image!r} must have one string")
        _check_length(hypotheses, image, [caption])
    try:
        return score(known, generated)
    except CaptionlabError as error:
        raise CaptionlabError(f"{references} and {hypotheses}: {error}") from None


def _check_length(path: Path, image: str, captions: list[str]) -> None:
    longest = max(map(len, captions))
    if longest > LONGEST_CAPTION:
        raise CaptionlabError(
            f"{path}: image {image!r} has a caption of {longest:,} characters; at most {LONGEST_CAPTION:,} are scored"
        )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        # utf-8-sig: some Windows editors put a mark at the start
        value = json.loads(path.read_text(encoding="utf-8-sig"), object_pairs_hook=_unique)
    except OSError as error:
        raise CaptionlabError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise CaptionlabError(f"{path} is not UTF-8 text; save it as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise CaptionlabError(f"{path} is not valid JSON: {error}") from None
    except CaptionlabError as error:
        raise CaptionlabError(f"{path}: {error}") from None
    if not isinstance(value, dict) or not value:
        raise CaptionlabError(f"{path} must be a JSON object that maps image ids to captions, with at least one image")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's pairs as a dict; the json module would keep the last of two equal keys in silence."""
    result = dict(pairs)
    if len(result) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise CaptionlabError(f"the key {twice!r} occurs more than once; keep one")
    return result
