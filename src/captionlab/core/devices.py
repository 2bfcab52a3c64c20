"""The device that computes, and its precision. Knows hardware only."""

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from captionlab.errors import CaptionlabError


def choose_device(wanted: Literal["auto", "cpu", "cuda", "mps"]) -> str:
    """Resolve "auto" to the fastest device of this machine; a device that it does not have is a CaptionlabError.

    For CUDA it also sets PyTorch and cuBLAS to algorithms that give the same bytes each time, and cuDNN to float32.
    """
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if wanted != "auto" and not there.get(wanted):
        raise CaptionlabError(f"device is {wanted}, which this machine does not have; use auto")
    chosen = next(device for device in ("cuda", "mps", "cpu") if there[device]) if wanted == "auto" else wanted
    if chosen == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when cuBLAS starts
        # Like use_deterministic_algorithms, but without importing PyTorch's compiler. An operation that has no
        # deterministic version warns and runs.
        torch.set_deterministic_debug_mode("warn")
        torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # it writes tensors twice
        warnings.filterwarnings("ignore", "Please use the new API settings to control TF32")  # PyTorch 2.9 alone
        torch.backends.cudnn.allow_tf32 = False  # an LSTM's captions are to be those of the CPU
    return chosen


def uses_bf16(precision: Literal["auto", "fp32", "bf16"], device: str) -> bool:
    """Whether to train in bf16; "auto" means on a CPU with bf16 units.

    Not on CUDA: there it was no faster, and ``nn.LSTM`` under autocast returns fp16 whatever type was asked for, which
    does not mix with bf16. Raises CaptionlabError for "bf16" where it is not available.
    """
    if precision == "bf16" and device != "cpu":
        raise CaptionlabError(f"training.precision is bf16, which is for CPUs; on {device} use auto or fp32")
    if precision == "bf16" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise CaptionlabError("training.precision is bf16, which this CPU does not support; use auto or fp32")
    if precision != "auto":
        return precision == "bf16"
    return device == "cpu" and _cpu_multiplies_bf16_faster()


def to_device(tensor: Tensor, device: str | torch.device) -> Tensor:
    """Copy a tensor to a device; from the CPU to CUDA through pinned memory, without waiting for the copy."""
    if tensor.device.type == "cpu" and torch.device(device).type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


@contextmanager
def gpu_arithmetic(device: str) -> Iterator[None]:
    """Train on CUDA with float32 products in TF32; on other devices nothing changes.

    Attention of vision transformers, in encoder blocks that are trained, runs as matrix products: the gradients of the
    faster kernels are summed in any order.
    """
    if device != "cuda":
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.set_float32_matmul_precision(before)


def _cpu_multiplies_bf16_faster() -> bool:
    """Whether the CPU reports bf16 units; without them bf16 is many times slower.

    Not measured: on a busy machine the result varies, and with it the bytes of a training.
    """
    ask = getattr(torch.cpu, "get_capabilities", dict)  # PyTorch before 2.10 does not have it
    capabilities: dict[str, Any] = ask()
    return any(capabilities.get(unit, False) for unit in ("avx512_bf16", "amx_bf16", "bf16"))
