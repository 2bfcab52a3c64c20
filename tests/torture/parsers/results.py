"""Readers of the outputs of training and evaluation."""

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from captionlab.core.records import CAPTIONS, DATASET, Caption, CaptionedImage
from captionlab.core.results import read_diagnostics, read_evaluation, read_manifest, read_summary, read_training
from captionlab.core.results.dataset import iter_cleaned, iter_dataset, write_cleaned, write_dataset
from captionlab.core.results.further_scores import read_further_scores
from captionlab.core.results.guests import GuestCaptions, read_guest, write_guest
from captionlab.core.results.judgments import JudgedCaption, read_agreements, read_judged, write_judged
from captionlab.core.results.photos import read_attention, read_gallery, read_photo_captions
from results_tree import toys, write_results
from torture.fuzz import Parser, mutate_bytes, mutate_json
from torture.parsers.inputs import BAD_JSON

_MODEL, _EVALUATION = "artifacts/models/baseline/lite0", "artifacts/evaluation"
_KEY, _GUEST = "attention.lite2", "artifacts/models/guests/other"
# The reader of each file, given the project's root.
_READERS: dict[str, Callable[[Path], object]] = {
    "artifacts/dataset/manifest.json": read_manifest,
    "artifacts/dataset/dataset.jsonl": lambda root: list(iter_dataset(root)),
    "artifacts/dataset/judgments.jsonl": read_judged,
    str(CAPTIONS): lambda root: list(iter_cleaned(root)),
    f"{_MODEL}/summary.json": lambda root: read_summary(root / _MODEL),
    f"{_EVALUATION}/scores.json": read_evaluation,
    f"{_EVALUATION}/diagnostics.json": read_diagnostics,
    f"{_EVALUATION}/gallery.json": read_gallery,
    f"{_EVALUATION}/judgments.json": read_agreements,
    f"{_EVALUATION}/further_scores.json": read_further_scores,
    f"{_EVALUATION}/attention/{_KEY}.json": lambda root: read_attention(root, _KEY),
    f"{_EVALUATION}/captions/{_KEY}.jsonl": lambda root: read_photo_captions(root, _KEY),
    f"{_MODEL}/history.csv": lambda root: read_training(root / _MODEL),
    f"{_GUEST}/captions.json": lambda root: read_guest(root, "other"),
}


def _read(name: str, summary: bytes, data: bytes, work: Path) -> None:
    for path, content in ((work / _MODEL / "summary.json", summary), (work / name, data)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    _READERS[name](work)


def parsers() -> list[Parser]:
    """Every reader of results."""
    with tempfile.TemporaryDirectory() as folder:
        write_results(Path(folder), toys(), judged=True)
        write_dataset(Path(folder) / DATASET, [CaptionedImage(image="a.jpg", split="test", captions=("A dog .",))])
        write_cleaned(Path(folder), [Caption(image="a.jpg", split="test", raw="A dog .", words=("a", "dog"))])
        judged = JudgedCaption(judges="experts", image="a.jpg", caption="A dog .", is_reference=False, marks=(1, 4, 2))
        write_judged(Path(folder) / DATASET, [judged])
        (Path(folder) / _GUEST).mkdir(parents=True)
        write_guest(Path(folder) / _GUEST, GuestCaptions(source="other.json", captions={"test": {"a.jpg": "a dog"}}))
        valid = {name: (Path(folder) / name).read_bytes() for name in _READERS}
    summary = valid[f"{_MODEL}/summary.json"]
    return [
        Parser(
            name=f"results, {Path(name).name}", corpus=[content], read=partial(_read, name, summary),
            mutate=mutate_json if name.endswith(".json") else mutate_bytes, special=BAD_JSON,
        )
        for name, content in valid.items()
    ]  # fmt: skip
