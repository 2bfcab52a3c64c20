"""Starts commands under torchrun, on one machine."""

import os
import re
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"


def torchrun(root: Path, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in several processes, in the folder ``root``.

    Without what gloo writes to standard output with PyTorch 2.9: a line of each process, sometimes broken by another's.
    """
    source = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, *arguments], cwd=root, capture_output=True, text=True, timeout=300,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    done.stdout = re.sub(r"^(.*(\[Gloo\]|peer ranks).*|[\d ]+)\n", "", done.stdout, flags=re.MULTILINE)
    return done
