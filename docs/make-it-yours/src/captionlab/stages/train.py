"""Stage ``train``: a linear classifier by stochastic gradient descent, with live curves in MLflow."""

import dataclasses
from pathlib import Path

import numpy as np
from sklearn.linear_model import SGDClassifier
from sklearn.metrics import log_loss

from captionlab.config import Params
from captionlab.core.files import atomic_folder, digest_of, sha256_of, write_json
from captionlab.core.records import DATASET, MODEL, Training
from captionlab.tracking.runs import Dataset, Start, open_tracker


def train(params: Params, root: Path) -> list[str]:
    """Write the weights, and the curves in ``summary.json``. Without MLflow a warning says so and training goes on."""
    settings = dataclasses.asdict(params.train)
    data = {split: np.load(root / DATASET / f"{split}.npz") for split in ("train", "val")}
    digest = digest_of([sha256_of(root / DATASET / f"{split}.npz") for split in data])[:36]
    key = digest_of([settings, digest])
    splits = {split: len(part["y"]) for split, part in data.items()}
    name = params.dataset.name
    x, y = data["train"]["x"], data["train"]["y"]
    model = SGDClassifier(
        loss="log_loss", learning_rate="constant", eta0=params.train.learning_rate, alpha=params.train.weight_decay,
        random_state=params.train.seed,
    )  # fmt: skip
    history = []
    dataset = Dataset(name=name, digest=digest, source="scikit-learn's load_digits", splits=splits)
    start = Start(name="linear", training_key=key, params=settings, tags={}, dataset=dataset)
    with open_tracker(root, f"captionlab/{name}", start) as tracker:
        for epoch in range(1, params.train.epochs + 1):
            model.partial_fit(x, y, classes=np.arange(10))
            losses = {
                f"{split}_loss": round(float(log_loss(part["y"], model.predict_proba(part["x"]))), 4)
                for split, part in data.items()
            }
            tracker.log_epoch(epoch, losses)
            history.append({"epoch": epoch, **losses})
    with atomic_folder(root / MODEL) as folder:
        np.savez(folder / "weights.npz", coefficients=model.coef_, intercepts=model.intercept_)
        training = Training(training_key=key, params=settings, history=tuple(history), digest=digest, splits=splits)
        write_json(folder / "summary.json", dataclasses.asdict(training))
    return [f"train: validation loss {history[-1]['val_loss']:.3f} after {len(history)} epochs"]
