"""What members of an ensemble cost, and which of them a budget allows (S2.19)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskprep.base import UsageError
from masktrain.answer import cost, model
from masktrain.answer.members import Candidate
from masktrain.combine import voting


def affordable(members: Sequence[Candidate], groups: Sequence[int], budget: float) -> voting.Budget:
    """What the groups cost, in milliseconds for an image.

    Raises:
        UsageError: not one of them is within the budget.
    """
    each = [measure(m.folder)[1] for m in members]
    costs = tuple(sum(c for c, g in zip(each, groups, strict=True) if g == k) for k in range(max(groups) + 1))
    if min(costs) > budget:
        raise UsageError(
            f"No member takes {budget:g} ms for an image or less; the quickest takes {min(costs):.1f} ms here.",
            "Raise --budget, or train a smaller model.",
        )
    return voting.Budget(costs, budget)


def taken(
    kind: str, members: Sequence[Candidate], groups: Sequence[int], fitted: voting.Fitted
) -> tuple[list[Candidate], list[int], voting.Fitted]:
    """Members without those that greedy selection has never taken, with their groups and what was fitted."""
    if kind != "greedy" or fitted.weights is None:
        return list(members), list(groups), fitted
    used = np.flatnonzero(fitted.weights).tolist()
    chosen = [(m, used.index(g)) for m, g in zip(members, groups, strict=True) if g in used]
    return [m for m, _ in chosen], [g for _, g in chosen], dataclasses.replace(fitted, weights=fitted.weights[used])


def measure(run: Path) -> tuple[int, float]:
    """Parameters of a run's network, and milliseconds for one image on this machine's CPU in batches of 16."""
    networks = model.load(run, "cpu").graph.networks
    sizes = [(n.sidecar.size[0], n.sidecar.size[1]) for n in networks]
    seconds = sum(cost.seconds_to_answer(n.model, s, n.precision) for n, s in zip(networks, sizes, strict=True))
    return sum(p.numel() for n in networks for p in n.model.parameters()), 1000 * seconds
