"""Every trained system over one photo: the encoders run once a photo, the decoders as often as they are asked.

Knows captioners; nothing of the page or the network. Not for several threads at once: the server lets one in at a time.
"""

import dataclasses
import hashlib
import math
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from captionlab.core.records import MODELS
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import RELEASED, Captioner, Sentence
from captionlab.models.base import Features

_KEPT = 32  # photos whose features are kept, the latest used; a fifth of a megabyte for each encoder


class Lineup:
    """The systems side by side. Encoders are loaded with the first photo, or by ``warm_up`` before it comes."""

    def __init__(self, captioners: Sequence[Captioner]) -> None:
        self._captioners = captioners
        self._eyes = [self._eye(captioner) for captioner in captioners]
        self._seen: OrderedDict[str, dict[int, Features | CaptionlabError]] = OrderedDict()

    @classmethod
    def load(cls, root: Path) -> "Lineup":
        """The released captioner, and every checkpoint under the project's artifacts/models.

        None at all, or a broken one, is a CaptionlabError.
        """
        paths = sorted((root / MODELS).glob("*/*/checkpoint.safetensors"))
        if RELEASED.exists():
            paths.insert(0, RELEASED)
        if not paths:
            raise CaptionlabError(f"no trained system in {root / MODELS}; train some first (dvc repro)")
        return cls([Captioner.load(path) for path in paths])

    def about(self) -> list[dict[str, str]]:
        """Each system's name, configuration (of a released one, what it was trained on) and encoder."""
        return [
            {
                "system": one.identity.system,
                "name": f"released, trained on {one.identity.dataset}" if one.release else one.identity.name,
                "encoder": one.identity.encoder,
            }
            for one in self._captioners
        ]

    def warm_up(self) -> None:
        """Load every encoder, so that the first photo need not wait for it."""
        self._look(Image.new("RGB", (32, 32)))

    def see(self, photo: bytes) -> str:
        """Let every encoder look at a photo that is not kept yet; the digest by which ``captions`` knows it.

        Raises CaptionlabError when none of them can, above all for what is no photo.
        """
        digest = hashlib.sha256(photo).hexdigest()
        if digest not in self._seen:
            features = self._look(photo)
            failures = [seen for seen in features.values() if isinstance(seen, CaptionlabError)]
            if len(failures) == len(features):
                raise failures[0]
            self._seen[digest] = features
            if len(self._seen) > _KEPT:
                self._seen.popitem(last=False)
        return digest

    def captions(
        self, digest: str, *, beam: int | None = None, length_penalty: float | None = None
    ) -> list[dict[str, Any]]:
        """The captions of each system for a photo seen before, best first, or why there are none.

        What is not given is each system's own, as validation chose it. Raises KeyError for a photo that is not kept.
        """
        features = self._seen[digest]
        self._seen.move_to_end(digest)
        answers: list[dict[str, Any]] = []
        for about, captioner, eye in zip(self.about(), self._captioners, self._eyes, strict=True):
            seen = features[eye]
            if isinstance(seen, CaptionlabError):
                answers.append({**about, "error": str(seen)})
                continue
            own = seen if captioner.uses_regions else Features(seen.pooled_PD)
            given = {"beam": beam, "length_penalty": length_penalty}
            changes: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
            decoding = dataclasses.replace(captioner.decoding, **changes)
            [sentences] = captioner.describe(own, decoding)
            said = [_said(captioner, own, sentence) for sentence in sentences]
            answers.append({**about, "decoding": decoding.label, "captions": said})
        return answers

    def _eye(self, captioner: Captioner) -> int:
        """The place of the first captioner whose features will do for this one, so that each encoder runs once.

        A system that reads no grid takes the features of one that does: the pooled vector is the same.
        """

        def key(one: Captioner) -> tuple[str, str]:
            return one.identity.encoder, one.identity.encoder_weights

        grid = captioner.identity.grid
        alike = [place for place, one in enumerate(self._captioners) if key(one) == key(captioner)]
        fitting = [place for place in alike if self._captioners[place].identity.grid == grid]
        with_grid = [place for place in alike if self._captioners[place].identity.grid]
        return min(fitting if grid else with_grid or fitting)

    def _look(self, photo: bytes | Image.Image) -> dict[int, Features | CaptionlabError]:
        """What each eye sees, or why it cannot."""
        seen: dict[int, Features | CaptionlabError] = {}
        for eye in sorted(set(self._eyes)):
            try:
                seen[eye] = self._captioners[eye].features([photo])
            except CaptionlabError as error:
                seen[eye] = error
        return seen


def _said(captioner: Captioner, features: Features, sentence: Sentence) -> dict[str, Any]:
    """A caption for the page: its words, its probability and, where the system has it, where each word looked."""
    words = [captioner.vocab.words[token] for token in sentence.tokens]
    said: dict[str, Any] = {"words": words, "probability": math.exp(sentence.log_prob)}
    try:
        return {**said, "attention": captioner.attention(features, sentence.tokens)}
    except CaptionlabError:  # a system that does not look at regions
        return said
