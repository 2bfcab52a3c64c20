"""A system with the last blocks of its encoder: outputs, trained weights and frozen statistics."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from captionlab.core.tokens import START
from captionlab.encoders.network import LastBlocks, Parts, PooledMap
from captionlab.errors import CaptionlabError
from captionlab.models.base import Features
from captionlab.models.build import WithEncoder, build_model, random_crops
from captionlab.models.params import SystemParams


def blocks() -> LastBlocks:
    layers = nn.Sequential(nn.Conv2d(3, 7, 3, padding=1, bias=False), nn.BatchNorm2d(7), nn.ReLU())
    return LastBlocks(Parts(trunk=nn.Sequential(), last=layers, head=PooledMap()), 2)


@pytest.fixture(params=["baseline", "modified", "attention"])
def model(request: pytest.FixtureRequest, tiny: Callable[..., SystemParams]) -> WithEncoder:
    torch.manual_seed(0)
    built = build_model(tiny(request.param), vocab=11, pooled=7, channels=7, blocks=blocks)
    assert isinstance(built, WithEncoder)
    return built


def features(photos: int = 3) -> Features:
    random = torch.Generator().manual_seed(0)
    return Features(torch.zeros(photos, 7), torch.rand(photos, 16, 3, generator=random).half())


def tokens(photos: int = 3) -> torch.Tensor:
    return torch.tensor([[START, 5, 6, 7]] * photos)


def test_outputs_equal_the_decoder_on_the_features_of_the_blocks(model: WithEncoder) -> None:
    model.eval()
    seen = model.encode(features())
    assert (seen.pooled_PD.shape, seen.grid_PRC is not None and seen.grid_PRC.shape) == ((3, 7), (3, 4, 7))
    torch.testing.assert_close(model(features(), tokens()), model.decoder(seen, tokens()))


def test_forward_equals_step(model: WithEncoder) -> None:
    model.eval()
    logits_BTV = model(features(), tokens())
    state = model.start(features())
    for t in range(tokens().shape[1]):
        log_probs_BV, state = model.step(tokens()[:, t], state)
        torch.testing.assert_close(log_probs_BV, logits_BTV[:, t].log_softmax(-1))


def test_every_weight_is_trained_and_batch_norm_statistics_are_frozen(model: WithEncoder) -> None:
    model.train()
    before = {name: tensor.clone() for name, tensor in model.blocks.named_buffers()}
    model(features(), tokens()).square().mean().backward()
    assert [name for name, parameter in model.blocks.named_parameters() if parameter.grad is None] == []
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.blocks.named_buffers())
    assert len(model.encoder_parameters()) == 3


def test_crops_are_only_for_training(model: WithEncoder) -> None:
    model.crop = 0.3
    assert torch.equal(model.eval().encode(features()).pooled_PD, model.eval().encode(features()).pooled_PD)
    trained = model.train().encode(features()).pooled_PD
    assert not torch.equal(trained, model.train().encode(features()).pooled_PD)


def test_a_crop_is_a_part_of_the_map() -> None:
    torch.manual_seed(0)
    side = torch.arange(8.0)
    map_NRC = torch.stack(torch.meshgrid(side, side, indexing="ij"), -1).view(1, 64, 2).expand(200, -1, -1)
    cropped = random_crops(map_NRC, 0.25).view(200, 8, 8, 2)
    assert cropped.min() >= 0
    assert cropped.max() <= 7
    steps = cropped[:, 4, 4] - cropped[:, 3, 3]  # rows and columns: the crop's side as a share of the photo's
    torch.testing.assert_close(steps[:, 0], steps[:, 1])
    assert 0.49 < steps.min() < 0.6
    assert 0.9 < steps.max() <= 1.001
    torch.testing.assert_close(random_crops(map_NRC, 1.0), map_NRC)


def test_tokens_with_a_class_token_are_not_cropped() -> None:
    with pytest.raises(CaptionlabError, match=r"training\.crop is for square maps; this encoder gives 50 tokens"):
        random_crops(torch.zeros(2, 50, 3), 0.7)
