"""The benchmarks: reference implementations compute the same, operations are counted correctly. Nothing is timed."""

import argparse
import math
import os
import re
import subprocess
import sys
import sysconfig
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import common
import decoding
import gpu
import growth
import training
from captionlab.core.files import write_jsonl
from captionlab.core.tokens import END
from captionlab.data.store import open_store
from captionlab.datasets.karpathy import karpathy
from captionlab.models.base import Decoder
from captionlab.training.batches import CaptionTokens
from captionlab.training.step import teacher_forced_logits
from photo_sets import jpeg

SUBJECTS = {subject.name: subject for subject in training.subjects(2)}


@pytest.mark.parametrize("name", SUBJECTS)
def test_operations_equal_the_count_of_torch(name: str) -> None:
    own = SUBJECTS[name].data.captions
    equal_lengths = CaptionTokens(
        [[*tokens[:5], END] for tokens in captions] for captions in own
    )  # equal lengths, so no padding
    subject = replace(SUBJECTS[name], data=replace(SUBJECTS[name].data, captions=equal_lengths))
    model = subject.fresh().eval()
    (batch,) = subject.data.batches(2)
    # FlopCounterMode does not count oneDNN's fused LSTM.
    with torch.backends.mkldnn.flags(enabled=False), FlopCounterMode(display=False) as counter:
        teacher_forced_logits(model, batch)[1].sum().backward()
    assert counter.get_total_flops() == pytest.approx(training.operations(subject), rel=0.03)


@pytest.mark.parametrize("name", training.PLAIN)
def test_a_reference_with_another_loss_is_refused(name: str) -> None:
    def halved(model: Decoder, batch: training.PlainBatch) -> torch.Tensor:
        return training.PLAIN[name](model, batch) / 2

    training.plain(SUBJECTS[name], training.PLAIN[name], "cpu")
    with pytest.raises(AssertionError, match="plain PyTorch's loss"):
        training.plain(SUBJECTS[name], halved, "cpu")


@pytest.mark.parametrize("name", training.PLAIN)
def test_both_decodings_find_the_same_captions(name: str) -> None:
    subject = SUBJECTS[name]
    model = subject.fresh().eval()
    with torch.no_grad():
        for parameter in model.parameters():  # far from zero, so that no two captions tie
            parameter.mul_(2)
    for penalty in (0.0, 0.7):
        ours = decoding.batched(model, subject.data, 2, penalty, 7)
        assert ours == decoding.one_by_one(model, subject.data, 2, penalty, 7)


def test_a_section_replaces_its_earlier_version(tmp_path: Path) -> None:
    rates = common.interleave({"slow": lambda: 1.0, "fast": lambda: 2.0}, 3)
    assert len(rates["slow"].rounds) == 3
    assert common.Rates((2.0, 8.0, 4.0)).over(common.Rates((1.0, 2.0, 4.0))).text("x") == "2x (1 to 4)"
    arguments = argparse.Namespace(smoke=False, reports=tmp_path)
    for key, value in (("stages", "old"), ("training", "first"), ("stages", "new")):
        common.publish(common.section(key, key.title(), ["a"], [[value]], [], load=0.0), arguments)
    text = (tmp_path / "benchmarks.md").read_text()
    assert text.index("| first |") < text.index("| new |")
    assert "old" not in text
    common.publish(common.section("growth", "Growth", ["a"], [["tried"]], [], load=0.0), argparse.Namespace(smoke=True))
    assert "tried" not in (tmp_path / "benchmarks.md").read_text()


def test_the_estimate_for_a_million_photos_is_extrapolated() -> None:
    costs = [growth.Cost(1000, 11.0, 60.0), growth.Cost(2000, 21.0, 61.0)]  # 10 ms and 1 kB a photo
    text = " ".join(growth.plan(dict.fromkeys(growth.SHOWN, costs)))
    assert "Extraction (efficientnet_lite0): 2.8 hours" in text
    assert "5.1 GB pooled" in text
    assert "extract_features 1.1 GB" in text


def test_the_coco_benchmark_makes_a_dataset_with_features(tmp_path: Path) -> None:
    drawn = tmp_path / "drawn/artifacts/dataset"
    (drawn / "images").mkdir(parents=True)
    (drawn / "images/a.jpg").write_bytes(jpeg(1))
    write_jsonl(drawn / "dataset.jsonl", [{"image": "a.jpg", "captions": ["A dog .", "Two dogs ."]}])
    growth.coco_source(tmp_path / "drawn", tmp_path, 48)
    growth.random_features(tmp_path, 48)
    (tmp_path / "images").mkdir()
    found = karpathy(tmp_path / "source", tmp_path / "images")
    assert {split: len(photos) for split, photos in found.splits.items()} == {"train": 44, "val": 2, "test": 2}
    assert len(found.captions) == 2 * 48
    store = open_store(tmp_path / "artifacts/features" / growth.ENCODER)
    assert store.images == tuple(path.name for path in sorted((tmp_path / "images").iterdir()))
    assert store.grid is not None
    assert store.grid.shape == (48, 49, growth.CHANNELS)
    assert store.pooled.any(1).all()


def test_a_stage_above_the_limit_is_named() -> None:
    costs = {"download": [growth.Cost(118_000, 9.0, 900.0)], "evaluate": [growth.Cost(118_000, 9.0, 5e3)]}
    assert growth.verdict(costs) == (
        "At 118,000 photos these stages use more than 4,000 MB of private memory: evaluate (5,000 MB)."
    )
    assert growth.verdict({"download": costs["download"]}) == (
        "At 118,000 photos each stage uses at most 4,000 MB of private memory."
    )


TESTS = Path(__file__).parent
GPU = TESTS.parent / "bench/gpu.py"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an NVIDIA GPU")
def test_the_gpu_benchmark_without_a_gpu_is_one_error_line(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, GPU, "--reports", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "bench/gpu.py measures an NVIDIA GPU, and this machine has none that PyTorch can use\n"
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_gpu_benchmark_runs_without_an_installation(tmp_path: Path) -> None:
    """On the CPU, at tiny sizes; without the packages that a machine with PyTorch may lack."""
    absent = ("captionlab", "dvc", "efficientnet_lite1", "hypothesis", "matplotlib", "mlflow", "pandas", "pydantic")
    packages = tmp_path / "packages"
    packages.mkdir()
    for path in Path(sysconfig.get_path("purelib")).iterdir():
        if not path.name.startswith(absent) and path.suffix != ".pth":
            (packages / path.name).symlink_to(path)
    reports = tmp_path / "reports"
    reports.mkdir()
    command = [sys.executable, "-S", str(GPU), "--device", "cpu", "--smoke", "--reports", str(reports)]
    environment = {**os.environ, "PYTHONPATH": f"{GPU.parents[1] / 'src'}:{packages}"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    page = done.stdout[done.stdout.index("# Speed on") :].splitlines()
    headings = [line for line in page if line.startswith("#")]
    assert headings == [
        "# Speed on the CPU", "## Extraction", "## Training", "## Captions from features", "## Captions from photos"
    ]  # fmt: skip
    for name in SUBJECTS:
        assert sum(line.startswith(f"| {name} |") for line in page) == 2
    assert not list(reports.iterdir())
    files = sorted(map(str, TESTS.glob("*/test_*_on_gpu.py")))
    command = [sys.executable, "-S", "-m", "pytest", "--collect-only", "-m", "cuda", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=TESTS.parent)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(Path(file).name in done.stdout for file in files)


def test_a_part_of_the_gpu_benchmark_that_fails_does_not_lose_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: gpu.Bench) -> list[str]:
        raise RuntimeError("CUDA error: out of memory\nand more")

    for part in ("extraction_part", "captioning_part", "decoding_part"):
        monkeypatch.setattr(gpu, part, lambda _: ["measured"])
    monkeypatch.setattr(gpu, "training_part", fail)
    first, *_, (page, complete) = gpu.report(gpu.Bench("cpu", gpu.SMOKE, tmp_path), None)
    assert first[0][-2:] == ["", "Not measured yet: Training, Captions from features, Captions from photos"]
    assert page[page.index("## Training") + 2] == "Not measured: CUDA error: out of memory"
    assert page[page.index("## Captions from photos") + 2] == "measured"
    assert not complete


def test_aims_are_judged() -> None:
    assert common.aim("3 s", 3, 2.5) == "The aim is 3 s: reached (2.5)."
    assert common.aim("3 s", 3, 3.5) == "The aim is 3 s: missed (3.5)."
    assert common.aim("0.8", 0.8, 0.9, at_least=True) == "The aim is 0.8: reached (0.9)."
    assert common.aim("0.8", 0.8, 0.7, at_least=True) == "The aim is 0.8: missed (0.7)."
    assert common.aim("15 ms", 15, math.inf) == "The aim is 15 ms: not measured."


def test_captioning_is_timed_without_the_released_captioner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a system with random weights: `make gpu` needs no more files than code and encoders."""
    monkeypatch.setattr(common, "RELEASED", tmp_path / "none")
    said, _, aim = gpu.captioning_part(gpu.Bench("cpu", gpu.SMOKE, tmp_path))
    assert re.fullmatch(r"The aim is 3 s for 200: (reached|missed) \(\S+\)\.", aim)
    assert said.startswith("An attention system with random weights captions ")
