"""Starts commands under torchrun, on one machine."""

import os
import subprocess
import sys
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src"


def torchrun(root: Path, *arguments: str, processes: int = 2) -> subprocess.CompletedProcess[str]:
    """Run Python with these arguments in several processes, in the folder ``root``.

    Without the lines that gloo itself writes to standard output, as it does with PyTorch 2.9.
    """
    source = os.pathsep.join([str(SOURCE), os.environ.get("PYTHONPATH", "")])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    done = subprocess.run(
        [*command, *arguments], cwd=root, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": source, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    lines = done.stdout.splitlines(keepends=True)
    done.stdout = "".join(line for line in lines if not line.startswith("[Gloo]"))
    return done
