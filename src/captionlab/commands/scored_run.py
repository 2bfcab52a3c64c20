"""What ``captionlab score --mlflow-run`` adds: the scores of two files as a run in MLflow."""

import dataclasses
from pathlib import Path

from captionlab.config import load_params
from captionlab.core.files import digest_of, sha256_of
from captionlab.core.records import Scores
from captionlab.errors import CaptionlabError
from captionlab.tracking.runs import Dataset, Result, publish
from captionlab.tracking.store import TrackingError


def add_to_mlflow(root: Path, run: str, scores: Scores, references: Path, captions: Path) -> str:
    """Add the scores to the MLflow experiment of the project in ``root``, as a run of this name; returns a line.

    The same scores of the same files under the same name are one run. Raises CaptionlabError when the name is blank or
    not printable, there is no params.yaml, which names the experiment, or MLflow cannot be used.
    """
    if not run.strip() or not run.isprintable():
        raise CaptionlabError(
            f"{run!r} cannot name a run in MLflow; --mlflow-run takes one line of printable characters"
        )
    dataset = load_params(root / "params.yaml").dataset.name
    experiment = f"captionlab/{dataset}"
    own = {key: round(value, 4) for key, value in dataclasses.asdict(scores).items() if value is not None}
    # MLflow's comparison opens with the metric that was logged first.
    metrics = {key: own[key] for key in ("bleu_4", "cider") if key in own} | own
    digests = {"references": sha256_of(references), "captions": sha256_of(captions)}
    key = digest_of([run, metrics, digests])
    result = Result(
        name=run, training_key=key, result_key=key, history=[], metrics=metrics, files=[], texts={},
        params={"references": references.name, "captions": captions.name},
        tags={"system": "scored", "configuration": run, "dataset": dataset},
        dataset=Dataset(
            name=references.name, digest=digests["references"][:16], source=str(references), splits={},
            context="evaluation",
        ),
    )  # fmt: skip
    try:
        (outcome,) = publish(root, experiment, [result])
    except TrackingError as error:
        raise CaptionlabError(f"the scores are not in MLflow: {error}") from error
    already = "already " if outcome == "present" else ""
    return f"the run {run} is {already}in MLflow's experiment {experiment}; compare: captionlab ui"
