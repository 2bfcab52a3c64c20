"""python -m torture [parts] [--short] [--minutes M] [--points N]: inject faults, store the results, render the page."""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from torture.rendering import render
from torture.tally import Tally, load_tallies, save_tallies

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / ".torture"
SEED = 1


def _kill(folder: Path, options: argparse.Namespace) -> list[Tally]:
    from torture.kill import kill_anywhere

    return kill_anywhere(folder, options.points or (2 if options.short else 20), short=options.short)


def _fuzz(folder: Path, options: argparse.Namespace) -> list[Tally]:
    from torture.fuzz import fuzz
    from torture.parsers import parsers

    chosen = [p for p in parsers() if not options.parser or p.name in options.parser]
    limit = 400 if options.short else None
    return fuzz(chosen, RESULTS / "found", seconds=60 * options.minutes, limit=limit, seed=SEED)


def _hostile(folder: Path, options: argparse.Namespace) -> list[Tally]:
    from torture.hostile import hostile

    return hostile(folder)


def _disasters(folder: Path, options: argparse.Namespace) -> list[Tally]:
    from torture.disasters import disasters

    return disasters(folder, 1 if options.short else 5, short=options.short)


def _away(folder: Path, options: argparse.Namespace) -> list[Tally]:
    from torture.away import away

    return away(folder, 5, short=options.short)


def _load(folder: Path, options: argparse.Namespace) -> list[Tally]:
    from torture.load import load

    return load(folder, 4.0 if options.short else 120.0, short=options.short)


def _numbers(folder: Path, options: argparse.Namespace) -> list[Tally]:
    from torture.numbers import numbers

    return numbers(folder, 20 if options.short else 1000, short=options.short)


PARTS: dict[str, Callable[[Path, argparse.Namespace], list[Tally]]] = {
    "kill": _kill,
    "fuzz": _fuzz,
    "hostile": _hostile,
    "disasters": _disasters,
    "away": _away,
    "load": _load,
    "numbers": _numbers,
}


def main() -> int:
    """Inject the faults; returns exit code 1 if any was not handled."""
    options = _options()
    failures = 0
    for part in options.parts or PARTS:
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            tallies = PARTS[part](Path(folder), options)
        for tally in tallies:
            print(f"{tally.fault}: {tally.tried:,} injected, {len(tally.lost):,} failed; {tally.note}", flush=True)
            for line in tally.lost[:8]:
                print(f"    {line}", flush=True)
            failures += len(tally.lost)
        print(f"{part}: {time.perf_counter() - began:.0f} s", flush=True)
        if options.keep:
            save_tallies(RESULTS / f"{part}.json", tallies)
    if options.keep and all((RESULTS / f"{part}.json").exists() for part in PARTS):
        (ROOT / "reports/reliability.md").write_text(
            render([tally for part in PARTS for tally in load_tallies(RESULTS / f"{part}.json")]), encoding="utf-8"
        )
    return int(failures > 0)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="torture", description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help="default: all")
    parser.add_argument("--short", action="store_true", help="inject a few faults of each kind; writes no report")
    parser.add_argument("--minutes", type=float, default=15.0, help="time limit of fuzz; default: 15")
    parser.add_argument("--points", type=int, help="kills per stage; default: 20, with --short 2")
    parser.add_argument("--parser", action="append", help="a parser to fuzz, can be repeated; default: all")
    parser.add_argument("--keep", action="store_true", help="write the report with --short too")
    options = parser.parse_args()
    options.keep |= not options.short and not options.parser
    return options


if __name__ == "__main__":
    sys.exit(main())
