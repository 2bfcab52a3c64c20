"""Warm starts from another checkpoint: which weights are copied."""

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
import torch
from torch import nn

from builders import untrained
from captionlab.core.tokens import END
from captionlab.data.vocab import Vocabulary
from captionlab.encoders.network import LastBlocks, Parts, PooledMap
from captionlab.errors import CaptionlabError
from captionlab.models.base import Decoder
from captionlab.models.build import build_model
from captionlab.models.params import SystemParams
from captionlab.training.checkpoint import Checkpoint
from captionlab.training.warm_start import warm_start

if TYPE_CHECKING:
    from conftest import World

Config = Callable[..., SystemParams]


def blocks() -> LastBlocks:
    return LastBlocks(Parts(trunk=nn.Sequential(), last=nn.Conv2d(7, 7, 1), head=PooledMap()), 2)


def model_of(config: SystemParams, vocab: Vocabulary, seed: int, *, trained_blocks: bool = False) -> Decoder:
    torch.manual_seed(seed)
    return build_model(config, vocab=len(vocab), pooled=10, channels=7, blocks=blocks if trained_blocks else None)


def checkpoint_of(config: SystemParams, vocab: Vocabulary, *, trained_blocks: bool = False) -> Checkpoint:
    made = untrained("attention", config, vocab, blocks=blocks if trained_blocks else None)
    made.model.standardise.mean.fill_(3.0)
    return made


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("trained_blocks", [False, True])
def test_known_words_keep_their_embeddings_and_new_words_get_the_mean(
    trained_blocks: bool, tied: bool, world: "World", tiny: Config
) -> None:
    config = tiny("attention", tied=tied)
    start = checkpoint_of(config, world.vocab, trained_blocks=trained_blocks)
    vocab = Vocabulary.build([["zebra", "dog", "a"]], cleaning="standard", min_count=1).with_words(world.vocab.words)
    model = model_of(config, vocab, 2, trained_blocks=trained_blocks)
    warm_start(model, vocab, start)
    if trained_blocks:
        assert torch.equal(model.state_dict()["blocks.layers.weight"], start.model.state_dict()["blocks.layers.weight"])
    own, theirs = (
        {name.removeprefix("decoder."): tensor for name, tensor in each.state_dict().items()}
        for each in (model, start.model)
    )
    for name in ("embedding.weight", "out.weight", "out.bias"):
        for word in world.vocab.words:
            assert torch.equal(own[name][vocab.index[word]], theirs[name][world.vocab.index[word]]), (name, word)
        assert torch.equal(own[name][vocab.index["zebra"]], theirs[name].mean(0))
    for name in ("key.weight", "cell.weight_hh", "standardise.mean"):
        assert torch.equal(own[name], theirs[name])


def test_reordered_words_give_the_same_captions(world: "World", tiny: Config) -> None:
    """Each word keeps its probability."""
    config = tiny("baseline")
    start = checkpoint_of(config, world.vocab)
    reordered = (*world.vocab.words[:4], *reversed(world.vocab.words[4:]))
    vocab = dataclasses.replace(world.vocab, words=reordered)
    model = model_of(config, vocab, 2)
    warm_start(model, vocab, start)
    features = world.split("test").features([0])
    said = ["black", "dog"]
    tokens = [torch.tensor([v.encode(said)[:-1]]) for v in (vocab, world.vocab)]
    mine, theirs = model.eval()(features, tokens[0])[0], start.model.eval()(features, tokens[1])[0]
    for word in ("black", "dog", "grass"):
        assert mine[:, vocab.index[word]].tolist() == pytest.approx(theirs[:, world.vocab.index[word]].tolist())
    assert mine[:, END].tolist() == pytest.approx(theirs[:, END].tolist())


def test_other_sizes_are_refused(world: "World", tiny: Config) -> None:
    start = checkpoint_of(tiny("attention"), world.vocab)
    for config in (tiny("attention", memory=9), tiny("baseline")):
        with pytest.raises(CaptionlabError, match=r"warm_start: .* has other sizes in attention\.tiny"):
            warm_start(model_of(config, world.vocab, 2), world.vocab, start)
