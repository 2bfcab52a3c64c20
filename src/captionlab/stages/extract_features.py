"""Stage ``extract_features``: memory-mapped features of all photos by one encoder."""

import time
from pathlib import Path

from captionlab.config import Params
from captionlab.core import distributed
from captionlab.core.devices import choose_device
from captionlab.core.records import DATASET, FEATURES
from captionlab.core.results import read_manifest
from captionlab.core.results.dataset import iter_dataset
from captionlab.data.store import MIRRORED, describe
from captionlab.encoders import extraction
from captionlab.encoders.load import load_encoder
from captionlab.errors import CaptionlabError


def extract_features(params: Params, root: Path, encoder: str) -> list[str]:
    """Write ``artifacts/features/<encoder>/``; a killed run resumes where it stopped."""
    wanted = params.extract_features.encoders
    if encoder not in wanted:
        raise CaptionlabError(f"{encoder!r} is not in extract_features.encoders of params.yaml ({', '.join(wanted)})")
    device = choose_device(params.device)
    images = sorted(record.image for record in iter_dataset(root))
    grid = wanted[encoder].grid
    out = root / FEATURES / encoder
    began = time.perf_counter()
    dataset = read_manifest(root).digest
    photos = root / DATASET / "images"
    network = load_encoder(encoder, grid)
    flips = wanted[encoder].mirrored and network.can_flip_map  # training does that, at no cost
    # DVC clears the output folder before a run, so unfinished work is kept elsewhere.
    views = [(out, root / ".resume" / FEATURES.name / encoder, False)]
    if wanted[encoder].mirrored and not flips:
        views.append((out / MIRRORED, root / ".resume" / FEATURES.name / f"{encoder}.mirrored", True))
    for _, work, mirrored in views:
        wanted_photos = extraction.Photos(
            folder=photos, images=images, dataset=dataset, mirrored=mirrored, flipped=flips
        )
        extraction.extract(network, device, wanted_photos, work)
    if not distributed.is_main():
        return []
    rate = len(views) * len(images) / (time.perf_counter() - began)
    for folder, work, _ in views:
        extraction.finish(work, folder)
    return [f"{encoder}: {describe(out)}; {rate:.0f} img/s on {device}"]
