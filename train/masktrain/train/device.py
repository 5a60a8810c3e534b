"""Choose device and precision, meet other processes, and keep malloc from returning memory.

Several processes, as torchrun starts them, each take their part of every batch, and torch's DistributedDataParallel
takes the mean of their gradients, so a step is that of one process with the whole batch. Norms see the part of their
own process; the running statistics are those of the first one. Soft F1, which is no sum over images, is the mean of
the parts. All processes must see the same files.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from maskprep.base import UsageError

T = TypeVar("T")

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h


def keep_freed_memory() -> bool:
    """Let the process keep the memory that a step frees, for the next step to use.

    glibc hands every large block back to the system, and the next step has it zeroed page by page again: measured
    with EfficientNet-Lite0 at 224, that took 45 of 110 ms CPU time per image.

    Returns:
        Whether there is a glibc to tell so.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # musl
        return False
    return bool(mallopt(M_TRIM_THRESHOLD, -1) and mallopt(M_MMAP_THRESHOLD, 1 << 30))


@dataclass(frozen=True)
class Precision:
    """How the forward pass is computed: in float32, or in 16 bits."""

    device: torch.device
    dtype: torch.dtype | None

    def context(self) -> AbstractContextManager[Any]:
        """The autocast of one forward pass."""
        return nullcontext() if self.dtype is None else torch.autocast(self.device.type, self.dtype)


def describe() -> str:
    """The GPUs with their memory and the version of CUDA, or ``CPU``, with what keeps a GPU from being used."""
    if not torch.cuda.is_available():
        why = without_gpu()
        return f"CPU; {why}" if why else "CPU"
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    return f"{', '.join(f'{g.name} ({g.total_memory / 2**30:.0f} GiB)' for g in gpus)}, CUDA {torch.version.cuda}"


def without_gpu() -> str:
    """Why no GPU is used although there seems to be one; empty where there is none, or one is used."""
    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is not None:
        return f"torch is built for CUDA {torch.version.cuda}, but finds no device that it can use (an older driver?)"
    if Path("/dev/nvidia0").exists():
        return "there is an NVIDIA GPU, but this torch is built without CUDA"
    return ""


def choose_device(name: str, *, deterministic: bool = False) -> torch.device:
    """The device meant by a name, made ready; ``auto`` is the GPU if there is one.

    Args:
        deterministic: on CUDA, compute the same bits every time, more slowly.

    Raises:
        UsageError: torch does not know it, this machine does not have it, or it is of a kind that is not supported.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"  # one GPU for each process that torchrun starts
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UsageError(f"There is no device '{name}'.", "Use auto, cpu, cuda or cuda:N.") from None
    if device.type not in ("cpu", "cuda"):
        why = " Its results were never compared with those of a CPU." if device.type == "mps" else ""
        raise UsageError(f"Training on '{name}' is not supported.{why}", "Use auto, cpu, cuda or cuda:N.")
    if deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    if device.type == "cpu":
        keep_freed_memory()
        return device
    if (device.index or 0) >= torch.cuda.device_count():
        why = without_gpu() or f"torch sees {torch.cuda.device_count()} GPUs"
        raise UsageError(f"Device '{name}' is not available: {why}.", "Use --device cpu.")
    if device.index is not None:
        torch.cuda.set_device(device)
    torch.set_float32_matmul_precision("high")
    torch.backends.cudnn.benchmark = not deterministic
    return device


def choose_precision(device: torch.device, amp: str) -> Precision:
    """16 bits on a GPU: bf16 where it can, otherwise fp16 with a scaler. On a CPU float32, or bf16 if asked for.

    Raises:
        UsageError: fp16 on a CPU.
    """
    if amp == "off" or (device.type != "cuda" and amp == "auto"):
        return Precision(device, None)
    if device.type != "cuda" and amp == "fp16":
        raise UsageError("fp16 needs a GPU.", "On a CPU: run.amp=bf16, which is quicker where the CPU has avx512_bf16.")
    if amp == "auto":
        amp = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    return Precision(device, {"bf16": torch.bfloat16, "fp16": torch.float16}[amp])


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


def rank() -> int:
    """Number of this process, from 0."""
    return torch.distributed.get_rank() if _together() else 0


def world_size() -> int:
    """How many processes there are."""
    return torch.distributed.get_world_size() if _together() else 1


def all_reduce_max(value: int, device: torch.device) -> int:
    """The highest of the processes' values."""
    if world_size() == 1:
        return value
    highest = torch.tensor(value, device=device)
    torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
    return int(highest)


def all_reduce_sum(value: Tensor) -> Tensor:
    """The sum of the processes' tensors."""
    if world_size() > 1:
        torch.distributed.all_reduce(value)
    return value


def all_reduce_mean(value: Tensor) -> Tensor:
    """The mean of the processes' tensors."""
    return all_reduce_sum(value) / world_size() if world_size() > 1 else value


def broadcast_buffers(*nets: nn.Module) -> None:
    """Give running statistics of norms the values that they have in the first process."""
    if world_size() > 1:
        for buffer in {id(b): b for net in nets for b in net.buffers()}.values():
            torch.distributed.broadcast(buffer, 0)


def all_gather(value: T) -> list[T]:
    """The value of every process, in the order of their ranks."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(values, value)
    return values


def broadcast(make: Callable[[], T]) -> T:
    """What the first process makes, for all of them; an error that it raises is raised by all."""
    if world_size() == 1:
        return make()
    held: list[Any] = [None, None]
    if rank() == 0:
        try:
            held[0] = make()
        except Exception as error:
            held[1] = error
    torch.distributed.broadcast_object_list(held, src=0)
    if held[1] is not None:
        raise held[1]
    made: T = held[0]
    return made


def _part() -> None:
    if _together():
        torch.distributed.destroy_process_group()


def _together() -> bool:
    return torch.distributed.is_available() and torch.distributed.is_initialized()
