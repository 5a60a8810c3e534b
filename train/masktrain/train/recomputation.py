"""Less memory for more time: activations are computed again when the gradients need them (S4.2, arXiv 1604.06174)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from maskprep.base import UsageError
from masktrain.train.networks import Paired, Several


def recompute(model: nn.Module) -> None:
    """Have a network, or each of several, keep only what its blocks are given.

    Raises:
        UsageError: timm cannot do so with this network.
    """
    if isinstance(model, Paired | Several):
        for net in model.nets:
            recompute(net)
        return
    turn_on: Any = getattr(model, "set_grad_checkpointing", None)
    try:
        if turn_on is None:
            raise NotImplementedError
        turn_on(True)
    except (AssertionError, AttributeError, NotImplementedError):
        raise UsageError(
            f"{type(model).__name__} cannot compute its activations anew.",
            "Set model.checkpointing=false, and optim.micro_batch to as many images as the memory can hold.",
        ) from None


@contextmanager
def kept_buffers(model: nn.Module) -> Iterator[None]:
    """Leave running statistics as they are: what is computed anew must not count twice."""
    buffers = list(model.buffers())
    before = [b.clone() for b in buffers]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in zip(buffers, before, strict=True):
                buffer.copy_(value)
