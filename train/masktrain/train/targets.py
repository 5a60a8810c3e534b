"""What the networks answer: one label, one per attribute, one with ordered classes or a number; always one table.

Every target turns the outputs into one probability per joint class, so that scores, files and ensembles have a
single path (S0.4, S0.6).
"""

from __future__ import annotations

from collections.abc import Sequence
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
        return self._above(outputs)[0], truth.flip(1).cumsum(1).flip(1)[:, 1:]

    def _above(self, outputs: Tensor) -> tuple[Tensor, Tensor]:
        """Log-odds of lying above each limit, falling from limit to limit, and by how much they fall."""
        if self.limits:
            spread = nn.functional.softplus(outputs[:, 1:]) + NARROWEST
            ends = torch.tensor(self.limits, dtype=outputs.dtype, device=outputs.device)
            ends = (ends - self.centre) / self.unit
            return (outputs[:, :1] - ends) / spread, ends.diff() / spread
        gap = nn.functional.softplus(outputs[:, 1:])
        return torch.cat([outputs[:, :1], -gap], 1).cumsum(1), gap


@dataclass(frozen=True)
class Target:
    """What is learnt, as heads over the attributes that make up the joint label.

    Args:
        kind: one of ``sections.TARGETS``.
        sizes: classes of each attribute, in joint order.
        heads: one for the joint label, or one for each attribute; for ``cascade`` one for the first attribute and then,
            for each of its classes, one for each other attribute.
        networks: how many heads each network answers; several networks have their outputs side by side.
        route: ``soft`` weighs the answers for each class of the first attribute by its probability, ``hard`` takes
            those for the most probable class alone (S1.32).
    """

    kind: str
    sizes: tuple[int, ...]
    heads: tuple[Head, ...]
    networks: tuple[int, ...] = (1,)
    route: str = "soft"

    @property
    def outputs(self) -> int:
        """How many outputs there are."""
        return sum(h.outputs for h in self.heads)

    @property
    def network_outputs(self) -> list[int]:
        """How many outputs each network has."""
        heads = iter(self.heads)
        return [sum(next(heads).outputs for _ in range(count)) for count in self.networks]

    @property
    def numbers(self) -> list[str]:
        """The attributes that are answered with a number."""
        return [h.name for h in self.heads if h.limits]

    def split(self, outputs: Tensor) -> Sequence[Tensor]:
        """The outputs of each head, in float32 if they are in 16 bits."""
        wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return list(torch.split(wide, [h.outputs for h in self.heads], 1))

    def truths(self, truth: Tensor) -> list[Tensor]:
        """Shares of the joint classes [n, C] as shares of each head's classes [n, K].

        Those of a head that is asked about one class of the first attribute add up to that class's share.
        """
        if self.kind == "joint":
            return [truth]
        cube = truth.view(len(truth), *self.sizes)
        if self.kind != "cascade":
            return _margins(cube)
        parts = [_margins(cube)[0]]
        for state in range(self.sizes[0]):
            parts += _margins(cube[:, state])
        return parts

    def routes(self, outputs: Tensor) -> Tensor:
        """How much each network of a cascade but the first counts [n, classes], by the first one's outputs."""
        states = self.heads[0].logits(outputs).softmax(1)
        if self.route == "hard":
            return nn.functional.one_hot(states.argmax(1), self.sizes[0]).to(states.dtype)
        return states

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Probability of each joint class [n, C] of outputs [n, outputs]; heads are taken as independent."""
        apart = self.split(outputs)
        parts = [h.logits(o).softmax(1) for h, o in zip(self.heads, apart, strict=True)]
        if self.kind != "cascade":
            return _product(parts)
        states, others = self.routes(apart[0]), len(self.sizes) - 1
        tables = [_product(parts[1 + k * others : 1 + (k + 1) * others]) for k in range(self.sizes[0])]
        return torch.cat([states[:, k : k + 1] * table for k, table in enumerate(tables)], 1)


def make_target(kind: str, schema: Schema, route: str = "soft") -> Target:
    """The target of a schema.

    Raises:
        UsageError: ``ordinal`` or ``number`` without an attribute whose classes are bins of a number, ``separate`` or
            ``cascade`` with a single attribute.
    """
    if kind == "auto":
        raise ValueError("masktrain.train.feed.settled decides what auto is")
    if kind == "joint":
        return Target(kind, schema.sizes, (Head("joint", schema.num_classes),))
    binned = [name for name in schema.joint if schema[name].bins]
    if kind in ("ordinal", "number") and not binned:
        raise UsageError(
            f"None of {', '.join(schema.joint)} has bins of a number, so no classes have an order.",
            "Choose --target joint or heads.",
        )
    if kind in ("separate", "cascade") and len(schema.joint) < 2:
        raise UsageError(
            f"There is only {schema.joint[0]} to tell, so there is nothing to part.", "Use --target joint."
        )
    heads = tuple(
        Head(
            name,
            len(schema[name].classes),
            ordinal=kind == "ordinal" and name in binned,
            limits=tuple(map(float, schema[name].bins)) if kind == "number" else (),
        )
        for name in schema.joint
    )
    if kind == "separate":
        return Target(kind, schema.sizes, heads, (1,) * len(heads))
    if kind == "cascade":
        states, others = heads[0].classes, heads[1:]
        return Target(kind, schema.sizes, (heads[0], *others * states), (1, *(len(others),) * states), route)
    return Target(kind, schema.sizes, heads, (len(heads),))


def _margins(cube: Tensor) -> list[Tensor]:
    """Shares [n, a, b, ...] summed to those of each attribute, [n, a], [n, b], ..."""
    axes = range(1, cube.dim())
    return [cube.sum([a for a in axes if a != k]) if cube.dim() > 2 else cube for k in axes]


def _product(parts: Sequence[Tensor]) -> Tensor:
    table = parts[0]
    for part in parts[1:]:
        table = (table.unsqueeze(2) * part.unsqueeze(1)).flatten(1)
    return table
