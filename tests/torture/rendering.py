"""Rendering of reports/reliability.md from the results of all parts."""

import os
import platform
from collections.abc import Sequence
from pathlib import Path

from torture.tally import Tally

_HEAD = """# Reliability: fault injection

`make torture` injects these faults into the real program and writes this page; `make test-slow` tries a few kills,
invalid and malicious files, and numbers.
*Failed* means one of these: the result differs from that of an undisturbed run, an incomplete file has its final name,
a temporary file remains, an error is not one line, code from a file was executed, or time or memory exceeded the limit.
"""


def render(tallies: Sequence[Tally]) -> str:
    """The page in Markdown: a table for each part, then the failures."""
    injected, failed = sum(tally.tried for tally in tallies), sum(len(tally.lost) for tally in tallies)
    text = [
        _HEAD,
        f"In total: {injected:,} faults injected, {injected - failed:,} passed, {failed:,} failed.",
        "",
        machine(),
    ]
    for part in dict.fromkeys(tally.part for tally in tallies):
        text += ["", f"## {part}", "", "| fault | injected | passed | failed | notes |", "|---|---:|---:|---:|---|"]
        text += [
            f"| {tally.fault} | {tally.tried:,} | {tally.passed:,} | {len(tally.lost):,} | {tally.note} |"
            for tally in tallies
            if tally.part == part
        ]
    failures = [f"- {tally.fault}: {_plain(line)}" for tally in tallies for line in tally.lost[:5]]
    text += ["", "## Failures", "", *failures] if failures else []
    return "\n".join(text) + "\n"


def machine() -> str:
    """A line about the machine, without host names and dates."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    cpu = models[0] if models else platform.machine()
    return f"Machine: {cpu}, {os.cpu_count()} cores, {platform.system()}, Python {platform.python_version()}."


def _plain(line: str) -> str:
    return line[:200].replace("|", "/").replace("<", "&lt;")
