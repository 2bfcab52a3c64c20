"""How fast photos become features: both source reports' way, the same in batches, and captionlab's engine.

    python bench/extraction.py [--photos FOLDER] [--encoder efficientnet_lite0] [--count 200] [--rounds 3]

Every way decodes and prepares the same photos and gives the same features; the rounds interleave, so that a machine
that slows down slows them all. Prints the median of the rounds.
"""

import argparse
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from captionlab.encoders import Encoder, load_encoder
from captionlab.features import Floats, encode_photos
from captionlab.photos import read_photo

Way = Callable[[Encoder, Sequence[Path]], Floats]


def eager(batch: int) -> Way:
    """PyTorch as it comes, ``batch`` photos at a time; one at a time is how both reports do it."""

    def run(encoder: Encoder, paths: Sequence[Path]) -> Floats:
        parts = []
        for i in range(0, len(paths), batch):
            pixels = np.stack([read_photo(path, encoder.pixels) for path in paths[i : i + batch]])
            with torch.inference_mode():
                parts.append(encoder.network(torch.from_numpy(pixels))[0].numpy())
        return np.concatenate(parts)

    return run


def engine(encoder: Encoder, paths: Sequence[Path]) -> Floats:
    """captionlab's, with the time to compile it."""
    return np.concatenate([pooled_ND for pooled_ND, _ in encode_photos(encoder, "cpu", paths)])


WAYS: dict[str, Way] = {
    "eager PyTorch, one photo at a time": eager(1),
    "eager PyTorch, batches of 32": eager(32),
    "captionlab": engine,
}


def draw_photos(folder: Path, count: int) -> list[Path]:
    """JPEGs of a photo's size and detail: noise with shapes on it."""
    paths = []
    for number in range(count):
        photo = Image.effect_noise((500, 375), 30).convert("RGB")
        for k in range(5):
            x, y = 83 * (number + k) % 400, 57 * (number + 3 * k) % 280
            colour = (61 * (number + k) % 256, 97 * k % 256, 139 * number % 256)
            ImageDraw.Draw(photo).ellipse((x, y, x + 90, y + 90), fill=colour)
        paths.append(folder / f"{number:04d}.jpg")
        photo.save(paths[-1], quality=90)
    return paths


def machine() -> str:
    """The processor, its cores and what computes on them."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    processor = names[0] if names else platform.processor() or platform.machine()
    return f"{processor}, {os.cpu_count()} cores, torch {torch.__version__} with {torch.get_num_threads()} threads"


def main() -> None:
    """Run every way in turn, check that they agree, and print what each needs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; drawn where none is given")
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    encoder = load_encoder(arguments.encoder)
    seconds: dict[str, list[float]] = {name: [] for name in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        if arguments.photos:
            paths = sorted(arguments.photos.glob("*.jpg"))[: arguments.count]
        else:
            paths = draw_photos(Path(folder), arguments.count)
        if not paths:
            raise SystemExit(f"no .jpg in {arguments.photos}")
        for _ in range(arguments.rounds):
            results = []
            for name, way in WAYS.items():
                began = time.perf_counter()
                results.append(way(encoder, paths))
                seconds[name].append(time.perf_counter() - began)
            for other in results[1:]:
                difference = np.abs(other - results[0]).max() / results[0].std()
                assert difference < 1e-3, f"the ways differ by {difference} standard deviations"
    print(f"{len(paths)} photos, {encoder.name} at {encoder.pixels} pixels, median of {arguments.rounds} rounds")
    print(machine())
    slowest = statistics.median(seconds[next(iter(WAYS))])
    for name, times in seconds.items():
        median = statistics.median(times)
        print(f"{name:36} {len(paths) / median:6.1f} img/s   {slowest / median:5.2f}x")


if __name__ == "__main__":
    main()
