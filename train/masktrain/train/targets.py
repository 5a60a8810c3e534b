"""What a network answers: one label, one per attribute, one with ordered classes or a number; always one table.

Every target turns the outputs into one probability per joint class, so that scores, files and ensembles have a
single path.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskprep.base import UsageError
from maskprep.labels import Schema

NARROWEST = 0.05
"""Least spread of a number that is answered, in units of half the distance between the outermost limits."""


@dataclass(frozen=True)
class Head:
    """Some of the outputs, which answer one question.

    Args:
        name: an attribute, or ``joint``.
        classes: how many answers there are.
        ordinal: the classes have an order (number bins). Then there is one output per limit between classes: the
            first is the log-odds of lying above the first limit, and each further limit takes the softplus of its
            output off that, so the odds never rise from limit to limit (a cumulative link model).
        limits: of a head that answers with the number itself: where its classes end. Then there are two outputs, the
            number and the softplus of its spread, both in units of :attr:`unit` from :attr:`centre`; a class's
            probability is the share of a logistic distribution between its limits.
    """

    name: str
    classes: int
    ordinal: bool = False
    limits: tuple[float, ...] = ()

    @property
    def outputs(self) -> int:
        """How many outputs of the network it needs."""
        if self.limits:
            return 2
        return self.classes - 1 if self.ordinal else self.classes

    @property
    def centre(self) -> float:
        """The number that output 0 stands for: the middle of the limits."""
        return (self.limits[0] + self.limits[-1]) / 2

    @property
    def unit(self) -> float:
        """The number's difference that output 1 stands for: half the way between the limits."""
        return (self.limits[-1] - self.limits[0]) / 2 or abs(self.limits[0]) / 2 or 1.0

    def number(self, outputs: Tensor) -> Tensor:
        """The numbers [n] that are answered, in the schema's units."""
        return self.centre + self.unit * outputs[:, 0]

    def logits(self, outputs: Tensor) -> Tensor:
        """One logit per class [n, classes]; for ordered classes their log-probabilities."""
        if not (self.ordinal or self.limits):
            return outputs
        above, gap = self._above(outputs)
        ends = nn.functional.logsigmoid(above), nn.functional.logsigmoid(-above)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) * sigmoid(-b) * (1 - exp(b - a)), without cancellation
        middle = ends[0][:, :-1] + ends[1][:, 1:] + torch.log(-torch.expm1(-gap.clamp(min=1e-30)))
        return torch.cat([ends[1][:, :1], middle, ends[0][:, -1:]], 1)

    def binary(self, outputs: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Yes-or-no questions: log-odds and true shares, both [n, questions].

        Is it this class, for every class; or is it above this limit, for every limit of ordered classes.
        """
        if not (self.ordinal or self.limits):
            return outputs, truth
        return self._above(outputs)[0], torch.stack([truth[:, k:].sum(1) for k in range(1, self.classes)], 1)

    def _above(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds of lying above each limit, falling from limit to limit, and by how much they fall.

        Sums are written out: CUDA has no deterministic cumsum, and a tensor of the limits would be sent in every step.
        """
        if self.limits:
            spread = nn.functional.softplus(outputs[:, 1:]) + NARROWEST
            ends = [(limit - self.centre) / self.unit for limit in self.limits]
            above = torch.cat([outputs[:, :1] - end for end in ends], 1) / spread
            return above, torch.cat([(b - a) / spread for a, b in itertools.pairwise(ends)] or [spread[:, :0]], 1)
        gap = nn.functional.softplus(outputs[:, 1:])
        odds = [outputs[:, 0]]
        for k in range(gap.shape[1]):
            odds.append(odds[-1] - gap[:, k])
        return torch.stack(odds, 1), gap


@dataclass(frozen=True)
class Target:
    """What is learnt, as heads over the attributes that make up the joint label.

    Args:
        kind: one of ``sections.TARGETS``.
        sizes: classes of each attribute, in joint order.
        heads: one for the joint label, or one for each attribute.
    """

    kind: str
    sizes: tuple[int, ...]
    heads: tuple[Head, ...]

    @property
    def outputs(self) -> int:
        """How many outputs the network has."""
        return sum(h.outputs for h in self.heads)

    @property
    def classes(self) -> int:
        """How many joint classes there are."""
        return math.prod(self.sizes)

    @property
    def numbers(self) -> list[str]:
        """The attributes that are answered with a number."""
        return [h.name for h in self.heads if h.limits]

    def split(self, outputs: Tensor) -> Sequence[Tensor]:
        """The outputs of each head, in float32 if they are in 16 bits."""
        wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return list(torch.split(wide, [h.outputs for h in self.heads], 1))

    def values(self, outputs: Tensor) -> Tensor:
        """The numbers [n, A] of the attributes :attr:`numbers`."""
        told = [h.number(o) for h, o in zip(self.heads, self.split(outputs), strict=True) if h.limits]
        return torch.stack(told, 1) if told else outputs[:, :0]

    def truths(self, truth: Tensor) -> list[Tensor]:
        """Shares of the joint classes [n, C] as shares of each head's classes [n, K]."""
        return [truth] if self.kind == "joint" else _margins(truth.view(len(truth), *self.sizes))

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Probability of each joint class [n, C] of outputs [n, outputs]; heads are taken as independent."""
        return _product([h.logits(o).softmax(1) for h, o in zip(self.heads, self.split(outputs), strict=True)])


def make_target(kind: str, schema: Schema, limits: Mapping[str, Sequence[float]] | None = None) -> Target:
    """The target of a schema.

    Args:
        limits: attribute -> limits of its classes in training, where they are not the schema's.

    Raises:
        UsageError: ``ordinal`` or ``number`` without an attribute whose classes are bins of a number.
    """
    if kind == "joint":
        return Target(kind, schema.sizes, (Head("joint", schema.num_classes),))
    if kind not in ("heads", "ordinal", "number"):
        raise ValueError(f"no target '{kind}'")
    binned = [name for name in schema.joint if schema[name].bins]
    if kind != "heads" and not binned:
        raise UsageError(
            f"None of {', '.join(schema.joint)} has bins of a number, so no classes have an order.",
            "Choose --target joint or heads.",
        )
    heads = tuple(
        Head(
            name,
            len(schema[name].classes),
            ordinal=kind == "ordinal" and name in binned,
            limits=tuple(map(float, (limits or {}).get(name, schema[name].bins))) if kind == "number" else (),
        )
        for name in schema.joint
    )
    return Target(kind, schema.sizes, heads)


def _margins(cube: Tensor) -> list[Tensor]:
    """Shares [n, a, b, ...] summed to those of each attribute, [n, a], [n, b], ..."""
    axes = range(1, cube.dim())
    return [cube.sum([a for a in axes if a != k]) if cube.dim() > 2 else cube for k in axes]


def _product(parts: Sequence[Tensor]) -> Tensor:
    table = parts[0]
    for part in parts[1:]:
        table = (table.unsqueeze(2) * part.unsqueeze(1)).flatten(1)
    return table
