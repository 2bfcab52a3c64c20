"""Stage ``track``: publish the trained model's run in MLflow, if it is not there yet."""

from pathlib import Path

from captionlab.config import Params
from captionlab.core.files import digest_of, read_json, sha256_of
from captionlab.core.records import MODEL, REPORTS, Training
from captionlab.core.typed import read_record
from captionlab.tracking import runs
from captionlab.tracking.store import TrackingError


def track(params: Params, root: Path) -> list[str]:
    """If the server is down, a line says so; that is no error."""
    training = read_record(root / MODEL / "summary.json", Training)
    report = root / REPORTS / params.dataset.name
    metrics = read_json(report / "metrics.json")
    weights = root / MODEL / "weights.npz"
    result = runs.Result(
        name="linear",
        training_key=training.training_key,
        result_key=digest_of([training.training_key, metrics, sha256_of(weights)]),
        params=training.params,
        history=training.history,
        metrics=metrics,
        tags={"dataset": params.dataset.name},
        dataset=runs.Dataset(
            name=params.dataset.name,
            digest=training.digest,
            source="scikit-learn's load_digits",
            splits=training.splits,
        ),
        files=[weights, report / "comparison.md", report / "predictions.csv"],
        texts={},
    )
    columns = ("metrics.val_loss", "metrics.accuracy", "params.learning_rate")
    try:
        (outcome,) = runs.publish(root, f"captionlab/{params.dataset.name}", [result], columns)
    except TrackingError as error:
        return [f"not published: {error}", "run `captionlab track` when MLflow is available; no result is lost"]
    return [f"track: the run is {outcome}", "compare runs:  captionlab ui"]
