"""Run an encoder on pixels: compiled by ONNX Runtime on the CPU, by PyTorch on CUDA and MPS.

Knows encoders and arrays; nothing of files. Shape letters: N photos, H and W pixels, D size of the pooled vector,
R regions, C channels of the grid.
"""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from captionlab.data.photos import Pixels
from captionlab.encoders.load import Encoder

Floats = NDArray[np.float32]
CPU_BATCH = 4  # photos a call; a few keep a core's cache warm, larger batches were slower


class Engine(Protocol):
    """Runs an encoder on (N, H, W, 3) bytes: pooled (N, D) and grid (N, R, C), float32."""

    batch: int  # photos a call: for the best speed, and no more where the engine was compiled for them

    def __call__(self, pixels_NHW3: Pixels) -> tuple[Floats, Floats]: ...


class OnnxEngine:
    """The compiled CPU engine. Safe to call from several threads: each call runs on its caller's core.

    Within a thousandth of the features' standard deviation of eager PyTorch.
    """

    def __init__(self, encoder: Encoder, batch: int = CPU_BATCH) -> None:
        import onnxruntime

        self.batch = batch
        example = torch.zeros(batch, encoder.pixels, encoder.pixels, 3, dtype=torch.uint8)
        graph = io.BytesIO()
        # The tracing exporter folds a fixed batch into constants in a second; the newer one takes ten for the
        # same speed. See docs/decisions/0003-cpu-engine.md.
        with _quiet_exporter():
            torch.onnx.export(
                encoder.network,
                (example,),
                graph,  # type: ignore[arg-type]  # its annotation leaves out files in memory
                dynamo=False,
                opset_version=17,
                input_names=["pixels"],
            )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        self._session = onnxruntime.InferenceSession(graph.getvalue(), options, providers=["CPUExecutionProvider"])

    def __call__(self, pixels_NHW3: Pixels) -> tuple[Floats, Floats]:
        n = len(pixels_NHW3)
        if n < self.batch:
            pixels_NHW3 = np.concatenate([pixels_NHW3, np.zeros((self.batch - n, *pixels_NHW3.shape[1:]), np.uint8)])
        pooled_ND, grid_NRC = self._session.run(None, {"pixels": pixels_NHW3})
        return pooled_ND[:n], grid_NRC[:n]


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    import warnings

    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # tracer warnings: the graph is used at the traced size only
        yield


class TorchEngine:
    """Eager PyTorch, channels-last: fp16 inside the CNN on CUDA, float32 elsewhere (the reference on CPU)."""

    def __init__(self, encoder: Encoder, device: str) -> None:
        self.batch = CPU_BATCH
        self._device = device
        self._network = encoder.network.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, pixels_NHW3: Pixels) -> tuple[Floats, Floats]:
        pixels = torch.from_numpy(pixels_NHW3)
        if self._device == "cuda":
            pixels = pixels.pin_memory()
        with torch.inference_mode():
            pooled_ND, grid_NRC = self._network(pixels.to(self._device, non_blocking=True))
        return pooled_ND.cpu().numpy(), grid_NRC.cpu().numpy()
