"""Text for people."""

from __future__ import annotations

from collections.abc import Sequence


def some(items: Sequence[str], count: int = 3) -> str:
    """The first few items for a message."""
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")
