"""Which device computes, and in which precision. Knows hardware only."""

import os
import time
from typing import Literal

import torch

from captionlab.errors import CaptionlabError


def choose_device(wanted: Literal["auto", "cpu", "cuda", "mps"]) -> str:
    """Resolve "auto" to the fastest device there is; a device that is not there is a CaptionlabError.

    On CUDA it also asks PyTorch and cuBLAS for algorithms that give the same bytes each time.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted != "auto" and not there[wanted]:
        raise CaptionlabError(f"device is {wanted} in params.yaml, which this machine does not have; use auto")
    chosen = next(device for device in ("cuda", "mps", "cpu") if there[device]) if wanted == "auto" else wanted
    if chosen == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        torch.use_deterministic_algorithms(True, warn_only=True)  # an operation that has none warns, and runs
    return chosen


def uses_bf16(precision: Literal["auto", "fp32", "bf16"], device: str) -> bool:
    """Whether to train in bf16: with "auto", on a CPU that has units for it.

    Not on CUDA: there it was no faster, and ``nn.LSTM`` under autocast returns fp16 whatever type was asked for, which
    does not mix with bf16. Raises CaptionlabError for "bf16" where it cannot be had.
    """
    if precision == "bf16" and device != "cpu":
        raise CaptionlabError(f"training.precision is bf16, which is for CPUs; on {device} use auto or fp32")
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise CaptionlabError("training.precision is bf16, which this CPU cannot compute; use auto or fp32")
    if precision != "auto":
        return precision == "bf16"
    return device == "cpu" and _cpu_multiplies_bf16_faster()


def fp32_products(device: str) -> None:
    """Let CUDA multiply float32 matrices in TF32, for training."""
    if device == "cuda":
        torch.set_float32_matmul_precision("high")


def _cpu_multiplies_bf16_faster() -> bool:
    """Ask the CPU itself: with the units bf16 is several times faster, without them many times slower."""

    def best_of(dtype: torch.dtype) -> float:
        a = torch.ones(256, 256, dtype=dtype)
        times = []
        for _ in range(3):
            began = time.perf_counter()
            a @ a
            times.append(time.perf_counter() - began)
        return min(times)

    return best_of(torch.bfloat16) < best_of(torch.float32)
