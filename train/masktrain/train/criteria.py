"""By which score an epoch is the best; one criterion for everything, higher is better."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from maskprep.base import UsageError


def criterion(scores: dict[str, Any], by: str) -> float:
    """The score that decides, higher is better.

    Raises:
        UsageError: there is no such score.
    """
    attribute, _, name = by.rpartition(".")
    found = scores["attributes"].get(attribute, {}) if attribute else scores
    if not isinstance(value := found.get(name), float):
        raise UsageError(f"There is no score '{by}' to select by.", f"Choose one of {', '.join(criteria(scores))}.")
    return -value if name == "val_loss" else value


def criteria(scores: dict[str, Any]) -> list[str]:
    """Everything that :func:`criterion` can select by."""
    return [
        *("macro_f1", "macro_f1_all", "accuracy", "val_loss"),
        *(f"{a}.{n}" for a, values in scores["attributes"].items() for n in values),
    ]


def bests(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """For everything that can be selected by the first epoch that is best by it, and its value there.

    Args:
        records: the epochs of a fit, see metrics.jsonl.
    """
    found = {}
    for by in criteria(records[0]):
        best = max(records, key=lambda r: criterion(r, by) if math.isfinite(criterion(r, by)) else -math.inf)
        found[by] = {"epoch": best["epoch"], "value": abs(criterion(best, by))}
    return found
