"""Where and how precisely is computed, and how to make the most of a CPU."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from maskprep.base import UsageError, UserError

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
        return torch.autocast(self.device.type, self.dtype or torch.float32, enabled=self.dtype is not None)


def choose_device(name: str) -> torch.device:
    """The device meant by a name, made ready; ``auto`` is the GPU if there is one.

    Raises:
        UsageError: torch does not know it, or this machine does not have it.
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
        raise UsageError(f"Training on '{name}' is not supported.", "Use auto, cpu, cuda or cuda:N.")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"Device '{name}' is not here: torch sees {torch.cuda.device_count()} GPUs.", "Use --device cpu."
        )
    if device.type == "cpu":
        keep_freed_memory()
    elif device.index is not None:
        torch.cuda.set_device(device)
    return device


def make_deterministic() -> None:
    """Let CUDA compute the same bits every time, more slowly; to be called before the first work on a GPU."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)


def compiled(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """The same network compiled, at its first use and anew when stages freeze or thaw.

    Raises:
        UserError: at its first use, where there is no compiler or the network cannot be compiled.
    """
    made = torch.compile(model)

    def forward(pixels: Tensor) -> Tensor:
        try:
            outputs: Tensor = made(pixels)
        except torch._dynamo.exc.TorchDynamoException as error:
            why = str(error).strip().splitlines()[0][:200]
            raise UserError(f"The network cannot be compiled here: {why}", "Leave out run.compile.") from error
        return outputs

    return forward


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
