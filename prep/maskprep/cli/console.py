"""What people see in the terminal: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import shlex
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.text import Text

from maskprep.audit import CHECKS, LIKELY, Audit, DecisionState, Score
from maskprep.base import Column, Silent, counted, counts, missing_note, print_table, printable, shorten, some, wrapped
from maskprep.labels import PRESET, Changes, DuplicateReport, Inventory, Schema, inventory
from maskprep.mattes import DESCRIPTION, MATTES
from maskprep.pipeline import Session, Status
from maskprep.store import read_table
from maskprep.weights import WeightStatus

if TYPE_CHECKING:
    from maskprep.mattes import Cutouts
    from maskprep.sample import SampleSummary

out = Console(highlight=False, soft_wrap=True, emoji=False)
err = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)


LOG_SECONDS = 30
"""Seconds between two lines about a stage where there is no terminal."""
LABEL = 10
"""Width of the labels of a summary."""


class Bars:
    """Progress bars with rate and time left; where there is no terminal, a line at most every LOG_SECONDS.

    Args:
        clock: seconds since some moment.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        rate = TextColumn("{task.fields[rate]}", style="cyan")
        columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        self._progress = Progress(*columns, console=err)
        self._clock = clock
        self._task: TaskID | None = None
        self._name, self._done, self._total, self._began, self._printed = "", 0, 0, 0.0, 0.0

    def start(self, name: str, total: int) -> None:
        """A new bar."""
        self.finish()
        self._name, self._done, self._total = name, 0, total
        self._began = self._printed = self._clock()
        if err.is_terminal:
            self._progress.start()
            self._task = self._progress.add_task(name, total=total, rate="")

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        self._done += steps
        if self._task is not None:
            self._progress.update(self._task, completed=self._done, rate=self._rate())
        elif self._clock() - self._printed >= LOG_SECONDS and self._done < self._total:
            self._print()

    def _rate(self) -> str:
        rate = self._done / max(1e-6, self._clock() - self._began)
        return f"{rate:.{0 if rate >= 10 else 1}f}/s"

    def _print(self) -> None:
        self._printed = self._clock()
        err.print(f"{self._name:<12} {self._done}/{self._total}  {self._rate()}", markup=False)

    def finish(self) -> None:
        """End the stage at hand; print its last line where no bar shows it."""
        if self._name and not err.is_terminal:
            self._print()
        self._name = ""

    def close(self) -> None:
        """End all bars."""
        self.finish()
        if self._task is not None:
            self._progress.stop()


@contextmanager
def bars(quiet: bool) -> Iterator[Bars | Silent]:
    """Progress for one command."""
    if quiet:
        yield Silent()
        return
    shown = Bars()
    try:
        yield shown
    finally:
        shown.close()


def wrote(path: Path, what: str = "wrote") -> None:
    """Where a picture lies, and whether its text could be drawn."""
    out.print(f"{what} {path}", markup=False)
    if note := missing_note():
        _note(note)


def _note(text: str) -> None:
    err.print(f"[yellow]note:[/yellow] {escape(text)}")


def _ignored(numbers: Mapping[str, int]) -> None:
    if numbers:
        err.print(f"ignored: {escape(counts(sorted(numbers.items())))}")


def field(label: str, text: str, style: str = "") -> None:
    """A line of a summary, wrapped at the width of the terminal."""
    line = Text(wrapped(f"{label:<{LABEL}}{printable(text)}", LABEL))
    line.stylize(style, 0, len(label))
    out.print(line)


def next_command(command: str) -> None:
    """The command to type next, in one line."""
    out.print(f"{'next':<{LABEL}}{command}", markup=False)


def _unlisted(folders: Sequence[str]) -> str:
    return f"{counted(len(folders), 'folder')} that cannot be listed: {some(folders)}"


def notes(session: Session) -> None:
    """Print what the user should know about the photos."""
    _ignored(session.ignored)
    for note in session.notes:
        _note(note)


def summary(session: Session, seconds: float) -> None:
    """The outcome of a command that brought a cache up to date."""
    images = read_table(session.cache.images, ["split", "error"])
    splits = counts(images["split"].value_counts().items())
    computed = ", ".join(f"{name} {n}" for name, n in session.computed.items()) or "nothing, all was up to date"
    field("cache", str(session.cache.root))
    detected = " (detected)" if session.detected else ""
    field("photos", f"{len(images)} ({splits}), layout {session.layout}{detected}")
    if images["error"].notna().any():
        field("errors", _counts(images["error"].dropna()))
    if session.cache.subjects.is_file():
        field("subjects", _counts(read_table(session.cache.subjects, ["status"])["status"]))
    if views := session.cache.views():
        field("views", ", ".join(views))
    if session.unlisted:
        field("skipped", _unlisted(session.unlisted))
    if session.failed:
        field("failed", failed(session))
    field("computed", f"{computed} ({seconds:.1f} s)")


LONGEST, MOST = 24, 8
"""Characters of a class name, and classes of an attribute, that are printed."""


def understood(session: Session, following: str) -> None:
    """The labels that came with the photos, and the next command."""
    schema = Schema.from_dict(session.cache.read()["schema"])
    images = read_table(session.cache.images)
    labels(inventory.take(images, schema, session.cache.read()["source"]))
    next_command(following)


def labels(inventory: Inventory) -> None:
    """Which attributes the photos have, where from, how many of each class, and what was not used."""
    if not inventory.attributes:
        field("labels", "none: neither folders nor a list give a class")
    for number, attribute in enumerate(inventory.attributes):
        parts = [f"{n} {shorten(name, LONGEST)}" for name, n in attribute.counts.items()][:MOST]
        if (more := len(attribute.counts) - MOST) > 0:
            parts.append(f"and {more} more classes")
        if attribute.missing:
            refused = ", ".join(f"{n} '{shorten(v, LONGEST)}'" for v, n in list(attribute.refused.items())[:4])
            parts.append(f"{attribute.missing} without" + (f" ({refused})" if refused else ""))
        origin = f", from {attribute.origin}" if attribute.origin else ""
        field("" if number else "labels", f"{attribute.name}: {', '.join(parts)}{origin}")
    if inventory.attributes:
        field("complete", f"{inventory.complete} of {counted(inventory.photos, 'photo')} have every label")
    people, origin = inventory.persons
    source = f", from {origin}" if origin else ""
    field("people", f"{people}{source}" if people else "none known")
    if inventory.unused:
        names = [f"{name} ({why})" for name, why in inventory.unused.items()]
        field("not used", some(names, 6))
    if inventory.lists:
        field("read", ", ".join(inventory.lists))
    for label, text in zip(("warning", ""), inventory.doubts, strict=False):
        field(label, text, "yellow")


def failed(session: Session) -> str:
    """How many photos failed this time, the first of them, and why."""
    first, why = min(session.failed.items())
    return f"{counted(len(session.failed), 'photo')}, first {first}: {why}; the next run tries again"


def _counts(column: Any) -> str:
    return counts(column.value_counts().sort_index().items())


def status(root: str, survey: Status) -> None:
    """The table of stages and the counts of a cache."""
    rows = []
    for stage in survey.stages:
        missing = Text(str(stage.missing), "yellow" if stage.missing else "")
        rows.append((stage.name, str(stage.rows), missing, size(stage.size), stage.why))
    columns = (
        Column("stage", "name"),
        Column("current", "number"),
        Column("to do", "number"),
        Column("size", "number"),
        Column("why", "text"),
    )
    print_table(columns, rows, title=root)
    out.print()
    for name, numbers in survey.counts.items():
        if numbers:
            field(name, counts(numbers.items()))
    field("size", size(survey.size))
    if survey.labels is not None:
        labels(survey.labels)


COLOURS = {"applied": "green", "refused": "red", "absent": "yellow", "overruled": "yellow", "already": "dim"}
"""Of the states of a fix."""


def changes(changes: Changes, dry: bool) -> None:
    """What fixes do to the labels, a line per fix; those of a preset that concern nobody here are only counted."""
    columns = (
        Column("fix", "name"),
        Column("which", "name"),
        Column("label", "name"),
        Column("was", "name"),
        Column("would be" if dry else "is", "name"),
        Column("images", "number"),
        Column("outcome", "text"),
    )
    shown = [o for o in changes.outcomes if o.fix.level != PRESET or o.status != "absent"]
    rows: list[tuple[str | Text, ...]] = []
    for outcome in shown:
        fix = outcome.fix
        label = "person" if fix.operation == "rename" else fix.field
        new = {"drop": "(dropped)", "swap": f"{fix.new} (swapped)"}.get(fix.operation, fix.new)
        was = fix.expected or (fix.person if fix.operation == "rename" else "")
        state = Text.assemble(
            (outcome.status, COLOURS[outcome.status]), f": {outcome.detail}" if outcome.detail else ""
        )
        rows.append((f"{fix.origin}:{fix.line}", fix.selection, label, was, new, str(outcome.images), state))
    if shown:
        print_table(columns, rows)
    if elsewhere := len(changes.outcomes) - len(shown):
        verb = "is" if elsewhere == 1 else "are"
        out.print(f"{counted(elsewhere, 'fix', 'fixes')} of the preset {verb} about people who are not here")
    images, dropped = counted(len(changes.values), "image"), counted(len(changes.dropped), "image")
    total = counted(sum(map(len, changes.values.values())), "label")
    out.print(f"{total} of {images} {'would change' if dry else 'changed'}, {dropped} dropped")


def duplicates(report: DuplicateReport) -> None:
    """Counts of photos that are there twice, and the pairs that cross people or splits."""
    pairs = report.pairs
    splits = pairs["split_a"] != pairs["split_b"]
    inside = ~splits & (pairs["split_a"] != "train") & ~pairs["same_person"]
    across = ~splits & ~inside & ~pairs["same_person"]
    rows = []
    for kind in ("exact", "near"):
        mine = pairs["kind"] == kind
        groups = (mine & ~splits & pairs["same_person"], mine & across, mine & splits, mine & inside)
        rows.append((kind, *(str(int(group.sum())) for group in groups)))
    heads = ("one person", "across people", "across splits", "in eval")
    print_table((Column("pairs"), *(Column(head, "number") for head in heads)), rows)
    for pair in pairs[pairs["crossing"]].itertuples():
        bits = f"{pair.distance} {'bit' if pair.distance == 1 else 'bits'} apart"
        same = "the same file" if pair.kind == "exact" else bits
        line = printable(f"{pair.image_a} = {pair.image_b} ({same})")
        out.print(Text.assemble(("allowed ", "dim"), line) if pair.allowed else Text(line))
    for group in report.same_ids:
        out.print(f"people {', '.join(group)}: numbers that differ only in a suffix", markup=False)
    for person, folders in report.shared_ids.items():
        out.print(f"person {person} has {len(folders)} folders: {', '.join(folders)}", markup=False)


def statistics(data: dict[str, Any]) -> None:
    """Mean and standard deviation per view and split."""
    rows = []
    for view, splits in data.items():
        for split, parts in splits.items():
            for part, values in parts.items():
                if values:
                    numbers = (" ".join(f"{v:.4f}" for v in values[key]) for key in ("mean", "std"))
                    rows.append((view, split, part, *numbers, str(values["images"])))
    columns = (
        Column("view", "name"),
        Column("split"),
        Column("part"),
        Column("mean R G B", "number"),
        Column("std R G B", "number"),
        Column("crops", "number"),
    )
    print_table(columns, rows)


def mattes(session: Session) -> None:
    """What the mattes are: the model with its licence, and how many have which status, per view."""
    for view in session.cache.views():
        folder = session.cache.view(view)
        if (folder / MATTES).is_file() and (folder / DESCRIPTION).is_file():
            about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            statuses = _counts(read_table(folder / MATTES, ["status"])["status"])
            field("mattes", f"{view}: {statuses}; {about['model']} (licence: {about['licence']})")


def cutouts(cutouts: Cutouts) -> None:
    """The outcome of cutting out a folder."""
    if cutouts.unlisted:
        err.print(f"skipped: {_unlisted(cutouts.unlisted)}", markup=False)
    _ignored(cutouts.ignored)
    for image, why in cutouts.failed:
        err.print(f"[red]failed:[/red] {escape(image)}: {escape(why)}")
    statuses = counts(sorted(cutouts.statuses.items())) or "none"
    done = cutouts.photos - len(cutouts.failed)
    photos = counted(cutouts.photos, "photo")
    out.print(f"{cutouts.folder}: {done} of {photos}, {cutouts.made} made now ({statuses})", markup=False)
    kept(cutouts.kept, "rembg.csv" if cutouts.folder.is_dir() else "")


def kept(pictures: dict[str, str], listed: str) -> None:
    """Which pictures keep their background because of the status of their mattes, and in which file all are listed."""
    if pictures:
        statuses = counts(sorted(Counter(pictures.values()).items()))
        where = f"; all in {listed}" if listed and len(pictures) > 3 else ""
        text = f"background kept, no usable matte: {statuses} ({some(sorted(pictures))}{where})"
        out.print(text, markup=False)


def sample(summary: SampleSummary) -> None:
    """What a sample data set holds and how to go on."""
    if summary.note:
        _note(summary.note)
    held_out = f"{7 * summary.eval_people} of {counted(summary.eval_people, 'person', 'people')} held out"
    out.print(
        f"{summary.folder}: {7 * summary.people} photos of {summary.people} people for training"
        + (f", {held_out} (answers in eval_answers.csv)" if summary.eval_people else ""),
        markup=False,
    )
    if summary.faults:
        out.print(f"{counted(len(summary.faults), 'fault')} planted, listed in faults.csv")
    for portrait, reason in summary.skipped.items():
        _note(f"not used: {portrait} ({reason})")
    next_command(f"maskprep run {shlex.quote(str(summary.folder))}")


def weights(rows: list[WeightStatus]) -> None:
    """The list of model files."""
    colours = {"present": "green", "missing": "dim", "wrong": "red"}
    columns = (
        Column("name"),
        Column("state"),
        Column("size", "number"),
        Column("licence", "text"),
        Column("use", "text"),
    )
    cells = []
    for row in rows:
        bytes_ = size(row.weight.size) if row.weight.size else "?"
        state = Text(row.status, colours[row.status])
        cells.append((row.weight.name, state, bytes_, row.weight.licence, row.weight.purpose))
    print_table(columns, cells)


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def findings(audit: Audit, top: int) -> None:
    """Counts per check, then the worst images with their reasons."""
    outcome = audit.open
    total = Counter(f.check for f in outcome.findings)
    likely = Counter(f.check for f in outcome.findings if f.severity > LIKELY)
    if total:
        columns = (
            Column("check"),
            Column("findings", "number"),
            Column("likely", "number"),
            Column("what it looks for", "text"),
        )
        order = sorted(total, key=lambda n: (-likely[n], -total[n], n))
        print_table(columns, [(name, str(total[name]), str(likely[name]), CHECKS[name].about) for name in order])
        out.print()
    images = outcome.images()
    if images and top:
        rows = []
        for i, image in enumerate(images[:top], 1):
            mine = [f for f in outcome.findings if f.image == image]
            why = "\n".join(f"{f.check}: {f.detail}" for f in mine[:3]) + ("\n..." if len(mine) > 3 else "")
            rows.append((str(i), f"{mine[0].severity:.2f}", image, why))
        columns = (Column("", "number"), Column("severity", "number"), Column("image", "name"), Column("why", "text"))
        print_table(columns, rows)
        out.print()
    silent = len(CHECKS) - len(total) - len(outcome.not_run)
    searched = counted(len(audit.context.images), "image")
    numbers = (
        f"{counted(len(outcome.findings), 'finding')} on {len(images)} of {searched},"
        f" {sum(likely.values())} likely (severity above {LIKELY:g}); {counted(silent, 'check')} found nothing"
    )
    out.print(wrapped(numbers, 0))
    if audit.decided:
        verb = "is" if len(audit.decided) == 1 else "are"
        out.print(f"{counted(len(audit.decided), 'image')} {verb} decided and left out")
    for why in sorted(set(outcome.not_run.values())):
        names = ", ".join(name for name, reason in outcome.not_run.items() if reason == why)
        out.print(wrapped(f"{'not run':<{LABEL}}{names}: {why}", LABEL), markup=False)


def decisions(states: list[DecisionState]) -> None:
    """Every decision with what became of it, and their counts."""
    columns = (
        Column("line", "number"),
        Column("state"),
        Column("verdict"),
        Column("image", "name"),
        Column("by", "name"),
        Column("why", "text"),
    )
    rows = []
    for each in states:
        d = each.decision
        rows.append((str(d.line), each.state, f"{d.verdict} {d.value}".strip(), d.image, d.by, each.why or d.reason))
    if states:
        print_table(columns, rows)
    numbers = sorted(Counter(each.state for each in states).items())
    out.print(", ".join([counted(len(states), "decision"), *(f"{n} {state}" for state, n in numbers)]))


def scores(scores: list[Score]) -> None:
    """How many of the planted faults of each kind were found."""
    heads = ("planted", "recall", "precision", "precision at k", "average precision", "recall at precision 0.8")
    columns = (Column("fault"), *(Column(head, "number") for head in heads), Column("found by", "text"))
    rows = []
    for each in scores:
        if each.not_run:
            rows.append((each.fault, "-", *[""] * 5, f"not planted: {each.not_run}"))
        else:
            shares = (each.recall, each.precision, each.precision_at_k, each.average_precision, each.recall_at_80)
            rows.append((each.fault, str(each.planted), *(f"{v:.2f}" for v in shares), each.found_by))
    print_table(columns, rows)
