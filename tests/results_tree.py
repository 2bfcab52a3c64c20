"""Generated outputs of training and evaluation, for tests of the report and of ``track``.

The files are written by the functions that the stages use.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from builders import tiny_system, untrained, write_small_manifest
from captionlab.config import SYSTEMS, Params, load_params
from captionlab.core.records import DATASET, EVALUATION, MODELS, Decoding, Given, Neighbours, Scores
from captionlab.core.results import (
    ConfigurationScores,
    DecodedScores,
    Epoch,
    Evaluation,
    FewerReferences,
    Summary,
    Training,
    checkpoint_of,
    write_diagnostics,
    write_evaluation,
    write_training,
)
from captionlab.core.results.further_scores import FurtherScores, write_further_scores
from captionlab.core.results.guests import GuestCaptions, guest_folder, write_guest
from captionlab.core.results.judgments import Agreement, Agreements, Tau, write_agreements
from captionlab.core.results.photos import (
    AttentionMap,
    Gallery,
    GalleryPhoto,
    PhotoCaptions,
    SaidCaption,
    write_attention,
    write_gallery,
    write_photo_captions,
)
from captionlab.data.vocab import Vocabulary
from captionlab.evaluation.diagnostics import Generated, Settings, diagnose
from captionlab.evaluation.gallery import select
from captionlab.training.checkpoint import save_checkpoint
from captionlab.training.fit import settings_of

IMAGES = tuple(f"{i:02}.jpg" for i in range(12))
QUOTED = "an okapi drinks"  # a training caption
SENTINEL = "The quagga <b>sleeps</b> beside a xylophone."  # a reference
BEAMS = (1, 3, 5)  # or number of neighbours for retrieval
CHOSEN = 1  # index of the decoding chosen on validation
GRID = 7  # regions per side


def toys() -> Params:
    """Four configurations of the three systems and one of retrieval, and five photos in the gallery."""
    real = load_params(Path(__file__).parents[1] / "params.yaml")
    lite0 = next(iter(real.baseline.values()))
    none: Any = {system: {} for system in SYSTEMS}
    configurations = {
        "baseline": {"lite0": lite0, "lite2_wide": dataclasses.replace(lite0, hidden=512)},
        "modified": {"lite2": next(iter(real.modified.values()))},
        "attention": {"lite2": next(iter(real.attention.values()))},
    }
    return dataclasses.replace(
        real,
        **none | configurations,
        dataset=dataclasses.replace(real.dataset, name="toys"),
        report=dataclasses.replace(real.report, gallery=5),
    )


Quality = Mapping[str, tuple[float, float]]  # BLEU-4 on validation and on test, by configuration
# attention is best on validation, modified on test.
QUALITY: Quality = {
    "baseline.lite0": (0.16, 0.16), "baseline.lite2_wide": (0.17, 0.17), "modified.lite2": (0.14, 0.22),
    "attention.lite2": (0.2, 0.2), "retrieval.lite2": (0.1, 0.1),
}  # fmt: skip
OTHERS = (0.15, 0.15)
TAUS: dict[str, Tau | None] = {
    name: Tau(tau=place / 10, low=place / 10 - 0.05, high=place / 10 + 0.05)
    for place, name in enumerate(("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider"), 1)
}
FURTHER = {"clip_score": 0.75, "ref_clip_score": 0.0, "spice": None}
AGREEMENTS: Agreements = {
    "experts": Agreement(variant="c", pairs=5664, photos=1000, resamples=50, scores=TAUS | {"meteor": None}),
    "crowd": Agreement(variant="b", pairs=47_288, photos=991, resamples=50, scores=TAUS | {"meteor": None}),
}


def write_results(
    root: Path,
    params: Params,
    quality: Quality = QUALITY,
    *,
    epochs: int = 8,
    key: str = "key",
    judged: bool = False,
) -> None:
    """Write the outputs of the stages up to ``evaluate`` for every configuration.

    ``key`` is the prefix of the trainings' keys; with ``judged``, there are human judgments, scores of people and
    further scores.
    """
    out = root / EVALUATION
    write_small_manifest(
        root, name=params.dataset.name, digest="0123456789abcdef", images=60, captions=300,
        splits={"train": 40, "val": 8, "test": len(IMAGES)},
    )  # fmt: skip
    draw_photos(root / DATASET / "images")
    scored: list[ConfigurationScores] = []
    captions: dict[str, list[PhotoCaptions]] = {}
    for rank, (system, name, config) in enumerate(params.systems()):
        settings = settings_of(config, params.training_of(config))
        made = training(system, name, settings, history(epochs, rank), f"{key}-{name}")
        write_training(root / MODELS / system / name, made)
        write_checkpoint(root, system, name)
        scored.append(configuration_scores(system, name, *quality.get(f"{system}.{name}", OTHERS)))
        captions[f"{system}.{name}"] = photo_captions(scored[-1], rank)
    for name in params.ensemble:
        scored.append(configuration_scores("ensemble", name, *quality.get(f"ensemble.{name}", OTHERS)))
        captions[f"ensemble.{name}"] = photo_captions(scored[-1])
    for name in params.retrieval:
        scored.append(configuration_scores("retrieval", name, *quality.get(f"retrieval.{name}", OTHERS)))
        captions[f"retrieval.{name}"] = photo_captions(scored[-1], said=QUOTED)
    for name, guest in params.guests.items():
        scored.append(guest_scores(name, guest.captions))
        captions[f"guests.{name}"] = photo_captions(scored[-1], said="a dog runs")
        said = {row.image: "a dog runs" for row in captions[f"guests.{name}"]}
        write_guest(guest_folder(root, name), GuestCaptions(source=guest.captions, captions={"test": said}))
    evaluation = Evaluation(
        dataset=params.dataset.name, dataset_digest="0123456789abcdef", idf="references of the scored split",
        configurations=tuple(scored),
    )  # fmt: skip
    if judged:
        evaluation = dataclasses.replace(evaluation, fewer_references=fewer_references(scored))
    write_evaluation(out, evaluation)
    chosen = select({image: 2 - i / 10 for i, image in enumerate(IMAGES)}, params.report.gallery)
    photos = tuple(
        GalleryPhoto(image=image, tercile=tercile, rank=rank + 1, cider=2 - rank / 10)
        for tercile, own in chosen.items()
        for image in own
        for rank in [IMAGES.index(image)]
    )
    best = evaluation.best
    write_gallery(
        out, Gallery(selected_by=best.key, decoding=best.best.decoding.label, ranked=len(IMAGES), photos=photos)
    )
    write_agreements(out, AGREEMENTS if judged else {})
    keys = [own.key for own in scored]
    further = FurtherScores(scores=tuple(FURTHER), configurations=dict.fromkeys(keys, FURTHER))
    write_further_scores(out, further if judged else FurtherScores())
    generated, references = {}, {}
    for own in scored:
        rows, label = captions[own.key], own.best.decoding.label
        write_photo_captions(out, own.key, rows)
        if params.uses_regions(own.system, own.name):
            write_attention(out, own.key, attention_maps(rows, label, photos))
        said = {row.image: row.captions[label].caption for row in rows}
        generated[own.key] = Generated(captions=said, without_photo="a dog")
        references = {row.image: row.references for row in rows}
    often = Settings(shuffles=2, resamples=50, seed=1, recall_references=2)
    write_diagnostics(out, diagnose(generated, references, [tuple(QUOTED.split())], often))


def fewer_references(scored: Sequence[ConfigurationScores]) -> FewerReferences:
    """People with a BLEU-4 of 0.18 and a CIDEr of 1, and every configuration's test scores without METEOR."""
    people = Scores(bleu_1=0.6, bleu_2=0.4, bleu_3=0.3, bleu_4=0.18, rouge_l=0.5, cider=1.0, meteor=None)
    configurations = {
        own.key: tuple(dataclasses.replace(each.test["strict"], meteor=None) for each in own.decodings)
        for own in scored
    }
    return FewerReferences(ways=5, people=people, configurations=configurations)


def write_checkpoint(root: Path, system: str, name: str, seed: int = 1) -> None:
    """An untrained system that knows five words."""
    vocab = Vocabulary.build([("a", "dog", "runs", "on", "grass")], cleaning="standard", min_count=1)
    made = untrained(system, tiny_system(system), vocab, seed=seed, name=name)
    save_checkpoint(checkpoint_of(root, system, name), made)


def history(epochs: int, rank: int = 0) -> tuple[Epoch, ...]:
    """A history whose validation loss rises after three quarters of the epochs; losses rise with rank."""
    return tuple(
        Epoch(
            epoch=epoch, train_loss=(4 + rank) / epoch,
            val_loss=(5 + rank) / epoch + 0.5 * max(0, epoch - 0.75 * epochs),
            train_accuracy=0.5 - 0.3 / epoch, val_accuracy=0.45 - 0.25 / epoch, train_perplexity=9.0,
            val_perplexity=10.0, learning_rate=0.001 / epoch,
        )
        for epoch in range(1, epochs + 1)
    )  # fmt: skip


def training(system: str, name: str, settings: dict[str, Any], history: tuple[Epoch, ...], key: str) -> Training:
    """A training with these settings."""
    sizes = {size: settings[size] for size in ("encoder", "embedding", "hidden", "layers")}
    summary = Summary(
        system=system, name=name, **sizes, parameters=1_000 * settings["hidden"], megabytes=4.8, epochs=len(history),
        best_epoch=min(history, key=lambda epoch: epoch.val_loss).epoch, training_key=key, params=settings, weights={},
    )  # fmt: skip
    return Training(summary=summary, history=history)


def configuration_scores(system: str, name: str, val: float, test: float) -> ConfigurationScores:
    """Scores for three decodings: the second has the given BLEU-4 and is best on validation, the third on test."""
    retrieved = system == "retrieval"
    return ConfigurationScores(
        system=system,
        name=name,
        loss=None if retrieved else round(3 - test, 6),
        accuracy=None if retrieved else round(0.3 + test, 6),
        chosen=CHOSEN,
        decodings=tuple(
            DecodedScores(
                decoding=Neighbours(neighbours=count) if retrieved else Decoding(beam=count),
                val=scores(val - 0.02 * (place != CHOSEN)),
                test={
                    "strict": scores(test + 0.01 * (place - CHOSEN)),
                    "report_a": scores(test + 0.3, strict=False),
                    "report_b": scores(test + 0.2, strict=False),
                },
            )
            for place, count in enumerate(BEAMS)
        ),
    )


def guest_scores(name: str, source: str) -> ConfigurationScores:
    """A guest with the best captions of the test split and none of the validation split."""
    test = {"strict": scores(0.3), "report_a": scores(0.4, strict=False), "report_b": scores(0.4, strict=False)}
    decoded = DecodedScores(decoding=Given(source=source), val=None, test=test)  # type: ignore[arg-type]
    return ConfigurationScores(system="guests", name=name, loss=None, accuracy=None, chosen=0, decodings=(decoded,))


def scores(bleu_4: float, *, strict: bool = True) -> Scores:
    """Scores that increase with BLEU-4. The reports' protocols have only BLEU."""
    bleus = {f"bleu_{n}": round(bleu_4 + 0.1 * (4 - n), 6) for n in (1, 2, 3, 4)}
    rest = {"rouge_l": 0.45, "cider": round(3 * bleu_4, 6)} if strict else {"rouge_l": None, "cider": None}
    return Scores(**bleus, **rest, meteor=None)


def photo_captions(scored: ConfigurationScores, rank: int = 0, said: str | None = None) -> list[PhotoCaptions]:
    """Captions of which a third each are good, short and wrong, depending on the ``rank``."""
    kinds = ("dog", "cat", "boat", "horse", "child", "car")
    labels = [decoded.decoding.label for decoded in scored.decodings]
    rows = []
    for i, image in enumerate(IMAGES):
        kind = kinds[i % 6]
        own = said or (f"a {kind} runs over the grass", f"a {kind} is outside", "a man in a red shirt")[(i + rank) % 3]
        references = (f"A {kind} runs over the grass number {i} .", f"One {kind} on green grass .", SENTINEL)
        captions = dict.fromkeys(labels, SaidCaption(caption=own, log_prob=None if said else -3.0))
        if not said:
            captions["greedy"] = SaidCaption(caption="a a <unk>", log_prob=-4.0)
        rows.append(PhotoCaptions(image=image, references=references, captions=captions))
    return rows


def attention_maps(rows: Sequence[PhotoCaptions], label: str, photos: Sequence[GalleryPhoto]) -> list[AttentionMap]:
    """Attention that moves from left to right over the words, for the photos of the gallery."""
    captions = {row.image: row.captions[label].caption for row in rows}
    found = []
    for photo in photos:
        words = tuple(captions[photo.image].split())
        y, x = np.mgrid[:GRID, :GRID]
        blobs = [np.exp(-((x - place) ** 2 + (y - 3) ** 2) / 3) for place in np.linspace(0, 6, len(words))]
        shares = tuple(tuple(float(value) for value in (blob / blob.sum()).ravel()) for blob in blobs)
        found.append(AttentionMap(image=photo.image, words=words, grid=GRID, maps=shares))
    return found


def draw_photos(folder: Path) -> None:
    """Twelve photos of a blob on a lawn."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    for image in IMAGES:
        photo = Image.new("RGB", (320, 240), tuple(int(c) for c in rng.integers(120, 255, 3)))
        pen = ImageDraw.Draw(photo)
        x, y = (int(c) for c in rng.integers(20, 140, 2))
        pen.ellipse((x, y, x + 90, y + 80), fill=tuple(int(c) for c in rng.integers(0, 120, 3)))
        pen.rectangle((0, 200, 320, 240), fill=(60, 120, 60))
        photo.save(folder / image)
