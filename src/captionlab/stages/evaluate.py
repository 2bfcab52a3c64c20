"""Stage evaluate: every system's captions of the test split, scored under one protocol and the reports' own.

The decoding of each system is chosen on the validation split; the test split is only reported. The gallery's photos
are chosen here too, by the best system's scores, so that attention maps are drawn of the photos that are shown.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tqdm import tqdm

from captionlab.config import EvaluateParams, Params, RetrievalParams
from captionlab.core.devices import choose_device
from captionlab.core.files import atomic_folder, read_json, read_jsonl, write_json, write_jsonl
from captionlab.core.records import DATASET, EVALUATION, FEATURES, MODELS, REPORTS, VOCAB, Caption, Scores, Split
from captionlab.data.store import open_store
from captionlab.data.vocab import Vocabulary
from captionlab.errors import CaptionlabError
from captionlab.evaluation import attributes, gallery
from captionlab.evaluation.candidates import Finder, name_of
from captionlab.evaluation.diagnostics import Said, diagnose
from captionlab.evaluation.reranking import Choose, as_ranked, by_neighbours
from captionlab.evaluation.retrieval import Retriever
from captionlab.inference.captioner import Captioner, Sentence
from captionlab.metrics.scorer import Protocol, Scorer
from captionlab.training.batches import CaptionedFeatures
from captionlab.training.fit import read_captions

PROTOCOLS: tuple[Protocol, ...] = ("strict", "report_a", "report_b")
References = dict[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class Evaluated:
    """One system's captions, before they are scored."""

    system: str
    config: str
    loss: float | None  # nats a word on the test split; None of what gives no probabilities
    accuracy: float | None
    sentences: Mapping[Split, Mapping[str, Mapping[str, Sentence]]]  # by decoding and image
    without_photo: Mapping[str, str]  # by decoding: the caption of nothing in particular
    looks: bool = False  # at regions, so that there are attention maps

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
    """Write ``artifacts/evaluation/`` (captions, scores, diagnostics, attention maps) and the metrics DVC shows."""
    manifest = read_json(root / DATASET / "manifest.json")
    references: dict[Split, References] = {"val": {}, "test": {}}
    for record in read_jsonl(root / DATASET / "dataset.jsonl"):
        if record["split"] in references:
            references[record["split"]][record["image"]] = record["captions"]
    captions = read_captions(root)
    finder = Finder(params, root, Vocabulary.from_json(read_json(root / VOCAB), str(VOCAB)), captions)

    @cache  # rows of the same encoder share it
    def by_meaning(encoder: str) -> Retriever:
        return _retriever(root, encoder, captions, by_meaning=True)

    with atomic_folder(root / EVALUATION) as out:
        systems = [
            _caption(params, out, system, name, references, finder, by_meaning)
            for system, name in tqdm(params.rows(), desc="evaluate", unit="system", disable=None)
        ]
        systems += [
            _retrieve(root, out, name, config, references, captions) for name, config in params.retrieval.items()
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
        write_json(out / "diagnostics.json", _diagnose(params.evaluate, root, systems, scored, references, captions))
        best = {f"{row['system']}.{row['config']}": _best_scores(row) for row in scored}
        leader = max(best, key=lambda key: best[key]["cider"])
        decodings = {f"{row['system']}.{row['config']}": row["best_decoding"] for row in scored}
        shown = _gallery(systems, leader, decodings[leader], references["test"], params.report.gallery)
        write_json(out / "gallery.json", shown)
        images = [photo["image"] for photo in shown["photos"]]
        for evaluated in systems:
            if evaluated.looks:
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
    params: Params, out: Path, system: str, name: str, references: Mapping[Split, References],
    finder: Finder, by_meaning: Callable[[str], Retriever],
) -> Evaluated:  # fmt: skip
    """Caption the validation and test photos with every decoding; keep the test captions."""
    found = finder.candidates(params.members(system, name))
    for split, photos in references.items():
        if set(photos) != set(found.images[split]):
            raise CaptionlabError(f"some photos of split {split} have no caption with words; choose another cleaning")
    choose: Choose = as_ranked
    if system == "ensemble" and params.ensemble[name].neighbours:
        choose = by_neighbours(by_meaning(found.encoder), params.ensemble[name])
    decodings = [name_of(beam) for beam in params.evaluate.beams]
    sentences = {split: found.chosen(split, decodings, choose) for split in references}
    _write_captions(out, f"{system}.{name}", sentences["test"], references["test"])
    return Evaluated(
        system=system, config=name, loss=found.loss, accuracy=found.accuracy, sentences=sentences,
        without_photo=found.without_photo, looks=found.looks and system != "ensemble",
    )  # fmt: skip


def _retrieve(
    root: Path, out: Path, name: str, config: RetrievalParams,
    references: Mapping[Split, References], captions: Sequence[Caption],
) -> Evaluated:  # fmt: skip
    """Caption the validation and test photos with captions of the training photos that look most alike."""
    store = open_store(root / FEATURES / config.encoder)
    retriever = _retriever(root, config.encoder, captions, config.consensus_k)
    sentences: dict[Split, dict[str, dict[str, Sentence]]] = {}
    for split, photos in references.items():
        looks = store.pooled[store.rows(list(photos))]
        sentences[split] = {
            _neighbours(count): {
                image: Sentence(caption=" ".join(words), log_prob=0.0, score=0.0, tokens=())
                for image, words in zip(photos, retriever.captions(looks, count), strict=True)
            }
            for count in config.neighbours
        }
    _write_captions(out, f"retrieval.{name}", sentences["test"], references["test"])
    without = {_neighbours(count): " ".join(retriever.without_photo(count)) for count in config.neighbours}
    return Evaluated(
        system="retrieval", config=name, loss=None, accuracy=None, sentences=sentences, without_photo=without
    )


def _retriever(
    root: Path, encoder: str, captions: Sequence[Caption], consensus_k: int = 1, *, by_meaning: bool = False
) -> Retriever:
    known: dict[str, list[tuple[str, ...]]] = {}
    for caption in captions:
        if caption.split == "train" and caption.words:
            known.setdefault(caption.image, []).append(caption.words)
    images, store = sorted(known), open_store(root / FEATURES / encoder)
    return Retriever(
        store.pooled[store.rows(images)], [known[image] for image in images], consensus_k, by_meaning=by_meaning
    )


def _neighbours(count: int) -> str:
    return f"{count} neighbour{'s' if count > 1 else ''}"


def _write_captions(
    out: Path, name: str, by_decoding: Mapping[str, Mapping[str, Sentence]], references: References
) -> None:
    """Every decoding's caption of each test photo, beside the references."""
    write_jsonl(
        out / "captions" / f"{name}.jsonl",
        (
            {
                "image": image,
                "references": raw,
                "captions": {
                    decoding: {"caption": best[image].caption, "log_prob": round(best[image].log_prob, 4)}
                    for decoding, best in by_decoding.items()
                },
            }
            for image, raw in references.items()
        ),
    )


def _diagnose(
    params: EvaluateParams, root: Path, systems: Sequence[Evaluated], scored: Sequence[Mapping[str, Any]],
    references: Mapping[Split, References], captions: Sequence[Caption],
) -> dict[str, Any]:  # fmt: skip
    """What ``diagnostics`` finds in each best decoding's test captions; on drawn scenes, what is true of them too."""
    said = {
        system.name: Said(
            captions=system.captions("test")[row["best_decoding"]],
            without_photo=system.without_photo[row["best_decoding"]],
        )
        for system, row in zip(systems, scored, strict=True)
    }
    settings = {"shuffles": params.shuffles, "resamples": params.resamples, "seed": params.seed}
    training = [caption.words for caption in captions if caption.split == "train"]
    found = {"settings": settings, **diagnose(said, references["test"], training, **settings)}
    if (root / DATASET / "attributes.jsonl").exists():
        rows, meaning = read_jsonl(root / DATASET / "attributes.jsonl"), read_json(root / DATASET / "words.json")
        for name, own in said.items():
            found["systems"][name]["truth"] = attributes.accuracy(own.words, rows, meaning)
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
            for third, images in gallery.choose(scores, photos).items()
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
            "test": {"loss": _rounded(evaluated.loss), "accuracy": _rounded(evaluated.accuracy)},
            "decodings": [
                {
                    "decoding": decoding,
                    "beam": _beam(decoding),
                    "split": scored_split,
                    "protocol": protocol,
                    "scores": {
                        key: _rounded(value)
                        for key, value in dataclasses.asdict(by_key[f"{index} {decoding}"]).items()
                    },
                }
                for (scored_split, protocol), by_key in scores.items()
                for decoding in val
            ],
        })  # fmt: skip
    return rows


def _beam(decoding: str) -> int | None:
    """How wide the beam was; None where nothing was searched."""
    if decoding == "greedy":
        return 1
    return int(decoding.removeprefix("beam ")) if decoding.startswith("beam ") else None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def _best_scores(row: Mapping[str, Any]) -> dict[str, float]:
    """The summary for ``dvc metrics``: the strict test scores of the decoding chosen on validation."""
    best = next(
        entry["scores"]
        for entry in row["decodings"]
        if (entry["decoding"], entry["split"], entry["protocol"]) == (row["best_decoding"], "test", "strict")
    )
    return {"bleu_4": best["bleu_4"], "cider": best["cider"]}
