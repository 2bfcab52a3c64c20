"""Speed of feature extraction: one photo at a time as in both reports, in batches, and by captionlab's engine.

    python bench/extraction.py [--photos FOLDER] [--encoder efficientnet_lite0] [--count 200] [--rounds 3] [--smoke]

Checks that all implementations give the same features of the same photos.
"""

import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from os import cpu_count
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from captionlab.core.devices import choose_device
from captionlab.data.photos import read_photo
from captionlab.encoders.engines import Floats, OnnxEngine, TorchEngine
from captionlab.encoders.extraction import encode_photos
from captionlab.encoders.load import Encoder, load_encoder
from common import interleave, load, options, publish, section

ALONE, BATCHES, RAW, OURS = (
    "eager PyTorch, one photo at a time",
    "eager PyTorch, batches of 32, DataLoader",
    "the engine without decoding",
    "captionlab",
)
TARGETS = {ALONE: 7, BATCHES: 6, RAW: 0.75}  # speed-up of captionlab on two cores
REPEATS = 10  # passes over the photos per round for the fast implementations


class _Photos(Dataset[Tensor]):
    def __init__(self, paths: Sequence[Path], encoder: Encoder) -> None:
        self._paths, self._pixels, self._interpolation = paths, encoder.pixels, encoder.interpolation

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Tensor:
        return torch.from_numpy(read_photo(self._paths[index], self._pixels, self._interpolation).copy())


def alone(encoder: Encoder, device: str, paths: Sequence[Path]) -> Floats:
    """Features as both reports compute them: one photo at a time."""
    photos = _Photos(paths, encoder)
    with torch.inference_mode():
        alone_1HW3 = (photos[number].unsqueeze(0).to(device) for number in range(len(photos)))
        return np.concatenate([encoder.network(photo_1HW3)[0].cpu().numpy() for photo_1HW3 in alone_1HW3])


def batches(encoder: Encoder, device: str, paths: Sequence[Path]) -> Floats:
    """Features as in PyTorch's tutorials: a DataLoader with one worker per core."""
    loader = DataLoader(_Photos(paths, encoder), batch_size=32, num_workers=cpu_count() or 1)
    with torch.inference_mode():
        return np.concatenate([encoder.network(photos.to(device))[0].cpu().numpy() for photos in loader])


def raw(encoder: Encoder, device: str, paths: Sequence[Path]) -> Callable[[], Floats]:
    """The upper limit: the engine alone, on decoded photos, with the same number of threads."""
    engine = OnnxEngine(encoder) if device == "cpu" else TorchEngine(encoder, device)
    pixels = np.stack([read_photo(path, encoder.pixels, encoder.interpolation) for path in paths])
    chunks = [pixels[i : i + engine.batch] for i in range(0, len(pixels), engine.batch)]

    def run() -> Floats:
        with ThreadPoolExecutor(cpu_count() if device == "cpu" else 1) as pool:
            return np.concatenate([pooled_ND for pooled_ND, _ in pool.map(engine, chunks)])

    return run


def ours(encoder: Encoder, device: str, paths: Sequence[Path]) -> Floats:
    """captionlab's extraction, including the time to compile the network."""
    return np.concatenate([pooled_ND for pooled_ND, _ in encode_photos(encoder, device, paths)])


def draw_photos(folder: Path, count: int) -> list[Path]:
    """JPEGs with the size and detail of photos: shapes on noise."""
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


def main() -> None:
    """Check that all implementations agree and measure their speed."""
    parser = options(__doc__)
    parser.add_argument("--photos", type=Path, help="a folder of JPEGs; default: generated photos")
    parser.add_argument("--encoder", default="efficientnet_lite0")
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    before, count = load(), 8 if arguments.smoke else arguments.count
    device = choose_device(arguments.device)
    encoder = load_encoder(arguments.encoder)
    encoder.network.to(device)
    with tempfile.TemporaryDirectory() as folder:
        paths = sorted(arguments.photos.glob("*.jpg"))[:count] if arguments.photos else draw_photos(Path(folder), count)
        if not paths:
            raise SystemExit(f"no .jpg in {arguments.photos}")
        kilobytes = sum(path.stat().st_size for path in paths) / len(paths) / 1e3
        often = list(paths) * REPEATS
        engine = raw(encoder, device, often)
        few = paths[:8]
        expected, tolerance = alone(encoder, device, few), 1e-3 if device == "cpu" else 0.1  # fp16 on CUDA
        for found in (batches(encoder, device, few), engine()[: len(few)], ours(encoder, device, few)):
            difference = np.abs(found - expected).max() / expected.std()
            assert difference < tolerance, f"the implementations differ by {difference} standard deviations"
        workloads = {
            ALONE: lambda: float(len(alone(encoder, device, paths))),
            BATCHES: lambda: float(len(batches(encoder, device, paths))),
            RAW: lambda: float(len(engine())),
            OURS: lambda: float(len(ours(encoder, device, often))),
        }
        rates = interleave(workloads, arguments.rounds)
    rows = [
        [
            name,
            rates[name].text(),
            *([rates[OURS].over(rates[name]).text("x"), f"{TARGETS[name]:g}x"] if name in TARGETS else ["", ""]),
        ]
        for name in workloads
    ]
    notes = [
        f"{len(paths)} photos of {kilobytes:.0f} kB, {encoder.name} at {encoder.pixels} pixels, including decoding "
        f"except in the row of the engine. captionlab and the engine process them {REPEATS} times per round, and "
        "captionlab's time includes compiling the network. All implementations give the same features, within 0.001 of "
        "their standard deviation on the CPU."
    ]
    columns = ["implementation", "photos per second", "speed-up of captionlab", "target on two cores"]
    publish(section("extraction", "Extraction", columns, rows, notes, load=before, device=device), arguments)


if __name__ == "__main__":
    main()
