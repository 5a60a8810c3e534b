"""What a network answers: one label, one per attribute, or one with ordered classes; always the same table in the end.

Every target turns the network's outputs into one probability per joint class, so that scores, files and
ensembles have a single path (S0.4, S0.6).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from maskprep.errors import UsageError
from maskprep.labels.schema import Schema


@dataclass(frozen=True)
class Head:
    """Some of the outputs, which answer one question.

    Args:
        name: an attribute, or ``joint``.
        classes: how many answers there are.
        ordinal: the classes have an order (number bins). Then there is one output per limit between classes: the
            first is the log-odds of lying above the first limit, and each further limit takes the softplus of its
            output off that, so the odds never rise from limit to limit (a cumulative link model).
    """

    name: str
    classes: int
    ordinal: bool = False

    @property
    def outputs(self) -> int:
        """How many outputs of the network it needs."""
        return self.classes - 1 if self.ordinal else self.classes

    def logits(self, outputs: Tensor) -> Tensor:
        """One logit per class [n, classes]; for ordered classes their log-probabilities."""
        if not self.ordinal:
            return outputs
        above = self._above(outputs)
        ends = nn.functional.logsigmoid(above), nn.functional.logsigmoid(-above)
        # sigmoid(a) - sigmoid(b) = sigmoid(a) * sigmoid(-b) * (1 - exp(b - a)), without cancellation
        gap = nn.functional.softplus(outputs[:, 1:]).clamp(min=1e-30)
        middle = ends[0][:, :-1] + ends[1][:, 1:] + torch.log(-torch.expm1(-gap))
        return torch.cat([ends[1][:, :1], middle, ends[0][:, -1:]], 1)

    def binary(self, outputs: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
        """Yes-or-no questions: log-odds and true shares, both [n, questions].

        Is it this class, for every class; or is it above this limit, for every limit of ordered classes.
        """
        if not self.ordinal:
            return outputs, truth
        return self._above(outputs), truth.flip(1).cumsum(1).flip(1)[:, 1:]

    def _above(self, outputs: Tensor) -> Tensor:
        """Log-odds of lying above each limit, falling from limit to limit."""
        steps = torch.cat([outputs[:, :1], -nn.functional.softplus(outputs[:, 1:])], 1)
        return steps.cumsum(1)


@dataclass(frozen=True)
class Target:
    """What is learnt, as heads over the attributes that make up the joint label.

    Args:
        kind: ``joint``, ``heads`` or ``ordinal``.
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

    def split(self, outputs: Tensor) -> Sequence[Tensor]:
        """The outputs of each head, in float32 if they are in 16 bits."""
        wide = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
        return list(torch.split(wide, [h.outputs for h in self.heads], 1))

    def truths(self, truth: Tensor) -> list[Tensor]:
        """Shares of the joint classes [n, C] as shares of each head's classes [n, K]."""
        if self.kind == "joint":
            return [truth]
        cube = truth.view(len(truth), *self.sizes)
        axes = range(1, len(self.sizes) + 1)
        return [cube.sum([a for a in axes if a != k]) if len(self.sizes) > 1 else cube for k in axes]

    def probabilities(self, outputs: Tensor) -> Tensor:
        """Probability of each joint class [n, C] of outputs [n, outputs]; heads are taken as independent."""
        parts = [h.logits(o).softmax(1) for h, o in zip(self.heads, self.split(outputs), strict=True)]
        table = parts[0]
        for part in parts[1:]:
            table = (table.unsqueeze(2) * part.unsqueeze(1)).flatten(1)
        return table


def make_target(kind: str, schema: Schema) -> Target:
    """The target of a schema.

    Raises:
        UsageError: ``ordinal`` without an attribute whose classes are bins of a number.
    """
    if kind == "joint":
        return Target(kind, schema.sizes, (Head("joint", schema.num_classes),))
    ordered = [bool(schema[name].bins) and kind == "ordinal" for name in schema.joint]
    if kind == "ordinal" and not any(ordered):
        raise UsageError(
            f"None of {', '.join(schema.joint)} has bins of a number, so no classes have an order.",
            "Choose --target joint or heads.",
        )
    return Target(kind, schema.sizes, tuple(map(Head, schema.joint, schema.sizes, ordered)))
