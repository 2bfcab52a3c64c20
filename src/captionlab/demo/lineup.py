"""Every trained system over one photo: each encoder runs once per photo, the decoders run for every request.

Knows captioners and rows of the comparison; nothing of the page or the network. Not thread-safe: the server runs one
request at a time.
"""

import dataclasses
import hashlib
import sys
from collections import OrderedDict
from collections.abc import Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from captionlab.core.records import CHECKPOINT, MODELS, NO_WORDS, RELEASED, Decoding, Neighbours
from captionlab.core.results import read_manifest
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner, Sentence
from captionlab.inference.photos import PhotoReader
from captionlab.models.base import Features

if TYPE_CHECKING:  # retrieval takes a second to import
    from captionlab.evaluation.rows import RowCaptioner

DRAWN_SCENES = frozenset({"scenes"})  # name of the built-in dataset in params.yaml
_KEPT = 32  # most recent photos whose features are kept; a fifth of a megabyte for each encoder


class Lineup:
    """The systems side by side. Encoders are loaded by ``warm_up`` or with the first photo."""

    def __init__(
        self, captioners: Sequence[Captioner], rows: "Sequence[RowCaptioner]" = (), drawn: Set[str] = DRAWN_SCENES
    ) -> None:
        self._drawn = drawn  # names of datasets of drawn scenes
        self._members: list[Captioner | RowCaptioner] = [*captioners, *rows]
        wanted = [_readers(member) for member in self._members]
        every = [reader for own in wanted for reader in own]
        self._readers = [[_shared(reader, every) for reader in own] for own in wanted]
        self._features: OrderedDict[str, dict[int, Features | CaptionlabError]] = OrderedDict()
        self._encoders = {place: every[place] for own in self._readers for place in own}

    @classmethod
    def load(cls, root: Path, rows: Sequence[str] = ()) -> "Lineup":
        """The released captioner, every checkpoint under the project's artifacts/models, and rows of the comparison.

        A checkpoint that cannot be read, such as one of an earlier version that params.yaml no longer names, is left
        out with a line on standard error. Raises CaptionlabError if no system is left, or a row is missing.
        """
        paths = sorted((root / MODELS).glob(f"*/*/{CHECKPOINT}"))
        if RELEASED.exists():
            paths.insert(0, RELEASED)
        if not paths and not rows:
            raise CaptionlabError(f"no trained system in {root / MODELS}; train some first (dvc repro)")
        captioners = []
        for path in paths:
            try:
                captioners.append(Captioner.load(path))
            except CaptionlabError as error:
                print(f"captionlab: left out: {error}", file=sys.stderr, flush=True)
        if not captioners and not rows:
            raise CaptionlabError(f"no system in {root / MODELS} can be read; train one (dvc repro)")
        drawn = _drawn_datasets(root)
        if not rows:
            return cls(captioners, drawn=drawn)
        from captionlab.evaluation.rows import RowCaptioner

        return cls(captioners, [RowCaptioner.load(root, row) for row in rows], drawn)

    def about(self) -> list[dict[str, Any]]:
        """Each system: its configuration, encoder and training dataset, and whether that dataset is drawn scenes."""
        return [self._about(member) for member in self._members]

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
        for member, readers in zip(self._members, self._readers, strict=True):
            encoded = [features[reader] for reader in readers]
            if failures := [each for each in encoded if isinstance(each, CaptionlabError)]:
                answers.append({**self._about(member), "error": str(failures[0])})
                continue
            first, *others = (each for each in encoded if isinstance(each, Features))
            decoding = member.decoding
            if isinstance(decoding, Decoding):  # retrieval has no beam
                decoding = dataclasses.replace(decoding, **changes)
            captions = _captions(member, first._replace(others=tuple(others)), decoding)
            answers.append({**self._about(member), "decoding": _label(decoding), "captions": captions})
        return answers

    def _about(self, member: "Captioner | RowCaptioner") -> dict[str, Any]:
        if isinstance(member, Captioner):
            identity = member.identity
            system, name = identity.system, "released" if member.release else identity.name
            encoder, dataset = identity.encoder, identity.dataset
        else:
            system, _, name = member.key.partition(".")
            encoder, dataset = ", ".join(reader.name for reader in member.readers), member.dataset
        return {
            "system": system, "name": name, "encoder": encoder, "dataset": dataset, "drawn": dataset in self._drawn
        }  # fmt: skip

    def _encode(self, photo: bytes | Image.Image) -> dict[int, Features | CaptionlabError]:
        """The photo's features, or the error, from each encoder that is in use."""
        features: dict[int, Features | CaptionlabError] = {}
        for place, encoder in sorted(self._encoders.items()):
            try:
                features[place] = encoder.features([photo])
            except CaptionlabError as error:
                features[place] = error
        return features


def _drawn_datasets(root: Path) -> frozenset[str]:
    """Names of datasets of drawn scenes: the built-in one's, and the project's if it has that format."""
    try:
        manifest = read_manifest(root)
    except CaptionlabError:
        return DRAWN_SCENES
    return DRAWN_SCENES - {manifest.name} | ({manifest.name} if manifest.format == "scenes" else set())


def _readers(member: "Captioner | RowCaptioner") -> Sequence[PhotoReader]:
    return [member.reader] if isinstance(member, Captioner) else member.readers


def _shared(wanted: PhotoReader, readers: Sequence[PhotoReader]) -> int:
    """The index of the first reader whose features this one can use, so that each encoder runs once.

    What uses the pooled vector can use the features of an encoder with a grid: their pooled vectors are equal.
    """
    alike = [i for i, one in enumerate(readers) if (one.name, one.weights) == (wanted.name, wanted.weights)]
    fitting = [i for i in alike if readers[i].grid == wanted.grid]
    with_grid = [i for i in alike if readers[i].grid]
    return min(fitting if wanted.grid else with_grid or fitting)


def _label(decoding: Decoding | Neighbours) -> str:
    if isinstance(decoding, Neighbours) or decoding.beam == 1:
        return decoding.label
    return f"{decoding.label}, length penalty {decoding.length_penalty:g}"


def _captions(member: "Captioner | RowCaptioner", features: Features, decoding: Any) -> list[dict[str, Any]]:
    """Captions for the page: words, the score that ranks them and, from an attention system, a map for each word."""
    if isinstance(member, Captioner):
        [sentences] = member.describe(features, decoding)
        return [_caption(member, features, sentence) for sentence in sentences]
    [ranked] = member.describe(features, decoding)
    return [
        {
            "words": each.caption.split() or [NO_WORDS],
            "score": None if member.reranked or each.log_prob is None else each.score,
        }
        for each in ranked
    ]


def _caption(captioner: Captioner, features: Features, sentence: Sentence) -> dict[str, Any]:
    words = [captioner.vocab.words[token] for token in sentence.tokens]
    caption: dict[str, Any] = {"words": words or [NO_WORDS], "score": sentence.score}
    if captioner.uses_regions and words:
        caption["attention"] = captioner.attention(features, sentence.tokens)
    return caption
