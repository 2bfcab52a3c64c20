"""Stage ``guests``: the captions of another captioner, checked against the photos of the dataset."""

from pathlib import Path

from captionlab.config import Params, entry
from captionlab.core.files import atomic_folder
from captionlab.core.results.dataset import evaluated_photos
from captionlab.core.results.guests import GuestCaptions, guest_folder, write_guest
from captionlab.data.caption_formats import captions_by_split
from captionlab.data.text import clean
from captionlab.errors import some_of


def guests(params: Params, root: Path, name: str) -> list[str]:
    """Write ``artifacts/models/guests/<name>/``.

    Raises CaptionlabError naming the photos that have no caption, and the ids that are no photo of the two splits.
    """
    source = entry("guests", params.guests, name).captions
    captions = captions_by_split(root / source, evaluated_photos(root))
    with atomic_folder(guest_folder(root, name)) as folder:
        write_guest(folder, GuestCaptions(source=source, captions=captions))
    counts = " and ".join(f"{len(own):,} {split}" for split, own in captions.items())
    lines = [f"guests: {name} has captions of {counts} photos"]
    said = {image: caption for own in captions.values() for image, caption in own.items()}
    if wordless := [image for image, caption in said.items() if not clean(caption, "characters")]:
        lines.append(f"guests: warning: {len(wordless):,} captions have no word ({some_of(wordless)})")
    return lines
