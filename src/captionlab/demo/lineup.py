"""Every trained system over one photo: each encoder runs once per photo, the decoders run for every request.

Knows captioners; nothing of the page or the network. Not thread-safe: the server runs one request at a time.
"""

import dataclasses
import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from captionlab.core.records import MODELS, NO_WORDS, RELEASED
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner, Sentence
from captionlab.models.base import Features

DRAWN_SCENES = "scenes"  # name of the built-in dataset in params.yaml
_KEPT = 32  # most recent photos whose features are kept; a fifth of a megabyte for each encoder


class Lineup:
    """The systems side by side. Encoders are loaded by ``warm_up`` or with the first photo."""

    def __init__(self, captioners: Sequence[Captioner]) -> None:
        self._captioners = captioners
        self._encoders = [self._shared_encoder(captioner) for captioner in captioners]
        self._features: OrderedDict[str, dict[int, Features | CaptionlabError]] = OrderedDict()

    @classmethod
    def load(cls, root: Path) -> "Lineup":
        """The released captioner and every checkpoint under the project's artifacts/models.

        Raises CaptionlabError if there is none or one of them is damaged.
        """
        paths = sorted((root / MODELS).glob("*/*/checkpoint.safetensors"))
        if RELEASED.exists():
            paths.insert(0, RELEASED)
        if not paths:
            raise CaptionlabError(f"no trained system in {root / MODELS}; train some first (dvc repro)")
        return cls([Captioner.load(path) for path in paths])

    def about(self) -> list[dict[str, Any]]:
        """Each system: its configuration, encoder and training dataset, and whether that dataset is drawn scenes."""
        return [
            {
                "system": one.identity.system,
                "name": "released" if one.release else one.identity.name,
                "encoder": one.identity.encoder,
                "dataset": one.identity.dataset,
                "drawn": one.identity.dataset == DRAWN_SCENES,
            }
            for one in self._captioners
        ]

    def warm_up(self) -> None:
        """Load every encoder, so that the first photo does not wait for it."""
        self._encode(Image.new("RGB", (32, 32)))

    def add(self, photo: bytes) -> str:
        """Encode a photo, unless its features are kept, and return the digest that ``captions`` takes.

        Raises CaptionlabError if no encoder can read it, above all because it is not a photo.
        """
        digest = hashlib.sha256(photo).hexdigest()
        if digest not in self._features:
            features = self._encode(photo)
            failures = [each for each in features.values() if isinstance(each, CaptionlabError)]
            if len(failures) == len(features):
                raise failures[0]
            self._features[digest] = features
            if len(self._features) > _KEPT:
                self._features.popitem(last=False)
        return digest

    def captions(
        self, digest: str, *, beam: int | None = None, length_penalty: float | None = None
    ) -> list[dict[str, Any]]:
        """The captions of each system for a photo added before, best first, or its error.

        Without ``beam`` or ``length_penalty`` each system uses its own, which validation chose. Raises KeyError for a
        photo that is not kept.
        """
        features = self._features[digest]
        self._features.move_to_end(digest)
        given = {"beam": beam, "length_penalty": length_penalty}
        changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
        answers: list[dict[str, Any]] = []
        for about, captioner, encoder in zip(self.about(), self._captioners, self._encoders, strict=True):
            encoded = features[encoder]
            if isinstance(encoded, CaptionlabError):
                answers.append({**about, "error": str(encoded)})
                continue
            own = encoded if captioner.uses_regions else Features(encoded.pooled_PD)
            decoding = dataclasses.replace(captioner.decoding, **changes)
            [sentences] = captioner.describe(own, decoding)
            penalty = "" if decoding.beam == 1 else f", length penalty {decoding.length_penalty:g}"
            captions = [_caption(captioner, own, sentence) for sentence in sentences]
            answers.append({**about, "decoding": decoding.label + penalty, "captions": captions})
        return answers

    def _shared_encoder(self, captioner: Captioner) -> int:
        """The index of the first captioner whose features this one can use, so that each encoder runs once.

        A system that uses the pooled vector can use the features of one with a grid: their pooled vectors are equal.
        """

        def key(one: Captioner) -> tuple[str, str]:
            return one.identity.encoder, one.identity.encoder_weights

        grid = captioner.identity.grid
        alike = [i for i, one in enumerate(self._captioners) if key(one) == key(captioner)]
        fitting = [i for i in alike if self._captioners[i].identity.grid == grid]
        with_grid = [i for i in alike if self._captioners[i].identity.grid]
        return min(fitting if grid else with_grid or fitting)

    def _encode(self, photo: bytes | Image.Image) -> dict[int, Features | CaptionlabError]:
        """The photo's features, or the error, from each encoder that is in use."""
        features: dict[int, Features | CaptionlabError] = {}
        for encoder in sorted(set(self._encoders)):
            try:
                features[encoder] = self._captioners[encoder].features([photo])
            except CaptionlabError as error:
                features[encoder] = error
        return features


def _caption(captioner: Captioner, features: Features, sentence: Sentence) -> dict[str, Any]:
    """A caption for the page: its words, the score that ranks it and, from an attention system, a map for each word."""
    words = [captioner.vocab.words[token] for token in sentence.tokens]
    caption: dict[str, Any] = {"words": words or [NO_WORDS], "score": sentence.score}
    if captioner.uses_regions and words:
        caption["attention"] = captioner.attention(features, sentence.tokens)
    return caption
