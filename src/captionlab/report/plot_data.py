"""The data of DVC's plots as CSV: learning curves and scores."""

import csv
import io
from collections.abc import Iterable, Sequence
from typing import Any

from captionlab.report.results import Results

CURVES = ("train_loss", "val_loss", "val_accuracy")
SCORES = ("bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "meteor")


def curves_csv(results: Results) -> str:
    """A row for each epoch of each trained configuration; CIDEr-D if validation photos are captioned."""
    rows = (
        [run.name, *(run.history[key][place] for key in ("epoch", *CURVES)), run.val_cider[place]]
        for run in results.runs
        for place in range(len(run.history.get("epoch", ())))
    )
    return _csv(["configuration", "epoch", *CURVES, "val_cider"], rows)


def scores_csv(results: Results) -> str:
    """A row for each score of each configuration: test split, strict protocol, the decoding that validation chose."""
    rows = ([run.name, score, getattr(run.row(), score)] for run in results.runs for score in SCORES)
    return _csv(["configuration", "score", "value"], (row for row in rows if row[-1] is not None))


def _csv(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([header, *rows])
    return out.getvalue()
