"""A few faults of some kinds on the real program; ``make torture`` tries all, full disks and load too."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

TESTS = Path(__file__).parent


@pytest.mark.parametrize("part", ["fuzz", "hostile", "kill", "numbers"])
def test_a_few_faults_are_handled(part: str) -> None:
    """In a process of its own: it forks, limits itself and dies."""
    environment = os.environ | {"PYTHONPATH": f"{TESTS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, "-m", "torture", part, "--short", "--minutes", "0.1"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-2000:]}"
    assert " injected, 0 failed" in done.stdout
