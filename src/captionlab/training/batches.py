"""From features and captions to batches of tensors. Knows the feature store and the vocabulary; nothing of systems.

Shape letters as in ``models.base``.
"""

import math
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from captionlab.core.devices import to_device
from captionlab.core.records import Caption, Split
from captionlab.core.tokens import PAD
from captionlab.data.store import FeatureStore
from captionlab.data.vocab import Vocabulary
from captionlab.errors import CaptionlabError
from captionlab.models.base import Features

CAPTIONS_MULTIPLE, TOKENS_MULTIPLE = 16, 4  # fixed shapes are multiples of these: few shapes, little padding


class Batch(NamedTuple):
    """Some photos with all their captions; ``tokens_BT[:, :-1]`` is read, ``tokens_BT[:, 1:]`` is to be predicted."""

    features: Features
    tokens_BT: Tensor
    photo_B: Tensor
    positions: Sequence[int]  # of the photos in their CaptionedFeatures
    # This rank's share of the step's words and captions: 1 without torchrun, 0 for a rank that has no photo.
    words_share: float | Tensor = 1.0
    captions_share: float | Tensor = 1.0
    # In a distillation on CUDA: K words for each word to be predicted, and their probabilities by the teacher.
    taught_BTK: tuple[Tensor, Tensor] | None = None

    def map(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        """The same batch with its tensors changed."""
        return self._replace(
            features=self.features.map(change),
            tokens_BT=change(self.tokens_BT),
            photo_B=change(self.photo_B),
            taught_BTK=self.taught_BTK and (change(self.taught_BTK[0]), change(self.taught_BTK[1])),
        )

    def to(self, device: str | torch.device) -> "Batch":
        """The same batch on another device."""
        return self.map(lambda tensor: to_device(tensor, device))

    def tensors(self) -> list[Tensor]:
        """Its tensors, always in the same order."""
        found: list[Tensor] = []

        def keep(tensor: Tensor) -> Tensor:
            found.append(tensor)
            return tensor

        self.map(keep)
        return found


class CaptionTokens:
    """The encoded captions of photos, all in one array of 32 bits a token. An item is the captions of a photo."""

    def __init__(self, photos: Iterable[Iterable[Iterable[int]]]) -> None:
        self._tokens = array("i")
        self._captions = array("q", [0])  # where each caption begins among the tokens, and where the last one ends
        self._photos = array("q", [0])  # where each photo begins among the captions, and where the last one ends
        for captions in photos:
            for tokens in captions:
                self._tokens.extend(tokens)
                self._captions.append(len(self._tokens))
            self._photos.append(len(self._captions) - 1)

    def __len__(self) -> int:
        return len(self._photos) - 1

    def __iter__(self) -> Iterator[list[list[int]]]:
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, photo: int) -> list[list[int]]:
        if photo < 0:
            raise IndexError(photo)
        ends = self._captions[self._photos[photo] : self._photos[photo + 1] + 1]
        return [self._tokens[start:end].tolist() for start, end in pairwise(ends)]


@dataclass(frozen=True)
class SplitCaptions:
    """Photos, such as those of one split that have a caption with words, and their encoded captions."""

    images: Sequence[str]
    tokens: CaptionTokens  # by photo, in the order of ``images``

    @classmethod
    def of(cls, captions: Iterable[Caption], split: Split, vocab: Vocabulary) -> "SplitCaptions":
        """Collect a split's captions, photos sorted, in one pass; raises CaptionlabError if there are none."""
        by_image: dict[str, list[array[int]]] = {}
        for caption in captions:
            if caption.split == split and caption.words:
                by_image.setdefault(caption.image, []).append(array("i", vocab.encode(caption.words)))
        if not by_image:
            raise CaptionlabError(f"split {split} has no captions; a system needs some for training and validation")
        images = sorted(by_image)
        return cls(images, CaptionTokens(by_image[image] for image in images))

    @classmethod
    def without_words(cls, images: Iterable[str]) -> "SplitCaptions":
        """Photos without captions, of which features alone are read."""
        images = list(images)
        return cls(images, CaptionTokens([] for _ in images))


@dataclass(frozen=True)
class CaptionedFeatures:
    """The photos of one split: their rows in the feature store and their encoded captions."""

    store: FeatureStore
    reads_grid: bool  # instead of the pooled vectors alone
    images: Sequence[str]
    rows: np.ndarray[tuple[int], np.dtype[np.int64]]
    captions: CaptionTokens  # by photo, in the order of ``images``
    others: "Sequence[CaptionedFeatures]" = ()  # the same photos with features of further encoders, for an ensemble

    @classmethod
    def of(cls, store: FeatureStore, reads_grid: bool, captions: SplitCaptions) -> "CaptionedFeatures":
        """Find the photos' features; raises CaptionlabError if a photo has none."""
        rows = store.rows(captions.images)
        return cls(store, reads_grid or store.is_cut, captions.images, rows, captions.tokens)

    def features(self, positions: Sequence[int], mirrored: Sequence[bool] = ()) -> Features:
        """Read features of photos, by position, from the memory map; of mirror images where ``mirrored`` is True."""
        rows, grid = self.rows[list(positions)], self.store.grid
        pooled_PD, grid_PRC = self.store.pooled[rows], grid[rows] if self.reads_grid and grid is not None else None
        mirror = self.store.mirrored
        if mirror is not None and any(mirrored):
            turned = np.flatnonzero(mirrored)
            pooled_PD[turned] = mirror.pooled[rows[turned]]
            if grid_PRC is not None and mirror.grid is not None:
                grid_PRC[turned] = mirror.grid[rows[turned]]
        if grid_PRC is not None and self.store.flipped:
            for position in np.flatnonzero(mirrored):
                grid_PRC[position] = _flipped(grid_PRC[position])
        return Features(
            torch.from_numpy(pooled_PD),
            None if grid_PRC is None else torch.from_numpy(grid_PRC),
            tuple(other.features(positions) for other in self.others),
        )

    def batches(
        self, batch_size: int, shuffle_seed: int | None = None, rank: int = 0, ranks: int = 1
    ) -> Iterator[Batch]:
        """One pass over the photos: in order, or shuffled by a seed and mirrored at random, if the store has mirrors.

        With several ``ranks`` each gets a part of the photos of every batch. A rank for which none is left gets one
        photo with a share of 0.
        """
        order = np.arange(len(self.rows))
        mirrored = np.zeros(len(order), dtype=bool)
        if shuffle_seed is not None:
            random = np.random.default_rng(shuffle_seed)
            random.shuffle(order)
            if self.store.mirrored is not None or self.store.flipped:
                # both views equally often: torchvision's RandomHorizontalFlip default
                mirrored = random.random(len(order)) < 0.5
        for i in range(0, len(order), batch_size):
            together = order[i : i + batch_size].tolist()
            positions = together[rank::ranks] or together[:1]
            captions = [self.captions[position] for position in positions]
            sequences = [tokens for own in captions for tokens in own]
            photo_B = [p for p, own in enumerate(captions) for _ in own]
            tokens_BT = np.full((len(sequences), max(map(len, sequences))), PAD)
            for row, tokens in enumerate(sequences):
                tokens_BT[row, : len(tokens)] = tokens
            features = self.features(positions, mirrored[positions].tolist())
            batch = Batch(features, torch.from_numpy(tokens_BT), torch.tensor(photo_B), positions)
            if ranks > 1:
                own, whole = self._size(together[rank::ranks]), self._size(together)
                batch = batch._replace(words_share=own[0] / whole[0], captions_share=own[1] / whole[1])
            yield batch

    def _size(self, positions: Sequence[int]) -> tuple[int, int]:
        """How many words are to be predicted for some photos, ends included, and in how many captions."""
        captions = [tokens for position in positions for tokens in self.captions[position]]
        return sum(map(len, captions)) - len(captions), len(captions)

    def feature_blocks(
        self, encode: Callable[[Features], Features] = lambda features: features, photos_per_block: int = 512
    ) -> Iterator[Tensor]:
        """Everything a Standardise is fitted on, block by block: the grid where it is used, else the pooled vectors.

        ``encode`` turns stored features into those that a system reads.
        """
        for i in range(0, len(self.rows), photos_per_block):
            features = encode(self.features(range(i, min(i + photos_per_block, len(self.rows)))))
            yield features.pooled_PD if features.grid_PRC is None else features.grid_PRC


def with_fixed_shape(batch: Batch, photos: int) -> Batch:
    """Fill a batch up with zeros, so that batches have few different shapes: a CUDA graph is recorded for each.

    There are ``photos`` photos; captions and tokens read are multiples of 16 and 4. What is added is padding: the
    captions have no words.
    """
    captions, tokens = batch.tokens_BT.shape
    tokens_BT = _filled(batch.tokens_BT, 0, _up(captions, CAPTIONS_MULTIPLE))
    return batch._replace(
        features=batch.features.map(lambda tensor: _filled(tensor, 0, photos)),
        tokens_BT=_filled(tokens_BT, 1, 1 + _up(tokens - 1, TOKENS_MULTIPLE)),
        photo_B=_filled(batch.photo_B, 0, _up(captions, CAPTIONS_MULTIPLE)),
    )


def prepared_for(device: str, batches: Iterator[Batch]) -> Iterator[Batch]:
    """The same batches on a device; for a GPU a thread prepares the next ones meanwhile."""
    return (batch.to(device) for batch in (batches if device == "cpu" else prepared_ahead(batches)))


def prepared_ahead(batches: Iterator[Batch], count: int = 2) -> Iterator[Batch]:
    """The same batches; while one is used, a thread prepares the next ``count``."""
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, batches, None) for _ in range(count))
        while (batch := waiting.popleft().result()) is not None:
            waiting.append(thread.submit(next, batches, None))
            yield batch


def _flipped(grid_RC: NDArray[np.float16]) -> NDArray[np.float16]:
    """A square map's rows, left and right exchanged."""
    side = math.isqrt(len(grid_RC))
    return grid_RC.reshape(side, side, -1)[:, ::-1].reshape(grid_RC.shape)


def _up(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _filled(tensor: Tensor, dimension: int, size: int) -> Tensor:
    """Zeros, which are PAD, behind a tensor's rows or columns up to ``size`` of them."""
    missing = list(tensor.shape)
    missing[dimension] = size - tensor.shape[dimension]
    return torch.cat([tensor, tensor.new_zeros(missing)], dimension) if missing[dimension] else tensor
