"""A trained thing as one network from crops as they are cached to probabilities, for other programs to run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from masktrain.answer.spread import Spread
from masktrain.train.checkpoint import Sidecar
from masktrain.train.loop import normalise


@dataclass(frozen=True)
class Part:
    """One network with its sidecar, the number of the input it looks at, whether mirror images count too, and of one
    that answers a part of the question what it says about every joint class."""

    model: nn.Module
    sidecar: Sidecar
    place: int
    mirror: bool
    spread: Spread | None = None

    def asked(self, labels: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether the network has a say in some joint classes [n]."""
        return np.ones(len(labels), dtype=bool) if self.spread is None else self.spread.offset[labels] == 0


class Answering(nn.Module):
    """One member: normalises crops uint8 [n, H, W, 3] and gives probabilities [n, C]."""

    def __init__(self, part: Part) -> None:
        super().__init__()
        self.model = part.model
        self.target = part.sidecar.answers()
        self.mirror, self.spread = part.mirror, part.spread is not None
        if part.spread is not None:
            self.register_buffer("matrix", torch.from_numpy(part.spread.matrix))
            self.register_buffer("offset", torch.from_numpy(part.spread.offset))
        for name, values in (("mean", part.sidecar.mean), ("std", part.sidecar.std)):
            scaled = torch.tensor(values, dtype=torch.float64).mul(255).float().view(1, 3, 1, 1)
            self.register_buffer(name, scaled.clamp(min=1.0) if name == "std" else scaled)

    def forward(self, crops: Tensor) -> Tensor:
        """Probabilities of crops."""
        pixels = normalise(crops.permute(0, 3, 1, 2), self.get_buffer("mean"), self.get_buffer("std"))
        seen = [pixels, pixels.flip(3)] if self.mirror else [pixels]
        table = torch.stack([self.target.probabilities(self.model(view)) for view in seen]).mean(0)
        return table @ self.get_buffer("matrix") + self.get_buffer("offset") if self.spread else table


class Graph(nn.Module):
    """All members, what combines them, and the temperature.

    Args:
        parts: the networks.
        combination: takes the members' probabilities [members, n, C] to one table; None for a single member.
        temperature: see :class:`masktrain.score.calibration.Calibration`.
    """

    def __init__(self, parts: Sequence[Part], combination: nn.Module | None, temperature: float) -> None:
        super().__init__()
        self.members = nn.ModuleList(Answering(part) for part in parts)
        self.places = [part.place for part in parts]
        self.combination = combination
        self.temperature = temperature

    def forward(self, *crops: Tensor) -> Tensor:
        """Probabilities float32 [n, C] of crops uint8 [n, H, W, 3], one tensor for each input."""
        tables = [member(crops[place]) for member, place in zip(self.members, self.places, strict=True)]
        table: Tensor = tables[0] if self.combination is None else self.combination(torch.stack(tables))
        if self.temperature != 1.0:
            table = (table.clamp(min=1e-12).log() / self.temperature).softmax(1)
        return table
