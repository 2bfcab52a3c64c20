"""Stage ``evaluate``: caption the test split with every configuration; score under one protocol and the reports' own.

The decoding of each configuration and the best configuration are selected on the validation split; the test split is
only reported.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from captionlab.config import Params, RetrievalParams
from captionlab.core.devices import choose_device
from captionlab.core.files import atomic_folder, read_json, read_jsonl, write_json
from captionlab.core.records import (
    DATASET,
    EVALUATION,
    FEATURES,
    PROTOCOLS,
    REPORTS,
    Decoding,
    Neighbours,
    Protocol,
    Scores,
    Split,
)
from captionlab.core.results import (
    ConfigurationScores,
    DecodedScores,
    Diagnostics,
    Evaluation,
    checkpoint_of,
    read_manifest,
    write_diagnostics,
    write_evaluation,
)
from captionlab.core.results.dataset import iter_cleaned, iter_dataset
from captionlab.core.results.further_scores import write_further_scores
from captionlab.core.results.guests import read_guest
from captionlab.core.results.judgments import Agreements, read_judged, write_agreements
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
from captionlab.data.store import open_store
from captionlab.data.text import clean
from captionlab.evaluation import attributes, gallery
from captionlab.evaluation.candidate_store import CandidateStore
from captionlab.evaluation.candidates import Candidates, Finder, Members
from captionlab.evaluation.captioned import Captioned, of_guest
from captionlab.evaluation.diagnostics import Generated, Settings, diagnose
from captionlab.evaluation.further_scores import FurtherScorer
from captionlab.evaluation.people import against_fewer
from captionlab.evaluation.photo_fit import PhotoFit
from captionlab.evaluation.reranking import Choose, as_ranked, by_neighbours
from captionlab.evaluation.retrieval import Retrieved, Retriever
from captionlab.evaluation.rows import training_captions, training_retriever
from captionlab.inference.captioner import Captioner
from captionlab.metrics.agreement import agreements
from captionlab.metrics.meteor import Meteor
from captionlab.metrics.scorer import Scorer
from captionlab.training.batches import CaptionedFeatures, SplitCaptions

References = dict[str, Sequence[str]]


def evaluate(params: Params, root: Path) -> list[str]:
    """Write ``artifacts/evaluation/`` (captions, scores, diagnostics, attention maps) and the metrics DVC shows."""
    manifest = read_manifest(root)
    references: dict[Split, References] = {"val": {}, "test": {}}
    for record in iter_dataset(root):
        if record.split in references:
            references[record.split][record.image] = list(record.captions)
    search = _search(params, root)

    @cache  # configurations of the same encoder share it
    def by_meaning(encoder: str) -> Retriever:
        return training_retriever(root, encoder, by_meaning=params.evaluate.similarity)

    configurations = tqdm(params.configurations(), desc="evaluate", unit="configuration", disable=None)
    captioned = [_caption(params, root, (system, name), search, by_meaning) for system, name in configurations]
    captioned += [_retrieve(root, name, config, references) for name, config in params.retrieval.items()]
    captioned += [of_guest(name, read_guest(root, name)) for system, name in params.rows() if system == "guests"]
    of_all = {own.key: [own.captions("test", place) for place in range(len(own.decodings))] for own in captioned}
    with Meteor() as meteor:
        evaluation = Evaluation(
            dataset=manifest.name, dataset_digest=manifest.digest, idf="references of the scored split",
            configurations=_score(captioned, references, meteor),
            fewer_references=against_fewer(references["test"], of_all, meteor),
        )  # fmt: skip
    best = evaluation.best
    said = {each.key: of_all[each.key][each.chosen] for each in evaluation.configurations}
    further = FurtherScorer(
        clip=params.evaluate.clip, spice=params.evaluate.spice,
        photos=lambda: {path.name: path for path in (root / DATASET / "images").iterdir()},
        device=choose_device(params.device),
    )  # fmt: skip
    with atomic_folder(root / EVALUATION) as out:
        write_evaluation(out, evaluation)
        write_diagnostics(out, _diagnose(params, root, captioned, evaluation, references["test"]))
        selected = _gallery(captioned, best, references["test"], params.report.gallery)
        write_gallery(out, selected)
        write_agreements(out, _agreements(params, root, further))
        write_further_scores(out, further.of_configurations(said, references["test"]))
        for own, scored in zip(captioned, evaluation.configurations, strict=True):
            write_photo_captions(out, own.key, _photo_captions(own, references["test"]))
            if params.uses_regions(own.system, own.name):
                write_attention(out, own.key, _maps(params, root, own, scored.chosen, selected))
        for folder in ("attention", "captions"):  # DVC needs every output, even without an attention system
            (out / folder).mkdir(exist_ok=True)
    shown = {each.key: _summary(each) for each in evaluation.configurations}
    write_json(root / REPORTS / params.dataset.name / "metrics.json", shown)
    scores = best.best.test["strict"]
    return [
        *(f"evaluate: without {names}: {reason}" for names, reason in further.missing.items()),
        f"evaluate: {len(captioned)} configurations on {len(references['test']):,} test photos; the best on "
        f"validation is {best.key} ({best.best.decoding.label}), on test BLEU-4 {scores.bleu_4:.3f} and CIDEr "
        f"{scores.cider:.3f}",
    ]


def _search(params: Params, root: Path) -> Callable[[Members], Candidates]:
    """A function that decodes the configurations that no earlier evaluation has decoded."""
    finder = Finder(params, root)
    store = CandidateStore(params, root)

    def search(members: Members) -> Candidates:
        found = store.load(members)
        if found is None:
            found = finder.search(members)
            store.save(members, found)
        return found

    return search


def _caption(
    params: Params, root: Path, configuration: tuple[str, str], search: Callable[[Members], Candidates],
    by_meaning: Callable[[str], Retriever],
) -> Captioned:  # fmt: skip
    """Caption the validation and test photos with every decoding."""
    system, name = configuration
    found = search(params.members(system, name))
    choose: Choose = as_ranked
    if system == "ensemble" and params.ensemble[name].neighbours:
        choose = by_neighbours(by_meaning(found.encoder), params.ensemble[name])
    store = open_store(root / FEATURES / found.encoder)
    pooled = {split: store.pooled[store.rows(images)] for split, images in found.images.items()}
    return Captioned(
        system=system, name=name, loss=found.loss, accuracy=found.accuracy, decodings=params.evaluate.decodings,
        sentences={split: found.chosen(split, pooled[split], choose) for split in pooled},
        without_photo=found.without_photo,
    )  # fmt: skip


def _retrieve(root: Path, name: str, config: RetrievalParams, references: Mapping[Split, References]) -> Captioned:
    """Caption the validation and test photos with captions of the most similar training photos."""
    store = open_store(root / FEATURES / config.encoder)
    retriever = training_retriever(root, config.encoder, config.consensus_k)
    sentences: dict[Split, list[dict[str, Retrieved]]] = {}
    for split, photos in references.items():
        pooled_QD = store.pooled[store.rows(list(photos))]
        sentences[split] = [
            {
                image: Retrieved(caption=" ".join(words))
                for image, words in zip(photos, retriever.captions(pooled_QD, count), strict=True)
            }
            for count in config.neighbours
        ]
    return Captioned(
        system="retrieval", name=name, loss=None, accuracy=None, sentences=sentences,
        decodings=[Neighbours(neighbours=count) for count in config.neighbours],
        without_photo=[" ".join(retriever.without_photo(count)) for count in config.neighbours],
    )  # fmt: skip


def _score(
    captioned: Sequence[Captioned], references: Mapping[Split, References], meteor: Meteor
) -> tuple[ConfigurationScores, ...]:
    """Score every decoding of all configurations, on the test split with METEOR."""
    asked = [(own, decoding) for own in captioned for decoding in range(len(own.decodings))]
    names = [f"{own.key} {decoding}" for own, decoding in asked]

    def scores(split: Split, protocol: Protocol, meteor: Meteor | None = None) -> dict[str, Scores]:
        captions = {
            name: own.captions(split, decoding)
            for name, (own, decoding) in zip(names, asked, strict=True)
            if split in own.sentences
        }
        return {
            name: _rounded_scores(found)
            for name, found in Scorer(references[split], protocol).score_all(captions, meteor).items()
        }

    val = scores("val", "strict")
    test = {protocol: scores("test", protocol, meteor) for protocol in PROTOCOLS}
    rows = []
    for own in captioned:
        decoded = [
            DecodedScores(decoding=decoding, val=val.get(name), test={key: test[key][name] for key in PROTOCOLS})
            for index, decoding in enumerate(own.decodings)
            for name in [f"{own.key} {index}"]
        ]
        rows.append(
            ConfigurationScores(
                system=own.system, name=own.name, loss=_rounded(own.loss), accuracy=_rounded(own.accuracy),
                chosen=max(range(len(decoded)), key=lambda place: decoded[place].val_cider),
                decodings=tuple(decoded),
            )
        )  # fmt: skip
    return tuple(rows)


def _diagnose(
    params: Params, root: Path, captioned: Sequence[Captioned], evaluation: Evaluation, references: References
) -> Diagnostics:
    """Diagnostics of the test captions of each selected decoding; on drawn scenes, attribute accuracy too."""
    generated = {}
    for own, scores in zip(captioned, evaluation.configurations, strict=True):
        said = own.captions("test", scores.chosen)
        if own.system == "guests":  # as they were written, with capitals and punctuation
            said = {image: " ".join(clean(caption, "characters")) for image, caption in said.items()}
        generated[own.key] = Generated(captions=said, without_photo=own.without_photo[scores.chosen])
    how = params.evaluate
    training = (caption.words for caption in iter_cleaned(root) if caption.split == "train")
    settings = Settings(
        shuffles=how.shuffles, resamples=how.resamples, seed=how.seed, recall_references=how.recall_references
    )
    found = diagnose(generated, references, training, settings)
    if not (root / DATASET / "truth.jsonl").exists():
        return found
    rows, meaning = read_jsonl(root / DATASET / "truth.jsonl"), read_json(root / DATASET / "words.json")
    configurations = {
        key: dataclasses.replace(own, attributes=attributes.accuracy(generated[key].words, rows, meaning))
        for key, own in found.configurations.items()
    }
    return dataclasses.replace(found, configurations=configurations)


def _agreements(params: Params, root: Path, further: FurtherScorer) -> Agreements:
    """How far each score agrees with people; empty where the dataset has no judgments."""
    judged = read_judged(root)
    if not judged:
        return {}
    images = {each.image for each in judged}
    references = {record.image: list(record.captions) for record in iter_dataset(root) if record.image in images}
    retrievals = [config.encoder for config in params.retrieval.values()]
    store = open_store(root / FEATURES / [*retrievals, *params.extract_features.encoders][0])
    photos, own_captions = training_captions(root)
    photo_fit = PhotoFit(store.pooled[store.rows(photos)], own_captions, params.evaluate.similarity)

    def others(
        pairs: Sequence[tuple[str, str]], references: Mapping[str, Sequence[str]]
    ) -> dict[str, NDArray[np.float64] | None]:
        pooled_QD = store.pooled[store.rows([image for image, _ in pairs])]
        said = [clean(caption, params.clean_captions.cleaning) for _, caption in pairs]
        return {"photo_fit": photo_fit.scores(pooled_QD, said), **further.scores(pairs, references)}

    return agreements(references, judged, params.evaluate.resamples, params.evaluate.seed, others)


def _gallery(captioned: Sequence[Captioned], best: ConfigurationScores, references: References, photos: int) -> Gallery:
    """The photos of the gallery, from each third by the CIDEr-D of the best configuration's captions."""
    captions = next(own for own in captioned if own.key == best.key).captions("test", best.chosen)
    scores = Scorer(references).cider_by_image(captions)
    ranks = {image: rank for rank, image in enumerate(sorted(scores, key=lambda image: -scores[image]), 1)}
    return Gallery(
        selected_by=best.key,
        decoding=best.best.decoding.label,
        ranked=len(scores),
        photos=tuple(
            GalleryPhoto(image=image, tercile=tercile, rank=ranks[image], cider=round(scores[image], 6))
            for tercile, images in gallery.select(scores, photos).items()
            for image in images
        ),
    )


def _maps(params: Params, root: Path, own: Captioned, chosen: int, selected: Gallery) -> list[AttentionMap]:
    """The attention maps of one system for the gallery's photos, one per word of its caption."""
    captioner = Captioner.load(checkpoint_of(root, own.system, own.name), params.device, Decoding())
    store = open_store(root / FEATURES / captioner.identity.encoder)
    data = CaptionedFeatures.of(store, True, SplitCaptions.without_words(photo.image for photo in selected.photos))
    maps = []
    for place, photo in enumerate(selected.photos):
        sentence = own.sentences["test"][chosen][photo.image]
        shares = captioner.attention(data.features([place]), sentence.tokens)
        maps.append(
            AttentionMap(
                image=photo.image, words=tuple(sentence.caption.split()), grid=captioner.identity.grid,
                maps=tuple(map(tuple, shares)),
            )
        )  # fmt: skip
    return maps


def _photo_captions(own: Captioned, references: References) -> list[PhotoCaptions]:
    """The caption of every decoding for each test photo, with the references."""
    by_decoding = list(zip(own.decodings, own.sentences["test"], strict=True))
    return [
        PhotoCaptions(
            image=image,
            references=tuple(raw),
            captions={
                decoding.label: SaidCaption(
                    caption=sentences[image].caption, log_prob=_rounded(sentences[image].log_prob, 4)
                )
                for decoding, sentences in by_decoding
            },
        )
        for image, raw in references.items()
    ]


def _rounded_scores(scores: Scores) -> Scores:
    values: dict[str, Any] = {key: _rounded(value) for key, value in dataclasses.asdict(scores).items()}
    return Scores(**values)


def _rounded(value: float | None, digits: int = 6) -> float | None:
    return None if value is None else round(value, digits)


def _summary(scores: ConfigurationScores) -> dict[str, float | None]:
    """What ``dvc metrics`` shows of a configuration: what decides, on validation, and scores of the test split."""
    test = scores.best.test["strict"]
    val = scores.best.val
    return {"val_cider": val.cider if val else None, "bleu_4": test.bleu_4, "cider": test.cider}
