"""The candidates of every decoding."""

from typing import TYPE_CHECKING

import pytest
import torch

from captionlab.evaluation.candidates import _mean_photo

if TYPE_CHECKING:
    from conftest import World


@pytest.mark.parametrize("grid", [False, True])
def test_no_photo_is_the_mean_of_the_training_photos(world: "World", grid: bool) -> None:
    train = world.split("train", grid)
    mean, every = _mean_photo(train, photos_per_block=4), train.features(range(6))
    torch.testing.assert_close(mean.pooled_PD, every.pooled_PD.mean(0, keepdim=True))
    assert (mean.grid_PRC is not None) == grid
    if mean.grid_PRC is not None and every.grid_PRC is not None:
        expected_PRC = every.grid_PRC.float().mean(0, keepdim=True)
        torch.testing.assert_close(mean.grid_PRC.float(), expected_PRC, atol=5e-3, rtol=1e-3)
