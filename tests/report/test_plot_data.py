"""The data of DVC's plots."""

import csv
from pathlib import Path

from captionlab.report import plot_data, results
from results_tree import toys, write_results


def test_curves_and_scores_are_those_of_the_results(tmp_path: Path) -> None:
    write_results(tmp_path, toys())
    found = results.load(toys(), tmp_path)
    curves = list(csv.DictReader(plot_data.curves_csv(found).splitlines()))
    trained = [run for run in found.runs if run.history]
    assert [row["configuration"] for row in curves] == [run.name for run in trained for _ in run.history["epoch"]]
    assert [float(row["val_loss"]) for row in curves] == [loss for run in trained for loss in run.history["val_loss"]]
    scores = list(csv.DictReader(plot_data.scores_csv(found).splitlines()))
    cider = {row["configuration"]: float(row["value"]) for row in scores if row["score"] == "cider"}
    assert cider == {run.name: run.row().cider for run in found.runs}
