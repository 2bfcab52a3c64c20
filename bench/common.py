"""Shared by the benchmarks: interleaved rounds, medians and ranges, a description of the machine, the report.

Knows nothing of photos or captions. Each benchmark is a script that writes one section of
``reports/benchmarks.json``; ``reports/benchmarks.md`` is rendered from all of them.
"""

import argparse
import math
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

import torch

from captionlab.core.files import read_json, write_json, write_text
from captionlab.core.records import RELEASED
from captionlab.encoders.efficientnet_lite import lite_names, lite_weights
from captionlab.encoders.load import trained_blocks
from captionlab.errors import CaptionlabError
from captionlab.training.header import read_header

ROOT = Path(__file__).parents[1]
# Of the report's sections.
ORDER = ("extraction", "training", "shared", "decoding", "startup", "export", "growth", "stages")
Workload = Callable[[], float]  # does some work and returns its amount: photos, captions, operations


@dataclass(frozen=True)
class Rates:
    """The throughput of one workload in every round."""

    rounds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The median over the rounds."""
        return statistics.median(self.rounds)

    def over(self, other: "Rates") -> "Rates":
        """The ratio to another workload's rates, round by round, because other load slows both in the same round."""
        return Rates(tuple(a / b for a, b in zip(self.rounds, other.rounds, strict=True)))

    def times(self, factor: float) -> "Rates":
        """The rates multiplied by a factor, for another unit."""
        return Rates(tuple(factor * value for value in self.rounds))

    def text(self, unit: str = "") -> str:
        """The median, with the lowest and highest in brackets."""
        return f"{figure(self.median)}{unit} ({figure(min(self.rounds))} to {figure(max(self.rounds))})"


def figure(value: float) -> str:
    """A number with three significant digits; whole numbers from 100."""
    return f"{value:,.0f}" if abs(value) >= 99.95 else f"{value:.3g}"


def aim(what: str, limit: float, found: float, *, at_least: bool = False) -> str:
    """A sentence that says whether an aim is reached."""
    if not math.isfinite(found):
        return f"The aim is {what}: not measured."
    reached = found >= limit if at_least else found <= limit
    return f"The aim is {what}: {'reached' if reached else 'missed'} ({figure(found)})."


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """A table in Markdown."""
    return [f"| {' | '.join(columns)} |", f"|{'---|' * len(columns)}", *(f"| {' | '.join(row)} |" for row in rows)]


def interleave(workloads: Mapping[str, Workload], rounds: int, *, warm_up: bool = False) -> dict[str, Rates]:
    """Run the workloads in interleaved rounds and return the rate per second of each, by name.

    Each round runs every workload once, so that other load affects all of them alike. With ``warm_up``, a first round
    is not counted: newly allocated memory makes a first training twice as slow.
    """
    found: dict[str, list[float]] = {name: [] for name in workloads}
    if warm_up:
        for workload in workloads.values():
            workload()
    for number in range(rounds):
        for name, workload in workloads.items():
            began = time.perf_counter()
            done = workload()
            found[name].append(done / (time.perf_counter() - began))
            print(f"round {number + 1} of {rounds}: {name}, {figure(found[name][-1])} a second", flush=True)
    return {name: Rates(tuple(values)) for name, values in found.items()}


def matrix_product(device: str, dtype: torch.dtype, size: int) -> Workload:
    """Square matrix products, counted in floating-point operations: the upper limit of the machine's speed."""
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

    key: str  # one of ORDER; a device other than the CPU, or a variant, follows after a dot
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str]  # paragraphs below the table
    machine: str
    load: float  # load average before the benchmark: well below 1 on an idle machine


def section(
    key: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[str]], notes: Sequence[str],
    *, load: float, device: str = "cpu",
) -> Section:  # fmt: skip
    """A section measured on this machine; its parameters are the fields of ``Section`` that a benchmark knows."""
    if device != "cpu":
        key, title = f"{key}.{device}", f"{title}, on {accelerator(device)}"
    return Section(key=key, title=title, columns=columns, rows=rows, notes=notes, machine=machine(), load=load)


def load() -> float:
    """The load average of the last minute."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else 0.0


def released_is_usable() -> bool:
    """Whether the released captioner is in this checkout, and the weights of its encoder are installed."""
    if not RELEASED.exists():
        return False
    try:
        for name in lite_names(trained_blocks(read_header(RELEASED).identity.encoder)[0]):
            lite_weights(name)
    except CaptionlabError:
        return False
    return True


def accelerator(device: str) -> str:
    """The device's name."""
    return torch.cuda.get_device_name() if device == "cuda" else device


@cache
def machine() -> str:
    """The processor, cores, memory and library versions, without names of hosts, users or folders."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    parts = [_cpuinfo("model name") or platform.processor() or platform.machine(), f"{cores} cores"]
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        parts.append(f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GiB of memory")
    flags = _cpuinfo("flags").split()
    units = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    parts += [f"with {' '.join(units)}"] if units else []
    parts += [platform.system(), f"Python {platform.python_version()}"]
    parts += [f"torch {torch.__version__} (threads: {torch.get_num_threads()})"]
    modules = {"onnxruntime": "onnxruntime", "numpy": "numpy", "pillow": "PIL"}  # the first also as onnxruntime-gpu
    return ", ".join([*parts, *(f"{name} {import_module(module).__version__}" for name, module in modules.items())])


def _cpuinfo(key: str) -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def options(doc: str | None) -> argparse.ArgumentParser:
    """An argument parser with the options that all benchmarks share."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--smoke", action="store_true", help="run once at tiny sizes; nothing is written")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--reports", type=Path, default=ROOT / "reports", help="folder for benchmarks.md")
    return parser


def publish(result: Section, arguments: argparse.Namespace) -> None:
    """Print a section and add it to the report; with --smoke only print it."""
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
