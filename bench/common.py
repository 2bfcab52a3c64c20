"""What the benchmarks share: a description of the machine, interleaved rounds, medians with their range, the report.

Knows nothing of photos or captions. A benchmark is a script with one ``main``; each writes a section of
``reports/benchmarks.json``, and ``reports/benchmarks.md`` is rendered from all of them.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

import torch

from captionlab.core.files import read_json, write_json, write_text

ROOT = Path(__file__).parents[1]
ORDER = ("extraction", "training", "shared", "decoding", "startup", "growth", "stages")  # of the sections in the report
Way = Callable[[], float]  # does some work and says how much: photos, captions, operations


@dataclass(frozen=True)
class Rates:
    """One way's figure in every round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.rounds)

    def over(self, other: "Rates") -> "Rates":
        """The ratio to another implementation's, round by round: other load in a round slowed both."""
        return Rates(tuple(a / b for a, b in zip(self.rounds, other.rounds, strict=True)))

    def times(self, factor: float) -> "Rates":
        """The same figure in another unit."""
        return Rates(tuple(factor * value for value in self.rounds))

    def text(self, unit: str = "") -> str:
        """Median, and lowest to highest."""
        return f"{figure(self.median)}{unit} ({figure(min(self.rounds))} to {figure(max(self.rounds))})"


def figure(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def interleave(ways: Mapping[str, Way], rounds: int, *, warm_up: bool = False) -> dict[str, Rates]:
    """Work per second of each implementation, by name. A round runs each once, so that other load affects all alike.

    With ``warm_up``, the first round does not count: fresh memory makes a first training twice as slow.
    """
    found: dict[str, list[float]] = {name: [] for name in ways}
    if warm_up:
        for way in ways.values():
            way()
    for number in range(rounds):
        for name, way in ways.items():
            began = time.perf_counter()
            done = way()
            found[name].append(done / (time.perf_counter() - began))
            print(f"round {number + 1} of {rounds}: {name}, {figure(found[name][-1])} a second", flush=True)
    return {name: Rates(tuple(values)) for name, values in found.items()}


def matrix_product(device: str, dtype: torch.dtype, size: int) -> Way:
    """The machine's limit: one square product, in floating-point operations."""
    a, b = (torch.randn(size, size).to(device, dtype) for _ in range(2))

    def run() -> float:
        for _ in range(4):
            a @ b
        if device != "cpu":
            torch.accelerator.synchronize()
        return 4 * 2 * size**3

    run()
    return run


@dataclass(frozen=True, kw_only=True)
class Section:
    """One benchmark's part of the report."""

    key: str  # one of ORDER, and behind it the device that is not the CPU, or another variant
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]  # paragraphs below the table
    machine: str
    load: float  # the machine's load when it began: well below 1 on a quiet one


def section(
    key: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str],
    *, load: float, device: str = "cpu",
) -> Section:  # fmt: skip
    """A section of this machine."""
    if device != "cpu":
        key, title = f"{key}.{device}", f"{title}, on {accelerator(device)}"
    return Section(key=key, title=title, columns=columns, rows=rows, notes=notes, machine=machine(), load=load)


def load() -> float:
    """The load average of the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def accelerator(device: str) -> str:
    """The device's name."""
    return torch.cuda.get_device_name() if device == "cuda" else device


@cache
def machine() -> str:
    """The processor, its cores and memory, and what computes on them. No names of hosts, users or folders."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [_cpuinfo("model name") or platform.processor() or platform.machine(), f"{cores} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB of memory")
    flags = _cpuinfo("flags").split()
    units = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    parts += [f"with {' '.join(units)}"] if units else []
    parts += [platform.system(), f"Python {platform.python_version()}"]
    parts += [f"torch {torch.__version__} (threads: {torch.get_num_threads()})"]
    return ", ".join([*parts, *(f"{name} {version(name)}" for name in ("onnxruntime", "numpy", "pillow"))])


def _cpuinfo(key: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def options(doc: str | None) -> argparse.ArgumentParser:
    """The arguments every benchmark has."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="run once at tiny sizes; nothing is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reports", type=Path, default=ROOT / "reports", help="where benchmarks.md goes")
    return parser


def keep(result: Section, arguments: argparse.Namespace) -> None:
    """Print a section, and put it into the report unless it was a smoke test."""
    print("\n".join(_markdown(result)))
    if arguments.smoke:
        return
    path = arguments.reports / "benchmarks.json"
    known = read_json(path) if path.exists() else {}
    known[result.key] = asdict(result)
    keys = sorted(known, key=lambda key: (ORDER.index(key.partition(".")[0]), key))
    write_json(path, {key: known[key] for key in keys})
    write_text(arguments.reports / "benchmarks.md", "\n".join(_report([Section(**known[key]) for key in keys])) + "\n")


def _report(sections: Sequence[Section]) -> Iterator[str]:
    yield "# Benchmarks"
    yield ""
    yield "`make bench` repeats these measurements and writes this page. Each speed is compared with that of another"
    yield "implementation or with the machine's limit, measured in the same run: every round measures all of them."
    yield "Figures are medians over the rounds, with the lowest and highest in brackets; ratios are computed round by"
    yield "round."
    for machine in dict.fromkeys(each.machine for each in sections):
        titles = ", ".join(each.title for each in sections if each.machine == machine)
        loads = ", ".join(str(each.load) for each in sections if each.machine == machine)
        yield ""
        yield f"**Machine** ({titles}): {machine}. Load average before each: {loads}."
    for each in sections:
        yield ""
        yield from _markdown(each)


def _markdown(section: Section) -> Iterator[str]:
    yield f"## {section.title}"
    yield ""
    yield f"| {' | '.join(section.columns)} |"
    yield f"|{'---|' * len(section.columns)}"
    for row in section.rows:
        yield f"| {' | '.join(row)} |"
    for note in section.notes:
        yield ""
        yield note
