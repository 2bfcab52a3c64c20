"""Stage ``evaluate``: predictions and scores of the test split."""

from pathlib import Path

import numpy as np
from sklearn.metrics import accuracy_score, f1_score

from captionlab.config import Params
from captionlab.core.files import write_json, write_text
from captionlab.core.records import DATASET, MODEL, REPORTS


def evaluate(params: Params, root: Path) -> list[str]:
    """Write predictions.csv and metrics.json."""
    weights, test = np.load(root / MODEL / "weights.npz"), np.load(root / DATASET / "test.npz")
    predicted = (test["x"] @ weights["coefficients"].T + weights["intercepts"]).argmax(axis=1)
    metrics = {
        "accuracy": round(float(accuracy_score(test["y"], predicted)), 4),
        "f1": round(float(f1_score(test["y"], predicted, average="macro")), 4),
    }
    lines = ["actual,predicted", *(f"{y},{guess}" for y, guess in zip(test["y"], predicted, strict=True)), ""]
    folder = root / REPORTS / params.dataset.name
    write_text(folder / "predictions.csv", "\n".join(lines))
    write_json(folder / "metrics.json", metrics)
    return [f"evaluate: accuracy {metrics['accuracy']:.3f} on {len(predicted)} test digits"]
