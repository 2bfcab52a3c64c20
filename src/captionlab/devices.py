"""Which device computes, and in which precision. Knows hardware only."""

import time
from typing import Literal

import torch

from captionlab.errors import CaptionlabError


def choose_device(wanted: Literal["auto", "cpu", "cuda", "mps"]) -> str:
    """Resolve "auto" to the fastest device there is; a device that is not there is a CaptionlabError."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted == "auto":
        return next(device for device in ("cuda", "mps", "cpu") if there[device])
    if not there[wanted]:
        raise CaptionlabError(f"device is {wanted} in params.yaml, which this machine does not have; use auto")
    return wanted


def uses_bf16(precision: Literal["auto", "fp32", "bf16"], device: str) -> bool:
    """Whether to multiply in bf16: with "auto", where the device has units for it.

    Raises CaptionlabError for "bf16" on a CPU whose LSTMs cannot compute in it.
    """
    if precision == "bf16" and device == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise CaptionlabError("training.precision is bf16, which this CPU cannot compute; use auto or fp32")
    if precision != "auto":
        return precision == "bf16"
    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and _cpu_multiplies_bf16_faster()


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
