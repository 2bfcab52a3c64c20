"""Batches: order, shapes and contents."""

import dataclasses
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from captionlab.core.records import Caption
from captionlab.core.tokens import PAD
from captionlab.errors import CaptionlabError
from captionlab.training.batches import (
    Batch,
    CaptionedFeatures,
    CaptionTokens,
    SplitCaptions,
    prepared_ahead,
    with_fixed_shape,
)

if TYPE_CHECKING:
    from conftest import World


def captions_of(world: "World", batches: list[Batch]) -> Counter[tuple[str, str]]:
    """(image, caption) of every row; the image is identified by its features."""
    found: Counter[tuple[str, str]] = Counter()
    for batch in batches:
        for tokens, photo in zip(batch.tokens_BT.tolist(), batch.photo_B.tolist(), strict=True):
            pooled = batch.features.pooled_PD[photo].numpy()
            (row,) = np.flatnonzero((world.store.pooled == pooled).all(1))
            found[world.store.images[row], world.vocab.decode(tokens[1:])] += 1
    return found


@pytest.mark.parametrize("shuffle", [None, 7])
@pytest.mark.parametrize("photos", [1, 4, 100])
def test_every_caption_occurs_once_with_its_photo(world: "World", photos: int, shuffle: int | None) -> None:
    batches = list(world.split("train").batches(photos, shuffle))
    assert len(batches) == -(-6 // photos)
    expected = Counter((c.image, " ".join(c.words)) for c in world.captions if c.split == "train")
    assert captions_of(world, batches) == expected
    assert all(batch.tokens_BT[:, -1].ne(PAD).any() for batch in batches)  # no wider than its longest caption


def test_the_seed_decides_the_order(world: "World") -> None:
    def order(seed: int | None) -> list[list[float]]:
        return [batch.features.pooled_PD[:, 0].tolist() for batch in world.split("train").batches(2, seed)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    in_order = world.store.pooled[world.store.rows([f"train{i}.jpg" for i in range(6)]), 0]
    assert [value for batch in order(None) for value in batch] == in_order.tolist()


def test_the_grid_is_read_only_where_it_is_used(world: "World") -> None:
    with_grid, without = (world.split("val", grid).features([2, 0]) for grid in (True, False))
    assert world.store.grid is not None
    assert with_grid.grid_PRC is not None
    expected = world.store.grid[world.store.rows(["val2.jpg", "val0.jpg"])]
    assert torch.equal(with_grid.grid_PRC, torch.from_numpy(expected))
    assert without.grid_PRC is None


def test_training_uses_mirror_images_at_random(world: "World") -> None:
    assert world.store.grid is not None
    mirror = dataclasses.replace(world.store, pooled=world.store.pooled + 100, grid=world.store.grid + 100)
    data = dataclasses.replace(world.split("train", True), store=dataclasses.replace(world.store, mirrored=mirror))

    def turned(seed: int | None) -> list[bool]:
        found: list[bool] = []
        for batch in data.batches(4, seed):
            plain = data.features(batch.positions)
            assert batch.features.grid_PRC is not None
            assert plain.grid_PRC is not None
            by_pooled, by_grid = (
                [(ours - theirs).amax() > 50 for ours, theirs in zip(seen, true, strict=True)]
                for seen, true in (
                    (batch.features.pooled_PD, plain.pooled_PD),
                    (batch.features.grid_PRC, plain.grid_PRC),
                )
            )
            assert by_pooled == by_grid
            found += map(bool, by_pooled)
        return found

    chances = [turned(seed) for seed in range(20)]
    assert 30 < sum(map(sum, chances)) < 90  # of 120
    assert turned(3) == chances[3]
    assert not any(turned(None))


def test_feature_blocks_have_every_photo_once(world: "World") -> None:
    for grid in (False, True):
        data = world.split("train", grid)
        whole = data.features(range(6))
        blocks = torch.cat(list(data.feature_blocks(photos_per_block=4)))
        assert torch.equal(blocks, whole.pooled_PD if whole.grid_PRC is None else whole.grid_PRC)


def test_caption_tokens_round_trip() -> None:
    photos = [[[1, 70_000, 2], [1, 2]], [], [[1]]]
    tokens = CaptionTokens(iter(photos))
    assert list(tokens) == photos
    assert (len(tokens), tokens[0], tokens[2]) == (3, photos[0], photos[2])
    for place in (3, -1):
        with pytest.raises(IndexError):
            tokens[place]


def test_captions_of_a_photo_keep_their_order(world: "World") -> None:
    """The captions of a photo are not adjacent, and photos are in another order than their features."""
    own = [caption for caption in world.captions if caption.split == "train"]
    mixed = [*own[1::2], *own[::2]][::-1]
    data = CaptionedFeatures.of(world.store, False, SplitCaptions.of(mixed, "train", world.vocab))
    assert list(data.images) == sorted({caption.image for caption in own})
    for image, captions in zip(data.images, data.captions, strict=True):
        assert captions == [world.vocab.encode(caption.words) for caption in mixed if caption.image == image]


def test_captions_are_kept_as_tokens_alone(world: "World") -> None:
    """COCO's captions as records would take a gigabyte and more."""
    texts = (f"a dog {'x' * 1000} {number}" for number in range(10_000))
    captions = (Caption(image="a.jpg", split="train", raw=text, words=tuple(text.split())) for text in texts)
    tracemalloc.start()
    kept = SplitCaptions.of(captions, "train", world.vocab)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(kept.tokens[0]) == 10_000
    assert peak < 3_000_000  # the texts alone are 10 MB


def test_captions_without_words_are_left_out(world: "World") -> None:
    captions = [*world.captions, Caption(image="train9.jpg", split="train", raw="...", words=())]
    assert "train9.jpg" not in SplitCaptions.of(captions, "train", world.vocab).images


def test_a_split_without_captions_is_refused(world: "World") -> None:
    empty = dataclasses.replace(world, captions=[c for c in world.captions if c.split != "val"])
    with pytest.raises(CaptionlabError, match="split val has no captions"):
        empty.split("val")


def test_a_photo_without_features_is_refused(world: "World") -> None:
    stranger = Caption(image="stranger.jpg", split="val", raw="a dog", words=("a", "dog"))
    captions = SplitCaptions.of([*world.captions, stranger], "val", world.vocab)
    with pytest.raises(CaptionlabError, match=r"no features of stranger\.jpg"):
        CaptionedFeatures.of(world.store, False, captions)


def test_fixed_shape_batches_have_few_shapes_and_the_same_captions(world: "World") -> None:
    data = world.split("train", True)
    batches = list(data.batches(4, 7))
    filled = [with_fixed_shape(batch, photos=4) for batch in batches]
    assert {batch.tokens_BT.shape[0] for batch in filled} == {16}
    assert {(batch.tokens_BT.shape[1] - 1) % 4 for batch in filled} == {0}
    for plain, batch in zip(batches, filled, strict=True):
        captions, tokens = plain.tokens_BT.shape
        assert [len(tensor) for tensor in batch.features.map(torch.clone)[:2] if tensor is not None] == [4, 4]
        assert torch.equal(batch.tokens_BT[:captions, :tokens], plain.tokens_BT)
        assert torch.equal(batch.photo_B[:captions], plain.photo_B)
        assert not batch.tokens_BT[captions:].any()
        assert not batch.tokens_BT[:, tokens:].any()
        photos = len(plain.positions)
        assert torch.equal(batch.features.pooled_PD[:photos], plain.features.pooled_PD)
        assert batch.positions == plain.positions
        again = with_fixed_shape(batch, photos=4)
        assert [tensor.shape for tensor in again.tensors()] == [tensor.shape for tensor in batch.tensors()]


def test_batches_prepared_ahead_are_the_same_in_the_same_order(world: "World") -> None:
    data = world.split("train")
    for count in (1, 2, 9):
        ahead = [batch.positions for batch in prepared_ahead(data.batches(1, 5), count)]
        assert ahead == [batch.positions for batch in data.batches(1, 5)]


def test_errors_of_the_preparing_thread_reach_the_consumer(world: "World") -> None:
    def broken() -> Iterator[Batch]:
        yield from world.split("train").batches(3)
        raise CaptionlabError("no more")

    batches = prepared_ahead(broken())
    assert len([next(batches), next(batches)]) == 2
    with pytest.raises(CaptionlabError, match="no more"):
        next(batches)
