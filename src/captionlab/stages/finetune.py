"""Stage finetune: a trained configuration goes on by self-critical training or distillation, to its own checkpoint."""

import dataclasses
from pathlib import Path

from captionlab.config import Params, build_system
from captionlab.core.devices import choose_device
from captionlab.core.files import digest_of, sha256_of
from captionlab.core.records import MODELS, VOCAB, Split
from captionlab.data.text import clean
from captionlab.errors import CaptionlabError
from captionlab.finetuning.distillation import Distilling
from captionlab.finetuning.self_critical import SelfCritical
from captionlab.finetuning.validation import CiderJudge
from captionlab.inference.captioner import Captioner
from captionlab.metrics.cider import Words
from captionlab.training.checkpoint import load_checkpoint
from captionlab.training.fit import Material, features_for, fit, settings_of, training_key
from captionlab.training.loop import Finetuning


def finetune(params: Params, root: Path, name: str) -> list[str]:
    """Write ``artifacts/models/finetune/<name>/``; what it began with stays as it is."""
    finetuned = params.finetuned(name)
    config = params.system(finetuned.system, finetuned.config)
    training = params.training_of(config, finetuned.training)
    began_with = root / MODELS / finetuned.system / finetuned.config / "checkpoint.safetensors"
    model, vocab, identity = load_checkpoint(began_with)
    if build_system(identity.system, identity.config) != config:
        raise CaptionlabError(f"{began_with} is of another configuration than params.yaml; train it again (dvc repro)")
    material = Material.of(root, config)
    if vocab.digest != material.vocab.digest:
        raise CaptionlabError(f"{began_with} has another vocabulary than {VOCAB}; train it again (dvc repro)")
    references: dict[Split, dict[str, list[Words]]] = {"train": {}, "val": {}}
    for caption in material.captions:
        if caption.split in references:
            references[caption.split].setdefault(caption.image, []).append(clean(caption.raw, "standard"))
    judge = CiderJudge(vocab, material.val_set, references["val"])
    teachers = [root / MODELS / finetuned.system / name / "checkpoint.safetensors" for name in finetuned.teachers]
    finetuning: Finetuning
    if teachers:
        captioner = Captioner.load_ensemble(teachers)
        if captioner.vocab.digest != vocab.digest:
            raise CaptionlabError(f"{began_with} and its teachers know different words; train them again (dvc repro)")
        captioner.model.to(choose_device(params.device))
        lessons = features_for(root, captioner.sources, material.captions, "train", vocab)
        finetuning = Distilling(captioner.model, lessons, judge, cross_entropy=finetuned.cross_entropy)
    else:
        finetuning = SelfCritical(
            vocab, material.train_set, references["train"], judge,
            samples=finetuned.samples, cross_entropy=finetuned.cross_entropy,
        )  # fmt: skip
    own = {key: value for key, value in dataclasses.asdict(finetuned).items() if key != "training"}
    settings = {**settings_of(config, training), **{f"finetune.{key}": value for key, value in own.items()}}
    base = training_key(params, root, finetuned.system, finetuned.config)
    key = digest_of([name, settings, base, *map(sha256_of, [began_with, *teachers])])
    identity = dataclasses.replace(identity, name=name, training_key=key)
    return fit(params, root, f"finetune.{name}", model, material, training, settings, identity, finetuning)
