"""How several networks' probabilities become one: the same module for scoring, predicting and exporting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

KINDS = ("soft", "hard", "weighted", "greedy", "stack")
PRODUCT, ROUTED = "product", "routed"
"""Groups that each answer a part of the question, see :mod:`masktrain.answer.spread`."""
TINY = 1e-6
"""Probabilities below this count as this where logarithms are taken."""


class Combination(nn.Module):
    """Combines members that belong to groups: the folds of one setting are one group and speak as their mean.

    - soft: mean of the groups; weighted, greedy: their weighted mean.
    - hard: every member has one vote, the class with most votes wins, a tie goes to the tied class with the higher
      mean probability (then to the lower index). The table is (votes + mean) / (members + 1).
    - product: of the groups, which answer for parts of the joint label.
    - routed: the same, where the first group's most probable class alone counts, as if it were sure.
    - stack: softmax of a linear function of the groups' log-probabilities.

    Args:
        kind: one of :data:`KINDS`.
        groups: number of each member's group [m], from 0.
        weights: of the groups, for weighted and greedy; they sum to 1.
        coefficients: for stack, [C, groups * C]; ``intercepts`` [C].
    """

    def __init__(
        self,
        kind: str,
        groups: Sequence[int],
        weights: Sequence[float] | None = None,
        coefficients: Any = None,
        intercepts: Any = None,
    ) -> None:
        super().__init__()
        if kind not in (*KINDS, PRODUCT, ROUTED):
            raise ValueError(f"no combination '{kind}'")
        self.kind = kind
        count = max(groups) + 1
        share = torch.zeros(count, len(groups), dtype=torch.float64)
        for member, group in enumerate(groups):
            share[group, member] = 1.0
        share /= share.sum(1, keepdim=True)
        voice = torch.full((count,), 1 / count, dtype=torch.float64)
        if weights is not None:
            voice = torch.tensor(list(weights), dtype=torch.float64)
        self.register_buffer("share", share.float())
        self.register_buffer("voice", voice.float())
        if kind == "stack":
            self.register_buffer("coefficients", torch.as_tensor(coefficients).float())
            self.register_buffer("intercepts", torch.as_tensor(intercepts).float())

    def forward(self, tables: Tensor) -> Tensor:
        """Probabilities [n, C] of the members' probabilities [m, n, C]."""
        grouped = torch.einsum("gm,mnc->gnc", self.get_buffer("share"), tables)
        if self.kind == ROUTED:  # joint classes that the first group does not tell apart have the same factor
            first = grouped[:1]
            grouped = torch.cat([(first == first.amax(2, keepdim=True)).to(first.dtype), grouped[1:]])
        if self.kind in (PRODUCT, ROUTED):
            return grouped.prod(0)
        mean = torch.einsum("g,gnc->nc", self.get_buffer("voice"), grouped)
        if self.kind == "hard":
            votes = nn.functional.one_hot(tables.argmax(2), tables.shape[2]).to(tables.dtype).sum(0)
            return (votes + mean) / (tables.shape[0] + 1)
        if self.kind == "stack":
            logs = grouped.clamp(min=TINY).log().permute(1, 0, 2).flatten(1)
            return (logs @ self.get_buffer("coefficients").T + self.get_buffer("intercepts")).softmax(1)
        return mean
