"""The candidate captions of every decoding for the photos of a dataset, before one per photo is chosen.

Knows checkpoints, features and decoding; nothing of scores. Shape letters as in ``models.base``.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from captionlab.config import Params
from captionlab.core.files import read_json
from captionlab.core.records import VOCAB, Decoding, Split
from captionlab.core.results import checkpoint_of
from captionlab.core.results.dataset import iter_cleaned
from captionlab.data.vocab import Vocabulary
from captionlab.errors import CaptionlabError
from captionlab.evaluation.reranking import Choose, Pooled, as_ranked
from captionlab.inference.captioner import Captioner, EnsembleCaptioner, Sentence
from captionlab.models.base import Features
from captionlab.training.batches import CaptionedFeatures, SplitCaptions
from captionlab.training.fit import features_for
from captionlab.training.step import measure

PHOTOS_AT_ONCE = 100

Members = tuple[tuple[str, str], ...]  # systems and configurations
AnyCaptioner = Captioner | EnsembleCaptioner
Sources = tuple[tuple[str, bool], ...]  # encoders, and whether a system reads their grids


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The candidates of one system or of an ensemble for the validation and the test photos."""

    images: dict[Split, list[str]]
    encoder: str  # the first one
    ranked: dict[Split, list[list[list[list[Sentence]]]]]  # by block of photos, decoding and photo: best first
    without_photo: list[str]  # by decoding: the caption of the mean training photo
    loss: float  # nats per word on the test split
    accuracy: float

    def chosen(self, split: Split, pooled_PD: Pooled, choose: Choose) -> list[dict[str, Sentence]]:
        """By decoding: one sentence for each image, whose pooled features by ``encoder`` are ``pooled_PD``."""
        images = self.images[split]
        blocks = [
            [dict(zip(images[block], sentences, strict=True)) for sentences in choose(pooled_PD[block], ranked)]
            for block, ranked in zip(_blocks(len(images)), self.ranked[split], strict=True)
        ]
        return [{image: said for part in parts for image, said in part.items()} for parts in zip(*blocks, strict=True)]


class Finder:
    """Decodes the validation and test photos with every decoding."""

    def __init__(self, params: Params, root: Path) -> None:
        self._params, self._root = params, root
        self._vocab = Vocabulary.from_json(read_json(root / VOCAB), str(VOCAB))
        self._captions: dict[Split, SplitCaptions] = {}
        self._means: dict[Sources, Features] = {}

    def search(self, members: Members) -> Candidates:
        """The members' candidates. Raises CaptionlabError if their vocabulary is not that of the data."""
        paths = [checkpoint_of(self._root, system, config) for system, config in members]
        device = self._params.device
        captioner: AnyCaptioner
        if len(paths) == 1:
            captioner = Captioner.load(paths[0], device, Decoding())  # not the one that a former evaluation chose
        else:
            captioner = EnsembleCaptioner.load(paths, device, Decoding())
        if captioner.vocab.digest != self._vocab.digest:
            raise CaptionlabError(
                f"{'.'.join(members[0])} was trained with a vocabulary of {len(captioner.vocab)} words, {VOCAB} holds "
                f"another of {len(self._vocab)}; train it again (dvc repro)"
            )
        data: dict[Split, CaptionedFeatures] = {split: self._features(captioner, split) for split in ("val", "test")}
        test = measure(captioner.model, data["test"], PHOTOS_AT_ONCE // 2, captioner.device)
        mean = self._mean(captioner)
        of_nothing = as_ranked(mean.pooled_PD.numpy(), self._ranked(captioner, mean))
        return Candidates(
            images={split: list(own.images) for split, own in data.items()},
            encoder=data["test"].store.encoder,
            ranked={split: self._by_block(captioner, own) for split, own in data.items()},
            without_photo=[photos[0].caption for photos in of_nothing],
            loss=test.loss,
            accuracy=test.accuracy,
        )

    def _features(self, captioner: AnyCaptioner, split: Split) -> CaptionedFeatures:
        if split not in self._captions:
            self._captions[split] = SplitCaptions.of(iter_cleaned(self._root), split, self._vocab)
        return features_for(self._root, captioner.sources, self._captions[split])

    def _mean(self, captioner: AnyCaptioner) -> Features:
        sources = tuple(captioner.sources.items())
        if sources not in self._means:
            self._means[sources] = _mean_photo(self._features(captioner, "train"))
        return self._means[sources]

    def _by_block(self, captioner: AnyCaptioner, data: CaptionedFeatures) -> list[list[list[list[Sentence]]]]:
        photos = range(len(data.images))
        return [self._ranked(captioner, data.features(photos[block])) for block in _blocks(len(photos))]

    def _ranked(self, captioner: AnyCaptioner, features: Features) -> list[list[list[Sentence]]]:
        return captioner.describe_each(features, self._params.evaluate.decodings)


def _blocks(photos: int) -> list[slice]:
    """Slices of the photos that are captioned at once."""
    return [slice(i, min(i + PHOTOS_AT_ONCE, photos)) for i in range(0, photos, PHOTOS_AT_ONCE)]


def _mean_photo(train: CaptionedFeatures, photos_per_block: int = 512) -> Features:
    """The mean of the training photos' features, which stands for having no photo."""
    pooled_PD = grid_PRC = torch.zeros(())
    count = len(train.images)
    for i in range(0, count, photos_per_block):
        block = train.features(range(i, min(i + photos_per_block, count)))
        pooled_PD = pooled_PD + block.pooled_PD.sum(0, keepdim=True, dtype=torch.float64)
        if block.grid_PRC is not None:
            grid_PRC = grid_PRC + block.grid_PRC.sum(0, keepdim=True, dtype=torch.float32)
    mean_PRC = (grid_PRC / count).half() if grid_PRC.ndim else None  # as the store keeps it
    others = tuple(_mean_photo(other, photos_per_block) for other in train.others)
    return Features((pooled_PD / count).float(), mean_PRC, others)
