"""Stage ``track``: complete in MLflow what is missing there, register the best system, and list the stages' timings.

Reads every file that the other stages leave; trains, scores and renders nothing.
"""

import csv
import io
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from captionlab.config import EnsembleParams, Params
from captionlab.core import files, records
from captionlab.errors import CaptionlabError
from captionlab.serving import registry
from captionlab.tracking import runs
from captionlab.tracking.store import TrackingError

Published = TypeVar("Published")
# What MLflow says of a row that another machine has made or removed meanwhile; of some rows its database says it.
CONFLICTS = ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST")
REPORT_FILES = ("curves.png", "bleu.png", "comparison.html", "comparison.csv")
SAMPLED_CAPTIONS = 50
# MLflow's own choice gives several runs one colour.
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#7f7f7f", "#bcbd22", "#17becf")
COLUMNS = (
    *(f"metrics.{key}" for key in ("bleu_4", "bleu_1", "cider", "rouge_l", "test_loss", "parameters")),
    *(f"params.{key}" for key in ("encoder", "embedding", "hidden", "layers", "decoding")),
)


def track(params: Params, root: Path) -> list[str]:
    """Publish every trained and evaluated system, each in one run, and register the best one as a model.

    A server that is down is a line, not an error.

    Raises CaptionlabError when a stage has not run.
    """
    _write_timings(params, root)
    scores = files.read_json(root / records.EVALUATION / "scores.json")
    entries = {(entry["system"], entry["config"]): entry for entry in scores["systems"]}
    results = []
    for number, (system, config) in enumerate(params.rows()):
        if (system, config) not in entries:
            raise CaptionlabError(f"{system}.{config} has not been evaluated; run dvc repro")
        colour = COLOURS[number % len(COLOURS)]
        results.append(_result(params, root, scores["signature"], entries[system, config], colour))
    experiment = f"captionlab/{params.dataset.name}"
    try:
        outcomes = Counter(_settled(lambda: runs.publish(root, experiment, results, COLUMNS)))
        best = _best(root, scores, results)
        registered = _settled(lambda: registry.register(root, experiment, best))
    except TrackingError as error:
        return [f"not everything is published: {error}", "run `captionlab track` when it is back; no result is lost"]
    return [
        f"{len(results)} runs in MLflow's experiment {experiment}: {outcomes['created']} created, "
        f"{outcomes['completed']} completed, {outcomes['present']} already there",
        f"{best.name} is version {registered.version} of the model {registry.MODEL} ({registered.outcome}); "
        f"{registry.BEST_MODEL} is version {registered.best}",
        "compare them:  captionlab ui",
    ]


def _settled(publish: Callable[[], Published], tries: int = 5) -> Published:
    """What ``publish`` returns; it goes on from where it stopped when another machine made the same thing just then."""
    try:
        return publish()
    except TrackingError as error:
        if getattr(error.__cause__, "error_code", "") not in CONFLICTS or tries == 1:
            raise
        return _settled(publish, tries - 1)


def _best(root: Path, scores: dict[str, Any], results: list[runs.Result]) -> registry.Candidate:
    """The system with the highest CIDEr-D on the validation split, which chose its decoding too.

    An ensemble is none: it has no checkpoint of its own.
    """
    entries = {f"{entry['system']}.{entry['config']}": entry for entry in scores["systems"]}
    systems = [result for result in results if result.tags["system"] != "ensemble"]
    best = max(systems, key=lambda result: _validation_cider(entries[result.name]))
    entry = entries[best.name]
    return registry.Candidate(
        name=best.name,
        checkpoint=root / records.MODELS / entry["system"] / entry["config"] / "checkpoint.safetensors",
        result_key=best.result_key,
        dataset=scores["signature"]["dataset"],
        score=_validation_cider(entry),
        tags={key: best.tags[key] for key in ("system", "configuration", "encoder", "dataset", "decoding")},
    )


def _validation_cider(entry: dict[str, Any]) -> float:
    return max(row["scores"]["cider"] or 0.0 for row in entry["decodings"] if row["split"] == "val")


def _result(params: Params, root: Path, signature: dict[str, Any], entry: dict[str, Any], colour: str) -> runs.Result:
    system, config, dataset = entry["system"], entry["config"], params.dataset.name
    folders = [root / records.MODELS / own / name for own, name in params.members(system, config)]
    if system == "ensemble":
        summary, history, kept = _put_together(folders, params.ensemble[config]), [], []
    else:
        (folder,) = folders
        kept = [folder / "summary.json", folder / "history.csv"]
        summary, history = files.read_json(kept[0]), _read_history(kept[1])
    weights = [files.sha256_of(folder / "checkpoint.safetensors") for folder in folders]
    best = entry["best_decoding"]
    report = root / records.REPORTS / dataset
    generated = files.read_jsonl(root / records.EVALUATION / "captions" / f"{system}.{config}.jsonl")
    return runs.Result(
        name=f"{system}.{config}",
        training_key=summary["training_key"],
        result_key=files.digest_of([signature, entry, summary, history, *weights]),
        params={
            **summary["params"],
            "decoding": best,
            **{f"evaluate.{key}": signature[key] for key in ("length_penalty", "max_words")},
        },
        history=history,
        metrics={
            **{key: summary[key] for key in ("parameters", "megabytes", "epochs") if key in summary},
            **_metrics(entry),
        },
        tags={
            "system": system,
            "configuration": config,
            "encoder": summary["encoder"],
            "dataset": dataset,
            "dataset_digest": signature["dataset"],
            "decoding": best,
            "mlflow.runColor": colour,
        },
        files=[
            *kept,
            *(path for name in REPORT_FILES if (path := report / name).exists()),
        ],
        texts={"captions.csv": _sample(generated[:SAMPLED_CAPTIONS], best)},
    )


def _put_together(folders: Sequence[Path], ensemble: EnsembleParams) -> dict[str, Any]:
    """What stands for an ensemble's summary; it was never trained, and its key is its members' keys."""
    further = {key: value for key in ("neighbours", "consensus_weight") if (value := getattr(ensemble, key))}
    summaries = [files.read_json(folder / "summary.json") for folder in folders]
    return {
        "encoder": ", ".join(sorted({summary["encoder"] for summary in summaries})),
        "parameters": sum(summary["parameters"] for summary in summaries),
        "megabytes": sum(summary["megabytes"] for summary in summaries),
        "training_key": files.digest_of([*(summary["training_key"] for summary in summaries), *further.items()]),
        "params": {"members": ", ".join(ensemble.members), **further},
    }


def _metrics(entry: dict[str, Any]) -> dict[str, float]:
    """The test split's scores: of the best decoding under plain names, of every decoding under a prefix.

    MLflow's pages make a section of each prefix, and cut long numbers off; the exact ones are in scores.json.
    """
    metrics = {f"test_{key}": round(entry["test"][key], 4) for key in ("loss", "accuracy")}
    for row in entry["decodings"]:
        is_best = row["decoding"] == entry["best_decoding"]
        # MLflow's compare view sorts by name: a `beam_3/` would stand before all plain names.
        prefix = f"with_{row['decoding'].replace(' ', '_')}/"
        if row["split"] == "val" or row["protocol"] != "strict":
            if not is_best:
                continue
            prefix = "val/" if row["split"] == "val" else f"{row['protocol']}/"
        elif is_best:
            metrics.update(_scores(row, ""))
        metrics.update(_scores(row, prefix))
    return metrics


def _scores(row: dict[str, Any], prefix: str) -> dict[str, float]:
    return {f"{prefix}{key}": round(value, 4) for key, value in row["scores"].items() if value is not None}


def _read_history(path: Path) -> list[dict[str, float]]:
    try:
        with path.open(encoding="utf-8", newline="") as lines:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(lines)]
    except (OSError, ValueError, TypeError) as error:
        raise CaptionlabError(f"{path} cannot be read ({error}); run the stage that writes it (dvc repro)") from error


def _sample(generated: list[dict[str, Any]], decoding: str) -> str:
    """Captions only: the photos' references may not be ours to pass on."""
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["image", "caption"])
    table.writerows([row["image"], row["captions"][decoding]["caption"]] for row in generated)
    return out.getvalue()


def _write_timings(params: Params, root: Path) -> None:
    """Gather what each stage took, in the pipeline's order, into a table that git ignores."""
    stages = [("download", ""), ("clean_captions", ""), ("build_vocab", "")]
    stages += [("extract_features", encoder) for encoder in params.extract_features.encoders]
    stages += [(f"train_{system}", config) for system, config, _ in params.systems()]
    stages += [("finetune", name) for name in params.finetune]
    stages += [("evaluate", ""), ("report", "")]
    out = io.StringIO()
    table = csv.writer(out, lineterminator="\n")
    table.writerow(["stage", "item", "seconds", "peak_megabytes"])
    for stage, item in stages:
        path = root / records.TIMINGS / (f"{stage}.{item}.json" if item else f"{stage}.json")
        if path.exists():
            timing = files.read_json(path)
            table.writerow([stage, item, timing["seconds"], timing["peak_megabytes"]])
    files.write_text(root / records.REPORTS / params.dataset.name / "timings.csv", out.getvalue())
