"""Artifacts of made-up systems, for the report to render."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from captionlab.config import SYSTEMS, Params, load_params
from captionlab.core import files
from captionlab.evaluation.diagnostics import Said, diagnose
from captionlab.evaluation.gallery import choose

QUOTED = "an okapi drinks"  # a training caption


SENTINEL = "The quagga <b>sleeps</b> beside a xylophone."


def toys() -> Params:
    """Four configurations of the three systems, and five photos in the gallery."""
    real = load_params(Path(__file__).parents[1] / "params.yaml")
    lite0 = next(iter(real.baseline.values()))
    none: Any = {system: {} for system in SYSTEMS}
    toys = {
        "baseline": {"lite0": lite0, "lite2_wide": dataclasses.replace(lite0, hidden=512)},
        "modified": {"lite2": next(iter(real.modified.values()))},
        "attention": {"lite2": next(iter(real.attention.values()))},
    }
    return dataclasses.replace(
        real,
        **none | toys,
        dataset=dataclasses.replace(real.dataset, name="toys"),
        report=dataclasses.replace(real.report, gallery=5),
    )


def build_artifacts(params: Params, root: Path) -> None:
    """Files shaped as the other stages leave them; attention scores best, modified worst."""
    images = [f"{i:02}.jpg" for i in range(12)]
    shown = choose({image: 2 - i / 10 for i, image in enumerate(images)}, params.report.gallery)
    photos: list[dict[str, Any]] = [
        {"image": image, "third": third, "rank": images.index(image) + 1, "cider": 2 - images.index(image) / 10}
        for third, own in shown.items()
        for image in own
    ]
    leader = {"judge": f"attention.{next(iter(params.attention))}", "decoding": "beam 3", "ranked": 12}
    files.write_json(root / "artifacts/evaluation/gallery.json", leader | {"photos": photos})
    draw_photos(root / "artifacts/dataset/images")
    manifest = {
        "name": "toys", "format": "folder", "digest": "0123456789abcdef", "images": 60, "captions": 300,
        "splits": {"train": 40, "val": 8, "test": 12}, "problems": [],
    }  # fmt: skip
    files.write_json(root / "artifacts/dataset/manifest.json", manifest)
    systems = []
    for rank, (system, config, shape) in enumerate(params.systems()):
        quality = {"baseline": 0.5 + 0.02 * rank, "modified": 0.42, "attention": 0.6}[system]
        folder = root / "artifacts/models" / system / config
        sizes = {"encoder": shape.encoder, "embedding": shape.embedding, "hidden": shape.hidden, "layers": shape.layers}
        summary = {
            "system": system, "config": config, **sizes, "parameters": 1_200_000 + 100_000 * rank, "megabytes": 4.8,
            "epochs": 8, "best_epoch": 6, "training_key": "k", "params": sizes,
        }  # fmt: skip
        files.write_json(folder / "summary.json", summary)
        files.write_text(folder / "history.csv", history(quality))
        systems.append(scores(system, config, quality))
        write_captions(root, f"{system}.{config}", rank)
        if system == "attention":
            write_maps(root, f"{system}.{config}", [photo["image"] for photo in photos])
    signature = {
        "dataset": "0123456789abcdef", "name": "toys", "length_penalty": 0.7, "max_words": 30,
        "idf": "references of the scored split",
    }  # fmt: skip
    for name in params.retrieval:
        entry = scores("retrieval", name, 0.3)
        systems.append(entry | {"test": {"loss": None, "accuracy": None}})
        write_captions(root, f"retrieval.{name}", 0, said=QUOTED)
    files.write_json(root / "artifacts/evaluation/scores.json", {"signature": signature, "systems": systems})
    write_diagnostics(root, [f"{entry['system']}.{entry['config']}" for entry in systems])


def write_diagnostics(root: Path, names: Sequence[str]) -> None:
    """What evaluate finds in these captions."""
    said, references = {}, {}
    for name in names:
        rows = files.read_jsonl(root / "artifacts/evaluation/captions" / f"{name}.jsonl")
        references = {row["image"]: row["references"] for row in rows}
        captions = {row["image"]: row["captions"]["beam 3"]["caption"] for row in rows}
        said[name] = Said(captions=captions, without_photo="a dog")
    settings = {"shuffles": 2, "resamples": 50, "seed": 1}
    found = diagnose(said, references, [tuple(QUOTED.split())], **settings)
    files.write_json(root / "artifacts/evaluation/diagnostics.json", {"settings": settings, **found})


def draw_photos(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(3)
    for i in range(12):
        photo = Image.new("RGB", (320, 240), tuple(int(c) for c in rng.integers(120, 255, 3)))
        pen = ImageDraw.Draw(photo)
        x, y = (int(c) for c in rng.integers(20, 140, 2))
        pen.ellipse((x, y, x + 90, y + 80), fill=tuple(int(c) for c in rng.integers(0, 120, 3)))
        pen.rectangle((0, 200, 320, 240), fill=(60, 120, 60))
        photo.save(folder / f"{i:02}.jpg")


def history(quality: float) -> str:
    lines = [
        "epoch,train_loss,val_loss,train_accuracy,val_accuracy,train_perplexity,val_perplexity,learning_rate",
        *(
            f"{e},{2 + 2.5 / e - quality},{2.4 + 2 / e - quality + 0.02 * max(0, e - 6)},"
            f"{quality - 0.3 / e},{quality - 0.05 - 0.25 / e},9.0,10.0,0.001"
            for e in range(1, 9)
        ),
    ]
    return "\n".join(lines) + "\n"


def scores(system: str, config: str, quality: float) -> dict[str, Any]:
    empty = {"rouge_l": None, "cider": None, "meteor": None}
    decodings = []
    for split, protocols in (("val", ["strict"]), ("test", ["strict", "report_a", "report_b"])):
        for beam in (1, 3, 5):
            name = "greedy" if beam == 1 else f"beam {beam}"
            bleus = {f"bleu_{n}": quality * 1.05 / n**0.8 + 0.003 * beam for n in (1, 2, 3, 4)}
            rest = {"rouge_l": 0.45, "cider": quality - 0.1 + 0.01 * beam, "meteor": None}
            for protocol in protocols:
                own = bleus | (rest if protocol == "strict" else empty)
                decoded = {"decoding": name, "beam": beam, "split": split, "protocol": protocol, "scores": own}
                decodings.append(decoded)
    # validation liked beam 3, though beam 5 is better on test
    test = {"loss": 3 - quality, "accuracy": quality - 0.1}
    return {"system": system, "config": config, "best_decoding": "beam 3", "test": test, "decodings": decodings}


def write_captions(root: Path, name: str, rank: int, said: str | None = None) -> None:
    kinds = ("dog", "cat", "boat", "horse", "child", "car")
    rows = []
    for i in range(12):
        kind = kinds[i % 6]
        references = [f"A {kind} runs over the grass number {i} .", f"One {kind} on green grass .", SENTINEL]
        good = f"a {kind} runs over the grass"
        own = said or (good, f"a {kind} is outside", "a man in a red shirt")[(i + rank) % 3]
        captions = {
            decoding: {"caption": own if decoding != "greedy" else "a a <unk>", "log_prob": -3.0}
            for decoding in ("greedy", "beam 3", "beam 5")
        }
        rows.append({"image": f"{i:02}.jpg", "references": references, "captions": captions})
    files.write_jsonl(root / "artifacts/evaluation/captions" / f"{name}.jsonl", rows)


def write_maps(root: Path, name: str, images: Sequence[str]) -> None:
    """Attention that wanders from left to right while the best caption is said."""
    rows = []
    for entry in files.read_jsonl(root / "artifacts/evaluation/captions" / f"{name}.jsonl"):
        words = entry["captions"]["beam 3"]["caption"].split()
        y, x = np.mgrid[:7, :7]
        blobs = [np.exp(-((x - place) ** 2 + (y - 3) ** 2) / 3) for place in np.linspace(0, 6, len(words))]
        maps = [[float(value) for value in (blob / blob.sum()).ravel()] for blob in blobs]
        if entry["image"] in images:
            rows.append({"image": entry["image"], "words": words, "maps": maps, "grid": 7})
    files.write_json(root / "artifacts/evaluation/attention" / f"{name}.json", rows)
