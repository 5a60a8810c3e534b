"""What people see in the terminal: progress on standard error, results on standard output."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from maskprep.audit import CHECKS, LIKELY, Audit, DecisionState, Score
from maskprep.base import Silent, counted, counts, missing_note, some
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


class Bars:
    """Progress bars with rate and time left; one line per stage where there is no terminal."""

    def __init__(self) -> None:
        rate = TextColumn("{task.fields[rate]}", style="cyan")
        columns = (TextColumn("{task.description:<12}"), BarColumn(), MofNCompleteColumn(), rate, TimeRemainingColumn())
        self._progress = Progress(*columns, console=err)
        self._task: TaskID | None = None
        self._name, self._done, self._total, self._began = "", 0, 0, 0.0

    def start(self, name: str, total: int) -> None:
        """A new bar."""
        self.finish()
        self._name, self._done, self._total, self._began = name, 0, total, time.perf_counter()
        if err.is_terminal:
            self._progress.start()
            self._task = self._progress.add_task(name, total=total, rate="")

    def advance(self, steps: int = 1) -> None:
        """Move the bar."""
        self._done += steps
        if self._task is not None:
            self._progress.update(self._task, completed=self._done, rate=f"{self._rate():.0f}/s")

    def _rate(self) -> float:
        return self._done / max(1e-6, time.perf_counter() - self._began)

    def finish(self) -> None:
        """Say how the piece of work at hand went, where no bar shows it."""
        if self._name and not err.is_terminal:
            err.print(f"{self._name:<12} {self._done}/{self._total}  {self._rate():.0f}/s")
        self._name = ""

    def close(self) -> None:
        """End all bars."""
        self.finish()
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
    out.print(escape(f"{what} {path}"))
    if note := missing_note():
        _note(note)


def _note(text: str) -> None:
    err.print(f"[yellow]note:[/yellow] {escape(text)}")


def _ignored(numbers: Mapping[str, int]) -> None:
    if numbers:
        err.print(f"ignored: {escape(counts(sorted(numbers.items())))}")


def _unlisted(folders: Sequence[str]) -> str:
    return f"{len(folders)} folders that cannot be listed: {some(folders)}"


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
    grid = Table.grid(padding=(0, 2))
    grid.add_row("cache", escape(str(session.cache.root)))
    detected = " (detected)" if session.detected else ""
    grid.add_row("photos", f"{len(images)} ({splits}), layout {session.layout}{detected}")
    if images["error"].notna().any():
        grid.add_row("errors", _counts(images["error"].dropna()))
    if session.cache.subjects.is_file():
        grid.add_row("subjects", _counts(read_table(session.cache.subjects, ["status"])["status"]))
    if views := session.cache.views():
        grid.add_row("views", ", ".join(views))
    if session.unlisted:
        grid.add_row("passed over", escape(_unlisted(session.unlisted)))
    if session.failed:
        grid.add_row("failed", escape(failed(session)))
    grid.add_row("computed", f"{computed} ({seconds:.1f} s)")
    out.print(grid)


LONGEST, MOST = 24, 8
"""Characters of a class name, and classes of an attribute, that are printed."""


def understood(session: Session, following: str) -> None:
    """The labels that came with the photos, and the next command."""
    schema = Schema.from_dict(session.cache.read()["schema"])
    images = read_table(session.cache.images)
    labels(inventory.take(images, schema, session.cache.read()["source"]))
    out.print(f"next      {escape(following)}")


def labels(found: Inventory) -> None:
    """Which attributes the photos have, where from, how many of each class, and what was not used."""
    grid = Table.grid(padding=(0, 2))
    if not found.attributes:
        grid.add_row("labels", "none: nothing tells a class")
    for number, attribute in enumerate(found.attributes):
        said = [f"{n} {shorten(name)}" for name, n in attribute.counts.items()][:MOST]
        if (more := len(attribute.counts) - MOST) > 0:
            said.append(f"and {more} classes more")
        if attribute.missing:
            refused = ", ".join(f"{n} '{shorten(v)}'" for v, n in list(attribute.refused.items())[:4])
            said.append(f"{attribute.missing} without" + (f" ({refused})" if refused else ""))
        origin = f", from {attribute.origin}" if attribute.origin else ""
        grid.add_row("" if number else "labels", escape(f"{attribute.name}: {', '.join(said)}{origin}"))
    if found.attributes:
        grid.add_row("complete", f"{found.complete} of {found.photos} photos have every label")
    people, origin = found.persons
    grid.add_row("persons", f"{people}, from {escape(origin)}" if people else "none known")
    if found.unused:
        names = [f"{name} ({why})" for name, why in found.unused.items()]
        grid.add_row("not used", escape(some(names, 6)))
    if found.lists:
        grid.add_row("read", escape(", ".join(found.lists)))
    out.print(grid)
    for head, text in zip(("[yellow]warning[/yellow]", " " * 7), found.doubts, strict=False):
        out.print(f"{head}   {escape(text)}")


def shorten(name: str) -> str:
    """A name that is too long without its middle."""
    half = (LONGEST - 1) // 2
    return name if len(name) <= LONGEST else f"{name[:half]}…{name[-half:]}"


def failed(session: Session) -> str:
    """How many photos failed this time, the first of them, and why."""
    first, why = min(session.failed.items())
    return f"{len(session.failed)} photos, first {first}: {why}; run again to try again"


def _counts(column: Any) -> str:
    return counts(column.value_counts().sort_index().items())


def _table(*names: str, right: Sequence[str] = ()) -> Table:
    table = Table()
    for name in names:
        table.add_column(name, justify="right" if name in right else "left")
    return table


def status(root: str, found: Status) -> None:
    """The table of stages and the counts of a cache."""
    table = _table("stage", "current", "to do", "size", "why", right=("current", "to do", "size"))
    table.title, table.title_justify = escape(root), "left"
    for stage in found.stages:
        todo = f"[yellow]{stage.missing}[/yellow]" if stage.missing else "0"
        table.add_row(stage.name, str(stage.rows), todo, size(stage.size), escape(stage.why))
    out.print(table)
    for name, numbers in found.counts.items():
        if numbers:
            out.print(f"{name:<8} {escape(counts(numbers.items()))}")
    out.print(f"{'size':<8} {size(found.size)}")
    if found.labels is not None:
        labels(found.labels)


def changes(found: Changes, dry: bool) -> None:
    """What fixes do to the labels, a line per fix; those of a preset that concern nobody here are only counted."""
    names = ("fix", "which", "label", "was", "is" if not dry else "would be", "images", "outcome")
    table = _table(*names, right=("images",))
    colours = {"applied": "green", "refused": "red", "absent": "yellow", "overruled": "yellow", "already": "dim"}
    shown = [o for o in found.outcomes if o.fix.level != PRESET or o.status != "absent"]
    for outcome in shown:
        fix = outcome.fix
        label = "person" if fix.operation == "rename" else fix.field
        new = {"drop": "(dropped)", "swap": f"{fix.new} (swapped)"}.get(fix.operation, fix.new)
        was = fix.expected or (fix.person if fix.operation == "rename" else "")
        said = f"[{colours[outcome.status]}]{outcome.status}[/]"
        detail = outcome.detail
        row = (f"{fix.origin}:{fix.line}", fix.selection, label, was, new)
        table.add_row(*map(escape, row), str(outcome.images), said + escape(f": {detail}" if detail else ""))
    if shown:
        out.print(table)
    if unheard := len(found.outcomes) - len(shown):
        out.print(f"{unheard} fixes of the preset are about people who are not here")
    labels = sum(map(len, found.values.values()))
    verb = "would change" if dry else "changed"
    out.print(f"{labels} labels of {len(found.values)} images {verb}, {len(found.dropped)} images dropped")


def duplicates(found: DuplicateReport) -> None:
    """Counts of photos that are there twice, and the pairs that cross people or splits."""
    pairs = found.pairs
    numbers = ("one person", "across people", "across splits", "in eval")
    table = _table("pairs", *numbers, right=numbers)
    splits = pairs["split_a"] != pairs["split_b"]
    inside = ~splits & (pairs["split_a"] != "train") & ~pairs["same_person"]
    across = ~splits & ~inside & ~pairs["same_person"]
    for kind in ("exact", "near"):
        mine = pairs["kind"] == kind
        columns = (mine & ~splits & pairs["same_person"], mine & across, mine & splits, mine & inside)
        table.add_row(kind, *(str(int(where.sum())) for where in columns))
    out.print(table)
    for pair in pairs[pairs["crossing"]].itertuples():
        what = "the same file" if pair.kind == "exact" else f"{pair.distance} bits apart"
        mark = "[dim]allowed[/] " if pair.allowed else ""
        out.print(f"{mark}{escape(str(pair.image_a))} = {escape(str(pair.image_b))} ({what})")
    for group in found.same_ids:
        out.print(f"people {escape(', '.join(group))}: numbers that differ only in a suffix")
    for person, folders in found.shared_ids.items():
        out.print(f"person {escape(person)} has {len(folders)} folders: {escape(', '.join(folders))}")


def statistics(data: dict[str, Any]) -> None:
    """Mean and standard deviation per view and split."""
    table = _table("view", "split", "part", "mean R G B", "std R G B", "crops")
    for view, splits in data.items():
        for split, parts in splits.items():
            for part, values in parts.items():
                if values:
                    numbers = (" ".join(f"{v:.4f}" for v in values[key]) for key in ("mean", "std"))
                    table.add_row(view, split, part, *numbers, str(values["images"]))
    out.print(table)


def mattes(session: Session) -> None:
    """What the mattes are: the model with its licence, and how many have which status, per view."""
    for view in session.cache.views():
        folder = session.cache.view(view)
        if (folder / MATTES).is_file() and (folder / DESCRIPTION).is_file():
            about = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
            statuses = _counts(read_table(folder / MATTES, ["status"])["status"])
            out.print(f"mattes  {escape(view)}: {statuses}; {escape(about['model'])} (licence: {about['licence']})")


def cutouts(made: Cutouts) -> None:
    """The outcome of cutting out a folder."""
    if made.unlisted:
        err.print(f"passed over: {escape(_unlisted(made.unlisted))}")
    _ignored(made.ignored)
    for image, why in made.failed:
        err.print(f"[red]failed:[/red] {escape(image)}: {escape(why)}")
    statuses = counts(sorted(made.statuses.items())) or "none"
    done = made.photos - len(made.failed)
    out.print(f"{escape(str(made.folder))}: {done} of {made.photos} photos, {made.made} made now ({statuses})")
    kept(made.kept, "rembg.csv" if made.folder.is_dir() else "")


def kept(pictures: dict[str, str], listed: str) -> None:
    """Which pictures keep their background because of the status of their mattes, and in which file all are listed."""
    if pictures:
        statuses = counts(sorted(Counter(pictures.values()).items()))
        where = f"; all in {listed}" if listed and len(pictures) > 3 else ""
        out.print(f"background kept, no usable matte: {statuses} ({escape(some(sorted(pictures)))}{where})")


def sample(made: SampleSummary) -> None:
    """What a sample data set holds and how to go on."""
    out.print(
        f"{made.folder}: {7 * made.people} photos of {made.people} people for training,"
        f" {7 * made.eval_people} of {made.eval_people} held out (answers in eval_answers.csv)"
    )
    if made.faults:
        out.print(f"{len(made.faults)} faults planted, listed in faults.csv")
    for portrait, reason in made.skipped.items():
        _note(f"not used: {portrait} ({reason})")
    out.print(f"next: maskprep run {made.folder}")


def weights(rows: list[WeightStatus]) -> None:
    """The list of model files."""
    table = _table("name", "state", "size", "licence", "what for")
    table.columns[0].no_wrap = True
    colours = {"present": "green", "missing": "dim", "wrong": "red"}
    for row in rows:
        state = f"[{colours[row.status]}]{row.status}[/]"
        bytes_ = size(row.weight.size) if row.weight.size else "?"
        table.add_row(row.weight.name, state, bytes_, row.weight.licence, row.weight.purpose)
    out.print(table)


def size(count: int) -> str:
    """Bytes for people."""
    value = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024 or unit == "GiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"


def findings(made: Audit, top: int) -> None:
    """Counts per check, then the worst images with their reasons, sized to the terminal."""
    outcome = made.open
    width = max(60, min(out.width, 200))
    total = Counter(f.check for f in outcome.findings)
    likely = Counter(f.check for f in outcome.findings if f.severity > LIKELY)
    longest = max(map(len, total), default=5)
    room = width - longest - 2 * 6 - 13  # three spaces or lines for each column, and one line
    table = Table(width=width)
    table.add_column("check", no_wrap=True, min_width=longest)
    for name in ("found", "likely"):
        table.add_column(name, justify="right", no_wrap=True, min_width=6)
    table.add_column("what it looks for", no_wrap=True, overflow="ellipsis", max_width=room)
    for name in sorted(total, key=lambda n: (-likely[n], -total[n], n)):
        table.add_row(name, str(total[name]), str(likely[name]), escape(CHECKS[name].about))
    if total:
        out.print(table)
    images = outcome.images()
    if images and top:
        table = Table(width=width)
        for name in ("", "severity"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("image", overflow="fold", max_width=max(24, width // 3))
        table.add_column("why", overflow="fold")
        for i, image in enumerate(images[:top], 1):
            mine = [f for f in outcome.findings if f.image == image]
            why = "\n".join(f"{f.check}: {f.detail}" for f in mine[:3]) + ("\n..." if len(mine) > 3 else "")
            table.add_row(str(i), f"{mine[0].severity:.2f}", Text(printable(image)), Text(printable(why, "\n")))
        out.print(table)
    silent = len(CHECKS) - len(total) - len(outcome.not_run)
    out.print(
        f"{counted(len(outcome.findings), 'finding')} on {len(images)} of {counted(len(made.context.images), 'image')},"
        f" {sum(likely.values())} likely (above {LIKELY:g}); {counted(silent, 'check')} found nothing"
    )
    if made.decided:
        verb = "is" if len(made.decided) == 1 else "are"
        out.print(f"{counted(len(made.decided), 'image')} {verb} decided and left out")
    for why in sorted(set(outcome.not_run.values())):
        names = ", ".join(name for name, reason in outcome.not_run.items() if reason == why)
        out.print(f"not run: {names}: {escape(why)}")


def decisions(states: list[DecisionState]) -> None:
    """Every decision with what became of it, and their counts."""
    table = Table(width=max(60, min(out.width, 200)))
    for name in ("line", "state", "verdict", "image", "by", "why"):
        table.add_column(name, overflow="fold", no_wrap=name in ("line", "state"))
    for each in states:
        d = each.decision
        texts = (f"{d.verdict} {d.value}".strip(), d.image, d.by, each.why or d.reason)
        table.add_row(str(d.line), each.state, *(Text(printable(text)) for text in texts))
    if states:
        out.print(table)
    numbers = sorted(Counter(each.state for each in states).items())
    out.print(", ".join([counted(len(states), "decision"), *(f"{n} {state}" for state, n in numbers)]))


def scores(made: list[Score]) -> None:
    """How many of the planted faults of each kind were found."""
    numbers = ("planted", "recall", "precision", "precision at k", "average precision", "recall at precision 0.8")
    table = _table("fault", *numbers, "found by", right=numbers)
    for each in made:
        if each.not_run:
            table.add_row(each.fault, "-", *[""] * 5, f"not planted: {each.not_run}")
        else:
            shares = (each.recall, each.precision, each.precision_at_k, each.average_precision, each.recall_at_80)
            table.add_row(each.fault, str(each.planted), *(f"{v:.2f}" for v in shares), each.found_by)
    out.print(table)


def printable(text: str, but: str = "") -> str:
    """A text without characters that move the cursor or break the line, save those of ``but``."""
    return "".join(ch if ch.isprintable() or ch in but else repr(ch)[1:-1] for ch in text)
