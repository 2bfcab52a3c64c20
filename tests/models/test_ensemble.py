"""Ensembles: the mean of the members' probabilities, each with its own features."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch

from captionlab.core.tokens import END, PAD, START
from captionlab.inference.decoding import beam_search
from captionlab.models.base import Decoder, Features
from captionlab.models.build import build_model
from captionlab.models.ensemble import Ensemble
from captionlab.models.params import SystemParams

if TYPE_CHECKING:
    from conftest import World

SYSTEMS = ("baseline", "modified", "attention")
Build = Callable[..., Decoder]


@pytest.fixture
def build(world: "World", tiny: Callable[..., SystemParams]) -> Build:
    def model(system: str, seed: int = 1) -> Decoder:
        torch.manual_seed(seed)
        built = build_model(tiny(system), vocab=len(world.vocab), pooled=10, channels=7)
        for parameter in built.parameters():
            parameter.data *= 3  # far from uniform
        return built.eval()

    return model


@pytest.fixture
def features(world: "World") -> Features:
    return world.split("train", grid=True).features(range(6))


@pytest.mark.parametrize("system", SYSTEMS)
def test_an_ensemble_of_one_equals_its_member(build: Build, features: Features, system: str) -> None:
    one = build(system)
    for beam in (1, 3):
        alone, together = (
            beam_search(model, features, beam=beam, length_penalty=0.7, max_words=9)
            for model in (one, Ensemble([one], [0]))
        )
        assert alone == together


def test_each_step_is_the_mean_of_the_members_probabilities(build: Build, features: Features) -> None:
    members = [build("baseline"), build("modified"), build("attention"), build("attention", seed=2)]
    ensemble = Ensemble(members, [0, 0, 0, 0])
    tokens_B = torch.full((6,), START)
    state, states = ensemble.start(features), [member.start(features) for member in members]
    for _ in range(4):
        log_probs_BV, state = ensemble.step(tokens_B, state)
        steps = [member.step(tokens_B, own) for member, own in zip(members, states, strict=True)]
        states = [after for _, after in steps]
        expected_BV = torch.stack([log_probs.exp() for log_probs, _ in steps]).mean(0)
        torch.testing.assert_close(log_probs_BV.exp(), expected_BV)
        assert not torch.allclose(log_probs_BV.exp(), steps[0][0].exp(), atol=1e-3)
        tokens_B = log_probs_BV.argmax(1)


def test_forward_equals_the_steps(build: Build, features: Features) -> None:
    ensemble = Ensemble([build("baseline"), build("attention")], [0, 0])
    tokens_BT = torch.tensor([[START, 5, 6, 7], [START, 8, 4, PAD], [START, 9, 9, 4]])
    photo_B = torch.tensor([0, 2, 5])
    own = Features(features.pooled_PD[photo_B], features.grid_PRC[photo_B] if features.grid_PRC is not None else None)
    whole_BTV = ensemble(features, tokens_BT, photo_B).log_softmax(-1)
    state = ensemble.start(own)
    for t in range(4):
        log_probs_BV, state = ensemble.step(tokens_BT[:, t], state)
        real = tokens_BT[:, t] != PAD
        torch.testing.assert_close(whole_BTV[:, t][real], log_probs_BV[real], atol=1e-4, rtol=1e-4)


def test_the_beam_reorders_the_state_of_every_member(build: Build, features: Features) -> None:
    """The score of each found caption equals the mean of the members' probabilities."""
    ensemble = Ensemble([build("modified"), build("attention")], [0, 0])
    for p, photo in enumerate(beam_search(ensemble, features, beam=4, length_penalty=0.0, max_words=6)):
        for found in photo:
            if len(found.tokens) == 6:  # truncated, so without END
                continue
            tokens_1T = torch.tensor([[START, *found.tokens, END]])
            log_probs_1TV = ensemble(features, tokens_1T[:, :-1], torch.tensor([p])).log_softmax(-1)
            total = log_probs_1TV.gather(2, tokens_1T[:, 1:, None]).sum().item()
            # the search excludes some tokens; the other probabilities are equal
            assert total == pytest.approx(found.log_prob, abs=1e-3)


def test_members_use_their_own_features(build: Build, world: "World") -> None:
    data = world.split("train")
    other = dataclasses.replace(world.split("train", grid=True), rows=data.rows[::-1].copy())
    both = dataclasses.replace(data, others=(other,)).features(range(6)).to("cpu")
    assert both.grid_PRC is None
    members = [build("baseline"), build("attention")]
    ensemble = Ensemble(members, [0, 1])
    log_probs_BV, _ = ensemble.step(torch.full((6,), START), ensemble.start(both))
    alone = [
        member.step(torch.full((6,), START), member.start(own))[0]
        for member, own in zip(members, (data.features(range(6)), other.features(range(6))), strict=True)
    ]
    torch.testing.assert_close(log_probs_BV.exp(), torch.stack(alone).exp().mean(0))
