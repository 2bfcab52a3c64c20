"""Run an encoder on pixels: compiled by ONNX Runtime on the CPU, by PyTorch on CUDA and MPS.

Knows encoders and arrays; nothing of files. Shape letters: N photos, H and W pixels, D size of the pooled vector,
R regions, C channels of the grid.
"""

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from captionlab.core.devices import to_device
from captionlab.data.photos import Pixels
from captionlab.encoders.load import Encoder

Floats = NDArray[np.float32]
CPU_BATCH = 4  # photos a call; a few keep a core's cache warm, larger batches were slower
GPU_BATCH = 256  # of photos of 260 pixels, and fewer of larger ones; from here on larger batches are no faster


class Engine(Protocol):
    """Runs an encoder on (N, H, W, 3) bytes: pooled (N, D) and grid (N, R, C), float32."""

    batch: int  # photos a call: for the best speed, and no more where the engine was compiled for them

    def __call__(self, pixels_NHW3: Pixels) -> tuple[Floats, Floats]: ...


class OnnxEngine:
    """The compiled CPU engine. Several threads may call it: each call runs on one core.

    Within a thousandth of the features' standard deviation of eager PyTorch.
    """

    def __init__(self, encoder: Encoder, batch: int = CPU_BATCH) -> None:
        import onnxruntime

        self.batch = batch
        example = torch.zeros(batch, encoder.pixels, encoder.pixels, 3, dtype=torch.uint8)
        graph = to_onnx(encoder.network, (example,), inputs=["pixels"])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels_NHW3: Pixels) -> tuple[Floats, Floats]:
        n = len(pixels_NHW3)
        if n < self.batch:
            pixels_NHW3 = np.concatenate([pixels_NHW3, np.zeros((self.batch - n, *pixels_NHW3.shape[1:]), np.uint8)])
        pooled_ND, grid_NRC = self._session.run(None, {"pixels": pixels_NHW3})
        return pooled_ND[:n], grid_NRC[:n]


def to_onnx(
    network: nn.Module,
    examples: tuple[Tensor, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str] | None = None,
    growing: Mapping[str, Sequence[int]] | None = None,
) -> bytes:
    """Trace a network into an ONNX graph for the shapes of ``examples``; the same network gives the same bytes.

    ``growing`` names the inputs and outputs that have dimensions of any size, and these dimensions.
    """
    graph = io.BytesIO()
    # The tracing exporter folds fixed shapes into constants in a second; the newer one takes ten for the same speed.
    # See docs/decisions/0003-cpu-engine.md.
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracer warnings: the graph is used with the traced shapes only
        torch.onnx.export(
            network,
            examples,
            graph,  # type: ignore[arg-type]  # its annotation leaves out files in memory
            dynamo=False,
            opset_version=17,
            input_names=inputs,
            output_names=outputs,
            dynamic_axes=growing,
        )
    return graph.getvalue()


class TorchEngine:
    """Eager PyTorch, channels-last: fp16 inside the network on CUDA, float32 elsewhere (the reference on CPU)."""

    def __init__(self, encoder: Encoder, device: str) -> None:
        self.batch = CPU_BATCH if device == "cpu" else gpu_batch(encoder.pixels)
        self._device = device
        self._network = encoder.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, pixels_NHW3: Pixels) -> tuple[Floats, Floats]:
        pooled_ND, grid_NRC = self.encode([torch.from_numpy(pixels_NHW3)])
        return pooled_ND.cpu().numpy(), grid_NRC.cpu().numpy()

    @torch.inference_mode()
    def encode(self, chunks: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Encode photos that come in several tensors (N, H, W, 3), ``batch`` at a time; the results stay on the device.

        On CUDA nothing is waited for, neither the copy of the photos nor the results, and photos are copied while the
        device is at work on those of the call before.
        """
        pixels_NHW3 = _joined(chunks, self._device)
        pooled, grids = zip(*map(self._network, pixels_NHW3.split(self.batch)), strict=True)
        return torch.cat(pooled), torch.cat(grids)


def _joined(chunks: Sequence[Tensor], device: str) -> Tensor:
    if device != "cuda":
        return torch.cat([to_device(chunk, device) for chunk in chunks])
    copying, computing = _copying(), torch.cuda.current_stream()
    with torch.cuda.stream(copying):
        joined = torch.cat([to_device(chunk, device) for chunk in chunks])
    computing.wait_stream(copying)
    joined.record_stream(computing)  # or its memory could be given to the next copy before the kernels have read it
    return joined


@cache
def _copying() -> torch.cuda.Stream:
    """A stream of its own for copies, which otherwise wait for the kernels before them."""
    return torch.cuda.Stream()


def gpu_batch(pixels: int) -> int:
    """Photos that a GPU encodes together, by their side: about the memory of ``GPU_BATCH`` photos of 260 pixels."""
    return max(1, min(GPU_BATCH, GPU_BATCH * 260**2 // pixels**2))


def copied_to_host(*tensors: Tensor) -> Callable[[], list[NDArray[Any]]]:
    """Start copying tensors to the host; the function that is returned waits for them alone, not for later work."""
    if not tensors[0].is_cuda:
        return lambda: [tensor.cpu().numpy() for tensor in tensors]
    on_host = [tensor.to("cpu", non_blocking=True) for tensor in tensors]
    copied = torch.cuda.Event()
    copied.record()

    def result() -> list[NDArray[Any]]:
        copied.synchronize()
        return [tensor.numpy() for tensor in on_host]

    return result
