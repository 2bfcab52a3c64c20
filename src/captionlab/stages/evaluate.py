"""Stage evaluate: every system's captions of the test split, scored under one protocol and the reports' own.

The decoding of each system is chosen on the validation split; the test split is only reported.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captionlab.batches import CaptionedFeatures
from captionlab.captioner import Captioner, Sentence
from captionlab.config import EvaluateParams, Params
from captionlab.devices import choose_device
from captionlab.errors import CaptionlabError
from captionlab.features import open_store
from captionlab.files import atomic_folder, read_json, read_jsonl, write_json, write_jsonl
from captionlab.metrics import Protocol, Scorer
from captionlab.records import DATASET, EVALUATION, FEATURES, MODELS, REPORTS, VOCAB, Caption, Scores, Split
from captionlab.systems import read_captions
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
            _caption(params, root, out, system, name, references)
            for system, name in tqdm(params.rows(), desc="evaluate", unit="system", disable=None)
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
        for folder in ("attention", "captions"):  # DVC wants every output, even without an attention system
            (out / folder).mkdir(exist_ok=True)
        write_json(root / REPORTS / params.dataset.name / "metrics.json", best)
    leader = max(best, key=lambda key: best[key]["cider"])
    return [
        f"evaluate: {len(systems)} systems on {len(references['test']):,} test photos; best is {leader} with "
        f"BLEU-4 {best[leader]['bleu_4']:.3f} and CIDEr {best[leader]['cider']:.3f}"
    ]


def _caption(
    params: Params, root: Path, out: Path, system: str, name: str, references: Mapping[Split, References],
) -> Evaluated:  # fmt: skip
    """Caption the validation and test photos with every decoding; keep the test captions and attention maps."""
    paths = [root / MODELS / own / config / "checkpoint.safetensors" for own, config in params.members(system, name)]
    captioner = Captioner.load(*paths) if system != "ensemble" else Captioner.load_ensemble(paths)
    vocab = Vocabulary.from_json(read_json(root / VOCAB), str(VOCAB))
    if captioner.vocab.digest != vocab.digest:
        raise CaptionlabError(
            f"{system}.{name} was trained with a vocabulary of {len(captioner.vocab)} words, {VOCAB} holds another "
            f"of {len(vocab)}; train it again (dvc repro)"
        )
    device = choose_device(params.device)
    captioner.model.to(device)
    captions = read_captions(root)
    data = {split: _features(root, captioner, captions, split) for split in references}
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
    if captioner.identity.grid and not captioner.members:
        widest = sentences["test"][_decoding(max(params.evaluate.beams))]
        maps = _maps(captioner, data["test"], widest, params.evaluate.attention_maps, device)
        write_json(out / "attention" / f"{system}.{name}.json", maps)
    return Evaluated(system=system, config=name, loss=test.loss, accuracy=test.accuracy, sentences=sentences)


def _features(root: Path, captioner: Captioner, captions: Sequence[Caption], split: Split) -> CaptionedFeatures:
    """A split's photos as every encoder saw them that the captioner was trained on."""
    first, *others = (
        CaptionedFeatures.of(open_store(root / FEATURES / encoder), use_grid, captions, split, captioner.vocab)
        for encoder, use_grid in captioner.sources.items()
    )
    return dataclasses.replace(first, others=others)


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


def _maps(
    captioner: Captioner, data: CaptionedFeatures, sentences: Mapping[str, Sentence], count: int, device: str
) -> list[dict[str, Any]]:
    """Where the first photos were looked at, word by word."""
    return [
        {
            "image": image,
            "words": sentences[image].caption.split(),
            "grid": captioner.identity.grid,
            "maps": captioner.attention(data.features([i]).to(device), sentences[image].tokens),
        }
        for i, image in enumerate(data.images[:count])
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
