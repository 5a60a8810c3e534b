"""Several processes that train one model, as torchrun starts them.

Each takes its part of every batch; gradients, losses and counts are added up, so that a step is that of one process
with the whole batch. Norms see the part of their own process, as is usual; their running statistics are averaged after
every epoch. The first process alone scores, writes and speaks. All must see the same files (one machine).
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

T = TypeVar("T")


def start(device: torch.device) -> None:
    """Meet the other processes, if torchrun started several; NCCL on GPUs, otherwise Gloo."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1 and not _together():
        torch.distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
        atexit.register(_part)


def finish() -> None:
    """Wait until the other processes have come as far, and leave them: after a fit, while all are still there."""
    if _together():
        torch.distributed.barrier()
        _part()


def _part() -> None:
    if _together():
        torch.distributed.destroy_process_group()


def rank() -> int:
    """Number of this process, from 0."""
    return torch.distributed.get_rank() if _together() else 0


def world() -> int:
    """How many processes there are."""
    return torch.distributed.get_world_size() if _together() else 1


def add_up(tensors: Sequence[Tensor]) -> None:
    """Add tensors of all processes up, in place, in one go."""
    if world() == 1 or not tensors:
        return
    flat = torch.cat([t.detach().reshape(-1).to(torch.promote_types(t.dtype, torch.float32)) for t in tensors])
    torch.distributed.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.detach().copy_(part.view_as(tensor))


def average_buffers(*nets: nn.Module | None) -> None:
    """Give running statistics of norms the mean over all processes."""
    found = [b for net in nets if net is not None for b in net.buffers() if b.is_floating_point()]
    add_up(found)
    for buffer in found if world() > 1 else ():
        buffer.div_(world())


def highest(value: int, device: torch.device) -> int:
    """The highest of the processes' values."""
    if world() == 1:
        return value
    held = torch.tensor(value, device=device)
    torch.distributed.all_reduce(held, torch.distributed.ReduceOp.MAX)
    return int(held)


def from_first(make: Callable[[], T]) -> T:
    """What the first process makes, for all of them."""
    if world() == 1:
        return make()
    held = [make() if rank() == 0 else None]
    torch.distributed.broadcast_object_list(held, src=0)
    made: T = held[0]  # type: ignore[assignment]
    return made


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
