"""What the commands about runs print. rich is imported only when something is shown."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from masktrain.score.metrics import Interval
from masktrain.score.paired import Paired

if TYPE_CHECKING:
    from rich.table import Table

    from masktrain.combine.calibrate import Calibrated
    from masktrain.combine.compose import Composed
    from masktrain.combine.ensemble import Ensemble
    from masktrain.score.report import Report
    from masktrain.study.sweep import Swept
    from masktrain.study.trials import Trial

MANY = 12
"""Members of which every two are no longer compared in a table."""


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
    table.add_column("", overflow="fold")
    for name in ("macro-F1", "weight", "errs with others", "parameters", "G mult-adds"):
        table.add_column(name, justify="right")
    for i, entry in enumerate(made.entries):
        others = [float(v) for j, v in enumerate(made.correlation[i]) if j != i]
        table.add_row(
            str(i + 1),
            entry.name + ("  (best)" if i == made.best and len(made.entries) > 1 else ""),
            scored(entry.score, entry.interval),
            "" if entry.weight is None else f"{entry.weight:.3f}",
            f"{sum(others) / len(others):.2f}" if others else "",
            f"{entry.parameters / 1e6:.1f} M",
            f"{entry.macs:.2f}",
        )
    used = [e for e in made.entries if e.weight is None or e.weight > 0]
    entries = used if made.kind != "soup" else used[:1]
    table.add_row(
        "",
        made.kind,
        scored(made.score, made.interval),
        "",
        "",
        f"{sum(e.parameters for e in entries) / 1e6:.1f} M",
        f"{sum(e.macs for e in entries):.2f}",
        end_section=True,
    )
    console.print(table, markup=False)
    if 2 < len(made.entries) <= MANY:
        console.print(_together(made), markup=False)
    if made.against is not None:
        print(f"against the best member: {compared(made.against)}")
    for note in made.notes:
        print(f"note: {note}")
    print(f"next    masktrain predict {made.run} PHOTOS --out predictions.csv")


def _together(made: Ensemble) -> Table:
    """How the errors of every two members correlate: 1 for those that err on the same images."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="")
    table.add_column("errors correlate")
    for j in range(len(made.entries)):
        table.add_column(str(j + 1), justify="right")
    for i, entry in enumerate(made.entries):
        cells = ["" if i == j else f"{float(v):.2f}" for j, v in enumerate(made.correlation[i])]
        table.add_row(f"{i + 1}  {entry.name}", *cells)
    return table


def parts(made: Composed) -> None:
    """The runs that a composition is made of, each on what it answers."""
    texts = [part[:4] for part in made.parts]
    width = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for text, part in zip(texts, made.parts, strict=True):
        cells = "  ".join(cell.ljust(w) for cell, w in zip(text, width, strict=True))
        print(f"part    {cells}  macro-F1 {part[4]:.4f} on its own")
    for note in made.notes:
        print(f"note: {note}")
    print(f"next    masktrain evaluate {made.run} CACHE")


def models(
    chosen: Mapping[str, Sequence[str]],
    scored: Mapping[str, list[float]] | None,
    measured: bool,
    device: str,
    batch: int,
) -> None:
    """A table of models, each as soon as it is looked up; one that cannot be measured says why."""
    from maskprep.base import UserError
    from masktrain.study import models as known

    width = max(len(name) for names in chosen.values() for name in names)
    header = f"{'model':{width}}  parameters  native   weights  licence     "
    header += f"{'train/s':>9} {'answer/s':>10} {'MiB/image':>10}" if measured else ""
    print((header + ("  macro-F1 of your runs" if scored is not None else "")).rstrip())
    for heading, names in chosen.items():
        if heading:
            print(f"\n{heading}")
        for name in names:
            entry = known.look_up(name, scored)
            row = f"{name:{width}}  {entry.parameters / 1e6:8.1f} M  {'x'.join(map(str, entry.size)):7}"
            row += f"  {entry.weights:7}  {entry.licence.lower() or 'not stated':12}"
            why = ""
            if measured:
                try:
                    found = known.measure(name, device, batch)
                    row += f"{found.trained:9.1f} {found.answered:10.1f} {found.activations / 2**20:10.1f}"
                except UserError as error:
                    row, why = f"{row}{'—':>9} {'—':>10} {'—':>10}", f"  {error.message}"
            if scored is not None:
                best = f"{entry.scores[0]:.4f}" if entry.scores else "—"
                row += f"  {best}" + f", best of {len(entry.scores)}" * (len(entry.scores) > 1)
            print(row.rstrip() + why, flush=True)


def details(report: Report) -> None:
    """What an evaluation says besides the scores: calibration, slices, comparisons."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 110)
    if report.ece is not None:
        print(f"calibration error {report.ece:.4f}")
    if report.slices:
        table = Table(box=box.SIMPLE_HEAD, header_style="")
        for name in ("slice", "", "images", "people", "accuracy", "macro-F1"):
            table.add_column(name, justify="left" if name in ("slice", "") else "right")
        for s in report.slices:
            accuracy = f"{s.accuracy:.3f} ({s.low:.3f} to {s.high:.3f})"
            table.add_row(s.by, s.value, str(s.images), str(s.people), accuracy, f"{s.macro_f1:.3f}")
        console.print(table, markup=False)
    if report.origins:
        table = Table(box=box.SIMPLE_HEAD, header_style="")
        table.add_column("if these were right", overflow="fold")
        for name in ("images", "wrong", "people", "macro-F1 gains"):
            table.add_column(name, justify="right")
        for o in report.origins:
            gain = f"{o.gain:+.4f} ({o.low:+.4f} to {o.high:+.4f})"
            table.add_row(o.what, str(o.images), str(o.wrong), str(o.people), gain)
        console.print(table, markup=False)
        print("rows overlap: an image may stand in several, so gains do not add up")
    if report.rivals:
        table = Table(box=box.SIMPLE_HEAD, header_style="")
        table.add_column("compared with")
        for name in ("macro-F1", "accuracy", "this minus it", "p"):
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


def trial(done: Trial, sofar: Swept) -> None:
    """A line about a trial of a sweep, the best one so far, and the time left."""
    from masktrain.cli.show import clock

    values = ", ".join(f"{key}={value}" for key, value in done.values.items())
    found = f"macro-F1 {done.score:.4f}" if done.score is not None else done.why
    usual = sum(t.seconds for t in sofar.trials) / len(sofar.trials)
    left = clock(usual * max(sofar.total - len(sofar.trials), 0))
    best = "" if sofar.best is None else f"; best {sofar.best.score:.4f} (trial {sofar.best.number})"
    state = "" if done.state == "done" else f" {done.state},"
    print(f"trial {done.number}/{sofar.total} {values}:{state} {found}{best}; about {left} left", flush=True)


def swept(done: Swept) -> None:
    """A sweep: its trials, best first, what matters, and how to use the best."""
    from masktrain.study import sweep, trials

    ranked = sorted(done.trials, key=lambda t: (t.state != "done", -(t.score or 0.0), t.number))
    names = list(ranked[0].values) if ranked else []
    rows = [["trial", "macro-F1", *names]]
    for each in ranked:
        score = "failed" if each.score is None else f"{each.score:.4f}{' pruned' * (each.state == 'pruned')}"
        rows.append([str(each.number), score, *(str(each.values[n]) for n in names)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    if done.importance:
        print(f"matters {', '.join(f'{key} {share:.0%}' for key, share in done.importance.items())}")
    if done.out_of_time:
        print("The time is up; the same command with more --hours goes on.")
    if done.best is None:
        return
    if len(done.trials) > 1:
        print(f"note    the best of {len(done.trials)} looks at the same people flatters itself; score it on others")
    print(f"next    masktrain fit CACHE --config {done.out / sweep.BEST} --split-seed 1")
    print(f"        masktrain evaluate {done.out / trials.folder(done.best.number)} CACHE --split eval")
