"""The number of threads of a process."""

import os

import pytest

from captionlab.core.cores import threads


@pytest.mark.parametrize(("environment", "expected"), [
    ({}, 8), ({"OMP_NUM_THREADS": "3"}, 3), ({"OMP_NUM_THREADS": "0"}, 8), ({"OMP_NUM_THREADS": "2,1"}, 8),
    ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "2"}, 4),
    ({"TORCHELASTIC_RUN_ID": "none", "LOCAL_WORLD_SIZE": "20"}, 1),
])  # fmt: skip
def test_the_cores_are_shared(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], expected: int) -> None:
    for name in ("OMP_NUM_THREADS", "TORCHELASTIC_RUN_ID", "LOCAL_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: range(8), raising=False)
    assert threads() == expected
