"""Random draws without a generator: a counter hash of (seed, epoch, image, occurrence, stream).

A draw depends on nothing but these numbers, so it is the same on every device, in any batch, for any number of
processes, and after a stop. The mixing function is lowbias32 (https://nullprogram.com/blog/2018/07/31/).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

AUGMENT, MIX, PARTNER, BACKGROUND, ELASTIC = range(5)
"""Streams: what draws are for. Draws of two streams are independent."""

_MASK = 0xFFFFFFFF
_ODD = 0x9E3779B9
_FLOATS = 2.0**-24


class Rows:
    """A dataclass of tensors, or of others like it, with one row for each image; None for what there is not."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """All tensors changed."""

        def changed(value: Any) -> Any:
            if isinstance(value, Rows):
                return value.map(change)
            return change(value) if isinstance(value, Tensor) else value

        return replace(self, **{f.name: changed(getattr(self, f.name)) for f in fields(self)})  # type: ignore[type-var,arg-type]

    def __getitem__(self, which: slice | Tensor) -> Self:
        """Some of the images."""
        return self.map(lambda tensor: tensor[which])

    def to(self, device: torch.device) -> Self:
        """On a device."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


def draw_seed(*numbers: int) -> int:
    """A 32-bit seed that depends on every number and on their order."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def keys(seed: int, epoch: int, rows: Tensor, times: Tensor, stream: int) -> Tensor:
    """The 32-bit key of each image's draws, int64 [n].

    Args:
        rows: table row of each image, int64 [n].
        times: how often the image has come before in the epoch, int64 [n].
        stream: what the draws are for.
    """
    start = draw_seed(seed, epoch, stream)
    return _mix(_mix(_mix((rows & _MASK) ^ start) + (rows >> 32) + _ODD) + times)


def uniform(keys: Tensor, columns: int, first: int = 0) -> Tensor:
    """Draws of [0, 1) with 24 random bits, float32 [n, columns].

    Args:
        keys: from :func:`keys`.
        first: number of the first column; a column's draws do not depend on how many others there are.
    """
    counters = torch.arange(first + 1, first + columns + 1, dtype=torch.int64, device=keys.device) * _ODD
    return (_mix(keys.unsqueeze(1) + counters) >> 8).to(torch.float32) * _FLOATS


def _mix(values: Tensor) -> Tensor:
    """Hash of the low 32 bits of int64 values; products may wrap, which leaves their low bits right."""
    values = values & _MASK
    values = ((values ^ (values >> 16)) * 0x7FEB352D) & _MASK
    values = ((values ^ (values >> 15)) * 0x846CA68B) & _MASK
    return values ^ (values >> 16)
