"""One configuration from artifacts to a trained system: what the training stages share.

Knows where the stages leave their files; the loop itself is in ``loop``.
"""

import dataclasses
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from captionlab.config import Params, TrainingParams, build_system
from captionlab.core import distributed
from captionlab.core.devices import choose_device
from captionlab.core.files import digest_of, read_json, sha256_of
from captionlab.core.records import CAPTIONS, CHECKPOINT, FEATURES, MODELS, RELEASED, VOCAB, Decoding, Split
from captionlab.core.results import Epoch, Summary, Training, read_manifest, write_training
from captionlab.core.results.dataset import iter_cleaned
from captionlab.data.store import MIRRORED, FeatureStore, open_store
from captionlab.data.vocab import Vocabulary
from captionlab.encoders.load import fresh_last_blocks, load_encoder
from captionlab.errors import CaptionlabError
from captionlab.metrics.cider import Words
from captionlab.models.base import Decoder, Features, count_parameters, megabytes
from captionlab.models.build import build_model, build_shapes
from captionlab.models.params import SystemParams
from captionlab.tracking import runs
from captionlab.training.batches import CaptionedFeatures, SplitCaptions
from captionlab.training.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from captionlab.training.header import Identity
from captionlab.training.logged import data_settings, dataset_of
from captionlab.training.loop import Finetuning, ResumeFile, Splits, train
from captionlab.training.validation import ValidationCider, greedy
from captionlab.training.warm_start import warm_start


def features_for(root: Path, sources: Mapping[str, bool], captions: SplitCaptions) -> CaptionedFeatures:
    """A split's photos as each encoder of ``sources`` saw them, with its grid where that is wanted."""
    first, *others = (
        CaptionedFeatures.of(open_store(root / FEATURES / encoder), reads_grid, captions)
        for encoder, reads_grid in sources.items()
    )
    return dataclasses.replace(first, others=others)


@dataclass(frozen=True, kw_only=True)
class Material:
    """What a training works with."""

    dataset: str  # its name
    vocab: Vocabulary
    store: FeatureStore
    channels: int  # of the regions that the decoder sees; 0 without regions
    train_set: CaptionedFeatures
    val_set: CaptionedFeatures

    @classmethod
    def of(cls, root: Path, config: SystemParams) -> "Material":
        """Collect what a configuration learns from."""
        vocab = Vocabulary.from_json(read_json(root / VOCAB), str(VOCAB))
        store = open_store(root / FEATURES / config.encoder)
        splits: tuple[Split, ...] = ("train", "val")
        train_set, val_set = (
            CaptionedFeatures.of(store, config.uses_regions, SplitCaptions.of(iter_cleaned(root), split, vocab))
            for split in splits
        )
        name = read_manifest(root).name
        return cls(
            dataset=name, vocab=vocab, store=store, channels=_channels(store), train_set=train_set, val_set=val_set
        )


def _channels(store: FeatureStore) -> int:
    if store.grid is None or not store.side:
        return 0
    if not store.is_cut:
        return store.grid.shape[2]
    with torch.inference_mode():
        _, grid_NRC = fresh_last_blocks(store.encoder, store.side).eval()(torch.zeros(1, *store.grid.shape[1:]))
    return int(grid_NRC.shape[2])


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """One training: a model, what it is trained with, and what identifies the result."""

    key: str  # system.configuration, as the comparison names it
    model: Decoder
    identity: Identity
    training: TrainingParams
    settings: dict[str, object]
    cider: ValidationCider | None
    finetuning: Finetuning | None = None


def train_system(params: Params, root: Path, system: str, name: str) -> list[str]:
    """Train one configuration and write its checkpoint, history and summary; returns the closing lines.

    A killed training resumes after its last whole epoch, to the same result.
    """
    config = params.system(system, name)
    training = params.training_of(config)
    material = Material.of(root, config)
    key = training_key(params, root, system, name)
    experiment = Experiment(
        key=f"{system}.{name}",
        model=fresh_model(config, training, material, f"{system}.{name}", choose_device(params.device)),
        identity=_identity(system, name, config, material, key),
        training=training,
        settings=settings_of(config, training),
        cider=_greedy_cider(root, material, training.cider_photos),
    )
    return fit(params, root, experiment, material)


def _greedy_cider(root: Path, material: Material, photos: int) -> ValidationCider | None:
    """The score of the first ``photos`` validation photos' greedy captions, of up to 30 words.

    The references are cleaned as the system learns them.
    None for fewer than two photos, whose CIDEr-D is always 0.
    """
    if min(photos, len(material.val_set.images)) < 2:
        return None
    references: dict[str, list[Words]] = {}
    for caption in iter_cleaned(root):
        if caption.split == "val":
            references.setdefault(caption.image, []).append(caption.words)
    generate = partial(greedy, max_words=Decoding().max_words)
    return ValidationCider(material.vocab, material.val_set, references, generate, photos)


def fit(params: Params, root: Path, experiment: Experiment, material: Material) -> list[str]:
    """Train a model and write what the comparison reads of it; returns the closing lines.

    Of several ranks the first one tracks, prints and writes.
    """
    system, _, name = experiment.key.partition(".")
    identity, training, model = experiment.identity, experiment.training, experiment.model
    config = build_system(identity.system, identity.config)
    key = identity.training_key
    resume = root / ".resume" / MODELS.name / system / f"{name}.pt"  # DVC clears the output folder before a run
    dataset = params.dataset.name
    tags = {"system": system, "configuration": name, "encoder": config.encoder, "dataset": dataset}
    start = runs.Start(
        name=experiment.key, training_key=key,
        params={**experiment.settings, **data_settings(params, config.encoder)}, tags=tags,
        dataset=dataset_of(root, params.dataset.source),
    )  # fmt: skip
    with (
        runs.open_tracker(root, f"captionlab/{dataset}", start)
        if distributed.is_main()
        else nullcontext(runs.NullTracker())
    ) as tracker:

        def on_epoch(epoch: Epoch) -> None:
            if not distributed.is_main():
                return
            figures = {field: value for field, value in epoch.rounded().items() if field != "epoch"}
            # MLflow's comparison opens with the metric that was logged first.
            tracker.log_epoch(epoch.epoch, {"val_loss": figures["val_loss"], **figures})
            print(f"{experiment.key} {_progress(epoch, training.epochs)}", flush=True)

        trained = train(
            model.to(choose_device(params.device)), Splits(material.train_set, material.val_set, experiment.cider),
            training, resume_file=ResumeFile(resume, key), on_epoch=on_epoch, finetuning=experiment.finetuning,
        )  # fmt: skip
    if not distributed.is_main():
        return []
    out = root / MODELS / system / name
    save_checkpoint(out / CHECKPOINT, Checkpoint(model=model, vocab=material.vocab, identity=identity))
    summary = Summary(
        system=system,
        name=name,
        encoder=config.encoder,
        embedding=config.embedding,
        hidden=config.hidden,
        layers=config.layers,
        parameters=count_parameters(model),
        megabytes=round(megabytes(model), 3),
        epochs=len(trained.history),
        best_epoch=trained.best_epoch,
        training_key=key,
        params=experiment.settings,
        weights={weight: list(tensor.shape) for weight, tensor in model.named_parameters()},
    )
    write_training(out, Training(summary=summary, history=trained.history))
    resume.unlink(missing_ok=True)
    best = trained.history[trained.best_epoch - 1]
    return [
        f"{experiment.key}: {summary.parameters:,} parameters, {megabytes(model):.1f} MB; best of "
        f"{len(trained.history)} epochs is {trained.best_epoch}: validation loss {best.val_loss:.3f}, "
        f"accuracy {best.val_accuracy:.3f}, perplexity {best.val_perplexity:.1f}"
    ]


def _progress(epoch: Epoch, epochs: int) -> str:
    """The line that is printed after an epoch."""
    further = "" if epoch.train_reward is None else f", reward {epoch.train_reward:.3f}"
    further += "" if epoch.val_cider is None else f", CIDEr {epoch.val_cider:.3f}"
    return (
        f"epoch {epoch.epoch}/{epochs}: loss {epoch.train_loss:.3f}, validation {epoch.val_loss:.3f}, "
        f"accuracy {epoch.val_accuracy:.3f}, perplexity {epoch.val_perplexity:.1f}{further}"
    )


def fresh_model(config: SystemParams, training: TrainingParams, material: Material, row: str, device: str) -> Decoder:
    """A system to be trained, its features' standardisation fitted: with fresh weights, or with those it starts from.

    Raises CaptionlabError, before memory is taken, for one that is larger than ``training.max_megabytes``.
    """
    store = material.store
    sizes = {"vocab": len(material.vocab), "pooled": store.pooled.shape[1], "channels": material.channels}
    name, side = store.encoder, store.side
    shapes = build_shapes(config, **sizes, blocks=partial(fresh_last_blocks, name, side) if store.is_cut else None)
    if megabytes(shapes) > training.max_megabytes:
        raise CaptionlabError(
            f"{row} has {count_parameters(shapes):,} parameters and takes {megabytes(shapes):,.1f} MB, more than "
            f"training.max_megabytes ({training.max_megabytes:g}); make it smaller or raise the limit"
        )
    blocks = load_encoder(name, side).network.last if store.is_cut else None
    torch.manual_seed(training.seed)
    model = build_model(config, **sizes, blocks=(lambda: blocks) if blocks is not None else None)
    if training.warm_start == "released":
        warm_start(model, material.vocab, load_checkpoint(RELEASED))
    else:
        with torch.no_grad():
            if store.is_cut:  # on the device, because the trained blocks have to run on every photo
                model.to(device).eval()

                def read(stored: Features) -> Features:
                    encoded = model.encode(stored.to(device))
                    return encoded if config.uses_regions else encoded._replace(grid_PRC=None)

                features = material.train_set.feature_blocks(read, 64)
            else:
                features = material.train_set.feature_blocks()
            model.standardise.fit(features)
    return model


def settings_of(config: SystemParams, training: TrainingParams) -> dict[str, object]:
    """Everything that was set, flat, for MLflow's columns."""
    sizes = {key: value for key, value in dataclasses.asdict(config).items() if key != "training"}
    return {**sizes, **{f"training.{key}": value for key, value in dataclasses.asdict(training).items()}}


def training_key(params: Params, root: Path, system: str, name: str) -> str:
    """Stands for everything that decides the training but the code: equal keys, equal results on one machine."""
    config = params.system(system, name)
    folder = root / FEATURES / config.encoder
    store = open_store(folder)
    array = "grid.npy" if config.uses_regions or store.is_cut else "pooled.npy"
    inputs: dict[str, object] = {
        "dataset": read_manifest(root).digest,
        "captions": sha256_of(root / CAPTIONS),
        "vocabulary": sha256_of(root / VOCAB),
        "features": sha256_of(folder / array),
    }
    if params.training_of(config).warm_start == "released":
        inputs["released"] = sha256_of(RELEASED)
    if store.mirrored is not None:
        inputs["mirrored"] = sha256_of(folder / MIRRORED / array)
    if store.is_cut:
        inputs["encoder"] = [store.weights, store.side, store.flipped]
    return digest_of([system, name, settings_of(config, params.training_of(config)), inputs])


def _identity(system: str, name: str, config: SystemParams, material: Material, key: str) -> Identity:
    store = material.store
    return Identity(
        system=system,
        name=name,
        dataset=material.dataset,
        config=dataclasses.asdict(config),
        encoder=store.encoder,
        preprocessing=store.preprocessing,
        encoder_weights=store.weights,
        grid=store.side if config.uses_regions else 0,
        pooled=store.pooled.shape[1],
        channels=material.channels,
        cleaning=material.vocab.cleaning,
        training_key=key,
    )
