"""What the commands about runs print."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskprep.base import Column, counted, print_table, shorten, some, wrapped
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
    from masktrain.config.recipes import Recipe
    from masktrain.pages.compare import Comparison
    from masktrain.score.report import Report
    from masktrain.study.sweep import Swept
    from masktrain.study.trials import Trial

MANY = 12
"""Members of which every two are no longer compared in a table."""

NAME = 32
"""Columns of the terminal that the name of a run has at most within a sentence."""

LABEL = 8
"""Width of the labels in front of lines."""


def line(text: str) -> None:
    """Print a line with a label, wrapped at the width of the terminal."""
    print(wrapped(text, LABEL), flush=True)


def recipes(known: Sequence[Recipe]) -> None:
    """The recipes that come with masktrain: where each is from, what it answers and which crops it needs."""
    rows = [(r.name, r.about["Source"].partition(" (")[0], r.target, str(r.view)) for r in known]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in [("recipe", "write-up", "target", "view"), *rows]:
        print("  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip())


def numbers(*heads: str) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(head, "number") for head in heads)


def next_command(*parts: object) -> None:
    """Print a command that runs as it is printed, whatever its paths hold."""
    print(f"next    {shlex.join(map(str, parts))}")


def judged(cache: Path, view: str | None) -> tuple[int, int]:
    """Images of a cache that nothing is trained on, and how many of them have a label."""
    from maskprep.dataset import open_view

    table = open_view(cache, view).table
    held = table[table["split"] != "train"]
    return len(held), int(held["label"].notna().sum())


def next_evaluate(run: Path) -> None:
    """Print the command that scores a run on the eval split of its cache, or answers that, or shows its errors; nothing
    for votes of files, and where the cache has moved."""
    from masktrain.runs import folder as runs

    if not (run / runs.DATA).is_file() or not (Path(runs.read_data(run)["cache"]) / "dataset.json").is_file():
        return
    data = runs.read_data(run)
    cache = data["cache"]
    images, labelled = judged(Path(cache), data.get("view"))
    if labelled:
        next_command("masktrain", "evaluate", run, cache)
    elif images:
        next_command("masktrain", "predict", run, cache, "--split", "eval", "--out", f"{run}-eval.csv")
    else:
        next_command("masktrain", "explain", run, cache)


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
        estimate = "" if value is None else f", {value:.1f}"
        print(f"        {name:{width}}  {answer[name]} {answer[f'{name}_p']:.1%}{estimate}")
    if answer["x0"] == answer["x0"]:
        box = " ".join(f"{answer[c]:.0f}" for c in ("x0", "y0", "x1", "y1"))
        print(f"face    {box} (x0 y0 x1 y1), one of {counted(faces, 'face')} on the photo")
    print(f"status  {answer['status']}{f': {reason}' if reason else ''}")


def span(score: float, interval: Interval) -> str:
    """A score with its interval."""
    return f"{score:.4f} ({interval.text()})"


def compared(difference: Paired, images: int) -> str:
    """A paired comparison on some images in a line."""
    return f"macro-F1 {difference.text} (95% over {units(difference.people, images)})"


def scores(title: str, scores: Scores, interval: Interval) -> None:
    """Scores: the headline, each attribute, each class."""
    print(wrapped(title, 0))
    rows = [
        ("joint label", f"{scores.macro_f1:.4f}  ({interval.level:.0%}: {interval.text()})", f"{scores.accuracy:.4f}")
    ]
    if len(scores.attributes) > 1:
        rows += [(k, f"{v['macro_f1']:.4f}", f"{v['accuracy']:.4f}") for k, v in scores.attributes.items()]
    print_table((Column("", "name"), *numbers("macro-F1", "accuracy")), rows)
    print(wrapped(", ".join(f"{name} {value}" for name, value in scores.beside) + "\n", 0))
    print_table(
        (Column("class", "name"), *numbers("images", "predicted", "precision", "recall", "F1")),
        (
            (c.name, str(c.support), str(c.predicted), f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}")
            for c in scores.classes
        ),
    )


def evaluated(report: Report) -> None:
    """An evaluation: scores, calibration, slices, where errors come from, comparisons."""
    known = unit(report.interval.people, report.scores.n) == "people"
    of = f", {counted(report.interval.people, 'person', 'people')}" if known else ""
    scores(f"{report.run} on {report.what}{of}", report.scores, report.interval)
    print()
    if report.ece is not None:
        print(f"calibration error {report.ece:.4f}")
    if report.slices:
        people = numbers("people") if known else ()
        columns = (Column("slice", "name"), Column("", "name"), *numbers("images"), *people)
        rows = []
        for s in report.slices:
            sizes = (str(s.images), str(s.people))[: 1 + known]
            rows.append((s.by, s.value, *sizes, f"{s.accuracy:.3f} ({s.interval})", f"{s.macro_f1:.3f}"))
        print()
        print_table((*columns, *numbers("accuracy", "macro-F1")), rows)
    if report.origins:
        people = numbers("people") if known else ()
        rows = []
        for o in report.origins:
            gain = f"{o.gain:+.4f} ({between(o.low, o.high, report.interval.people, '+.4f')})"
            sizes = (str(o.images), str(o.wrong), str(o.people))[: 2 + known]
            rows.append((o.what, *sizes, gain))
        print()
        columns = (Column("if all of these were right", "text"), *numbers("images", "wrong"), *people)
        print_table((*columns, *numbers("gain in macro-F1")), rows)
        print(wrapped("An image may be counted in several rows, so the gains do not add up.", 0))
    if report.rivals:
        rows = []
        for r in report.rivals:
            gain = "" if r.against is None else r.against.text
            rows.append((r.name, span(r.macro_f1, r.interval), f"{r.accuracy:.4f}", gain))
        print()
        print_table((Column("compared with", "name"), *numbers("macro-F1", "accuracy", "this run minus it")), rows)
    if lost := report.without_crop:
        text = f"{counted(len(lost), 'image')} without a crop, answered with the most frequent training class"
        print(wrapped(f"{text}: {some(lost, 5)}", 0))
    warn(report.warnings)
    print(f"written {report.file}")


def warn(texts: Iterable[str]) -> None:
    """Print warnings on standard error."""
    for text in texts:
        print(wrapped(f"Warning: {text}", 9), file=sys.stderr)


def comparison(made: Comparison) -> None:
    """Runs beside each other."""
    from masktrain.pages.compare import CHOICE, LATEST, verdict

    attributes = made.attributes if len(made.attributes) > 1 else ()
    for group in made.groups:
        print(f"scored on {of_people(len(group[0].table), group[0].interval.people)}")
        print(wrapped(verdict(group, lambda row: shorten(row.name, NAME)), 0))
        rows = []
        for row in group:
            against = "" if row.against is None else row.against.text
            each = [f"{row.scores.attributes[n]['macro_f1']:.4f}" for n in attributes]
            score = (span(row.scores.macro_f1, row.interval), row.latest, against, f"{row.scores.accuracy:.4f}")
            rows.append((row.name, *score, *each, row.note))
        columns = numbers("macro-F1", LATEST, "difference to the best", "accuracy", *attributes)
        print_table((Column("run", "name"), *columns, Column("note", "text")), rows)
        print()
    if any(row.latest for row in made.rows):
        print(wrapped(CHOICE, 0))
    if made.unfinished:
        print(wrapped(f"not finished, so not ranked: {', '.join(made.unfinished)}", 0))
    for title, values in (("settings that differ", made.differs), ("defaults that changed", made.changed)):
        for key, each in values.items():
            print(wrapped(f"{title}: {key} = {' | '.join(map(str, each))}", 4))
    warn(made.warnings)


def ensemble(made: Ensemble) -> None:
    """An ensemble: its members, how it compares with the best of them, and what it costs."""
    scored = of_people(made.images, made.interval.people, "held-out image")
    print(wrapped(f"{made.run}: {made.kind} of {counted(len(made.entries), 'run')}, scored on {scored}", 0))
    rows: list[tuple[str, ...]] = []
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
    heads = numbers("macro-F1", "weight", "correlation of errors", "parameters", "G mult-adds")
    total = ("", made.kind, span(made.score, made.interval), "", "", *cost)
    print_table((Column("", "number"), Column("run", "name"), *heads), rows, total)
    if 2 < len(made.entries) <= MANY:  # 1 for two that err on the same images
        rows = [
            (
                f"{i + 1}  {entry.name}",
                *("" if i == j else f"{float(v):.2f}" for j, v in enumerate(made.correlation[i])),
            )
            for i, entry in enumerate(made.entries)
        ]
        print()
        members = numbers(*(str(j + 1) for j in range(len(made.entries))))
        print_table((Column("correlation of errors", "name"), *members), rows)
    if made.against is not None:
        print(wrapped(f"difference to the best member: {compared(made.against, made.images)}", 0))
    for note in made.notes:
        line(f"{'note':<{LABEL}}{note}")
    if made.against is not None and made.against.difference < 0:
        best = max(range(len(made.entries)), key=lambda k: made.entries[k].score)
        line(f"{'note':<{LABEL}}It scores lower than run {best + 1} alone; use that.")
        return
    next_evaluate(made.run)


def composed(made: Composed) -> None:
    """A composition: its scores, and the runs that it is made of, each on what it answers."""
    scored = of_people(made.images, made.interval.people, "held-out image")
    scores(f"{made.run}: {scored}", made.scores, made.interval)
    print()
    columns = (Column("part", "name"), Column("run", "name"), Column("network", "name"), Column("view", "name"))
    rows = [(*part[:4], f"{part[4]:.4f}") for part in made.parts]
    print_table((*columns, *numbers("macro-F1 on its own")), rows)
    for note in made.notes:
        line(f"{'note':<{LABEL}}{note}")
    next_evaluate(made.run)


def calibrated(done: Calibrated) -> None:
    """What calibration changed."""
    scored = of_people(done.images, done.thresholds.people, "held-out image")
    print(wrapped(f"Scored on {scored}, each fold with what was fitted on the other folds.", 0))
    print_table(
        (Column(""), *numbers("before", "after")),
        (
            ("calibration error", f"{done.ece[0]:.4f}", f"{done.ece[1]:.4f}"),
            ("log-loss", f"{done.nll[0]:.4f}", f"{done.nll[1]:.4f}"),
            ("macro-F1 with decision thresholds", f"{done.before:.4f}", f"{done.after:.4f}"),
        ),
    )
    print(f"temperature {done.calibration.temperature:.3f}")
    print(wrapped(f"thresholds: difference in {compared(done.thresholds, done.images)}", 0))
    warn(done.warnings)
    print(f"written {done.run / 'calibration.json'}; evaluate, predict and export use it from now on")
    next_evaluate(done.run)


def models(
    chosen: Mapping[str, Sequence[str]],
    scored: Mapping[str, list[float]] | None,
    measured: bool,
    device: str,
    batch: int | None,
) -> None:
    """Tables of models; one that cannot be measured says why. Progress of the measurements is on standard error."""
    from maskprep.base import UserError
    from masktrain.study import models as known

    columns = [Column("model", "name"), *numbers("parameters", "native"), Column("weights"), Column("licence", "text")]
    columns += numbers("train/s", "answer/s", "MiB/image") if measured else ()
    columns += [Column("macro-F1 of your runs")] if scored is not None else ()
    count, number = sum(map(len, chosen.values())), 0
    for heading, names in chosen.items():
        rows, problems = [], []
        for name in names:
            number += 1
            entry = known.look_up(name, scored)
            row = [name, f"{entry.parameters / 1e6:.1f} M", "x".join(map(str, entry.size)), entry.weights]
            row.append(entry.licence.lower() or "not stated")
            if measured:
                print(f"measuring {number}/{count} {name}", file=sys.stderr, flush=True)
                try:
                    cost = known.measure(name, device, batch)
                    row += [f"{cost.trained:.1f}", f"{cost.answered:.1f}", f"{cost.activations / 2**20:.1f}"]
                except UserError as error:
                    row += ["—", "—", "—"]
                    problems.append(f"{name} was not measured: {error.message}")
            if scored is not None:
                best = f"{entry.scores[0]:.4f}" if entry.scores else "—"
                row.append(best + f", best of {len(entry.scores)}" * (len(entry.scores) > 1))
            rows.append(row)
        if number > len(names):
            print()
        print_table(columns, rows, title=wrapped(heading, 0))
        for problem in problems:
            print(wrapped(problem, 0))


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
    rows = []
    for each in ranked:
        score = "failed" if each.score is None else f"{each.score:.4f}{' pruned' * (each.state == 'pruned')}"
        rows.append([str(each.number), score, *(str(each.values.get(n, "")) for n in names)])
    print_table((*numbers("trial"), Column("macro-F1"), *map(Column, names)), rows)
    if done.importance:
        shares = ", ".join(f"{key} {share:.0%}" for key, share in done.importance.items())
        print(wrapped(f"importance of the settings: {shares}", 0))
    if done.out_of_time:
        print("The time is up. To go on, run the same command with more --hours.")
    if done.best is None:
        return
    if len(done.trials) > 1:
        text = f"the best of {len(done.trials)} trials on the same people; expect a lower score on new people"
        line(f"{'note':<{LABEL}}{text}")
    line(f"{'best':<{LABEL}}settings in {done.out / sweep.BEST}: masktrain fit with --config")
    next_evaluate(done.out / trials.folder(done.best.number))
