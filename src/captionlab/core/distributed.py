"""The processes that torchrun started, on one machine or several: which of them this is, and how they add up.

Knows processes and tensors; nothing of what they compute. A process alone is the first of one: it talks to nobody, and
nothing here changes a bit of its results.
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

from captionlab.errors import CaptionlabError

Value = TypeVar("Value")
PATIENCE = timedelta(days=1)  # the first to finish waits for the slowest; that one is gone, torchrun notices by itself


@contextmanager
def process_group() -> Iterator[None]:
    """Meet the other processes that torchrun started; raises CaptionlabError when they cannot be reached.

    On CUDA with a card a process they talk through NCCL, else through gloo; processes beyond the cards share them.
    """
    cards = torch.cuda.device_count()
    if cards:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]) % cards)
    with _translated_errors():
        store, own, world = next(rendezvous("env://"))
        # Where torchrun starts all again it keeps the store, and in it the addresses of the processes that are gone.
        store = dist.PrefixStore(f"attempt{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)  # type: ignore[attr-defined]
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if cards >= local_world_size() else "gloo",
            store=store, rank=own, world_size=world, timeout=PATIENCE,
        )  # fmt: skip
    yield
    dist.destroy_process_group()


def rank() -> int:
    """This process's number, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """How many processes there are, on all machines."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the one process that writes results, prints and tracks."""
    return rank() == 0


def local_world_size() -> int:
    """How many processes share this machine, this one included."""
    return int(os.environ["LOCAL_WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def shard(total: int, unit: int = 1) -> slice:
    """Which of ``total`` things in a row are this process's, cut at multiples of ``unit``; may be none."""
    units = -(-total // unit)
    return slice(unit * (units * rank() // world_size()), unit * (units * (rank() + 1) // world_size()))


def barrier() -> None:
    """Go on when all are here."""
    if world_size() > 1:
        with _translated_errors():
            dist.barrier()


def broadcast_object(value: Value) -> Value:
    """What the first process has for ``value``."""
    if world_size() == 1:
        return value
    values = [value]
    with _translated_errors():
        dist.broadcast_object_list(values)
    return values[0]


def broadcast_weights(model: nn.Module) -> None:
    """Take over the first process's weights: other processors may have begun with others in the last bit."""
    if world_size() > 1:
        with _translated_errors():
            for tensor in model.state_dict().values():
                dist.broadcast(tensor, 0)


def all_reduce_sum(*numbers: float) -> tuple[float, ...]:
    """Each number summed over the processes, exact for counts."""
    if world_size() == 1:
        return numbers
    sums = torch.tensor(numbers, dtype=torch.float64)
    with _translated_errors():
        dist.all_reduce(sums)
    return tuple(sums.tolist())


def all_reduce_gradients(model: nn.Module) -> None:
    """Sum every gradient over the processes, all in one message."""
    if world_size() == 1:
        return
    moved = [parameter for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([_gradient(parameter).flatten() for parameter in moved])
    with _translated_errors():
        dist.all_reduce(flat)
    for parameter, summed in zip(moved, flat.split([parameter.numel() for parameter in moved]), strict=True):
        parameter.grad = summed.view_as(parameter)


def _gradient(parameter: Tensor) -> Tensor:
    assert parameter.grad is not None
    return parameter.grad


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # gloo's and NCCL's, and those of the store where they meet
        raise CaptionlabError(
            f"another process of this run cannot be reached ({str(error).splitlines()[0][:200]}); run the same command "
            "again, and it goes on where it stopped (torchrun --max-restarts does so by itself)"
        ) from error
