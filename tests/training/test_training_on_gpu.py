"""Training on an NVIDIA GPU: every system agrees with a CPU, is deterministic, and resumes to the same bytes."""

import copy
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from captionlab.core.devices import choose_device, gpu_arithmetic
from captionlab.core.records import Decoding
from captionlab.core.results import Epoch
from captionlab.core.tokens import END, PAD, START, UNK
from captionlab.encoders.load import fresh_last_blocks
from captionlab.finetuning.distillation import Distillation
from captionlab.finetuning.self_critical import SelfCritical
from captionlab.finetuning.validation import by_beam_search, references_of
from captionlab.inference.decoding import beam_search, sample
from captionlab.models.base import Decoder
from captionlab.models.build import build_model
from captionlab.training.batches import with_fixed_shape
from captionlab.training.loop import Finetuning, ResumeFile, Splits, train
from captionlab.training.step import measure, packed_loss, padded_loss
from captionlab.training.validation import ValidationCider, greedy
from cuda_systems import NAMES, PHOTOS, digest, subject, train_on, without_dropout
from drawn import draw
from training import subjects

if TYPE_CHECKING:
    from conftest import World

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.filterwarnings("error:training without CUDA graphs"),
]
REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def cuda() -> str:
    """Set up CUDA as every command does."""
    return choose_device("cuda")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The model and history of every system, trained on CUDA."""
    choose_device("cuda")
    return {name: train_on("cuda", name, tmp_path_factory.mktemp("resume")) for name in NAMES}


@pytest.mark.parametrize("name", NAMES)
def test_one_step_has_the_loss_and_gradients_of_a_cpu(name: str) -> None:
    own = subject(name)
    batch = next(iter(own.data.batches(16)))
    on_cpu = without_dropout(own.fresh())
    on_cuda = copy.deepcopy(on_cpu).to("cuda")
    expected = packed_loss(on_cpu, batch, own.training)[0]
    expected.backward()
    with gpu_arithmetic("cuda"):
        for precision in ("high", "highest"):  # TF32 changes single gradients by some percent, so they are in fp32
            torch.set_float32_matmul_precision(precision)
            on_cuda.zero_grad()
            loss, _, _ = padded_loss(on_cuda, with_fixed_shape(batch, 16).to("cuda"), own.training)
            loss.backward()
            assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    ours, theirs = (
        torch.cat([p.grad.flatten().cpu() for p in model.parameters() if p.grad is not None])
        for model in (on_cuda, on_cpu)
    )
    assert (ours - theirs).norm() < 0.01 * theirs.norm()


@pytest.mark.parametrize("name", NAMES)
def test_the_loss_falls_and_validation_equals_that_of_a_cpu(trained: dict[str, Any], name: str) -> None:
    model, result = trained[name]
    losses = [epoch.train_loss for epoch in result.history]
    assert losses[-1] < losses[0]
    on_cuda, on_cpu = (measure(copy.deepcopy(model).to(d), subject(name).few, 16, d) for d in ("cuda", "cpu"))
    assert on_cuda.loss == pytest.approx(on_cpu.loss, abs=1e-4)
    assert on_cuda.words == on_cpu.words


@pytest.mark.parametrize("name", NAMES)
def test_captions_equal_those_of_a_cpu(trained: dict[str, Any], name: str) -> None:
    model, data = trained[name][0].eval(), subject(name).data
    found: list[list[tuple[int, ...]]] = []
    for device in ("cuda", "cpu"):
        features = data.features(range(len(data.images))).to(device)
        ranked = beam_search(copy.deepcopy(model).to(device), features, beam=3, length_penalty=0.7, max_words=20)
        found.append([photo[0].tokens for photo in ranked])
    same = sum(ours == theirs for ours, theirs in zip(*found, strict=True))
    assert same >= 0.95 * len(data.images)
    assert greedy(model, data.features(range(8)).to("cuda"), 20) == [
        list(found[0].tokens)
        for found in beam_search(model, data.features(range(8)).to("cuda"), beam=1, length_penalty=0.7, max_words=20)
    ]
    tokens_BT = sample(model, data.features(range(8)).to("cuda"), count=3, max_words=20)
    assert len(tokens_BT) == 24
    for start, *words in tokens_BT.tolist():
        said = words[: words.index(END)] if END in words else [word for word in words if word != PAD]
        assert start == START
        assert said
        assert not {PAD, START, END, UNK} & {*said}


@pytest.mark.parametrize("name", NAMES)
def test_a_killed_training_resumes_to_the_same_bytes(trained: dict[str, Any], name: str, tmp_path: Path) -> None:
    def kill(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_on("cuda", name, tmp_path, kill)
    torch.manual_seed(99)  # another process has another generator
    model, result = train_on("cuda", name, tmp_path)
    expected, history = trained[name]
    assert result == history
    assert digest(model) == digest(expected)


def test_steps_of_64_photos_repeat(tmp_path: Path) -> None:
    """As presets/gpu.yaml has them: more words than 3,072, from which PyTorch has other kernels for embeddings."""
    (own,) = (each for each in subjects(128) if each.name == "attention.lite2")
    training = replace(own.training, epochs=2, patience=2, batch_size=64)
    digests = set()
    for number in range(2):
        model = own.fresh().to("cuda")
        train(
            model, Splits(own.data, own.few), training, resume_file=ResumeFile(tmp_path / f"{number}.pt", "key"),
            on_epoch=lambda _: None,
        )  # fmt: skip
        digests.add(digest(model))
    assert len(digests) == 1


def test_a_recorded_step_gets_new_random_numbers(tmp_path: Path) -> None:
    """At a learning rate of nearly 0 the losses of epochs differ only by dropout; the same seed repeats them."""
    own = subject("baseline.lite0")
    histories = []
    for number, seed in enumerate((1, 1, 2)):
        training = replace(own.training, learning_rate=1e-30, batch_size=PHOTOS, seed=seed)
        trained = train(
            own.fresh().to("cuda"), Splits(own.data, own.few), training,
            resume_file=ResumeFile(tmp_path / f"{number}.pt", "key"), on_epoch=lambda _: None,
        )  # fmt: skip
        losses = [epoch.train_loss for epoch in trained.history]
        assert min(abs(a - b) for a, b in combinations(losses, 2)) > 1e-5
        histories.append(losses)
    assert histories[0] == histories[1] != histories[2]


@pytest.mark.parametrize("kind", ["self-critical", "distillation", "continued"])
def test_finetuning_runs(world: "World", tiny: Any, settings: Any, tmp_path: Path, kind: str) -> None:
    train_set, val_set = world.split("train", True), world.split("val", True)
    torch.manual_seed(1)
    model, teacher = (build_model(tiny("attention"), vocab=len(world.vocab), pooled=10, channels=7) for _ in range(2))
    generate = by_beam_search(Decoding(beam=3, max_words=7))
    cider = ValidationCider(world.vocab, val_set, references_of(world.captions, "val"), generate)
    finetuning = Finetuning()
    if kind == "distillation":
        distillation = Distillation(teacher.to("cuda"), train_set, cross_entropy=0.3, top_k=8)
        finetuning = Finetuning(distillation.loss, distillation.prepare)
    elif kind == "self-critical":
        references = references_of(world.captions, "train")
        self_critical = SelfCritical(world.vocab, train_set, references, samples=3, max_words=7, cross_entropy=0.3)
        finetuning = Finetuning(self_critical.loss)
    trained = train(
        model.to("cuda"), Splits(train_set, val_set, cider), settings(epochs=2, learning_rate=0.001),
        resume_file=ResumeFile(tmp_path / "resume.pt", "key"), on_epoch=lambda _: None, finetuning=finetuning,
    )  # fmt: skip
    first, last = trained.history
    assert last.val_cider is not None
    assert math.isfinite(last.train_loss)
    assert last.train_reward is not None if kind == "self-critical" else last.train_loss < first.train_loss


def test_distillation_has_the_loss_of_a_cpu(world: "World", tiny: Any, settings: Any) -> None:
    train_set = world.split("train", True)
    torch.manual_seed(1)
    model, teacher = (build_model(tiny("attention"), vocab=len(world.vocab), pooled=10, channels=7) for _ in range(2))
    losses = []
    for device in ("cpu", "cuda"):
        student, batch = copy.deepcopy(model).to(device), next(iter(train_set.batches(6)))
        with gpu_arithmetic(device):
            distillation = Distillation(copy.deepcopy(teacher).to(device), train_set, cross_entropy=0.3, top_k=8)
            if device == "cuda":
                batch = distillation.prepare(with_fixed_shape(batch, 8)).to(device)
            of_device = padded_loss if device == "cuda" else packed_loss
            loss, _, logits_NV = of_device(student, batch, settings())
            losses.append(distillation.loss(student, batch, logits_NV, loss)[0].item())
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)


def test_trained_encoder_blocks_agree_with_a_cpu_and_repeat(tiny: Any, settings: Any, tmp_path: Path) -> None:
    """An attention system with the last two blocks of EfficientNet-Lite0, their batch normalisation frozen."""
    channels, words = 192, 60  # of the map before these blocks
    train_set, val_set = (draw(photos, words=words, pooled=channels, regions=49, seed=photos) for photos in (24, 8))

    def fresh() -> Decoder:
        torch.manual_seed(0)
        blocks = partial(fresh_last_blocks, "efficientnet_lite0_last2", 7)
        return build_model(tiny("attention"), vocab=words, pooled=1280, channels=1280, blocks=blocks)

    def trained(name: str, on_epoch: Callable[[Epoch], None] = lambda _: None) -> str:
        model = fresh().to("cuda")
        training = settings(batch_size=8, learning_rate=0.001, encoder_learning_rate=0.001, max_megabytes=100.0)
        resume_file = ResumeFile(tmp_path / f"{name}.pt", name)
        train(model, Splits(train_set, val_set), training, resume_file=resume_file, on_epoch=on_epoch)
        return digest(model)

    batch = next(iter(train_set.batches(8)))
    on_cpu = without_dropout(fresh())
    on_cuda = copy.deepcopy(on_cpu).to("cuda")
    expected = packed_loss(on_cpu, batch, settings())[0]
    with gpu_arithmetic("cuda"):
        loss, _, _ = padded_loss(on_cuda, with_fixed_shape(batch, 8).to("cuda"), settings())
    assert loss.item() == pytest.approx(expected.item(), abs=1e-3)

    def kill(epoch: Epoch) -> None:
        if epoch.epoch == 2:
            raise KeyboardInterrupt

    unbroken = trained("unbroken")
    with pytest.raises(KeyboardInterrupt):
        trained("killed", kill)
    assert trained("killed") == unbroken == trained("again")


def test_two_processes_compute_the_same_bytes() -> None:
    """The weights of every system, and features."""
    command = [sys.executable, str(REPOSITORY / "tests/cuda_systems.py"), "cuda"]
    path = os.pathsep.join(str(REPOSITORY / folder) for folder in ("src", "bench", "tests"))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])}
    runs = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    try:
        printed = [run.communicate(timeout=300)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    assert [run.returncode for run in runs] == [0, 0]
    first, second = (json.loads(text.splitlines()[-1]) for text in printed)
    assert first == second
    assert set(first) == {*NAMES, "features"}
