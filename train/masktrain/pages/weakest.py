"""Which classes have the lowest F1: for the terminal, and for the curves of report.html."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

MOST = 3
"""Classes that stand out."""


def weakest(class_f1: Mapping[str, float], present: Collection[str], most: int = MOST) -> list[tuple[str, float]]:
    """The classes with the lowest F1 and their F1, the lowest first; of equals the first of the schema.

    Args:
        class_f1: class -> F1 of an epoch, in the order of the schema.
        present: classes that held-out images have; others have no F1.
        most: so many of them, but never more than half.
    """
    known = [(name, f1) for name, f1 in class_f1.items() if name in present]
    return sorted(known, key=lambda item: item[1])[: min(most, len(known) // 2)]


def line(record: Mapping[str, Any], present: Collection[str]) -> str:
    """The weakest classes of an epoch in words; empty where there are too few classes to tell any apart."""
    found = weakest(record["class_f1"], present)
    return f"weakest {', '.join(f'{name} {f1:.2f}' for name, f1 in found)}" if found else ""
