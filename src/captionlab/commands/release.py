"""From a trained and scored system to the captioner that ships with the package, and its model card.

Knows where the stages leave their files. Everything the card says of the system stands in the released file too.
"""

import copy
from pathlib import Path
from typing import Any

import jinja2
import torch

from captionlab import __version__
from captionlab.core.files import read_json, write_text
from captionlab.core.records import DATASET, EVALUATION, FEATURES, MODELS
from captionlab.data.store import open_store
from captionlab.errors import CaptionlabError
from captionlab.inference.captioner import Captioner
from captionlab.models.base import Decoder, count_parameters
from captionlab.training.batches import CaptionedFeatures
from captionlab.training.checkpoint import Release, save_checkpoint
from captionlab.training.fit import read_captions

CHECKPOINT = Path("src/captionlab/released/captioner.safetensors")
CARD = Path("docs/model-card.md")
MAX_MEGABYTES = 25.0
MIN_UNCHANGED = 0.99  # of the validation captions that 16 bits must leave as they are
PHOTOS_AT_ONCE = 100


def release(root: Path, name: str | None = None) -> list[str]:
    """Write the released captioner and its card from ``name`` (system.config), or from the best on validation.

    Raises CaptionlabError when the system is not trained and scored, or does not fit into ``MAX_MEGABYTES``.
    """
    scored = read_json(root / EVALUATION / "scores.json")
    entry = _choose(root, scored["systems"], name)
    name = f"{entry['system']}.{entry['config']}"
    captioner = Captioner.load(_checkpoint(root, entry))
    facts = _facts(root, name, entry, scored["signature"])
    halved = _halved(captioner.model)
    facts["unchanged"] = round(_same_captions(root, captioner, halved, facts), 4)
    half = facts["unchanged"] >= MIN_UNCHANGED
    facts["bits"], facts["unchanged"] = (16, facts["unchanged"]) if half else (32, 1.0)
    made = Release(**facts)
    model = halved if half else captioner.model
    size = sum(_bytes(tensor, half) for tensor in {*model.parameters(), *model.buffers()}) / 1e6
    if size > MAX_MEGABYTES:
        raise CaptionlabError(
            f"{name} takes {size:.1f} MB, more than the {MAX_MEGABYTES:g} of a release; choose another"
        )
    save_checkpoint(root / CHECKPOINT, model, captioner.vocab, captioner.identity, made, half=half)
    write_text(root / CARD, card(Captioner.load(root / CHECKPOINT), (root / CHECKPOINT).stat().st_size / 1e6))
    return [
        f"{name} is released as {CHECKPOINT} ({size:.1f} MB, {made.bits} bits; {made.unchanged:.2%} of its validation "
        f"captions unchanged), CIDEr {made.scores['cider']:.3f}; its card is {CARD}"
    ]


def card(captioner: Captioner, megabytes: float) -> str:
    """The model card of a released captioner, from what stands in its file."""
    template = Path(__file__).with_name("model_card.md.j2").read_text(encoding="utf-8")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(template).render(
        version=__version__,
        identity=captioner.identity,
        release=captioner.release,
        words=len(captioner.vocab),
        min_count=captioner.vocab.min_count,
        parameters=count_parameters(captioner.model),
        megabytes=megabytes,
    ) + "\n"  # fmt: skip


def _choose(root: Path, entries: list[dict[str, Any]], name: str | None) -> dict[str, Any]:
    """The entry of this name, or that of the highest CIDEr-D on validation."""
    trained = {f"{entry['system']}.{entry['config']}": entry for entry in entries if _checkpoint(root, entry).exists()}
    if not trained:
        raise CaptionlabError("there is no trained and scored system to release; run dvc repro")
    if name is not None and name not in trained:
        raise CaptionlabError(f"{name!r} is not trained and scored; there are {', '.join(sorted(trained))}")
    return trained[name] if name else max(trained.values(), key=lambda entry: _scores(entry, "val")["cider"])


def _checkpoint(root: Path, entry: dict[str, Any]) -> Path:
    return root / MODELS / entry["system"] / entry["config"] / "checkpoint.safetensors"


def _decoded(entry: dict[str, Any], split: str) -> dict[str, Any]:
    """What the decoding that was chosen on validation did on a split."""
    wanted = (entry["best_decoding"], split, "strict")
    return next(each for each in entry["decodings"] if (each["decoding"], each["split"], each["protocol"]) == wanted)


def _scores(entry: dict[str, Any], split: str) -> dict[str, Any]:
    scores: dict[str, Any] = _decoded(entry, split)["scores"]
    return scores


def _facts(root: Path, name: str, entry: dict[str, Any], signature: dict[str, Any]) -> dict[str, Any]:
    found = read_json(root / EVALUATION / "diagnostics.json")
    return {
        "dataset": signature["name"],
        "dataset_digest": signature["dataset"],
        "photos": read_json(root / DATASET / "manifest.json")["splits"],
        "beam": _decoded(entry, "test")["beam"],
        "length_penalty": float(signature["length_penalty"]),
        "max_words": signature["max_words"],
        "scores": _scores(entry, "test"),
        "intervals": found["intervals"][name],
        "diagnostics": found["systems"][name],
    }


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


def _same_captions(root: Path, captioner: Captioner, halved: Decoder, facts: dict[str, Any]) -> float:
    """The share of the validation photos that both models caption alike."""
    identity = captioner.identity
    store = open_store(root / FEATURES / identity.encoder)
    data = CaptionedFeatures.of(store, bool(identity.grid), read_captions(root), "val", captioner.vocab)
    decoding = {key: facts[key] for key in ("beam", "length_penalty", "max_words")}
    other = Captioner(halved, captioner.vocab, identity)
    same = 0
    for i in range(0, len(data.images), PHOTOS_AT_ONCE):
        features = data.features(range(i, min(i + PHOTOS_AT_ONCE, len(data.images))))
        for ours, theirs in zip(
            captioner.describe(features, **decoding), other.describe(features, **decoding), strict=True
        ):
            same += ours[0].tokens == theirs[0].tokens
    return same / len(data.images)
