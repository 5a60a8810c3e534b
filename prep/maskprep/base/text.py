"""Text for people."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


def some(items: Sequence[str], count: int = 3) -> str:
    """The first few items for a message."""
    return ", ".join(items[:count]) + (", ..." if len(items) > count else "")


def nearest(name: str, known: Iterable[str]) -> str:
    """`` Did you mean '...'?`` with the known name that is most like a wrong one; empty where none is."""
    near = difflib.get_close_matches(name, list(known), 1, 0.5)
    return f" Did you mean '{near[0]}'?" if near else ""
