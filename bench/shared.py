"""Speed of training on a shared machine, with OpenMP's threads spinning briefly while they wait, as captionlab sets
them, not at all, or as long as by default; for two trainings at once also with a share of the cores for each.

    python bench/shared.py [--rounds 3] [--photos 320] [--smoke]

Each training runs in its own process, because OpenMP reads its settings once. Ratios compare captionlab's setting with
another within one round.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from common import Workload, interleave, load, options, publish, section
from training import ours, subjects

OURS, PASSIVE, SPINNING = "captionlab's setting", "no spinning", "OpenMP's default"
SHARE = "a share of the cores for each"
SETTINGS = {
    OURS: {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "1000"},
    PASSIVE: {"OMP_WAIT_POLICY": "PASSIVE", "GOMP_SPINCOUNT": "0"},
    # The defaults of GNU's and LLVM's OpenMP. Both variables take precedence over OMP_WAIT_POLICY.
    SPINNING: {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},
}
QUIET, BUSY, TWO = "alone", "beside a busy process on every second core", "two trainings at once"

Process = subprocess.Popen[str]


def work(photos: int) -> None:
    """Train once for every line on standard input and print the number of captions."""
    subject = next(subjects(photos))
    train = ours(subject, "cpu")
    for _ in sys.stdin:
        print(train(), flush=True)


def trainer(setting: dict[str, str], photos: int) -> Process:
    """Start a process that trains on request, and let it train once as a warm-up."""
    unset = {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_NUM_THREADS"}
    environment = {key: value for key, value in os.environ.items() if key not in unset} | setting
    process = subprocess.Popen(
        [sys.executable, __file__, "--photos", str(photos), "--worker"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    all_at_once([process])()
    return process


def all_at_once(processes: Sequence[Process]) -> Workload:
    """Let all processes train at the same time."""

    def run() -> float:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("train\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in processes if process.stdout]
        return sum(map(float, answers))

    return run


def half_the_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // 2)


@contextmanager
def busy() -> Iterator[None]:
    """Keep every second core, and at least one, busy with another process."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(half_the_cores())]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def beside_others(workload: Workload) -> Workload:
    """The same workload while other processes are busy."""

    def run() -> float:
        with busy():
            return workload()

    return run


def main() -> None:
    """Measure the settings with one training alone, one beside a busy process, and two at once."""
    parser = options(__doc__)
    parser.add_argument("--photos", type=int, default=320, help="number of photos, with five captions each")
    parser.add_argument("--worker", action="store_true", help="run as one of the training processes")
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.photos)
        return
    before, photos = load(), 4 if arguments.smoke else arguments.photos
    with ExitStack() as stack:
        workloads: dict[str, Workload] = {}
        share = SETTINGS[OURS] | {"OMP_NUM_THREADS": str(half_the_cores())}
        for name, setting in (SETTINGS | {SHARE: share}).items():
            pair = [stack.enter_context(trainer(setting, photos)) for _ in range(2)]
            if name != SHARE:
                workloads[f"{QUIET}, {name}"] = all_at_once(pair[:1])
                workloads[f"{BUSY}, {name}"] = beside_others(all_at_once(pair[:1]))
            workloads[f"{TWO}, {name}"] = all_at_once(pair)
            for process in pair:
                stack.callback(process.terminate)
        rates = interleave(workloads, arguments.rounds)
    rows = []
    for case in (QUIET, BUSY, TWO):
        speeds = {waiting: rates[f"{case}, {waiting}"] for waiting in SETTINGS}
        ratios = [speeds[OURS].over(speeds[other]).text("x") for other in (PASSIVE, SPINNING)]
        rows.append([case, *(speed.text() for speed in speeds.values()), *ratios])
    notes = [
        f"baseline.lite0 of the Flickr8k preset, {photos} photos of drawn features with five captions each; every "
        "training may use all cores. captionlab sets OMP_WAIT_POLICY=PASSIVE and GOMP_SPINCOUNT=1000, which only "
        "GNU's OpenMP knows, unless the first is set.",
        f"Two trainings at once with half of the cores each (OMP_NUM_THREADS) and captionlab's setting: "
        f"{rates[f'{TWO}, {SHARE}'].over(rates[f'{TWO}, {OURS}']).text('x')} of the speed with every core for both.",
    ]
    columns = [f"captions per second, {OURS}", PASSIVE, SPINNING]
    columns = ["training", *columns, f"speed-up over {PASSIVE}", f"over {SPINNING}"]
    publish(section("shared", "Training on a shared machine", columns, rows, notes, load=before), arguments)


if __name__ == "__main__":
    main()
