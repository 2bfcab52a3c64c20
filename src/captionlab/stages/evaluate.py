"""Stage evaluate: every system's captions of the test split, scored under one protocol and the reports' own.

The decoding of each system is chosen on the validation split; the test split is only reported. The gallery's photos
are chosen here too, by the best system's scores, so that attention maps are drawn of the photos that are shown.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captionlab.batches import CaptionedFeatures
from captionlab.captioner import Captioner, Sentence
from captionlab.config import AttentionParams, EvaluateParams, Params, SystemParams
from captionlab.devices import choose_device
from captionlab.errors import CaptionlabError
from captionlab.features import open_store
from captionlab.files import atomic_folder, read_json, read_jsonl, write_json, write_jsonl
from captionlab.metrics import Protocol, Scorer
from captionlab.records import DATASET, EVALUATION, FEATURES, MODELS, REPORTS, VOCAB, Scores, Split
from captionlab.systems import read_captions
from captionlab.thirds import choose
from captionlab.training import measure
from captionlab.vocab import Vocabulary

PHOTOS_AT_ONCE = 100
PROTOCOLS: tuple[Protocol, ...] = ("strict", "report_a", "report_b")
References = dict[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One system's captions, before they are scored."""

    system: str
    config: str
    loss: float  # nats a word on the test split
    accuracy: float
    sentences: Mapping[Split, Mapping[str, Mapping[str, Sentence]]]  # by decoding and image

    @property
    def name(self) -> str:
        """The configuration as params.yaml and the commands spell it."""
        return f"{self.system}.{self.config}"

    def captions(self, split: Split) -> dict[str, dict[str, str]]:
        """Caption by image, by decoding."""
        return {
            decoding: {image: sentence.caption for image, sentence in best.items()}
            for decoding, best in self.sentences[split].items()
        }


def evaluate(params: Params, root: Path) -> list[str]:
    """Write ``artifacts/evaluation/`` (captions, scores, attention maps) and the metrics that DVC shows."""
    manifest = read_json(root / DATASET / "manifest.json")
    references: dict[Split, References] = {"val": {}, "test": {}}
    for record in read_jsonl(root / DATASET / "dataset.jsonl"):
        if record["split"] in references:
            references[record["split"]][record["image"]] = record["captions"]
    with atomic_folder(root / EVALUATION) as out:
        systems = [
            _caption(params, root, out, system, name, config, references)
            for system, name, config in tqdm(params.systems(), desc="evaluate", unit="system", disable=None)
        ]
        scored = _score(systems, references)
        signature = {
            "dataset": manifest["digest"],
            "name": manifest["name"],
            "length_penalty": params.evaluate.length_penalty,
            "max_words": params.evaluate.max_words,
            "idf": "references of the scored split",
        }
        write_json(out / "scores.json", {"signature": signature, "systems": scored})
        best = {f"{row['system']}.{row['config']}": _best_scores(row) for row in scored}
        leader = max(best, key=lambda key: best[key]["cider"])
        decodings = {f"{row['system']}.{row['config']}": row["best_decoding"] for row in scored}
        shown = _gallery(systems, leader, decodings[leader], references["test"], params.report.gallery)
        write_json(out / "gallery.json", shown)
        images = [photo["image"] for photo in shown["photos"]]
        for (_, _, config), evaluated in zip(params.systems(), systems, strict=True):
            if isinstance(config, AttentionParams):
                maps = _maps(params, root, evaluated, decodings[evaluated.name], images)
                write_json(out / "attention" / f"{evaluated.name}.json", maps)
        for folder in ("attention", "captions"):  # DVC wants every output, even without an attention system
            (out / folder).mkdir(exist_ok=True)
        write_json(root / REPORTS / params.dataset.name / "metrics.json", best)
    return [
        f"evaluate: {len(systems)} systems on {len(references['test']):,} test photos; best is {leader} with "
        f"BLEU-4 {best[leader]['bleu_4']:.3f} and CIDEr {best[leader]['cider']:.3f}"
    ]


def _caption(
    params: Params, root: Path, out: Path, system: str, name: str, config: SystemParams,
    references: Mapping[Split, References],
) -> Evaluated:  # fmt: skip
    """Caption the validation and test photos with every decoding; keep the test captions."""
    captioner = Captioner.load(root / MODELS / system / name / "checkpoint.safetensors")
    vocab = Vocabulary.from_json(read_json(root / VOCAB), str(VOCAB))
    if captioner.vocab.digest != vocab.digest:
        raise CaptionlabError(
            f"{system}.{name} was trained with a vocabulary of {len(captioner.vocab)} words, {VOCAB} holds another "
            f"of {len(vocab)}; train it again (dvc repro)"
        )
    device = choose_device(params.device)
    captioner.model.to(device)
    store, captions = open_store(root / FEATURES / config.encoder), read_captions(root)
    use_grid = isinstance(config, AttentionParams)
    data = {split: CaptionedFeatures.of(store, use_grid, captions, split, vocab) for split in references}
    for split, photos in references.items():
        if set(photos) != set(data[split].images):
            raise CaptionlabError(f"some photos of split {split} have no caption with words; choose another cleaning")
    sentences = {split: _decode(captioner, data[split], params.evaluate, device) for split in references}
    test = measure(captioner.model, data["test"], PHOTOS_AT_ONCE // 2, device)
    write_jsonl(
        out / "captions" / f"{system}.{name}.jsonl",
        (
            {
                "image": image,
                "references": raw,
                "captions": {
                    decoding: {"caption": best[image].caption, "log_prob": round(best[image].log_prob, 4)}
                    for decoding, best in sentences["test"].items()
                },
            }
            for image, raw in references["test"].items()
        ),
    )
    return Evaluated(system=system, config=name, loss=test.loss, accuracy=test.accuracy, sentences=sentences)


def _decoding(beam: int) -> str:
    return "greedy" if beam == 1 else f"beam {beam}"


def _decode(
    captioner: Captioner, data: CaptionedFeatures, params: EvaluateParams, device: str
) -> dict[str, dict[str, Sentence]]:
    """The best sentence for each image, by decoding."""
    found: dict[str, dict[str, Sentence]] = {}
    for beam in params.beams:
        best = found[_decoding(beam)] = {}
        for i in range(0, len(data.images), PHOTOS_AT_ONCE):
            images = data.images[i : i + PHOTOS_AT_ONCE]
            features = data.features(range(i, i + len(images))).to(device)
            ranked = captioner.describe(
                features, beam=beam, length_penalty=params.length_penalty, max_words=params.max_words
            )
            best.update(zip(images, (sentences[0] for sentences in ranked), strict=True))
    return found


def _gallery(
    systems: Sequence[Evaluated], leader: str, decoding: str, references: References, photos: int
) -> dict[str, Any]:
    """The photos that the gallery shows, from each third of the leader's CIDEr-D, with their scores and ranks."""
    captions = next(evaluated for evaluated in systems if evaluated.name == leader).captions("test")[decoding]
    scores = Scorer(references).cider_by_image(captions)
    ranks = {image: rank for rank, image in enumerate(sorted(scores, key=lambda image: -scores[image]), 1)}
    return {
        "judge": leader,
        "decoding": decoding,
        "ranked": len(scores),
        "photos": [
            {"image": image, "third": third, "rank": ranks[image], "cider": round(scores[image], 6)}
            for third, images in choose(scores, photos).items()
            for image in images
        ],
    }


def _maps(
    params: Params, root: Path, evaluated: Evaluated, decoding: str, images: Sequence[str]
) -> list[dict[str, Any]]:
    """Where one system looked in these test photos, word by word of its caption."""
    captioner = Captioner.load(root / MODELS / evaluated.system / evaluated.config / "checkpoint.safetensors")
    device = choose_device(params.device)
    captioner.model.to(device)
    store = open_store(root / FEATURES / captioner.identity.encoder)
    data = CaptionedFeatures.of(store, True, read_captions(root), "test", captioner.vocab)
    places = {image: place for place, image in enumerate(data.images)}
    sentences = evaluated.sentences["test"][decoding]
    return [
        {
            "image": image,
            "words": sentences[image].caption.split(),
            "grid": captioner.identity.grid,
            "maps": captioner.attention(data.features([places[image]]).to(device), sentences[image].tokens),
        }
        for image in images
    ]


def _score(systems: Sequence[Evaluated], references: Mapping[Split, References]) -> list[dict[str, Any]]:
    """Score everything, all systems of a split together: METEOR's Java takes seconds to start."""
    splits: tuple[Split, ...] = ("val", "test")
    scores: dict[tuple[Split, Protocol], dict[str, Scores]] = {}
    for split in splits:
        captions = {
            f"{index} {decoding}": by_image
            for index, evaluated in enumerate(systems)
            for decoding, by_image in evaluated.captions(split).items()
        }
        for protocol in PROTOCOLS if split == "test" else PROTOCOLS[:1]:
            meteor = split == "test" and protocol == "strict"
            scores[split, protocol] = Scorer(references[split], protocol).score_all(captions, meteor)
    rows = []
    for index, evaluated in enumerate(systems):
        val = {decoding: scores["val", "strict"][f"{index} {decoding}"] for decoding in evaluated.sentences["val"]}
        best_decoding = max(val, key=lambda decoding: val[decoding].cider or 0.0)
        rows.append({
            "system": evaluated.system,
            "config": evaluated.config,
            "best_decoding": best_decoding,
            "test": {"loss": round(evaluated.loss, 6), "accuracy": round(evaluated.accuracy, 6)},
            "decodings": [
                {
                    "decoding": decoding,
                    "beam": int(decoding.removeprefix("beam ")) if decoding != "greedy" else 1,
                    "split": scored_split,
                    "protocol": protocol,
                    "scores": _rounded(by_key[f"{index} {decoding}"]),
                }
                for (scored_split, protocol), by_key in scores.items()
                for decoding in val
            ],
        })  # fmt: skip
    return rows


def _rounded(scores: Scores) -> dict[str, float | None]:
    return {key: None if value is None else round(value, 6) for key, value in dataclasses.asdict(scores).items()}


def _best_scores(row: Mapping[str, Any]) -> dict[str, float]:
    """The summary for ``dvc metrics``: the strict test scores of the decoding chosen on validation."""
    best = next(
        entry["scores"]
        for entry in row["decodings"]
        if (entry["decoding"], entry["split"], entry["protocol"]) == (row["best_decoding"], "test", "strict")
    )
    return {"bleu_4": best["bleu_4"], "cider": best["cider"]}
