"""From features and captions to tensors. Knows the feature store and the vocabulary; nothing of systems.

Shape letters as in ``models.base``.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from captionlab.core.records import Caption, Split
from captionlab.core.tokens import PAD
from captionlab.data.store import FeatureStore
from captionlab.data.vocab import Vocabulary
from captionlab.errors import CaptionlabError
from captionlab.models.base import Features


class Batch(NamedTuple):
    """Some photos with all their captions; ``tokens_BT[:, :-1]`` is read, ``tokens_BT[:, 1:]`` is to be said."""

    features: Features
    tokens_BT: Tensor
    photo_B: Tensor
    positions: Sequence[int]  # of the photos in their CaptionedFeatures
    words_share: float = 1.0  # of all words said in this step: less where ranks share it, 0 for one that has no photo
    captions_share: float = 1.0

    def to(self, device: str) -> "Batch":
        """The same batch on another device."""
        features, tokens_BT, photo_B = self.features.to(device), self.tokens_BT.to(device), self.photo_B.to(device)
        return self._replace(features=features, tokens_BT=tokens_BT, photo_B=photo_B)


@dataclass(frozen=True)
class CaptionedFeatures:
    """The photos of one split: their rows in the store and their encoded captions."""

    store: FeatureStore
    use_grid: bool
    images: Sequence[str]  # sorted
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    captions: Sequence[Sequence[Sequence[int]]]  # photo, caption, token
    others: "Sequence[CaptionedFeatures]" = ()  # the same photos as further encoders saw them, for an ensemble

    @classmethod
    def of(
        cls, store: FeatureStore, use_grid: bool, captions: Sequence[Caption], split: Split, vocab: Vocabulary
    ) -> "CaptionedFeatures":
        """Collect a split's photos that have a caption with words; none at all is a CaptionlabError."""
        by_image: dict[str, list[list[int]]] = {}
        for caption in captions:
            if caption.split == split and caption.words:
                by_image.setdefault(caption.image, []).append(vocab.encode(caption.words))
        if not by_image:
            raise CaptionlabError(f"split {split} has no captions; a system needs some to learn and to stop by")
        images = sorted(by_image)
        return cls(store, use_grid, images, store.rows(images), [by_image[image] for image in images])

    def features(self, positions: Sequence[int], mirrored: Sequence[bool] = ()) -> Features:
        """Read the features of some photos, by position, from the memory map; of the ``mirrored``, as mirror images."""
        rows, grid = self.rows[list(positions)], self.store.grid
        pooled_PD, grid_PRC = self.store.pooled[rows], grid[rows] if self.use_grid and grid is not None else None
        mirror = self.store.mirrored
        if mirror is not None and any(mirrored):
            turned = np.flatnonzero(mirrored)
            pooled_PD[turned] = mirror.pooled[rows[turned]]
            if grid_PRC is not None and mirror.grid is not None:
                grid_PRC[turned] = mirror.grid[rows[turned]]
        return Features(
            torch.from_numpy(pooled_PD),
            None if grid_PRC is None else torch.from_numpy(grid_PRC),
            tuple(other.features(positions) for other in self.others),
        )

    def batches(
        self, batch_size: int, shuffle_seed: int | None = None, rank: int = 0, ranks: int = 1
    ) -> Iterator[Batch]:
        """Go once over the photos: in order, or shuffled by a seed and some of them mirrored, where the store can.

        Of several ``ranks`` each has its photos of every batch; one for which none is left has a photo of no weight.
        """
        order = np.arange(len(self.rows))
        mirrored = np.zeros(len(order), dtype=bool)
        if shuffle_seed is not None:
            random = np.random.default_rng(shuffle_seed)
            random.shuffle(order)
            if self.store.mirrored is not None:
                mirrored = random.random(len(order)) < 0.5
        for i in range(0, len(order), batch_size):
            together = order[i : i + batch_size].tolist()
            positions = together[rank::ranks] or together[:1]
            sequences = [tokens for position in positions for tokens in self.captions[position]]
            photo_B = [p for p, position in enumerate(positions) for _ in self.captions[position]]
            tokens_BT = torch.full((len(sequences), max(map(len, sequences))), PAD)
            for row, tokens in enumerate(sequences):
                tokens_BT[row, : len(tokens)] = torch.tensor(tokens)
            features = self.features(positions, mirrored[positions].tolist())
            batch = Batch(features, tokens_BT, torch.tensor(photo_B), positions)
            if ranks > 1:
                own, whole = self._size(together[rank::ranks]), self._size(together)
                batch = batch._replace(words_share=own[0] / whole[0], captions_share=own[1] / whole[1])
            yield batch

    def _size(self, positions: Sequence[int]) -> tuple[int, int]:
        """How many words are to be said of some photos, ends included, and in how many captions."""
        captions = [tokens for position in positions for tokens in self.captions[position]]
        return sum(map(len, captions)) - len(captions), len(captions)

    def feature_blocks(self, photos_per_block: int = 512) -> Iterator[Tensor]:
        """Everything a Standardise is fitted on, block by block: the grid where it is used, else pooled."""
        for i in range(0, len(self.rows), photos_per_block):
            features = self.features(range(i, min(i + photos_per_block, len(self.rows))))
            yield features.pooled_PD if features.grid_PRC is None else features.grid_PRC
