"""Training steps as CUDA graphs: recorded once for each shape of batch, then launched as a whole.

A step of these small systems is a thousand or two short kernels. Launched one by one from Python they leave the GPU
idle nine tenths of the time. Knows batches and gradients; nothing of systems or losses.
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from captionlab.errors import first_line
from captionlab.training.batches import Batch

# Computes a batch's gradients, given the scheduled-sampling probability; returns its loss and the sums of its metrics.
Step = Callable[[Batch, float | Tensor], tuple[Tensor, Tensor]]
Shapes = tuple[torch.Size, ...]


@dataclass(frozen=True)
class _Recorded:
    """One recorded step: it reads ``batch`` and ``numbers_3``, and writes ``gradients`` and ``results``."""

    graph: Any  # a torch.cuda.CUDAGraph
    batch: Batch
    numbers_3: Tensor  # the batch's shares of words and captions, and the sampling probability
    gradients: list[Tensor | None]
    results: tuple[Tensor, Tensor]


class GraphedStep:
    """Runs ``step`` for batches on the CPU and leaves the gradients in the parameters of ``model``, on CUDA.

    A graph runs the kernels of the step that was recorded, with new random numbers. ``step`` must therefore depend on
    shapes alone and never wait for the device. Where it cannot be recorded it runs without, after one warning. Every
    step runs from a graph, the first one of a shape too, so that a resumed training runs the same kernels.
    """

    def __init__(self, step: Step, model: nn.Module) -> None:
        self._step, self._model = step, model
        self._device = next(model.parameters()).device
        self._recorded: dict[Shapes, _Recorded] = {}
        self._stream = _stream(self._device)
        self._pool = torch.cuda.graph_pool_handle()  # shared: one step's results are used before the next one runs
        self._fails = False

    @property
    def fails(self) -> bool:
        """Whether steps run without graphs, because one could not be recorded."""
        return self._fails

    def __call__(self, batch: Batch, sampling: float) -> tuple[Tensor, Tensor]:
        """The step's loss and sums: to be used before the next call, which overwrites them and the gradients."""
        shapes = tuple(tensor.shape for tensor in batch.tensors())
        if shapes not in self._recorded and not self._fails:
            self._try_to_record(batch, shapes)
        if self._fails:
            return self._step(batch.to(self._device), sampling)
        recorded = self._recorded[shapes]
        for held, given in zip(recorded.batch.tensors(), batch.tensors(), strict=True):
            held.copy_(given.pin_memory(), non_blocking=True)
        for index, number in enumerate((batch.words_share, batch.captions_share, sampling)):
            recorded.numbers_3[index].fill_(number)
        recorded.graph.replay()
        for parameter, gradient in zip(self._model.parameters(), recorded.gradients, strict=True):
            parameter.grad = gradient
        return recorded.results

    def _try_to_record(self, batch: Batch, shapes: Shapes) -> None:
        generator = torch.cuda.default_generators[self._device.index]
        random = generator.get_state()
        current = torch.cuda.current_stream(self._device)
        try:
            self._recorded[shapes] = self._record(batch)
        except RuntimeError as error:
            self._fails = True
            torch.cuda.set_stream(current)
            generator.graphsafe_set_state(generator.clone_state())  # the old one may wait for the end of a recording
            warnings.warn(f"training without CUDA graphs, which is slower: {first_line(error)}", stacklevel=2)
        generator.set_state(random)  # recording has used random numbers, and the step is still to come

    def _record(self, batch: Batch) -> _Recorded:
        held = batch.to(self._device)
        numbers_3 = torch.ones(3, device=self._device)
        words_share, captions_share, sampling = numbers_3.unbind()
        held = held._replace(words_share=words_share, captions_share=captions_share)
        self._stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(self._stream):
            self._step(held, sampling)  # libraries set themselves up, which cannot be recorded
            with _error_on_waiting():
                self._step(held, sampling)
        torch.cuda.current_stream(self._device).wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads, such as NCCL's, may go on using CUDA.
        with torch.cuda.graph(graph, self._pool, self._stream, capture_error_mode="thread_local"):
            results = self._step(held, sampling)
        gradients = [parameter.grad for parameter in self._model.parameters()]
        return _Recorded(graph, held, numbers_3, gradients, results)


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """One stream for all recordings on a device, because cuBLAS keeps memory for each stream."""
    return torch.cuda.Stream(device)


@contextmanager
def _error_on_waiting() -> Iterator[None]:
    """Operations that wait for the device raise RuntimeError: in a recording they would leave CUDA in disorder."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the mode says that it is a prototype
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")
