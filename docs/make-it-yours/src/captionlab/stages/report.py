"""Stage ``report``: the scores as a table, and the learning curves for DVC's plots."""

from pathlib import Path

from captionlab.config import Params
from captionlab.core.files import read_json, write_text
from captionlab.core.records import MODEL, REPORTS, Training
from captionlab.core.typed import read_record


def report(params: Params, root: Path) -> list[str]:
    """Write comparison.md and curves.csv."""
    folder = root / REPORTS / params.dataset.name
    history = read_record(root / MODEL / "summary.json", Training).history
    metrics = read_json(folder / "metrics.json")
    table = ["| score | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in metrics.items()), ""]
    write_text(folder / "comparison.md", "\n".join(table))
    curves = ["epoch,train_loss,val_loss"]
    curves += [f"{row['epoch']:.0f},{row['train_loss']},{row['val_loss']}" for row in history]
    write_text(folder / "curves.csv", "\n".join([*curves, ""]))
    return [f"report: {folder.relative_to(root) / 'comparison.md'}"]
