"""What a network costs: the time it takes, and the memory of what a training step keeps for its gradients."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from masktrain.train.device import Precision

BATCH = 16
"""Images that are timed at once."""


@contextmanager
def activations(model: nn.Module, kept: dict[int, int]) -> Iterator[None]:
    """Note what autograd keeps for the gradients of a step, address → bytes in ``kept``; the weights are left out."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield


def seconds_to_answer(model: nn.Module, size: tuple[int, int], precision: Precision, batch: int = BATCH) -> float:
    """Seconds for one image, in batches of some; ``size`` is its height and width."""
    pixels = torch.zeros(batch, 3, *size, device=precision.device).to(memory_format=torch.channels_last)
    model.eval()
    with torch.inference_mode(), precision.context():
        float(model(pixels).sum())
        started = time.perf_counter()
        float(model(pixels).sum())  # waits for a GPU
        return (time.perf_counter() - started) / batch
