"""The processes that torchrun started, on one machine or several: ranks, sums and broadcasts.

Knows processes and tensors; nothing of what they compute. Without torchrun a process is rank 0 of 1: nothing is sent,
and no result changes.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous

from captionlab.core.cores import local_processes
from captionlab.errors import CaptionlabError, first_line

Value = TypeVar("Value")
TIMEOUT = timedelta(days=1)  # the first to finish waits for the slowest; torchrun itself notices lost processes


@contextmanager
def process_group() -> Iterator[None]:
    """Join the other processes that torchrun started; raises CaptionlabError when they cannot be reached.

    With a CUDA device for each process the backend is NCCL, else gloo; surplus processes share the devices.
    """
    cards = torch.cuda.device_count()
    if cards:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % cards)
    with _translated_errors():
        store, own, world = next(rendezvous("env://"))
        # After a restart torchrun keeps the store, with the addresses of the processes that ended.
        store = dist.PrefixStore(f"attempt{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # type: ignore[attr-defined]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cards >= local_processes() else "gloo",
            store=store, rank=own, world_size=world, timeout=TIMEOUT,
        )  # fmt: skip
    yield
    dist.destroy_process_group()


def rank() -> int:
    """The number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """The number of processes on all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes results, prints and tracks."""
    return rank() == 0


def shard(total: int, unit: int = 1) -> slice:
    """The share of this process in ``total`` items, cut at multiples of ``unit``; it may be empty."""
    units = -(-total // unit)
    return slice(unit * (units * rank() // world_size()), unit * (units * (rank() + 1) // world_size()))


def barrier() -> None:
    """Wait until all processes have come here."""
    if world_size() > 1:
        with _translated_errors():
            dist.barrier()


def broadcast_object(value: Value) -> Value:
    """The ``value`` of the first process."""
    if world_size() == 1:
        return value
    values = [value]
    with _translated_errors():
        dist.broadcast_object_list(values)
    return values[0]


def broadcast_weights(model: nn.Module) -> None:
    """Copy the first process's weights: another processor may have initialised them with other last bits."""
    if world_size() > 1:
        with _translated_errors():
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)


def all_reduce_sum(*numbers: float) -> tuple[float, ...]:
    """Each number summed over the processes; counts are exact."""
    if world_size() == 1:
        return numbers
    sums = torch.tensor(numbers, dtype=torch.float64)
    with _translated_errors():
        dist.all_reduce(sums)
    return tuple(sums.tolist())


def all_reduce_gradients(model: nn.Module) -> None:
    """Sum the gradients over the processes, in one message."""
    if world_size() == 1:
        return
    trained = [parameter for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([_gradient(parameter).flatten() for parameter in trained])
    with _translated_errors():
        dist.all_reduce(flat)
    for parameter, summed in zip(trained, flat.split([parameter.numel() for parameter in trained]), strict=True):
        parameter.grad = summed.view_as(parameter)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # of gloo, NCCL or the store
        raise CaptionlabError(
            f"another process of this run cannot be reached ({first_line(error)[:200]}); run the same command "
            "again to resume (torchrun --max-restarts does so by itself)"
        ) from error
