"""Stage ``finetune``: train a configuration further, as before, self-critically or by knowledge distillation."""

import dataclasses
from pathlib import Path

from captionlab.config import FinetuneParams, Params, build_system
from captionlab.core import distributed
from captionlab.core.files import digest_of, sha256_of
from captionlab.core.records import VOCAB, Decoding
from captionlab.core.results import checkpoint_of
from captionlab.core.results.dataset import iter_cleaned
from captionlab.errors import CaptionlabError
from captionlab.finetuning.distillation import Distillation
from captionlab.finetuning.self_critical import SelfCritical
from captionlab.finetuning.validation import by_beam_search, references_of
from captionlab.inference.captioner import EnsembleCaptioner
from captionlab.training.batches import SplitCaptions
from captionlab.training.checkpoint import load_checkpoint
from captionlab.training.fit import Experiment, Material, features_for, fit, settings_of, training_key
from captionlab.training.loop import Finetuning
from captionlab.training.validation import ValidationCider


def finetune(params: Params, root: Path, name: str) -> list[str]:
    """Write ``artifacts/models/finetune/<name>/``; the checkpoint that it starts from is not changed.

    Raises CaptionlabError for self-critical training in several processes, whose rewards are of a whole batch.
    """
    finetuned = params.finetuned(name)
    if finetuned.samples and distributed.world_size() > 1:
        raise CaptionlabError(f"finetune.{name} trains self-critically, in one process; run it without torchrun")
    config = params.system(finetuned.system, finetuned.config)
    training = params.training_of(config, finetuned.training)
    start = checkpoint_of(root, finetuned.system, finetuned.config)
    checkpoint = load_checkpoint(start)
    if build_system(checkpoint.identity.system, checkpoint.identity.config) != config:
        raise CaptionlabError(f"{start} has another configuration than params.yaml; train it again (dvc repro)")
    material = Material.of(root, config)
    if checkpoint.vocab.digest != material.vocab.digest:
        raise CaptionlabError(f"{start} has another vocabulary than {VOCAB}; train it again (dvc repro)")
    teachers = [checkpoint_of(root, finetuned.system, teacher) for teacher in finetuned.teachers]
    own = {key: value for key, value in dataclasses.asdict(finetuned).items() if key != "training"}
    settings = {
        **{key: value for key, value in settings_of(config, training).items() if key != "training.cider_photos"},
        **{f"finetune.{key}": value for key, value in own.items()},
        **{f"finetuning.{key}": value for key, value in dataclasses.asdict(params.finetuning).items()},
    }
    if len(material.val_set.images) < 2:
        raise CaptionlabError(f"finetune.{name} is stopped by CIDEr, which needs two validation photos; add one")
    base = training_key(params, root, finetuned.system, finetuned.config)
    key = digest_of([name, settings, base, *map(sha256_of, [start, *teachers])])
    experiment = Experiment(
        key=f"finetune.{name}",
        model=checkpoint.model,
        identity=dataclasses.replace(checkpoint.identity, name=name, dataset=material.dataset, training_key=key),
        training=training,
        settings=settings,
        cider=ValidationCider(
            material.vocab, material.val_set, references_of(iter_cleaned(root), "val"),
            by_beam_search(params.finetuning.decoding),
        ),
        finetuning=_finetuning(params, root, finetuned, material),
    )  # fmt: skip
    return fit(params, root, experiment, material)


def _finetuning(params: Params, root: Path, finetuned: FinetuneParams, material: Material) -> Finetuning:
    if not finetuned.teachers and not finetuned.samples:
        return Finetuning()
    if not finetuned.teachers:
        self_critical = SelfCritical(
            material.vocab, material.train_set, references_of(iter_cleaned(root), "train"), samples=finetuned.samples,
            max_words=params.finetuning.max_words, cross_entropy=finetuned.cross_entropy,
        )  # fmt: skip
        return Finetuning(self_critical.loss)
    paths = [checkpoint_of(root, finetuned.system, teacher) for teacher in finetuned.teachers]
    teachers = EnsembleCaptioner.load(paths, params.device, Decoding())
    if teachers.vocab.digest != material.vocab.digest:
        raise CaptionlabError(f"{paths[0]} has another vocabulary than {VOCAB}; train it again (dvc repro)")
    captions = SplitCaptions(material.train_set.images, material.train_set.captions)
    teacher_set = features_for(root, teachers.sources, captions)
    distillation = Distillation(
        teachers.model, teacher_set, cross_entropy=finetuned.cross_entropy, top_k=params.finetuning.top_k
    )
    return Finetuning(distillation.loss, distillation.prepare)
