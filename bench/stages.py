"""Time and peak memory of each stage of a finished pipeline.

    python bench/stages.py [--root .] [--smoke]

Reads ``artifacts/timings`` of a finished ``dvc repro``; --root can be given several times.
"""

from pathlib import Path
from typing import Any

from captionlab.config import SYSTEMS, load_params
from captionlab.core.files import read_json
from captionlab.core.records import DATASET, TIMINGS
from common import ROOT, figure, load, options, publish, section


def items(root: Path) -> list[str]:
    """Every stage and item of params.yaml in the pipeline's order; timings of others are ignored."""
    params = load_params(root / "params.yaml")
    names = ["download", "clean_captions", "build_vocab"]
    names += [f"extract_features.{encoder}" for encoder in params.extract_features.encoders]
    names += [f"train_{system}.{name}" for system in SYSTEMS for name in getattr(params, system)]
    for stage in ("finetune", "guests", "guest_models"):
        names += [f"{stage}.{name}" for name in getattr(params, stage)]
    return [*names, "evaluate", "report", "track"]


def _timing(path: Path) -> Any:
    return read_json(path) if path.exists() else None


def timings(root: Path) -> tuple[dict[str, Any], list[str]]:
    """The timing of each item, and the items without one."""
    found = {name: _timing(root / TIMINGS / f"{name}.json") for name in items(root)}
    return {name: each for name, each in found.items() if each}, [name for name, each in found.items() if not each]


def main() -> None:
    """Report one row for each stage."""
    parser = options(__doc__)
    parser.add_argument("--root", type=Path, action="append", help="a project with a finished dvc repro")
    arguments = parser.parse_args()
    before, rows, notes = load(), [], []
    for root in arguments.root or [ROOT]:
        manifest = read_json(root / DATASET / "manifest.json")
        known, missing = timings(root)
        total = sum(each["seconds"] for each in known.values())
        dataset = f"{manifest['name']}, {manifest['images']:,} photos"
        for name, each in known.items():
            peak = each["peak_megabytes"]
            share = f"{100 * each['seconds'] / total:.1f} %"
            rows.append([dataset, name, figure(each["seconds"]), share, "" if peak is None else figure(peak)])
        rows.append([dataset, "**all**", figure(total), "", ""])
        if missing:
            notes.append(f"{dataset}: no timing of {', '.join(missing)}.")
    notes.append(
        "Seconds of the last run of each stage, without the start of Python and DVC. Memory is the peak resident size; "
        "it includes the pages of memory-mapped features, which the system can reclaim."
    )
    columns = ["dataset", "stage", "seconds", "share", "peak MB"]
    publish(section("stages", "Where the time goes", columns, rows, notes, load=before), arguments)


if __name__ == "__main__":
    main()
