"""What the commands about runs print. rich is imported only when something is shown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from masktrain.metrics import Interval
from masktrain.paired import Paired

if TYPE_CHECKING:
    from masktrain.ensemble import Ensemble


def ensemble(made: Ensemble) -> None:
    """An ensemble: its members, how it compares with the best of them, and what it costs."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    console.print(
        f"{made.run}: {made.kind} of {len(made.entries)}, scored on {made.images} held-out images of"
        f" {made.interval.people} people",
        highlight=False,
        markup=False,
    )
    table = Table(box=box.SIMPLE_HEAD, header_style="")
    table.add_column("")
    for name in ("macro-F1", "weight", "errs with others", "parameters", "ms/image"):
        table.add_column(name, justify="right")
    for i, entry in enumerate(made.entries):
        others = [float(v) for j, v in enumerate(made.correlation[i]) if j != i]
        table.add_row(
            entry.name + ("  (best)" if i == made.best and len(made.entries) > 1 else ""),
            scored(entry.score, entry.interval),
            "" if entry.weight is None else f"{entry.weight:.3f}",
            f"{sum(others) / len(others):.2f}" if others else "",
            f"{entry.parameters / 1e6:.1f} M",
            f"{entry.ms:.1f}",
        )
    entries = made.entries if made.kind != "soup" else made.entries[:1]
    table.add_row(
        made.kind,
        scored(made.score, made.interval),
        "",
        "",
        f"{sum(e.parameters for e in entries) / 1e6:.1f} M",
        f"{sum(e.ms for e in entries):.1f}",
        end_section=True,
    )
    console.print(table, markup=False)
    if made.against is not None:
        print(f"against the best member: {compared(made.against)}")
    for note in made.notes:
        print(f"note: {note}")
    print(f"next    masktrain predict {made.run} PHOTOS --out predictions.csv")


def scored(score: float, interval: Interval) -> str:
    """A score with its interval."""
    return f"{score:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def compared(found: Paired) -> str:
    """A paired comparison in a line."""
    verdict = "clear" if found.clear else "within noise"
    return (
        f"macro-F1 {found.difference:+.4f} (95% over {found.people} people: {found.low:+.4f} to {found.high:+.4f},"
        f" p = {found.p:.3f}), {verdict}"
    )
