"""Stage ``track``: publish missing runs in MLflow, register the best system, and list the timings of the stages.

Reads the outputs of all other stages; trains, scores and renders nothing.
"""

import csv
import dataclasses
import io
import json
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from captionlab.config import Params
from captionlab.core import files, records
from captionlab.core.records import MODELS, RELEASED, Decoding, Scores
from captionlab.core.results import (
    ConfigurationScores,
    Evaluation,
    checkpoint_of,
    read_evaluation,
    read_manifest,
    read_members,
    read_summary,
    read_training,
)
from captionlab.core.results.further_scores import read_further_scores
from captionlab.core.results.guests import guest_folder, read_guest
from captionlab.core.results.photos import read_photo_captions
from captionlab.core.timings import read_timing
from captionlab.metrics.scorer import Scorer
from captionlab.serving import registry
from captionlab.tracking import runs
from captionlab.tracking.store import TrackingError
from captionlab.training.header import read_header
from captionlab.training.logged import data_settings, dataset_of

Published = TypeVar("Published")
# MLflow's error codes if another machine created or removed the same row meanwhile; some come from its database.
CONFLICTS = ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")
REPORT_FILES = ("curves.png", "bleu.png", "comparison.html", "comparison.csv")
TABLE = "evaluation.json"
# MLflow itself would give several runs the same colour.
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
COLUMNS = (  # sorted by the first: what is best is decided on the validation split
    *(f"metrics.{key}" for key in ("val/cider", "bleu_4", "cider", "val_loss")),
    *(f"params.{key}" for key in ("encoder", "embedding", "hidden", "layers", "decoding")),
)


def track(params: Params, root: Path) -> list[str]:
    """Publish every trained and evaluated system, each in one run, and register the best one as a model.

    If the server is down, a line says so; that is no error. Raises CaptionlabError if a stage has not run.
    """
    _write_timings(params, root)
    evaluation = read_evaluation(root)
    keys = [f"{system}.{name}" for system, name in params.rows()]
    results = [
        _result(params, root, evaluation, key, COLOURS[number % len(COLOURS)]) for number, key in enumerate(keys)
    ]
    experiment = f"captionlab/{params.dataset.name}"
    best = _best(params, root, evaluation, results)
    floor = max((scores.val_cider for scores in evaluation.configurations if scores.system == "retrieval"), default=0.0)
    try:
        outcomes = Counter(_settled(lambda: runs.publish(root, experiment, results, COLUMNS)))
        registered = _settled(lambda: registry.register(root, experiment, best, floor))
        released = (
            _settled(lambda: registry.register_released(root, experiment, _released())) if RELEASED.exists() else None
        )
    except TrackingError as error:
        return [
            f"not everything is published: {error}",
            "run `captionlab track` when MLflow is available; no result is lost",
        ]
    alias = registry.best_model(best.dataset)
    aliased = f"{alias} is version {registered.best}" if registered.best else f"{alias}: none is better than retrieval"
    return [
        f"{len(results)} runs in MLflow's experiment {experiment}: {outcomes['created']} created, "
        f"{outcomes['completed']} completed, {outcomes['present']} already there",
        f"{best.name} is version {registered.version} of the model {registry.MODEL} ({registered.outcome}); {aliased}",
        *([f"models:/{registry.MODEL}@{registry.RELEASED_ALIAS} is version {released}"] if released else []),
        "compare them:  captionlab ui",
    ]


def _settled(publish: Callable[[], Published], tries: int = 5) -> Published:
    """What ``publish`` returns; it is repeated if another machine created the same row at the same time."""
    try:
        return publish()
    except TrackingError as error:
        if getattr(error.__cause__, "error_code", "") not in CONFLICTS or tries == 1:
            raise
        return _settled(publish, tries - 1)


def _best(params: Params, root: Path, evaluation: Evaluation, results: list[runs.Result]) -> registry.Candidate:
    """The system or ensemble with the highest CIDEr-D on the validation split, with the decoding selected there.

    Retrieval and re-ranked ensembles need the training captions, so they are not registered.
    """
    others = {f"ensemble.{name}" for name, ensemble in params.ensemble.items() if ensemble.neighbours}
    own = [each for each in results if each.tags["system"] not in ("retrieval", "guests") and each.name not in others]
    best = max(own, key=lambda result: evaluation[result.name].val_cider)
    scores = evaluation[best.name]
    decoding = scores.best.decoding
    assert isinstance(decoding, Decoding), "a trained system is decoded by beam search"
    tags = ("system", "configuration", "encoder", "dataset_digest", "decoding")
    return registry.Candidate(
        name=best.name,
        checkpoints=tuple(checkpoint_of(root, *member) for member in params.members(scores.system, scores.name)),
        decoding=decoding,
        dataset=evaluation.dataset,
        tags={key: best.tags[key] for key in tags},
        score=scores.val_cider,
        scores=scores.best.test["strict"],
        result_key=best.result_key,
    )


def _released() -> registry.Candidate:
    """The released captioner."""
    header = read_header(RELEASED)  # without PyTorch, which takes longer to import than the rest of this stage
    identity, decoding, release = header.identity, header.decoding or Decoding(), header.release
    return registry.Candidate(
        name="released",
        checkpoints=(RELEASED,),
        decoding=decoding,
        dataset=identity.dataset,
        tags={"system": identity.system, "configuration": identity.name, "encoder": identity.encoder},
        scores=release.scores if release else None,
    )


def _result(params: Params, root: Path, evaluation: Evaluation, key: str, colour: str) -> runs.Result:
    scores, dataset = evaluation[key], params.dataset.name
    members = params.members(scores.system, scores.name)
    sizes: dict[str, Any]
    settings: dict[str, Any]
    history, kept, of_data = [], [], dict[str, object]()
    if scores.system == "retrieval":
        members = ()
        settings = dataclasses.asdict(params.retrieval[scores.name])
        sizes = {"encoder": settings["encoder"], "parameters": 0, "megabytes": 0.0}
        training_key = files.digest_of([key, settings, evaluation.dataset_digest])
    elif scores.system == "guests":
        members = ()
        settings = dataclasses.asdict((params.guests | params.guest_models)[scores.name])
        guest = read_guest(root, scores.name)
        costs = {"parameters": guest.parameters, "megabytes": guest.megabytes}
        sizes = {"encoder": "unknown"} | {key: value for key, value in costs.items() if value is not None}
        captions = files.sha256_of(guest_folder(root, scores.name) / "captions.json")
        training_key = files.digest_of([key, settings, evaluation.dataset_digest, captions])
    elif scores.system == "ensemble":
        ensemble = params.ensemble[scores.name]
        sizes = dataclasses.asdict(read_members(root, members))
        reranking = {key: value for key in ("neighbours", "consensus_weight") if (value := getattr(ensemble, key))}
        settings = {"members": ", ".join(ensemble.members), **reranking}
        member_keys = [read_summary(root / MODELS / system / name).training_key for system, name in members]
        training_key = files.digest_of([*member_keys, *reranking.items()])
    else:
        folder = root / MODELS / scores.system / scores.name
        training = read_training(folder)
        summary, settings, training_key = training.summary, training.summary.params, training.summary.training_key
        sizes = {key: getattr(summary, key) for key in ("encoder", "parameters", "megabytes", "epochs")}
        of_data = data_settings(params, summary.encoder)
        history = [epoch.rounded() for epoch in training.history]
        kept = [folder / "summary.json", folder / "history.csv"]
    weights = [files.sha256_of(checkpoint_of(root, system, name)) for system, name in members]
    report = root / records.REPORTS / dataset
    label = scores.best.decoding.label
    further_scores = read_further_scores(root)
    found = further_scores.configurations.get(key, {})
    further = {name: value for name, value in found.items() if value is not None}
    fewer = evaluation.fewer_references
    above = [*(fewer.above_people(key, scores.chosen) if fewer else ()), *further_scores.above_people(key)]
    content = [
        *further.items(),
        above,
        dataclasses.asdict(scores),
        evaluation.dataset_digest,
        evaluation.idf,
        settings,
        sizes,
        history,
        weights,
    ]
    return runs.Result(
        name=key,
        training_key=training_key,
        result_key=files.digest_of(content),
        params={
            **settings,
            **of_data,
            "decoding": label,
            "evaluate.length_penalty": params.evaluate.length_penalty,
            "evaluate.max_words": params.evaluate.max_words,
        },
        history=history,
        metrics={**_metrics(scores), **further, **{key: value for key, value in sizes.items() if key != "encoder"}},
        tags={
            "system": scores.system,
            "configuration": scores.name,
            "encoder": sizes["encoder"],
            "dataset": dataset,
            "dataset_digest": evaluation.dataset_digest,
            "decoding": label,
            **({"above_people": ", ".join(above)} if above else {}),
            "mlflow.runColor": colour,
            "mlflow.loggedArtifacts": json.dumps([{"path": TABLE, "type": "table"}]),  # makes MLflow show a table
        },
        files=[*kept, *(path for name in REPORT_FILES if (path := report / name).exists())],
        dataset=dataset_of(root, params.dataset.source),
        texts=_texts(root, scores),
    )


def _metrics(scores: ConfigurationScores) -> dict[str, float]:
    """The test split's scores: of the chosen decoding under plain names, of every decoding under a prefix.

    MLflow's pages group metrics by prefix and truncate long numbers; the exact ones are in scores.json.
    """
    best = scores.best
    own = _scores(best.test["strict"], "")
    # the first in MLflow's comparison
    metrics: dict[str, float] = {key: own[key] for key in ("bleu_4", "cider") if key in own}
    metrics |= own | (_scores(best.val, "val/") if best.val else {})
    metrics |= {
        f"test_{key}": round(value, 4)
        for key, value in (("loss", scores.loss), ("accuracy", scores.accuracy))
        if value is not None
    }
    for decoded in scores.decodings:
        # MLflow sorts by name: `beam_3/` would come before all plain names.
        words = re.findall(r"[\w.-]+", decoded.decoding.label)  # MLflow allows no comma in a name
        metrics |= _scores(decoded.test["strict"], f"with_{'_'.join(words)}/")
    for protocol, found in best.test.items():
        if protocol != "strict":
            metrics |= _scores(found, f"with_{protocol}/")  # after the decodings: the last prefix of all
    return metrics


def _scores(scores: Scores, prefix: str) -> dict[str, float]:
    values = dataclasses.asdict(scores)
    return {f"{prefix}{key}": round(value, 4) for key, value in values.items() if value is not None}


def _texts(root: Path, scores: ConfigurationScores) -> dict[str, str]:
    """The captions of all test photos by file name, in the format of ``mlflow.log_table``.

    Only the number of references: they may not be published, nor may training captions, which retrieval quotes.
    """
    label = scores.best.decoding.label
    rows = {row.image: row for row in read_photo_captions(root, scores.key)}
    captions = {image: row.captions[label].caption for image, row in rows.items()}
    cider = Scorer({image: row.references for image, row in rows.items()}).cider_by_image(captions)
    table: dict[str, list[object]] = {
        "image": list(rows),
        "caption": list(captions.values()),
        "references": [len(row.references) for row in rows.values()],
        "cider": [round(cider[image], 4) for image in rows],
    }
    if scores.system == "retrieval" and read_manifest(root).format != "scenes":
        del table["caption"]
    content = {"columns": list(table), "data": list(zip(*table.values(), strict=True))}
    return {TABLE: json.dumps(content, ensure_ascii=False)}


def _write_timings(params: Params, root: Path) -> None:
    """Write a table of each stage's time and memory, in the pipeline's order; git ignores it."""
    stages = [("download", ""), ("clean_captions", ""), ("build_vocab", "")]
    stages += [("extract_features", encoder) for encoder in params.extract_features.encoders]
    stages += [(f"train_{system}", config) for system, config, _ in params.systems()]
    stages += [("finetune", name) for name in params.finetune]
    stages += [("guests", name) for name in params.guests]
    stages += [("guest_models", name) for name in params.guest_models]
    stages += [("evaluate", ""), ("report", "")]
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["stage", "item", "seconds", "peak_megabytes"])
    for stage, item in stages:
        if timing := read_timing(root, stage, item):
            table.writerow([stage, item, timing.seconds, timing.peak_megabytes])
    files.write_text(root / records.REPORTS / params.dataset.name / "timings.csv", out.getvalue())
