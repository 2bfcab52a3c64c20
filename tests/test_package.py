"""What importing the package does to its process."""

import subprocess
import sys

import pytest

SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def openmp(script: str, monkeypatch: pytest.MonkeyPatch, **settings: str) -> str:
    """What OpenMP itself reports when it starts."""
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    for name, value in {"OMP_DISPLAY_ENV": "VERBOSE", **settings}.items():
        monkeypatch.setenv(name, value)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=True)
    if "OMP_WAIT_POLICY" not in done.stderr:
        pytest.skip("this torch has no OpenMP that reports its settings")
    return done.stderr


@pytest.mark.parametrize("script", ["from captionlab import Captioner", "from captionlab import cli; import torch"])
def test_openmp_waits_passively(script: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "OMP_WAIT_POLICY = 'PASSIVE'" in openmp(script, monkeypatch)


def test_the_users_own_settings_win(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "from captionlab import Captioner"
    assert "OMP_WAIT_POLICY = 'ACTIVE'" in openmp(script, monkeypatch, OMP_WAIT_POLICY="ACTIVE")
    report = openmp(script, monkeypatch, GOMP_SPINCOUNT="1234", KMP_BLOCKTIME="1234")
    assert "GOMP_SPINCOUNT = '1234'" in report or "KMP_BLOCKTIME='1234" in report  # GNU's or LLVM's OpenMP
