"""Time and memory of the stages as the number of photos grows, and an estimate for a million photos.

    python bench/growth.py [--full] [--coco] [--smoke]

Runs the real stages on 1,000, 4,000 and 8,000 photos (with --full also 32,000): drawn scenes, repeated under new names.
With --coco it measures COCO's size instead, 118,000 photos with 590,000 captions, on random features: the time of the
CNN is in the other measurement, and its memory does not depend on the number of photos. Private memory (Linux's
RssAnon) excludes the pages of memory-mapped files, which the system can reclaim; other systems report only the total.
"""

import argparse
import itertools
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from ruamel.yaml import YAML

from captionlab.core.files import read_json, read_jsonl, write_json, write_jsonl
from captionlab.core.records import DATASET, FEATURES, TIMINGS
from common import ROOT, figure, load, options, publish, section

ENCODER = "efficientnet_lite0"
COMMANDS: Mapping[str, tuple[str, ...]] = {
    "clean_captions": (),
    "build_vocab": (),
    "extract_features": (ENCODER,),
    "train_baseline": ("lite0",),
    "evaluate": (),
}
COCO_COMMANDS: Mapping[str, tuple[str, ...]] = {
    "download": (),
    "clean_captions": (),
    "build_vocab": (),
    "train_baseline": ("lite0",),
    "train_attention": ("lite2",),
    "evaluate": (),
}
COCO_SIZES = (20_000, 59_000, 118_000)
COCO_PART = 24  # one photo in 24 is for validation, and one for test
CHANNELS = 64  # of the random features
LIMIT = 4_000  # MB of private memory per stage
SHOWN = ("extract_features", "train_baseline", "evaluate")
COLUMNS = (
    "stage", "photos", "seconds", "ms per additional photo", "relative to the first", "private MB"
)  # fmt: skip
MILLION = 1_000_000
SHARD = 16_384  # photos
POOLED, GRID = 1280 * 4, 49 * 1280 * 2  # bytes per photo: 1,280 channels in fp32; 49 regions of 1,280 channels in fp16


@dataclass(frozen=True)
class Cost:
    """Time and memory of one stage for a number of photos."""

    photos: int
    seconds: float
    own: float  # private MB, 0 where the system does not report it


def _params(folder: Path, photos: int, *, coco: bool = False) -> None:
    """A small pipeline: one encoder, one system (for COCO two), one epoch, one decoding."""
    yaml = YAML()
    params = yaml.load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    fifth = photos // 5
    params["dataset"]["scenes"] |= {"train": photos - 2 * fifth, "val": fifth, "test": fifth}
    params["dataset"]["source"] = str(ROOT / "assets/scenes")
    params["extract_features"]["encoders"] = {ENCODER: {"grid": 7 if coco else 0}}
    params["training"]["epochs"] = 1
    params["baseline"] = {"lite0": params["baseline"]["lite0"]}
    params["evaluate"]["beams"] = [5]
    params["report"]["gallery"] = 3
    emptied = ["modified", "attention", "finetune", "ensemble", "retrieval"]
    if coco:
        params["dataset"] |= {"name": "coco", "format": "karpathy", "source": "source"}
        params["attention"]["lite2"]["encoder"] = ENCODER
        emptied.remove("attention")
        params["attention"] = {"lite2": params["attention"]["lite2"]}
    for other in emptied:
        params[other] = {}
        params.ca.items.pop(other, None)  # a comment after the key would separate it from its new value
    with (folder / "params.yaml").open("w", encoding="utf-8") as out:
        yaml.dump(params, out)


def _own_megabytes(process: int) -> float:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except OSError:
        return 0.0
    return next((float(line.split()[1]) / 1e3 for line in status.splitlines() if line.startswith("RssAnon")), 0.0)


def _environment(folder: Path) -> dict[str, str]:
    """Use one MLflow database, outside the projects' folders, for all sizes."""
    home = str(folder.parent)
    return {**os.environ, "DVC_ROOT": home, "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db"}


def run(folder: Path, photos: int, command: str, *items: str) -> Cost:
    """Run one stage in ``folder``; returns its time and memory."""
    own = 0.0
    line = [sys.executable, "-m", "captionlab.cli", command, *items]
    with subprocess.Popen(line, cwd=folder, env=_environment(folder), stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            own = max(own, _own_megabytes(process.pid))
            time.sleep(0.05)
    if process.returncode:
        raise SystemExit(f"captionlab {command} ended with exit code {process.returncode}")
    timing = read_json(folder / TIMINGS / f"{'.'.join([command, *items])}.json")
    return Cost(photos, timing["seconds"], own)


def repeat(drawn: Path, folder: Path, photos: int) -> None:
    """Make a dataset of ``photos`` photos in ``folder`` by repeating that of ``drawn`` under new names."""
    images = folder / DATASET / "images"
    images.mkdir(parents=True)
    rows = []
    for number, row in zip(range(photos), itertools.cycle(read_jsonl(drawn / DATASET / "dataset.jsonl")), strict=False):
        name = f"{number:07d}.jpg"
        os.link(drawn / DATASET / "images" / row["image"], images / name)
        rows.append({**row, "image": name})
    write_jsonl(folder / DATASET / "dataset.jsonl", rows)
    manifest = read_json(drawn / DATASET / "manifest.json")
    write_json(folder / DATASET / "manifest.json", {**manifest, "digest": f"{manifest['digest']} {photos}"})


def coco_source(drawn: Path, folder: Path, photos: int) -> None:
    """The same as ``repeat``, but as a source in Karpathy's format with COCO's proportions, in ``folder/source``."""
    images = folder / "source/Images"
    images.mkdir(parents=True)
    rows = itertools.cycle(read_jsonl(drawn / DATASET / "dataset.jsonl"))
    with (folder / "source/dataset_drawn.json").open("w", encoding="utf-8") as out:
        out.write('{"dataset": "drawn", "images": [\n')  # entry by entry, because all entries fill much memory
        for number, row in zip(range(photos), rows, strict=False):
            name = f"{number:07d}.jpg"
            os.link(drawn / DATASET / "images" / row["image"], images / name)
            split = {0: "val", 1: "test"}.get(number % COCO_PART, "train")
            sentences = [{"raw": caption, "tokens": caption.split()} for caption in row["captions"]]
            entry = {"filename": name, "split": split, "sentences": sentences}
            out.write(f"{',' if number else ''}{json.dumps(entry)}\n")
        out.write("]}\n")


def random_features(folder: Path, photos: int) -> None:
    """A feature store of random numbers with few channels, for photos named by ``coco_source``."""
    store = folder / FEATURES / ENCODER
    store.mkdir(parents=True)
    about = {"encoder": ENCODER, "pixels": 224, "preprocessing": "square_bicubic", "weights": "made up", "grid": 7}
    write_json(store / "images.json", {**about, "images": [f"{number:07d}.jpg" for number in range(photos)]})
    random = np.random.default_rng(1)
    shapes: Mapping[str, tuple[tuple[int, ...], type]] = {
        "pooled.npy": ((photos, CHANNELS), np.float32), "grid.npy": ((photos, 49, CHANNELS), np.float16)
    }  # fmt: skip
    for name, (shape, kind) in shapes.items():
        array = np.lib.format.open_memmap(store / name, "w+", kind, shape)
        for start in range(0, photos, 1000):
            array[start : start + 1000] = random.standard_normal(array[start : start + 1000].shape, np.float32)
        array.flush()


def measure(sizes: Sequence[int], base: int, *, coco: bool = False) -> dict[str, list[Cost]]:
    """Run the stages at every size; returns the costs of each stage in the report."""
    commands = COCO_COMMANDS if coco else COMMANDS
    costs: dict[str, list[Cost]] = {command: [] for command in (COCO_COMMANDS if coco else SHOWN)}
    with tempfile.TemporaryDirectory() as name:
        drawn = Path(name) / "drawn"
        drawn.mkdir()
        _params(drawn, base)
        run(drawn, base, "download")
        # Created here, or the first training would include the time, which exceeds that of a small training.
        code = "import mlflow; mlflow.search_experiments()"
        subprocess.run([sys.executable, "-c", code], check=True, env=_environment(drawn), capture_output=True)
        for photos in sizes:
            folder = Path(name) / str(photos)
            if coco:
                coco_source(drawn, folder, photos)
                random_features(folder, photos)
            else:
                repeat(drawn, folder, photos)
            _params(folder, base, coco=coco)
            for command, items in commands.items():
                cost = run(folder, photos, command, *items)
                print(f"{photos:,} photos, {command}: {cost.seconds} s, {figure(cost.own)} MB private", flush=True)
                if command in costs:
                    costs[command].append(cost)
            shutil.rmtree(folder)
    return costs


def slope(first: Cost, last: Cost, of: str) -> float:
    """The increase per photo of seconds or memory between two sizes."""
    return float(getattr(last, of) - getattr(first, of)) / (last.photos - first.photos)


def plan(costs: Mapping[str, Sequence[Cost]]) -> list[str]:
    """Time, memory and disk space for a million photos, extrapolated."""
    hours = {name: slope(own[0], own[-1], "seconds") * MILLION / 3600 for name, own in costs.items()}
    memory = {
        name: own[-1].own + slope(own[0], own[-1], "own") * (MILLION - own[-1].photos) for name, own in costs.items()
    }
    shards = -(-MILLION // SHARD)
    lines = [
        f"**Estimate for a million photos**, from the growth from the smallest size to the largest. Features on disk: "
        f"{POOLED * MILLION / 1e9:.1f} GB pooled (1,280 numbers of 32 bits), and another {GRID * MILLION / 1e9:.0f} GB "
        "with a 7x7 grid for attention (16 bits).",
        f"Extraction ({ENCODER}): {hours['extract_features']:.1f} hours on this machine; in {shards} shards of "
        f"{SHARD:,} photos, each is {60 * hours['extract_features'] * SHARD / MILLION:.1f} minutes, "
        f"{SHARD * POOLED / 1e6:.0f} MB pooled and {SHARD * GRID / 1e9:.1f} GB of grid; n machines take 1/n of the "
        f"time. An epoch of baseline.lite0 over three fifths of them: {hours['train_baseline']:.1f} hours. "
        f"Evaluating one decoding on a fifth for validation and a fifth for test: {hours['evaluate']:.1f} hours.",
    ]
    if all(own[-1].own for own in costs.values()):
        text = ", ".join(f"{name} {value / 1e3:.1f} GB" for name, value in memory.items())
        lines.append(f"Private memory of the stages, by the same growth: {text}.")
    return lines


def _rows(command: str, costs: Sequence[Cost]) -> Iterator[list[str]]:
    first = slope(costs[0], costs[1], "seconds")
    for before, cost in zip([None, *costs], costs, strict=False):
        further = None if before is None else slope(before, cost, "seconds")
        yield [
            command,
            f"{cost.photos:,}",
            figure(cost.seconds),
            "" if further is None else f"{1e3 * further:.2f}",
            "" if further is None or not first else f"{further / first:.2f}x",
            figure(cost.own) if cost.own else "",
        ]


def verdict(costs: Mapping[str, Sequence[Cost]]) -> str:
    """A sentence on the stages that exceed the memory limit at the largest size."""
    photos = max(own[-1].photos for own in costs.values())
    over = [f"{name} ({figure(own[-1].own)} MB)" for name, own in costs.items() if own[-1].own > LIMIT]
    used = f"these stages use more than {LIMIT:,} MB" if over else f"each stage uses at most {LIMIT:,} MB"
    return f"At {photos:,} photos {used} of private memory{': ' if over else ''}{', '.join(over)}."


def coco(arguments: argparse.Namespace) -> None:
    """Measure the growth up to COCO's size."""
    before = load()
    sizes = (48, 72, 96) if arguments.smoke else COCO_SIZES
    costs = measure(sizes, base=min(sizes[0], 1000), coco=True)
    notes = [
        "Drawn scenes with five captions each, repeated under new names as a source in Karpathy's format; one photo in "
        f"{COCO_PART} is for validation, and one for test. Features are made up, with {CHANNELS} channels in place of "
        "1,280; each system is trained for one epoch, and one decoding (beam 5) is evaluated. One run a size.",
        verdict(costs),
    ]
    rows = [row for command, own in costs.items() for row in _rows(command, own)]
    result = section("growth", "Growth to COCO's size", COLUMNS, rows, notes, load=before)
    publish(replace(result, key="growth.coco"), arguments)


def main() -> None:
    """Measure the growth of time and memory."""
    parser = options(__doc__)
    parser.add_argument("--full", action="store_true", help="measure 32,000 photos too; ten minutes more")
    parser.add_argument("--coco", action="store_true", help="measure COCO's size instead; 20 minutes on two cores")
    arguments = parser.parse_args()
    if arguments.coco:
        coco(arguments)
        return
    before = load()
    sizes = [1000, 4000, 8000, *([32000] if arguments.full else [])]
    if arguments.smoke:
        sizes = [20, 40]
    costs = measure(sizes, base=min(sizes[0], 1000))
    rows = [row for command, own in costs.items() for row in _rows(command, own)]
    notes = [
        "Drawn scenes, repeated under new names: three fifths for training one epoch (baseline.lite0), one fifth each "
        "for validation and test, captioned with beam 5. One run per size. The time per additional photo compares each "
        "size with the one above it; if time is linear, it stays the same. Private memory excludes the pages of "
        "memory-mapped features, which the system can reclaim.",
        *plan(costs),
    ]
    publish(section("growth", "Growth", COLUMNS, rows, notes, load=before), arguments)


if __name__ == "__main__":
    main()
