"""Load a checkpoint and caption photos; every command and server uses this module.

Knows checkpoints, encoders and decoding; nothing of datasets or scores.
"""

import dataclasses
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch

from captionlab.core.devices import choose_device
from captionlab.core.files import digest_of
from captionlab.core.records import CHECKPOINT, RELEASED, Decoding
from captionlab.core.results import chosen_decoding
from captionlab.core.tokens import START
from captionlab.data.photos import PREPROCESSINGS, Photo
from captionlab.data.vocab import Vocabulary
from captionlab.encoders.load import Encoder
from captionlab.errors import CaptionlabError
from captionlab.inference.decoding import beam_search
from captionlab.inference.photos import CaptionsPhotos, PhotoReader, stream_photos
from captionlab.models.base import Decoder, Features
from captionlab.models.ensemble import Ensemble
from captionlab.training.checkpoint import load_checkpoint
from captionlab.training.header import Identity, Release

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


class _Decodes(CaptionsPhotos[list[Sentence]]):
    """A captioner that decodes the words of its ``model`` by beam search."""

    model: Decoder
    vocab: Vocabulary
    decoding: Decoding
    device: str

    @property
    @abstractmethod
    def readers(self) -> list[PhotoReader]:
        """Compute what the system reads of a photo: one for each encoder."""

    def describe(self, features: Features, decoding: Decoding | None = None) -> list[list[Sentence]]:
        """The captions of each photo, best first, from features of the encoders in ``sources``."""
        return self.describe_each(features, [decoding or self.decoding])[0]

    def describe_each(self, features: Features, decodings: Sequence[Decoding]) -> list[list[list[Sentence]]]:
        """The same by decoding, in less time than one after another."""
        return _describe(self.model, self.vocab, features.to(self.device), decodings)

    def decoding_with(self, **changes: Any) -> Decoding:
        """The decoding that validation selected, with other fields; ValueError where they do not fit."""
        return dataclasses.replace(self.decoding, **changes)

    def stream(self, photos: Sequence[Photo], **changes: Any) -> Iterator[list[Sentence] | CaptionlabError]:
        decoding = self.decoding_with(**changes)
        return stream_photos(self.readers, photos, lambda features: self.describe(features, decoding))


@dataclass(frozen=True)
class Captioner(_Decodes):
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
        """Load a checkpoint, or the one in a folder; without a path, the released captioner.

        Without ``decoding`` it uses the one selected on the validation split, if that is known. Raises CaptionlabError
        if the checkpoint is missing, damaged or made with another preprocessing.
        """
        if path is None and not RELEASED.exists():
            raise CaptionlabError("this copy of captionlab ships no captioner; name a checkpoint with --model")
        path = Path(path or RELEASED)
        path = path / CHECKPOINT if (path / CHECKPOINT).is_file() else path
        checkpoint = load_checkpoint(path)
        identity = checkpoint.identity
        if identity.preprocessing not in PREPROCESSINGS.values():
            raise CaptionlabError(
                f"{path} was trained with preprocessing {identity.preprocessing!r}, this version uses "
                f"{', '.join(PREPROCESSINGS.values())}; train it again"
            )
        chosen = choose_device(device)
        decoding = decoding or checkpoint.decoding or chosen_decoding(path) or Decoding()
        model = checkpoint.model.to(chosen)
        return cls(model, checkpoint.vocab, identity, decoding, chosen, checkpoint.release)

    @property
    def name(self) -> str:
        """The system and its configuration."""
        return f"{self.identity.system}.{self.identity.name}"

    @property
    def label(self) -> str:
        """Its name, and which training it comes from."""
        return f"{self.name}@{self.identity.training_key[:8]}"

    @property
    def dataset(self) -> str:
        """The name of the data that it was trained on."""
        return self.identity.dataset

    @property
    def uses_regions(self) -> bool:
        """Whether it attends to the regions of the photo, so that attention maps exist."""
        return self.identity.grid > 0

    @property
    def sources(self) -> dict[str, bool]:
        """The encoder whose features it reads, and whether it reads their grid."""
        return {self.identity.encoder: self.uses_regions}

    @property
    def readers(self) -> list[PhotoReader]:
        """Its only reader."""
        return [self.reader]

    @cached_property
    def reader(self) -> PhotoReader:
        """Computes what the system reads of a photo."""
        identity = self.identity
        return PhotoReader(identity.encoder, identity.grid, self.device, identity.encoder_weights)

    @property
    def encoder(self) -> Encoder:
        """The encoder whose features the system reads; CaptionlabError as ``PhotoReader`` has it."""
        return self.reader.encoder

    def warm_up(self) -> None:
        """Load and compile the encoder now, so that a server's first request does not wait for it."""
        self.reader.warm_up()

    def features(self, photos: Sequence[Photo]) -> Features:
        """The encoder's features of the photos, for calling both ``describe`` and ``attention``."""
        return self.reader.features(photos)

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


@dataclass(frozen=True)
class EnsembleCaptioner(_Decodes):
    """Several trained systems whose next-word probabilities are averaged."""

    model: Ensemble
    vocab: Vocabulary
    members: tuple[Captioner, ...]
    decoding: Decoding
    device: str

    @classmethod
    def load(
        cls, paths: Sequence[Path], device: Device = "auto", decoding: Decoding | None = None
    ) -> "EnsembleCaptioner":
        """Load several checkpoints; without ``decoding`` the ensemble uses the one that they share.

        Raises CaptionlabError as ``Captioner.load`` does, or if vocabularies or decodings differ.
        """
        members = tuple(Captioner.load(path, device, decoding) for path in paths)
        for path, member in zip(paths, members, strict=True):
            if member.vocab.digest != members[0].vocab.digest:
                raise CaptionlabError(
                    f"{path} and {paths[0]} have different vocabularies; the members of an ensemble share one"
                )
        if len(decodings := dict.fromkeys(member.decoding for member in members)) > 1:
            labels = "; ".join(decoding.full_label for decoding in decodings)
            raise CaptionlabError(f"the members have several decodings ({labels}); give one for all")
        encoders = list(dict.fromkeys(member.identity.encoder for member in members))
        model = Ensemble([m.model for m in members], [encoders.index(m.identity.encoder) for m in members])
        return cls(model.eval(), members[0].vocab, members, members[0].decoding, members[0].device)

    @property
    def name(self) -> str:
        """The members' names."""
        return f"ensemble of {', '.join(member.name for member in self.members)}"

    @property
    def label(self) -> str:
        """Its name, and which trainings it comes from."""
        keys = digest_of([member.identity.training_key for member in self.members])
        return f"{self.name}@{keys[:8]}"

    @property
    def dataset(self) -> str:
        """The names of the data that the members were trained on: presets give one dataset several names."""
        return ", ".join(dict.fromkeys(member.dataset for member in self.members))

    @property
    def sources(self) -> dict[str, bool]:
        """The encoders whose features its members read, in order, and whether one of them reads the grid."""
        found: dict[str, bool] = {}
        for member in self.members:
            found[member.identity.encoder] = found.get(member.identity.encoder, False) or member.uses_regions
        return found

    @property
    def readers(self) -> list[PhotoReader]:
        """One for each encoder, in the order of ``sources``."""
        return [
            max((m for m in self.members if m.identity.encoder == name), key=lambda member: member.identity.grid).reader
            for name in self.sources
        ]

    def warm_up(self) -> None:
        """As ``Captioner.warm_up``, for every encoder."""
        for reader in self.readers:
            reader.warm_up()


@torch.inference_mode()
def _describe(
    model: Decoder, vocab: Vocabulary, features: Features, decodings: Sequence[Decoding]
) -> list[list[list[Sentence]]]:
    """By decoding and photo. The decodings share the start, in which a system runs the encoder blocks that it has."""
    start = model.start(features)
    return [
        [
            [Sentence(caption=vocab.decode(h.tokens), log_prob=h.log_prob, score=h.score, tokens=h.tokens) for h in own]
            for own in beam_search(model, features, **dataclasses.asdict(decoding), start=start)
        ]
        for decoding in decodings
    ]
