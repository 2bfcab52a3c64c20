"""Checkpoint and photo in, caption out: the one way from a trained system to sentences.

Knows checkpoints, encoders and decoding; nothing of datasets or scores.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch

from captionlab.checkpoint import Identity, load_checkpoint
from captionlab.decoding import beam_search
from captionlab.devices import choose_device
from captionlab.encoders import PREPROCESSING, Encoder, load_encoder
from captionlab.errors import CaptionlabError
from captionlab.features import encode_photos
from captionlab.models.base import START, Decoder, Features
from captionlab.models.ensemble import Ensemble
from captionlab.vocab import Vocabulary


@dataclass(frozen=True, kw_only=True)
class Sentence:
    """One generated caption. ``log_prob`` is the natural logarithm of its probability, end token included."""

    caption: str
    log_prob: float
    tokens: tuple[int, ...]


@dataclass(frozen=True)
class Captioner:
    """A trained system, ready to describe photos or features."""

    model: Decoder
    vocab: Vocabulary
    identity: Identity  # of an ensemble, its first member's
    members: "tuple[Captioner, ...]" = ()  # of an ensemble

    @classmethod
    def load(cls, path: Path) -> "Captioner":
        """Load a checkpoint; raises CaptionlabError when it is missing, broken or of another preprocessing."""
        model, vocab, identity = load_checkpoint(path)
        if identity.preprocessing != PREPROCESSING:
            raise CaptionlabError(
                f"{path} was trained on photos prepared by {identity.preprocessing!r}, this version has "
                f"{PREPROCESSING!r}; train it again"
            )
        return cls(model, vocab, identity)

    @classmethod
    def load_ensemble(cls, paths: Sequence[Path]) -> "Captioner":
        """Load several checkpoints as one; raises CaptionlabError as ``load`` does, and where vocabularies differ."""
        members = tuple(map(cls.load, paths))
        for path, member in zip(paths, members, strict=True):
            if member.vocab.digest != members[0].vocab.digest:
                raise CaptionlabError(f"{path} and {paths[0]} know different words; an ensemble needs one vocabulary")
        encoders = list(_sources(members))
        model = Ensemble([m.model for m in members], [encoders.index(m.identity.encoder) for m in members])
        return cls(model.eval(), members[0].vocab, members[0].identity, members)

    @property
    def sources(self) -> dict[str, bool]:
        """The encoders whose features it wants, in order, and whether it looks at their grids."""
        return _sources(self.members or (self,))

    def describe(self, features: Features, *, beam: int, length_penalty: float, max_words: int) -> list[list[Sentence]]:
        """The captions of each photo, best first, from features of the encoder the system was trained on."""
        hypotheses = beam_search(self.model, features, beam=beam, length_penalty=length_penalty, max_words=max_words)
        return [
            [Sentence(caption=self.vocab.decode(h.tokens), log_prob=h.log_prob, tokens=h.tokens) for h in photo]
            for photo in hypotheses
        ]

    def caption(
        self, photos: Sequence[Path], *, beam: int = 5, length_penalty: float = 0.7, max_words: int = 30
    ) -> list[list[Sentence]]:
        """The captions of photo files, best first; a photo that cannot be read is a CaptionlabError."""
        sentences = []
        for pooled_ND, grid_NRC in encode_photos(self._encoder, choose_device("auto"), photos):
            grid = torch.from_numpy(grid_NRC).half() if self.identity.grid else None  # as the store keeps it
            features = Features(torch.from_numpy(pooled_ND), grid)
            sentences += self.describe(features, beam=beam, length_penalty=length_penalty, max_words=max_words)
        return sentences

    @torch.inference_mode()
    def attention(self, features: Features, tokens: Sequence[int]) -> list[list[float]]:
        """Where the one photo's regions were looked at before each word: a row of R shares a word.

        Raises CaptionlabError for a system that does not look at regions.
        """
        read_BT = torch.tensor([[START, *tokens]], device=features.pooled_PD.device)
        attention_BTR = self.model.outputs(features, read_BT, torch.zeros_like(read_BT[:, 0])).attention_BTR
        if attention_BTR is None:
            raise CaptionlabError(f"{self.identity.system} has no attention to show")
        return [[round(share, 5) for share in row] for row in attention_BTR[0, : len(tokens)].tolist()]

    @cached_property
    def _encoder(self) -> Encoder:
        encoder = load_encoder(self.identity.encoder, self.identity.grid)
        if encoder.weights_digest != self.identity.encoder_weights:
            raise CaptionlabError(
                f"the weights of {encoder.name} here are not those the system was trained on; train it again"
            )
        return encoder


def _sources(members: Sequence[Captioner]) -> dict[str, bool]:
    found: dict[str, bool] = {}
    for member in members:
        encoder = member.identity.encoder
        found[encoder] = found.get(encoder, False) or bool(member.identity.grid)
    return found
