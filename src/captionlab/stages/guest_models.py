"""Stage ``guest_models``: a model of the library transformers captions the validation and test photos."""

import time
from pathlib import Path

from tqdm import tqdm

from captionlab.config import Params, entry
from captionlab.core.devices import choose_device
from captionlab.core.files import atomic_folder
from captionlab.core.records import DATASET, TIMINGS, Split
from captionlab.core.results.dataset import evaluated_photos
from captionlab.core.results.guests import GuestCaptions, guest_folder, write_guest
from captionlab.inference.image_to_text import ImageToText


def guest_models(params: Params, root: Path, name: str) -> list[str]:
    """Write ``artifacts/models/guests/<name>/``; the closing line says what a photo costs.

    Raises CaptionlabError when the library, the weights or a photo cannot be read.
    """
    guest = entry("guest_models", params.guest_models, name)
    images = evaluated_photos(root)
    model = ImageToText.load(guest, root, choose_device(params.device))
    photos = [image for own in images.values() for image in own]
    start = time.perf_counter()
    said = model.captions([root / DATASET / "images" / image for image in photos])
    found = dict(zip(photos, tqdm(said, desc=name, total=len(photos), unit="photo", disable=None), strict=True))
    seconds = (time.perf_counter() - start) / max(1, len(photos))
    captions: dict[Split, dict[str, str]] = {
        split: {image: found[image] for image in own} for split, own in images.items() if own
    }
    with atomic_folder(guest_folder(root, name)) as folder:
        write_guest(
            folder,
            GuestCaptions(
                source=guest.model, captions=captions, parameters=model.parameters,
                megabytes=round(model.megabytes, 3),
            ),
        )  # fmt: skip
    return [
        f"guest_models: {name} captioned {len(photos):,} photos in {seconds:.3f} s each; {model.parameters:,} "
        f"parameters, {model.megabytes:.1f} MB; the peak memory is in {TIMINGS}/"
    ]
