"""How many threads a process may use, for work that PyTorch does not divide. Imports nothing slow."""

import os


def threads() -> int:
    """``OMP_NUM_THREADS``, or the cores that this process may use; under torchrun its share of them.

    torchrun sets ``OMP_NUM_THREADS`` to 1 by itself.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) and "TORCHELASTIC_RUN_ID" not in os.environ:
        return int(given)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, cores // local_processes())


def local_processes() -> int:
    """The processes that torchrun started on this machine; 1 without it."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
