"""Checkpoints: round trips, stored properties, and errors for invalid files."""

import dataclasses
import json
import os
import pickle
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from builders import identity, untrained
from captionlab.core.records import Decoding
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner
from captionlab.inference.decoding import beam_search
from captionlab.models.attention.regions import Attention
from captionlab.models.base import Decoder
from captionlab.models.params import AttentionParams, SystemParams
from captionlab.training.checkpoint import add_decoding, load_checkpoint, save_checkpoint

if TYPE_CHECKING:
    from conftest import World

Tiny = Callable[..., SystemParams]
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("baseline", {"layers": 2}), ("baseline", {"image": "par-inject"}), ("modified", {}), ("attention", {}),
    ("attention", {"tied": True}), ("modified", {"kind": "merge"}), ("attention", {"kind": "states"}),
]  # fmt: skip


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "models" / "checkpoint.safetensors"


def save(path: Path, world: "World", config: SystemParams, system: str) -> Decoder:
    made = untrained(system, config, world.vocab, seed=4, deviation=0.7)
    made.model.standardise.fit(world.split("train", isinstance(config, AttentionParams)).feature_blocks())
    save_checkpoint(path, made)
    return made.model


def change(path: Path, **about: Any) -> None:
    """Rewrite the file with a changed description."""
    with safe_open(path, framework="pt") as file:
        now = json.loads(file.metadata()["captionlab"])
    save_file(load_file(path), path, metadata={"captionlab": json.dumps(now | about)})


def resize(path: Path, **sizes: int) -> None:
    """Change the described sizes, but not the weights."""
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["captionlab"])["config"]
    change(path, config=config | sizes)


@pytest.mark.parametrize(("system", "key"), [("baseline", "image"), ("modified", "kind"), ("attention", "kind")])
def test_a_checkpoint_without_a_kind_is_that_of_report_a(
    world: "World", tiny: Tiny, path: Path, system: str, key: str
) -> None:
    model = save(path, world, tiny(system), system)
    config = dataclasses.asdict(tiny(system))
    del config[key]
    change(path, config=config)
    assert type(load_checkpoint(path).model) is type(model)


@pytest.mark.parametrize(("system", "changes"), VARIANTS)
def test_a_reloaded_system_gives_the_same_captions(
    world: "World", tiny: Tiny, path: Path, system: str, changes: dict[str, Any]
) -> None:
    model = save(path, world, tiny(system, **changes), system)
    loaded = load_checkpoint(path)
    assert loaded.vocab == world.vocab
    assert loaded.identity == identity(system, tiny(system, **changes))
    assert (loaded.decoding, loaded.release) == (None, None)
    features = world.split("test", isinstance(model, Attention)).features(range(3))
    said = [beam_search(each, features, beam=3, length_penalty=0.7, max_words=6) for each in (model, loaded.model)]
    assert said[0] == said[1]
    assert len({photo[0].log_prob for photo in said[0]}) == 3  # the captions depend on the photos
    assert not loaded.model.training


@pytest.mark.parametrize(("system", "changes"), VARIANTS)
def test_the_same_system_gives_the_same_bytes(
    world: "World", tiny: Tiny, path: Path, system: str, changes: dict[str, Any]
) -> None:
    files = []
    for _ in range(2):
        save(path, world, tiny(system, **changes), system)
        files.append(path.read_bytes())
    assert files[0] == files[1]
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_a_checkpoint_has_the_permissions_of_any_other_file(world: "World", tiny: Tiny, path: Path) -> None:
    former = os.umask(0o022)
    try:
        save(path, world, tiny("baseline"), "baseline")
        os.umask(0o007)
        add_decoding(path, Decoding(), path.with_name("copy.safetensors"))
    finally:
        os.umask(former)
    modes = [stat.S_IMODE(each.stat().st_mode) for each in (path, path.with_name("copy.safetensors"))]
    assert modes == [0o644, 0o660]


def test_tied_embeddings_are_stored_once(world: "World", tiny: Tiny, path: Path) -> None:
    save(path, world, tiny("attention", tied=True), "attention")
    tensors = load_file(path)
    assert "out.weight" not in tensors
    model: Any = load_checkpoint(path).model
    assert model.out.weight is model.embedding.weight
    assert torch.equal(model.out.weight, tensors["embedding.weight"])


def test_a_vocabulary_of_another_size_is_refused(world: "World", tiny: Tiny, path: Path) -> None:
    save(path, world, tiny("baseline"), "baseline")
    shorter = dataclasses.replace(world.vocab, words=world.vocab.words[:-2])
    change(path, vocabulary=shorter.to_json())
    with pytest.raises(CaptionlabError, match=f"have {len(world.vocab)} words, the vocabulary {len(shorter)}"):
        load_checkpoint(path)


def describe_as(path: Path, about: str) -> None:
    save_file(load_file(path), path, metadata={"captionlab": about})


def drop(path: Path, key: str) -> None:
    with safe_open(path, framework="pt") as file:
        about = json.loads(file.metadata()["captionlab"])
    del about[key]
    describe_as(path, json.dumps(about))


def spoil_other_sizes(path: Path) -> None:
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["captionlab"])["config"]
    change(path, config=config | {"hidden": 9})


def as_format_1(path: Path) -> None:
    """Convert the description to format 1, without dataset and decoding."""
    drop(path, "dataset")
    change(path, format=1)


class Exploit:
    """Creates a file when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda path: path.unlink(), "does not exist; train the system first"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "is not a checkpoint of captionlab"),
        (lambda path: path.write_bytes(b""), "is not a checkpoint of captionlab"),
        (lambda path: path.write_bytes(pickle.dumps(Exploit(path.parent / "sprung"))), "is not a checkpoint"),
        (lambda path: save_file(load_file(path), path), "is not a checkpoint of captionlab"),
        (lambda path: change(path, format=99), "another version of captionlab; train it again"),
        (lambda path: as_format_1(path), "another version of captionlab; train it again"),
        (lambda path: change(path, surprise=1), "is not a checkpoint of captionlab"),
        (lambda path: change(path, system="oracle"), "unknown system 'oracle'"),
        (lambda path: change(path, vocabulary={"words": []}), "is not a valid vocabulary"),
        (spoil_other_sizes, "sizes differ from its configuration"),
        (lambda path: resize(path, hidden=10**6), "sizes differ from its configuration"),
        (lambda path: resize(path, layers=50), "50 layers, but only 11 arrays"),
        (lambda path: describe_as(path, '"a string"'), "its header is not a JSON object"),
        (lambda path: describe_as(path, "[" * 100_000), "is not a checkpoint of captionlab"),
        (lambda path: describe_as(path, "{"), "is not a checkpoint of captionlab"),
        (lambda path: describe_as(path, "{}"), "another version of captionlab"),
        (lambda path: change(path, vocabulary="words"), "is not a valid vocabulary"),
        (lambda path: change(path, config="none"), "config must be a mapping"),
        (lambda path: resize(path, layers=10**9), "baseline.layers must be at most 100"),
        (lambda path: change(path, config={}), "missing key baseline.encoder"),
        (lambda path: change(path, grid="2"), "grid must be an integer"),
        (lambda path: change(path, grid=-1), "grid must be at least 0"),
        (lambda path: change(path, pooled=10**12), "sizes differ from its configuration"),
        (lambda path: change(path, pooled=10**30), "is not a checkpoint of captionlab"),
        (lambda path: change(path, release="none"), "must be a mapping"),
        (lambda path: change(path, release={"bits": 16}), "missing key dataset_digest"),
        (lambda path: change(path, decoding={"beam": "wide"}), "beam must be an integer"),
        (lambda path: change(path, decoding={"beams": 3}), "unknown key beams"),
        (lambda path: drop(path, "encoder"), "missing key encoder"),
        (lambda path: drop(path, "vocabulary"), "is not a valid vocabulary"),
        (lambda path: path.unlink() or path.mkdir(), "is not a checkpoint of captionlab"),
    ],
)  # fmt: skip
def test_other_files_are_refused_in_one_line(
    world: "World", tiny: Tiny, path: Path, spoil: Callable[[Path], object], words: str
) -> None:
    save(path, world, tiny("baseline"), "baseline")
    spoil(path)
    with pytest.raises(CaptionlabError, match=words) as caught:
        Captioner.load(path)
    assert "\n" not in str(caught.value)
    assert not (path.parent / "sprung").exists()


def test_the_chosen_decoding_is_stored_with_the_weights(world: "World", tiny: Tiny, path: Path) -> None:
    """As in the registered model: the same checkpoint with the chosen decoding."""
    save(path, world, tiny("attention"), "attention")
    chosen = Decoding(beam=3, length_penalty=0.2, max_words=9)
    copy = path.with_name("copy.safetensors")
    add_decoding(path, chosen, copy)
    before, after = load_checkpoint(path), load_checkpoint(copy)
    assert (before.decoding, after.decoding) == (None, chosen)
    assert (after.vocab, after.identity) == (before.vocab, before.identity)
    weights = after.model.state_dict()
    assert all(value.equal(weights[name]) for name, value in before.model.state_dict().items())
    with pytest.raises(CaptionlabError, match="does not exist"):
        add_decoding(path.with_name("none.safetensors"), chosen, copy)


def test_unexpected_layers_are_refused(world: "World", tiny: Tiny, path: Path) -> None:
    save(path, world, tiny("baseline", layers=2), "baseline")
    change(path, config=dataclasses.asdict(tiny("baseline")))
    with pytest.raises(CaptionlabError, match=r"the layers of .* differ from its configuration"):
        load_checkpoint(path)


def test_other_preprocessing_is_refused(world: "World", tiny: Tiny, path: Path) -> None:
    save(path, world, tiny("baseline"), "baseline")
    change(path, preprocessing="centre_crop")
    with pytest.raises(CaptionlabError, match=r"centre_crop.*train it again"):
        Captioner.load(path)


def test_attention_is_shown_for_every_word(world: "World", tiny: Tiny, path: Path) -> None:
    save(path, world, tiny("attention"), "attention")
    captioner = Captioner.load(path)
    features = world.split("test", grid=True).features([1])
    maps = captioner.attention(features, (4, 5, 6))
    assert [len(shares) for shares in maps] == [4, 4, 4]
    assert [sum(shares) for shares in maps] == pytest.approx([1] * 3, abs=1e-4)
    assert captioner.attention(features, ()) == []  # a caption may be empty


def test_a_system_without_attention_has_no_maps(world: "World", tiny: Tiny, path: Path) -> None:
    save(path, world, tiny("baseline"), "baseline")
    with pytest.raises(CaptionlabError, match="baseline has no attention"):
        Captioner.load(path).attention(world.split("test").features([0]), (4,))
