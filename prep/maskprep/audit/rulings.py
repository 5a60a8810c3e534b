"""decisions.csv as a living file: which rulings hold, adding and withdrawing them, merging two people's.

The file holds what is ruled now; every change is also a line of decisions.history.jsonl, which only grows. A writer
holds a lock, reads the file anew, changes its own rows and nothing else, so two people (or two tabs) lose nothing.
"""

from __future__ import annotations

import contextlib
import csv
import getpass
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from maskprep.base.csv_files import guard
from maskprep.base.files import lock, write_atomic
from maskprep.errors import UsageError, UserError
from maskprep.faces.decisions import COLUMNS, DUPLICATE, Decision, read_decisions
from maskprep.faces.subjects import Subjects

HISTORY = "decisions.history.jsonl"
SIDES = ("ours", "theirs", "newer")


@dataclass(frozen=True)
class State:
    """A ruling and what became of it.

    Args:
        decision: the ruling.
        images: the photos it concerns now; several for copies, none when the photo is gone.
        state: ``applied``, ``pending`` (the next run applies it), ``stale`` or ``replaced`` by a later one.
        why: in words, for a stale one.
    """

    decision: Decision
    images: tuple[str, ...]
    state: str
    why: str = ""


def topic(decision: Decision) -> tuple[str, str, str]:
    """What a ruling is about: a later one of the same topic replaces it. (content, image, what)"""
    if decision.verdict == "relabel":
        what = "label " + decision.value.partition("=")[0].strip()
    elif decision.value.startswith(DUPLICATE):
        what = decision.value
    else:
        what = "face"
    return decision.content, decision.image, what


def states(decisions: Sequence[Decision], chooser: Subjects, labels: pd.DataFrame) -> list[State]:
    """What became of each ruling.

    Args:
        decisions: in order.
        chooser: the subjects, made with the same rulings.
        labels: labels.parquet.
    """
    holders: dict[str, list[str]] = {}
    for image, content in zip(chooser.images["image"], chooser.images["content"], strict=True):
        holders.setdefault(content, []).append(image)
    known = set(chooser.images["image"])
    last = {topic(d): i for i, d in enumerate(decisions)}
    table = labels.set_index("image")
    found = []
    for i, decision in enumerate(decisions):
        images = holders.get(decision.content, [])
        images = [decision.image] if decision.image in images else images
        state, why = "applied", ""
        if not images:
            why = f"the photo '{decision.image}' {'has changed' if decision.image in known else 'is not there'}"
        elif last[topic(decision)] != i:
            state = "replaced"
        elif decision.verdict == "relabel":
            state, why = _relabelled(decision, table, images[0])
        elif not decision.value.startswith(DUPLICATE):
            before = len(chooser.stale)
            chooser.choose(images[0])
            why = chooser.stale[-1].partition("stale, ")[2] if len(chooser.stale) > before else ""
        found.append(State(decision, tuple(images), "stale" if why else state, why))
    return found


def _relabelled(decision: Decision, labels: pd.DataFrame, image: str) -> tuple[str, str]:
    name, _, new = (part.strip() for part in decision.value.partition("="))
    if name not in labels:
        return "stale", f"there is no label '{name}'"
    value: Any = labels.at[image, name]
    now = "" if pd.isna(value) else f"{value:g}" if isinstance(value, int | float) else str(value)
    expected = decision.expected.partition("=")[2].strip()
    if now == new:
        return "applied", ""
    if decision.expected and now != expected:
        return "stale", f"{name} is '{now}' now, neither '{expected}' nor '{new}'"
    return "pending", ""


def settled(found: Iterable[State]) -> set[str]:
    """Images that need no further look: those with a ruling that holds or will hold after the next run. That two
    photos are alike and may stay says nothing else about them."""
    return {
        image
        for each in found
        if each.state in ("applied", "pending") and not each.decision.value.startswith(DUPLICATE)
        for image in each.images
    }


# ---------------------------------------------------------------- writing


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold decisions.csv for one writer; others wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / ".decisions.lock").open("a+") as file:
        lock(file.fileno(), wait=True)
        yield


def parse(rows: Iterable[Mapping[str, Any]]) -> list[Decision]:
    """Rulings from JSON rows, checked as those of a file are.

    Raises:
        UserError: a row that is none.
    """
    made = []
    for row in rows:
        if not isinstance(row, Mapping) or not all(isinstance(row.get(name, ""), str) for name in COLUMNS):
            raise UserError("A ruling consists of texts.")
        made.append(Decision(**{name: row.get(name, "").strip() for name in COLUMNS}))
    if any(not d.content for d in made):
        raise UserError("A ruling names the content of its photo.")
    return made


def login() -> str:
    """Who is at work, for rulings; empty where that is not known."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def change(path: Path, add: Sequence[Decision] = (), remove: Sequence[Decision] = ()) -> list[Decision]:
    """Add rulings to decisions.csv and take others back, in one step.

    Args:
        path: the file; made if it is not there.
        add: go to the end, in order. One that is there already is not added again.
        remove: taken out; one that is not there (any more) is no error.

    Returns:
        All rulings after the change.

    Raises:
        UserError: the file is damaged, or a ruling is none; nothing is changed.
    """
    _check(path, add)
    with _locked(path):
        before = read_decisions(path)
        gone = {fields(d) for d in remove}
        kept = [d for d in before if fields(d) not in gone]
        have = {fields(d) for d in kept}
        fresh = [d for d in add if fields(d) not in have]
        taken = [d for d in before if fields(d) in gone]
        if fresh or taken:
            now = datetime.now(UTC).isoformat(timespec="seconds")
            lines = [{"at": now, "change": "removed", **_row(d)} for d in taken]
            lines += [{"at": now, "change": "added", **_row(d)} for d in fresh]
            with (path.parent / HISTORY).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
            write_atomic(path, text_of([*kept, *fresh]).encode())
        return read_decisions(path)


def _check(path: Path, decisions: Sequence[Decision]) -> None:
    """Read what would be written, so that nothing gets into the file that would make it unreadable."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        trial = Path(folder) / path.name
        trial.write_text(text_of(decisions), encoding="utf-8")
        read_decisions(trial)


def fields(decision: Decision) -> tuple[str, ...]:
    """A ruling without its place in the file."""
    return tuple(getattr(decision, name) for name in COLUMNS)


def _row(decision: Decision) -> dict[str, str]:
    return dict(zip(COLUMNS, fields(decision), strict=True))


def text_of(decisions: Iterable[Decision]) -> str:
    """The CSV of some rulings."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([guard(cell) for cell in fields(d)] for d in decisions)
    return out.getvalue()


def replace_topics(path: Path, decisions: Sequence[Decision]) -> list[Decision]:
    """Add rulings in place of those on the same topics. Returns all rulings after the change."""
    topics = {topic(d) for d in decisions}
    return change(path, decisions, [d for d in read_decisions(path) if topic(d) in topics])


# ---------------------------------------------------------------- merging


@dataclass(frozen=True)
class Merge:
    """Two people's rulings together.

    Args:
        decisions: all of them, ours first.
        added: those of theirs that are new.
        conflicts: pairs (ours, theirs) that say different things about the same.
    """

    decisions: list[Decision]
    added: list[Decision]
    conflicts: list[tuple[Decision, Decision]]


def merge(ours: Sequence[Decision], theirs: Sequence[Decision], prefer: str | None = None) -> Merge:
    """Put two files together.

    Args:
        ours: in order.
        theirs: likewise.
        prefer: whose ruling holds where they conflict: ours, theirs or newer (by ``when``; ours where that is equal).

    Raises:
        UsageError: an unknown side.
    """
    if prefer is not None and prefer not in SIDES:
        raise UsageError(f"--prefer is '{prefer}'.", f"Known: {', '.join(SIDES)}.")
    mine, yours = {topic(d): d for d in ours}, {topic(d): d for d in theirs}
    conflicts = [(mine[t], d) for t, d in yours.items() if t in mine and _said(mine[t]) != _said(d)]
    added = [d for t, d in yours.items() if t not in mine]
    for our, their in conflicts:
        if prefer == "theirs" or (prefer == "newer" and their.when > our.when):
            added.append(their)
    dropped = {topic(d) for d in added}
    kept = [d for d in ours if topic(d) not in dropped]
    return Merge([*kept, *added], added, conflicts)


def _said(decision: Decision) -> tuple[str, str]:
    return decision.verdict, decision.value
