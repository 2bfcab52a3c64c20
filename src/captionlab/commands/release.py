"""From a trained and scored system to the released captioner, and its model card.

Knows where the stages leave their files. Everything the card says of the system stands in the released file too.
"""

import copy
import dataclasses
from itertools import islice
from pathlib import Path
from statistics import median_high

import jinja2
import torch

from captionlab import __version__
from captionlab.commands.in_git import is_in_git
from captionlab.core.files import write_text
from captionlab.core.records import DATASET, FEATURES, Decoding
from captionlab.core.results import (
    ConfigurationScores,
    Evaluation,
    checkpoint_of,
    read_diagnostics,
    read_evaluation,
    read_manifest,
)
from captionlab.core.results.dataset import iter_cleaned
from captionlab.data.photos import stored_size
from captionlab.data.store import open_store
from captionlab.encoders.load import trained_blocks
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner
from captionlab.models.base import Decoder, count_parameters
from captionlab.training.batches import CaptionedFeatures, SplitCaptions
from captionlab.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captionlab.training.header import Release

RELEASED = Path("src/captionlab/released/captioner.safetensors")
CARD = Path("docs/model-card.md")
MAX_MEGABYTES = 25.0
MIN_UNCHANGED = 0.99  # of the validation captions that 16 bits must leave as they are
PHOTOS_AT_ONCE = 100
SIZED = 500  # photos whose median size is that of the photos


def release(root: Path, name: str | None = None, *, unnamed: bool = True) -> list[str]:
    """Write the released captioner and its card from ``name`` (system.config), or from the best on validation.

    Raises CaptionlabError when the system is not trained and scored, does not fit into ``MAX_MEGABYTES``, or has no
    name where ``unnamed`` is not allowed.
    """
    if name is None and not unnamed:
        raise CaptionlabError("name the system to release, such as attention.lite2, or give --yes for the best one")
    evaluation = read_evaluation(root)
    scores = _choose(root, evaluation, name)
    path = checkpoint_of(root, scores.system, scores.name)
    captioner = Captioner.load(path)
    decoding = scores.best.decoding
    assert isinstance(decoding, Decoding), "a system with a checkpoint is decoded by beam search"
    halved = _halved(captioner.model)
    unchanged = round(_same_captions(root, captioner, halved, decoding), 4)
    half = unchanged >= MIN_UNCHANGED
    diagnostics, manifest = read_diagnostics(root), read_manifest(root)
    made = Checkpoint(
        model=halved if half else captioner.model,
        vocab=captioner.vocab,
        identity=captioner.identity,
        decoding=decoding,
        release=Release(
            dataset_digest=evaluation.dataset_digest,
            photos={str(split): count for split, count in manifest.splits.items()},
            scores=scores.best.test["strict"],
            intervals=diagnostics.intervals[scores.key],
            diagnostics=diagnostics.configurations[scores.key],
            bits=16 if half else 32,
            unchanged=unchanged if half else 1.0,
            photo_size=_photo_size(root / DATASET / "images"),
            format=manifest.format,
        ),
    )
    size = sum(_bytes(tensor, half) for tensor in {*made.model.parameters(), *made.model.buffers()}) / 1e6
    if size > MAX_MEGABYTES:
        raise CaptionlabError(
            f"{scores.key} takes {size:.1f} MB, more than the {MAX_MEGABYTES:g} of a release; choose another"
        )
    replaced = _replaced(root / RELEASED)
    lost = [str(path) for path in (RELEASED, CARD) if (root / path).exists() and not is_in_git(root / path)]
    save_checkpoint(root / RELEASED, made, half=half)
    megabytes = (root / RELEASED).stat().st_size / 1e6
    write_text(root / CARD, card(Captioner.load(root / RELEASED), megabytes, "release", str(RELEASED)))
    return [
        *replaced,
        f"{scores.key} is released as {RELEASED} ({size:.1f} MB, {16 if half else 32} bits; {unchanged:.2%} of its "
        f"validation captions unchanged), CIDEr {scores.best.test['strict'].cider:.3f}; its card is {CARD}",
        f"git does not have the replaced {' and '.join(lost)}"
        if lost
        else f"to go back: git restore {RELEASED} {CARD}",
    ]


def _photo_size(folder: Path) -> tuple[int, int]:
    """The median width and height of some of the photos, as they are stored."""
    sizes = [stored_size(path) for path in islice(sorted(folder.iterdir()), SIZED)]
    return median_high(width for width, _ in sizes), median_high(height for _, height in sizes)


def _replaced(path: Path) -> list[str]:
    """A line on the captioner that a release replaces, if there is one that can be read."""
    try:
        identity = load_checkpoint(path).identity
    except CaptionlabError:
        return []
    return [f"replaced: {identity.system}.{identity.name}, trained on {identity.dataset}"]


def card(captioner: Captioner, megabytes: float, command: str, file: str) -> str:
    """The model card of a released captioner, from what stands in its file; the command that wrote both is named."""
    template = Path(__file__).with_name("model_card.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        version=__version__,
        identity=captioner.identity,
        decoding=captioner.decoding,
        release=captioner.release,
        scores=dataclasses.asdict(captioner.release.scores) if captioner.release else {},
        trained_blocks=trained_blocks(captioner.identity.encoder)[1],
        words=len(captioner.vocab),
        min_count=captioner.vocab.min_count,
        parameters=count_parameters(captioner.model),
        megabytes=megabytes,
        command=command,
        file=file,
    ) + "\n"  # fmt: skip


def _choose(root: Path, evaluation: Evaluation, name: str | None) -> ConfigurationScores:
    """The configuration of this name, or the one with the highest CIDEr-D on validation."""
    trained = {
        scores.key: scores
        for scores in evaluation.configurations
        if checkpoint_of(root, scores.system, scores.name).exists()
    }
    if not trained:
        raise CaptionlabError("there is no trained and scored system to release; run dvc repro")
    if name is not None and name.startswith("ensemble."):
        raise CaptionlabError(f"{name} has several checkpoints; name a single system to release")
    if name is not None and name not in trained:
        raise CaptionlabError(f"{name!r} is not trained and scored; there are {', '.join(sorted(trained))}")
    return trained[name] if name else max(trained.values(), key=lambda scores: scores.val_cider)


def _halved(model: Decoder) -> Decoder:
    """The model as 16 bits would store it."""
    halved = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in halved.parameters():
            if parameter.ndim > 1:
                parameter.copy_(parameter.half())
    return halved


def _bytes(tensor: torch.Tensor, half: bool) -> int:
    return tensor.numel() * (2 if half and tensor.ndim > 1 else tensor.element_size())


def _same_captions(root: Path, captioner: Captioner, halved: Decoder, decoding: Decoding) -> float:
    """The share of the validation photos that both models caption alike."""
    store = open_store(root / FEATURES / captioner.identity.encoder)
    captions = SplitCaptions.of(iter_cleaned(root), "val", captioner.vocab)
    data = CaptionedFeatures.of(store, captioner.uses_regions, captions)
    other = dataclasses.replace(captioner, model=halved.to(captioner.device))
    same = 0
    for i in range(0, len(data.images), PHOTOS_AT_ONCE):
        features = data.features(range(i, min(i + PHOTOS_AT_ONCE, len(data.images))))
        found = zip(captioner.describe(features, decoding), other.describe(features, decoding), strict=True)
        same += sum(ours[0].tokens == theirs[0].tokens for ours, theirs in found)
    return same / len(data.images)
