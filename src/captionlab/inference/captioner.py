"""Load a checkpoint and caption photos; every command and server uses this module.

Knows checkpoints, encoders and decoding; nothing of datasets or scores.
"""

import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np
import torch

from captionlab.core.devices import choose_device
from captionlab.core.records import RELEASED, Decoding
from captionlab.core.results import chosen_decoding
from captionlab.core.tokens import START
from captionlab.data.photos import PREPROCESSING, Photo, Pixels, read_photo
from captionlab.data.vocab import Vocabulary
from captionlab.encoders.engines import Engine, OnnxEngine, TorchEngine
from captionlab.encoders.load import Encoder, load_encoder
from captionlab.errors import CaptionlabError
from captionlab.inference.decoding import beam_search
from captionlab.models.base import Decoder, Features
from captionlab.models.ensemble import Ensemble
from captionlab.training.checkpoint import Identity, Release, load_checkpoint

BLOCK = {"cpu": 32}  # photos that are captioned together, by device
ACCELERATOR_BLOCK = 256
COMPILE_FROM = 100  # photos from which compiling the encoder saves more time than it takes

Device = Literal["auto", "cpu", "cuda", "mps"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Sentence:
    """One generated caption. ``log_prob`` is the natural logarithm of its probability, end token included; ``score``
    is what the beam ranks by, ``log_prob`` over a power of the length.
    """

    caption: str
    log_prob: float
    score: float
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Captioner:
    """A trained system, ready to caption photos or features on its ``device``.

    ``decoding`` was selected on the validation split; every call may override parts of it.
    """

    model: Decoder
    vocab: Vocabulary
    identity: Identity
    decoding: Decoding
    device: str
    release: Release | None = None

    @classmethod
    def load(
        cls, path: Path | str | None = None, device: Device = "auto", decoding: Decoding | None = None
    ) -> "Captioner":
        """Load a checkpoint; without a path, the captioner that ships with the package.

        Without ``decoding`` it uses the one selected on the validation split, if that is known. Raises CaptionlabError
        if the checkpoint is missing, damaged or made with another preprocessing.
        """
        if path is None and not RELEASED.exists():
            raise CaptionlabError("this copy of captionlab ships no captioner; name a checkpoint with --model")
        path = Path(path or RELEASED)
        checkpoint = load_checkpoint(path)
        identity = checkpoint.identity
        if identity.preprocessing != PREPROCESSING:
            raise CaptionlabError(
                f"{path} was trained with preprocessing {identity.preprocessing!r}, this version uses "
                f"{PREPROCESSING!r}; train it again"
            )
        chosen = choose_device(device)
        decoding = decoding or checkpoint.decoding or chosen_decoding(path) or Decoding()
        model = checkpoint.model.to(chosen)
        return cls(model, checkpoint.vocab, identity, decoding, chosen, checkpoint.release)

    @property
    def uses_regions(self) -> bool:
        """Whether it attends to the regions of the photo, so that attention maps exist."""
        return self.identity.grid > 0

    @property
    def sources(self) -> dict[str, bool]:
        """The encoder whose features it reads, and whether it reads their grid."""
        return {self.identity.encoder: self.uses_regions}

    def describe(self, features: Features, decoding: Decoding | None = None) -> list[list[Sentence]]:
        """The captions of each photo, best first, from features of the encoder the system was trained on."""
        return _describe(self.model, self.vocab, features.to(self.device), decoding or self.decoding)

    @overload
    def caption(self, photos: Photo, **decoding: Any) -> list[Sentence]: ...
    @overload
    def caption(self, photos: Sequence[Photo], **decoding: Any) -> list[list[Sentence]]: ...
    def caption(self, photos: Photo | Sequence[Photo], **decoding: Any) -> list[Sentence] | list[list[Sentence]]:
        """The captions of a photo, best first, or of each photo of a list or tuple.

        A photo is a path, a file's bytes, a Pillow image or an array (H, W), (H, W, 3) or (H, W, 4) of uint8.
        ``decoding`` is that of ``stream``. The first photo that cannot be read is a CaptionlabError.
        """
        many = isinstance(photos, list | tuple)
        sentences = []
        for said in self.stream(cast(Sequence[Photo], photos) if many else [cast(Photo, photos)], **decoding):
            if isinstance(said, CaptionlabError):
                raise said
            sentences.append(said)
        return sentences if many else sentences[0]

    def stream(self, photos: Sequence[Photo], **changes: Any) -> Iterator[list[Sentence] | CaptionlabError]:
        """The captions of each photo in order, as they are made; for one that cannot be read, the error instead.

        ``changes`` are fields of ``Decoding``, such as ``beam=3``; the others are those of ``decoding``.
        """
        decoding = dataclasses.replace(self.decoding, **changes)
        engine = self._engine(len(photos))
        block = BLOCK.get(self.device, ACCELERATOR_BLOCK)
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            for i in range(0, len(photos), block):
                read = list(pool.map(self._read, photos[i : i + block]))
                whole = [pixels for pixels in read if not isinstance(pixels, CaptionlabError)]
                found: list[list[Sentence]] = []
                if whole:
                    found = self.describe(self._encode(engine, np.stack(whole), pool.map), decoding)
                said = iter(found)
                yield from (pixels if isinstance(pixels, CaptionlabError) else next(said) for pixels in read)

    def warm_up(self) -> None:
        """Load and compile the encoder now, so that a server's first request does not wait for it."""
        _ = self._compiled if self.device == "cpu" else self._encoder

    def features(self, photos: Sequence[Photo]) -> Features:
        """The encoder's features of the photos, for calling both ``describe`` and ``attention``."""
        pixels = np.stack([read_photo(photo, self._encoder.pixels) for photo in photos])
        return self._encode(self._engine(len(photos)), pixels, map)

    @torch.inference_mode()
    def attention(self, features: Features, tokens: Sequence[int]) -> list[list[float]]:
        """The attention weights of one photo's regions before each word: a row of R weights for each word.

        R is ``identity.grid`` squared, row by row of the photo. Raises CaptionlabError for a system without attention
        to regions.
        """
        read_BT = torch.tensor([[START, *tokens]], device=self.device)
        attention_BTR = self.model.outputs(
            features.to(self.device), read_BT, torch.zeros_like(read_BT[:, 0])
        ).attention_BTR
        if attention_BTR is None:
            raise CaptionlabError(f"{self.identity.system} has no attention to show")
        return [[round(share, 5) for share in row] for row in attention_BTR[0, : len(tokens)].tolist()]

    def _read(self, photo: Photo) -> Pixels | CaptionlabError:
        try:
            return read_photo(photo, self._encoder.pixels)
        except CaptionlabError as error:
            return error

    def _encode(self, engine: Engine, pixels_NHW3: Pixels, run: Callable[..., Any]) -> Features:
        chunks = [pixels_NHW3[i : i + engine.batch] for i in range(0, len(pixels_NHW3), engine.batch)]
        pooled, grids = zip(*run(engine, chunks), strict=True)
        grid = torch.from_numpy(np.concatenate(grids)).half()  # as the store keeps it
        return Features(torch.from_numpy(np.concatenate(pooled)), grid if grid.shape[1] else None)

    def _engine(self, photos: int) -> Engine:
        """The engine for this number of photos: compiling takes as long as 100 photos without."""
        if self.device == "cpu" and (photos >= COMPILE_FROM or "_compiled" in self.__dict__):
            return self._compiled
        return TorchEngine(self._encoder, self.device)

    @cached_property
    def _compiled(self) -> OnnxEngine:
        return OnnxEngine(self._encoder, batch=1)  # a batch of 4 would make a single photo take four times as long

    @cached_property
    def _encoder(self) -> Encoder:
        encoder = load_encoder(self.identity.encoder, self.identity.grid)
        if encoder.weights_digest != self.identity.encoder_weights:
            raise CaptionlabError(
                f"the installed weights of {encoder.name} differ from those the system was trained with; train it again"
            )
        return encoder


@dataclass(frozen=True)
class EnsembleCaptioner:
    """Several trained systems whose next-word probabilities are averaged."""

    model: Ensemble
    vocab: Vocabulary
    members: tuple[Captioner, ...]
    device: str

    @classmethod
    def load(cls, paths: Sequence[Path], device: Device = "auto") -> "EnsembleCaptioner":
        """Load several checkpoints. Raises CaptionlabError as ``Captioner.load`` does, or if vocabularies differ."""
        members = tuple(Captioner.load(path, device, Decoding()) for path in paths)  # each call gives its decoding
        for path, member in zip(paths, members, strict=True):
            if member.vocab.digest != members[0].vocab.digest:
                raise CaptionlabError(
                    f"{path} and {paths[0]} have different vocabularies; the members of an ensemble share one"
                )
        encoders = list(dict.fromkeys(member.identity.encoder for member in members))
        model = Ensemble([m.model for m in members], [encoders.index(m.identity.encoder) for m in members])
        return cls(model.eval(), members[0].vocab, members, members[0].device)

    @property
    def sources(self) -> dict[str, bool]:
        """The encoders whose features its members read, in order, and whether one of them reads the grid."""
        found: dict[str, bool] = {}
        for member in self.members:
            found[member.identity.encoder] = found.get(member.identity.encoder, False) or member.uses_regions
        return found

    def describe(self, features: Features, decoding: Decoding) -> list[list[Sentence]]:
        """The captions of each photo, best first, from features of the encoders in ``sources``."""
        return _describe(self.model, self.vocab, features.to(self.device), decoding)


def _describe(model: Decoder, vocab: Vocabulary, features: Features, decoding: Decoding) -> list[list[Sentence]]:
    hypotheses = beam_search(model, features, **dataclasses.asdict(decoding))
    return [
        [Sentence(caption=vocab.decode(h.tokens), log_prob=h.log_prob, score=h.score, tokens=h.tokens) for h in photo]
        for photo in hypotheses
    ]
