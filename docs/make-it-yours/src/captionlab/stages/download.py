"""Stage ``download``: scikit-learn's digits, split into train, val and test."""

from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

from captionlab.config import Params
from captionlab.core.files import atomic_folder
from captionlab.core.records import DATASET


def download(params: Params, root: Path) -> list[str]:
    """Write ``x``, pixels (N, 64) from 0 to 1, and ``y``, digits (N,), for each split."""
    images, digits = load_digits(return_X_y=True)
    val, test, seed = params.dataset.val_share, params.dataset.test_share, params.dataset.split_seed
    rest_x, test_x, rest_y, test_y = train_test_split(
        images / 16, digits, test_size=test, random_state=seed, stratify=digits
    )
    train_x, val_x, train_y, val_y = train_test_split(
        rest_x, rest_y, test_size=val / (1 - test), random_state=seed, stratify=rest_y
    )
    splits = {"train": (train_x, train_y), "val": (val_x, val_y), "test": (test_x, test_y)}
    with atomic_folder(root / DATASET) as folder:
        for split, (x, y) in splits.items():
            np.savez(folder / f"{split}.npz", x=x, y=y)
    return [f"download: {', '.join(f'{len(y)} {split}' for split, (_, y) in splits.items())}"]
