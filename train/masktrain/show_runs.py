"""What the commands about runs print. rich is imported only when something is shown."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from masktrain.metrics import Interval
from masktrain.paired import Paired

if TYPE_CHECKING:
    from masktrain.calibrate import Calibrated
    from masktrain.ensemble import Ensemble
    from masktrain.evaluate import Report


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


def details(report: Report) -> None:
    """What an evaluation says besides the scores: calibration, slices, comparisons."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    print(f"calibration error {report.ece:.4f}")
    if report.slices:
        table = Table(box=box.SIMPLE_HEAD, header_style="")
        for name in ("slice", "", "images", "people", "accuracy", "macro-F1"):
            table.add_column(name, justify="left" if name in ("slice", "") else "right")
        for s in report.slices:
            accuracy = f"{s.accuracy:.3f} ({s.low:.3f} to {s.high:.3f})"
            table.add_row(s.by, s.value, str(s.images), str(s.people), accuracy, f"{s.macro_f1:.3f}")
        console.print(table, markup=False)
    if report.rivals:
        table = Table(box=box.SIMPLE_HEAD, header_style="")
        table.add_column("compared with")
        for name in ("macro-F1", "accuracy", "the run minus it", "p"):
            table.add_column(name, justify="right")
        for r in report.rivals:
            gain = f"{r.against.difference:+.4f} ({r.against.low:+.4f} to {r.against.high:+.4f})"
            table.add_row(
                r.name,
                scored(r.macro_f1, r.interval),
                f"{r.accuracy:.4f}",
                gain,
                r.against.chance.removeprefix("p ").removeprefix("= "),
            )
        console.print(table, markup=False)


def calibrated(done: Calibrated) -> None:
    """What calibration changed."""
    print(f"scored on {done.images} held-out images of {done.thresholds.people} people, fitted on the others of them")
    print(
        f"temperature {done.calibration.temperature:.3f}: calibration error {done.ece[0]:.4f} -> {done.ece[1]:.4f},"
        f" log-loss {done.nll[0]:.4f} -> {done.nll[1]:.4f}"
    )
    print(f"limits per class: macro-F1 {done.before:.4f} -> {done.after:.4f}, {compared(done.thresholds)}")
    for warning in done.warnings:
        print(f"Warning: {warning}", file=sys.stderr)
    print(f"written {done.run / 'calibration.json'}, which evaluate, predict and export use from now on")


def scored(score: float, interval: Interval) -> str:
    """A score with its interval."""
    return f"{score:.4f} ({interval.low:.4f} to {interval.high:.4f})"


def compared(found: Paired) -> str:
    """A paired comparison in a line."""
    return (
        f"macro-F1 {found.difference:+.4f} (95% over {found.people} people: {found.low:+.4f} to {found.high:+.4f},"
        f" {found.chance}), {found.verdict}"
    )
