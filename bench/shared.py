"""Training beside other work: OpenMP's threads wait passively, as captionlab sets them, or spin.

    python bench/shared.py [--rounds 3] [--photos 320] [--smoke]

Every training is a process of its own, because OpenMP reads its settings once. A ratio compares the two ways of
waiting within one round.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from common import Way, interleave, keep, load, options, section
from training import ours, subjects

PASSIVE, SPINNING = "passive", "spinning"
SETTINGS = {
    PASSIVE: {"OMP_WAIT_POLICY": "PASSIVE"},
    # What GNU's and LLVM's OpenMP do by themselves. Both settings take precedence over captionlab's.
    SPINNING: {"GOMP_SPINCOUNT": "300000", "KMP_BLOCKTIME": "200"},
}
QUIET, BUSY, TWO = "alone", "beside a busy process on every second core", "two trainings at once"

Process = subprocess.Popen[str]


def work(photos: int) -> None:
    """Train for a while whenever a line comes in, and answer with the captions that were read."""
    subject = next(subjects(photos))
    train = ours(subject, "cpu")
    for _ in sys.stdin:
        print(train(), flush=True)


def trainer(waiting: str, photos: int) -> Process:
    """A process that trains when asked; its first training has run, so that the next one is at full speed."""
    unset = {name for settings in SETTINGS.values() for name in settings}
    environment = {key: value for key, value in os.environ.items() if key not in unset} | SETTINGS[waiting]
    process = subprocess.Popen(
        [sys.executable, __file__, "--photos", str(photos), "--worker"],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    at_once([process])()
    return process


def at_once(processes: Sequence[Process]) -> Way:
    """All of them train, each on every core."""

    def run() -> float:
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("train\n")
            process.stdin.flush()
        answers = [process.stdout.readline() for process in processes if process.stdout]
        return sum(map(float, answers))

    return run


@contextmanager
def busy() -> Iterator[None]:
    """Every second core, and at least one, has other work."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(max(1, cores // 2))]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def beside_others(way: Way) -> Way:
    """The same with other work on the machine."""

    def run() -> float:
        with busy():
            return way()

    return run


def main() -> None:
    """Train in both ways alone, beside a busy process and two at once, and keep the ratios."""
    parser = options(__doc__)
    parser.add_argument("--photos", type=int, default=320, help="each has five captions")
    parser.add_argument("--worker", action="store_true", help="run as one of the training processes")
    arguments = parser.parse_args()
    if arguments.worker:
        work(arguments.photos)
        return
    before, photos = load(), 4 if arguments.smoke else arguments.photos
    with ExitStack() as stack:
        ways: dict[str, Way] = {}
        for waiting in SETTINGS:
            pair = [stack.enter_context(trainer(waiting, photos)) for _ in range(2)]
            ways[f"{QUIET}, {waiting}"] = at_once(pair[:1])
            ways[f"{BUSY}, {waiting}"] = beside_others(at_once(pair[:1]))
            ways[f"{TWO}, {waiting}"] = at_once(pair)
            for process in pair:
                stack.callback(process.terminate)
        rates = interleave(ways, arguments.rounds)
    rows = []
    for case in (QUIET, BUSY, TWO):
        passive, spinning = (rates[f"{case}, {waiting}"] for waiting in (PASSIVE, SPINNING))
        rows.append([case, passive.text(), spinning.text(), passive.over(spinning).text("x")])
    notes = [
        f"baseline.lite0 of the Flickr8k preset, {photos} photos of drawn features with five captions each; every "
        "training may use all cores. captionlab sets OMP_WAIT_POLICY=PASSIVE unless it is set; spinning is "
        "OpenMP's default."
    ]
    columns = ["training", "captions per second, waiting passively", "spinning", "passive over spinning"]
    keep(section("shared", "Training on a shared machine", columns, rows, notes, load=before), arguments)


if __name__ == "__main__":
    main()
