"""reports/reliability.md from what the parts kept."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from torture.tally import Tally

_HEAD = """# What the faults did

`make torture` tries these on the real program and renders this page; `make test` tries a few of each.
*Lost* means: another result than an unbroken run's, half a file under its own name, a file left behind, an error that
is not one line for the user, code run out of a file, or more time or memory than allowed.
"""


def render(tallies: Sequence[Tally]) -> str:
    """The page: a table a part, then what was lost."""
    tried, lost = sum(tally.tried for tally in tallies), sum(len(tally.lost) for tally in tallies)
    text = [_HEAD, f"In all: {tried:,} faults tried, {tried - lost:,} survived, {lost:,} lost.", "", machine()]
    for part in dict.fromkeys(tally.part for tally in tallies):
        text += ["", f"## {part}", "", "| fault | tried | survived | lost | seen |", "|---|---:|---:|---:|---|"]
        text += [
            f"| {tally.fault} | {tally.tried:,} | {tally.survived:,} | {len(tally.lost):,} | {tally.note} |"
            for tally in tallies
            if tally.part == part
        ]
    complaints = [f"- {tally.fault}: {_plain(line)}" for tally in tallies for line in tally.lost[:5]]
    text += ["", "## Lost", "", *complaints] if complaints else []
    return "\n".join(text) + "\n"


def machine() -> str:
    """What it ran on; no names, no dates."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.machine()
    return f"Machine: {cpu}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}."


def _plain(line: str) -> str:
    return line[:200].replace("|", "/").replace("<", "&lt;")
