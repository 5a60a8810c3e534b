"""What the commands about runs print. rich is imported only when a table is shown."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from masktrain.data.names import VALUE
from masktrain.data.units import of_people, unit, units
from masktrain.score.metrics import Interval, Scores, between
from masktrain.score.paired import Paired

if TYPE_CHECKING:
    import pandas as pd

    from maskprep.labels import Schema
    from masktrain.combine.calibrate import Calibrated
    from masktrain.combine.compose import Composed
    from masktrain.combine.ensemble import Ensemble
    from masktrain.pages.compare import Comparison
    from masktrain.score.report import Report
    from masktrain.study.sweep import Swept
    from masktrain.study.trials import Trial

MANY = 12
"""Members of which every two are no longer compared in a table."""

Rows = Iterable[Sequence[str]]


def table(
    head: Sequence[str], rows: Rows, left: int = 1, total: Sequence[str] | None = None, without: str = ""
) -> None:
    """Print a table.

    Args:
        head: names of the columns, the first ``left`` of them aligned left.
        rows: cells.
        total: a last row apart from the others.
        without: a column that is left out.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, header_style="")
    kept = [i for i, name in enumerate(head) if not without or name != without]
    for i, name in ((i, head[i]) for i in kept):
        made.add_column(name, justify="left" if i < left else "right", overflow="fold")
    for row in rows:
        made.add_row(*(row[i] for i in kept))
    if total is not None:
        made.add_section()
        made.add_row(*total)
    Console(width=None if sys.stdout.isatty() else 110).print(made, markup=False)


def next_command(*parts: object) -> None:
    """Print a command that runs as it is printed, whatever its paths hold."""
    print(f"next    {shlex.join(map(str, parts))}")


def next_evaluate(run: Path) -> None:
    """Print the command that scores a run on its own cache; nothing for votes of files, which have none."""
    from masktrain.runs import folder as runs

    if (run / runs.DATA).is_file():
        next_command("masktrain", "evaluate", run, runs.read_data(run)["cache"])


def predicted(answer: pd.Series[Any], schema: Schema, faces: int, reason: str) -> None:
    """The answer about one photo.

    Args:
        answer: its row, with all details.
        faces: how many were found on the photo; ``reason`` is why the choice of one is doubtful.
    """
    if answer["ans"] != answer["ans"]:  # NaN
        print(f"no answer: {answer['status']}{f' ({reason})' if reason else ''}")
        return
    print(f"answer  {answer['class']} (class {answer['ans']:.0f})")
    width = max(map(len, schema.joint))
    for name in schema.joint:
        value = answer.get(f"{name}{VALUE}")
        told = "" if value is None else f", {value:.1f}"
        print(f"        {name:{width}}  {answer[name]} {answer[f'{name}_p']:.1%}{told}")
    if answer["x0"] == answer["x0"]:
        box = " ".join(f"{answer[c]:.0f}" for c in ("x0", "y0", "x1", "y1"))
        print(f"face    {box} (x0 y0 x1 y1), 1 of {faces} found")
    print(f"status  {answer['status']}{f': {reason}' if reason else ''}")


def span(score: float, interval: Interval) -> str:
    """A score with its interval."""
    return f"{score:.4f} ({interval.text()})"


def compared(found: Paired, images: int) -> str:
    """A paired comparison on some images in a line."""
    return f"macro-F1 {found.text} (95% over {units(found.people, images)})"


def scores(title: str, scores: Scores, interval: Interval) -> None:
    """Scores: the headline, each attribute, each class."""
    print(title)
    rows = [
        ("joint label", f"{scores.macro_f1:.4f}  ({interval.level:.0%}: {interval.text()})", f"{scores.accuracy:.4f}")
    ]
    if len(scores.attributes) > 1:
        rows += [(k, f"{v['macro_f1']:.4f}", f"{v['accuracy']:.4f}") for k, v in scores.attributes.items()]
    table(("", "macro-F1", "accuracy"), rows)
    print(", ".join(f"{name} {value}" for name, value in scores.beside))
    table(
        ("class", "images", "predicted", "precision", "recall", "F1"),
        (
            (c.name, str(c.support), str(c.predicted), f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}")
            for c in scores.classes
        ),
    )


def evaluated(report: Report) -> None:
    """An evaluation: scores, calibration, slices, where errors come from, comparisons."""
    counted = unit(report.interval.people, report.scores.n)
    of, without = (f", {report.interval.people} people", "") if counted == "people" else ("", "people")
    scores(f"{report.run} on {report.what}{of}", report.scores, report.interval)
    if report.ece is not None:
        print(f"calibration error {report.ece:.4f}")
    if report.slices:
        head = ("slice", "", "images", "people", "accuracy", "macro-F1")
        rows: list[Sequence[str]] = []
        for s in report.slices:
            accuracy = f"{s.accuracy:.3f} ({s.interval})"
            rows.append((s.by, s.value, str(s.images), str(s.people), accuracy, f"{s.macro_f1:.3f}"))
        table(head, rows, left=2, without=without)
    if report.origins:
        rows = []
        for o in report.origins:
            gain = f"{o.gain:+.4f} ({between(o.low, o.high, report.interval.people, '+.4f')})"
            rows.append((o.what, str(o.images), str(o.wrong), str(o.people), gain))
        table(("if these were right", "images", "wrong", "people", "macro-F1 gains"), rows, without=without)
        print("rows overlap: an image may stand in several, so gains do not add up")
    if report.rivals:
        rows = []
        for r in report.rivals:
            gain = "" if r.against is None else r.against.text
            rows.append((r.name, span(r.macro_f1, r.interval), f"{r.accuracy:.4f}", gain))
        table(("compared with", "macro-F1", "accuracy", "this minus it"), rows)
    if lost := report.without_crop:
        more = ", ..." if len(lost) > 5 else ""
        print(
            f"{len(lost)} without a crop, answered with the most frequent training class: {', '.join(lost[:5])}{more}"
        )
    warn(report.warnings)
    print(f"written {report.file}")


def warn(texts: Iterable[str]) -> None:
    """Print warnings on standard error."""
    for text in texts:
        print(f"Warning: {text}", file=sys.stderr)


def comparison(made: Comparison) -> None:
    """Runs beside each other."""
    from masktrain.pages.compare import CHOICE, LATEST

    attributes = made.attributes if len(made.attributes) > 1 else ()
    for group in made.groups:
        print(f"scored on {of_people(len(group[0].table), group[0].interval.people)}")
        rows = []
        for row in group:
            against = "" if row.against is None else row.against.text
            each = [f"{row.scores.attributes[n]['macro_f1']:.4f}" for n in attributes]
            score = (span(row.scores.macro_f1, row.interval), row.latest, against, f"{row.scores.accuracy:.4f}")
            rows.append((row.name, *score, *each, row.note))
        table(("run", "macro-F1", LATEST, "against the best", "accuracy", *attributes, "note"), rows)
    if any(row.latest for row in made.rows):
        print(CHOICE)
    if made.unfinished:
        print(f"not finished, so not ranked: {', '.join(made.unfinished)}")
    for title, values in (("differ in", made.differs), ("defaults that changed", made.changed)):
        for key, told in values.items():
            print(f"{title}: {key} = {' | '.join(map(str, told))}")
    warn(made.warnings)


def ensemble(made: Ensemble) -> None:
    """An ensemble: its members, how it compares with the best of them, and what it costs."""
    scored = of_people(made.images, made.interval.people, "held-out images")
    print(f"{made.run}: {made.kind} of {len(made.entries)}, scored on {scored}")
    rows: list[Sequence[str]] = []
    for i, entry in enumerate(made.entries):
        others = [float(v) for j, v in enumerate(made.correlation[i]) if j != i]
        name = entry.name + ("  (best)" if i == made.best and len(made.entries) > 1 else "")
        weight = "" if entry.weight is None else f"{entry.weight:.3f}"
        alike = f"{sum(others) / len(others):.2f}" if others else ""
        cost = (f"{entry.parameters / 1e6:.1f} M", f"{entry.macs:.2f}")
        rows.append((str(i + 1), name, span(entry.score, entry.interval), weight, alike, *cost))
    used = [e for e in made.entries if e.weight is None or e.weight > 0]
    used = used if made.kind != "soup" else used[:1]
    cost = (f"{sum(e.parameters for e in used) / 1e6:.1f} M", f"{sum(e.macs for e in used):.2f}")
    head = ("", "", "macro-F1", "weight", "errs with others", "parameters", "G mult-adds")
    table(head, rows, left=2, total=("", made.kind, span(made.score, made.interval), "", "", *cost))
    if 2 < len(made.entries) <= MANY:  # 1 for two that err on the same images
        numbers = [str(j + 1) for j in range(len(made.entries))]
        rows = [
            (
                f"{i + 1}  {entry.name}",
                *("" if i == j else f"{float(v):.2f}" for j, v in enumerate(made.correlation[i])),
            )
            for i, entry in enumerate(made.entries)
        ]
        table(("errors correlate", *numbers), rows)
    if made.against is not None:
        print(f"against the best member: {compared(made.against, made.images)}")
    for note in made.notes:
        print(f"note: {note}")
    next_evaluate(made.run)


def composed(made: Composed) -> None:
    """A composition: its scores, and the runs that it is made of, each on what it answers."""
    scored = of_people(made.images, made.interval.people, "held-out images")
    scores(f"{made.run}: {scored}", made.scores, made.interval)
    widths = [max(map(len, column)) for column in zip(*(part[:4] for part in made.parts), strict=True)]
    for part in made.parts:
        cells = "  ".join(cell.ljust(width) for cell, width in zip(part[:4], widths, strict=True))
        print(f"part    {cells}  macro-F1 {part[4]:.4f} on its own")
    for note in made.notes:
        print(f"note: {note}")
    next_evaluate(made.run)


def calibrated(done: Calibrated) -> None:
    """What calibration changed."""
    scored = of_people(done.images, done.thresholds.people, "held-out images")
    print(f"scored on {scored}, fitted on the others of them")
    print(
        f"temperature {done.calibration.temperature:.3f}: calibration error {done.ece[0]:.4f} -> {done.ece[1]:.4f},"
        f" log-loss {done.nll[0]:.4f} -> {done.nll[1]:.4f}"
    )
    print(
        f"decision thresholds: macro-F1 {done.before:.4f} -> {done.after:.4f}, {compared(done.thresholds, done.images)}"
    )
    warn(done.warnings)
    print(f"written {done.run / 'calibration.json'}, which evaluate, predict and export use from now on")


def models(
    chosen: Mapping[str, Sequence[str]],
    scored: Mapping[str, list[float]] | None,
    measured: bool,
    device: str,
    batch: int | None,
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
            entry, why = known.look_up(name, scored), ""
            row = f"{name:{width}}  {entry.parameters / 1e6:8.1f} M  {'x'.join(map(str, entry.size)):7}"
            row += f"  {entry.weights:7}  {entry.licence.lower() or 'not stated':12}"
            if measured:
                try:
                    cost = known.measure(name, device, batch)
                    row += f"{cost.trained:9.1f} {cost.answered:10.1f} {cost.activations / 2**20:10.1f}"
                except UserError as error:
                    row, why = f"{row}{'—':>9} {'—':>10} {'—':>10}", f"  {error.message}"
            if scored is not None:
                row += f"  {entry.scores[0]:.4f}" if entry.scores else "  —"
                row += f", best of {len(entry.scores)}" * (len(entry.scores) > 1)
            print(row.rstrip() + why, flush=True)


def trial(done: Trial, sofar: Swept) -> None:
    """A line about a trial of a sweep, the best one so far, and the time left."""
    from masktrain.cli.show import clock

    values = ", ".join(f"{key}={value}" for key, value in done.values.items())
    score = f"macro-F1 {done.score:.4f}" if done.score is not None else done.why
    usual = sum(t.seconds for t in sofar.trials) / len(sofar.trials)
    left = clock(usual * max(sofar.total - len(sofar.trials), 0))
    best = "" if sofar.best is None else f"; best {sofar.best.score:.4f} (trial {sofar.best.number})"
    state = "" if done.state == "done" else f" {done.state},"
    print(f"trial {done.number}/{sofar.total} {values}:{state} {score}{best}; about {left} left", flush=True)


def swept(done: Swept) -> None:
    """A sweep: its trials, best first, what matters, and how to use the best."""
    from masktrain.study import sweep, trials

    ranked = sorted(done.trials, key=lambda t: (t.state != "done", -(t.score or 0.0), t.number))
    names = list(dict.fromkeys(name for t in ranked for name in t.values))
    rows = [["trial", "macro-F1", *names]]
    for each in ranked:
        score = "failed" if each.score is None else f"{each.score:.4f}{' pruned' * (each.state == 'pruned')}"
        rows.append([str(each.number), score, *(str(each.values.get(n, "")) for n in names)])
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
        print(f"note    the best of {len(done.trials)} was chosen on the people it is scored on; score it on others")
    print(f"next    masktrain fit CACHE --config {done.out / sweep.BEST} --split-seed 1")
    print(f"        masktrain evaluate {done.out / trials.folder(done.best.number)} CACHE --split eval")
