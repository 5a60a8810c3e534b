"""decisions.csv: what people decided on single photos. The only file of a cache that is edited by hand.

A decision is about a photo's content, so it survives renaming and ends when the photo changes. ``expected`` is what the
person saw; when that is no longer so, the decision is stale: reported, and not applied.

===============  =============================  ==========================================================
verdict          value                          expected (empty: no check)
===============  =============================  ==========================================================
keep             empty                          box of the choice that is confirmed, "x0 y0 x1 y1"
face             number of the face             box of that face
box              "x0 y0 x1 y1" in photo pixels  box of the choice that is replaced
drop             empty                          box of the choice that is dropped
relabel          "field=new"                    "field=old"
allow_duplicate  content of another photo       empty; the two photos are alike, and both may stay
===============  =============================  ==========================================================

Older files say ``keep`` with the value ``duplicate:<content>`` for ``allow_duplicate``; they are read as before.

Every change is also a line of decisions.history.jsonl, which only grows. A writer holds a lock, reads the file again
and changes its own rows only, so two people (or two tabs) lose nothing.
"""

from __future__ import annotations

import csv
import getpass
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from maskprep.base import UsageError, UserError, guard, lock, read_csv, unguard, write_atomic

COLUMNS = ("content", "image", "verdict", "value", "expected", "reason", "by", "when")
FACE_VERDICTS = ("keep", "drop", "face", "box")
VERDICTS = (*FACE_VERDICTS, "relabel", "allow_duplicate")
OLD_DUPLICATE = "duplicate:"
"""What the value of ``keep`` begins with in older files, for ``allow_duplicate``."""

HISTORY = "decisions.history.jsonl"
SIDES = ("ours", "theirs", "newer")


@dataclass(frozen=True)
class Decision:
    """One row of decisions.csv; the fields are its columns, ``line`` its number in the file."""

    content: str
    image: str
    verdict: str
    value: str = ""
    expected: str = ""
    reason: str = ""
    by: str = ""
    when: str = ""
    line: int = field(default=0, compare=False)

    @property
    def row(self) -> dict[str, str]:
        """The row without its place in the file."""
        return {name: getattr(self, name) for name in COLUMNS}

    @property
    def relabels(self) -> str:
        """The label field that a ``relabel`` changes."""
        return self.value.partition("=")[0].strip()

    @property
    def topic(self) -> tuple[str, str, str]:
        """What it is about: a later decision on the same topic replaces this one. (content, image, subject)"""
        about = {"relabel": f"label {self.relabels}", "allow_duplicate": f"duplicate {self.value}"}
        return self.content, self.image, about.get(self.verdict, "face")


def of_faces(decisions: Iterable[Decision]) -> list[Decision]:
    """The decisions on which face is the subject."""
    return [d for d in decisions if d.verdict in FACE_VERDICTS]


def relabels(decisions: Iterable[Decision]) -> list[Decision]:
    """The decisions on labels; of several on one label of one photo, the last."""
    return list({d.topic: d for d in decisions if d.verdict == "relabel"}.values())


def allowed_pairs(decisions: Iterable[Decision]) -> set[frozenset[str]]:
    """The pairs of contents that may stay although they are alike."""
    return {frozenset((d.content, d.value)) for d in decisions if d.verdict == "allow_duplicate"}


def holders(decision: Decision, by_content: Mapping[str, Sequence[str]]) -> list[str]:
    """The images that a decision is about: of several copies the one it names, else all of its content. For
    ``by_content`` see :func:`images_by_content`."""
    images = by_content.get(decision.content, ())
    return [decision.image] if decision.image in images else list(images)


def images_by_content(contents: Mapping[str, str]) -> dict[str, list[str]]:
    """content -> images, from image -> content."""
    found: dict[str, list[str]] = {}
    for image, content in contents.items():
        found.setdefault(content, []).append(image)
    return found


# ---------------------------------------------------------------- reading


def read_decisions(path: Path) -> list[Decision]:
    """The decisions of a file, in order; none when there is no file.

    Raises:
        UserError: not a CSV of decisions, naming the line.
    """
    if not path.is_file():
        return []
    table = read_csv(path)
    for column in ("content", "verdict"):
        if column not in table.names:
            raise UserError(f"'{path}' has no column '{column}'.", f"Its columns are: {', '.join(COLUMNS)}.")
    return [
        _checked(Decision(**{c: unguard(cells.get(c, "")) for c in COLUMNS}, line=line), f"'{path}'")
        for line, cells in table.records()
    ]


def _checked(row: Decision, name: str) -> Decision:
    """A row as it is meant. Raises UserError, naming file and line, where it means nothing."""
    if row.verdict == "keep" and row.value.startswith(OLD_DUPLICATE):
        other = row.value.removeprefix(OLD_DUPLICATE).strip()
        row = Decision(**{**row.row, "verdict": "allow_duplicate", "value": other}, line=row.line)
    problem, hint = _problem(row)
    if problem:
        raise UserError(f"{name}, line {row.line}: {problem}.", hint)
    return row


def _problem(row: Decision) -> tuple[str, str]:
    """What is wrong with a row, and how to write it; empty when nothing is."""
    if row.verdict not in VERDICTS:
        return f"unknown verdict '{row.verdict}'", f"Known: {', '.join(VERDICTS)}."
    if row.verdict == "face" and not (row.value.isascii() and row.value.isdigit()):
        return f"'{row.value}' is not the number of a face", "See the numbers with: maskprep faces."
    if row.verdict == "box":
        box = parse_box(row.value)
        if box is None or box[2] - box[0] < 1 or box[3] - box[1] < 1:
            return f"'{row.value}' is no box", 'A box is "x0 y0 x1 y1" in pixels, at least one pixel wide and high.'
    if row.verdict == "allow_duplicate" and not row.value:
        return "it does not name the other photo", "The value is the content of the other photo."
    if row.verdict == "relabel":
        name, equals, new = (part.strip() for part in row.value.partition("="))
        if not (name and equals and new):
            return f"'{row.value}' is no new label", 'Write it as "field=new".'
        before, equals, old = (part.strip() for part in row.expected.partition("="))
        if row.expected and not (before == name and equals and old):
            return f"expected '{row.expected}' is no label '{name}'", f'Write it as "{name}=old".'
    elif row.expected and parse_box(row.expected) is None:
        return f"expected '{row.expected}' is no box", 'A box is "x0 y0 x1 y1" in pixels.'
    return "", ""


def parse_box(text: str) -> tuple[float, float, float, float] | None:
    """``x0 y0 x1 y1`` as numbers; None when it is not a box with an area."""
    try:
        x0, y0, x1, y1 = (float(part) for part in text.replace(",", " ").split())
    except ValueError:
        return None
    return (x0, y0, x1, y1) if math.isfinite(x0 + y0 + x1 + y1) and x0 < x1 and y0 < y1 else None


def from_json(rows: Iterable[Any]) -> list[Decision]:
    """Decisions from rows of a JSON document, whose names are COLUMNS and whose values are texts.

    Raises:
        UserError: a row that is none.
    """
    decisions = []
    for row in rows:
        if not isinstance(row, Mapping) or not all(isinstance(row.get(name, ""), str) for name in COLUMNS):
            raise UserError("A decision consists of texts.")
        try:
            values = {name: row.get(name, "").strip().encode().decode() for name in COLUMNS}
        except UnicodeEncodeError as error:  # half of a surrogate pair
            raise UserError("A decision holds characters that no file can hold.") from error
        decisions.append(Decision(**values))
    if any(not d.content for d in decisions):
        raise UserError("A decision names the content of its photo.")
    return decisions


# ---------------------------------------------------------------- writing


def to_csv(decisions: Iterable[Decision], header: bool = True) -> str:
    """The rows of decisions.csv, with their header or without."""
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerows([COLUMNS] if header else [])
    writer.writerows([guard(cell) for cell in d.row.values()] for d in decisions)
    return out.getvalue()


def login() -> str:
    """The name of the user at work, for decisions; empty where that is not known."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def change(path: Path, add: Sequence[Decision] = (), remove: Sequence[Decision] = ()) -> list[Decision]:
    """Add decisions to the end of decisions.csv and take others out, in one step. Returns all decisions after that.

    One that is there already is not added again; one to remove that is not there (any more) is no error.

    Raises:
        UserError: the file is damaged, or a decision is none; nothing is changed.
    """
    add = [_checked(decision, "the new decisions") for decision in add]  # as they will be read
    with lock(path.parent / ".decisions.lock"):  # other writers wait
        before = read_decisions(path)
        kept = [d for d in before if d not in remove]
        lines = [{"change": "removed", **d.row} for d in before if d in remove]
        fresh = [d for d in dict.fromkeys(add) if d not in kept]
        lines += [{"change": "added", **d.row} for d in fresh]
        if lines:
            write_atomic(path, to_csv([*kept, *fresh]).encode())
            now = datetime.now(UTC).isoformat(timespec="seconds")
            with (path.parent / HISTORY).open("a", encoding="utf-8") as file:
                file.writelines(json.dumps({"at": now, **line}, ensure_ascii=False) + "\n" for line in lines)
        return read_decisions(path)


def replace(path: Path, decisions: Sequence[Decision]) -> list[Decision]:
    """Add decisions in place of those on the same topics. Returns all decisions after the change."""
    topics = {d.topic for d in decisions}
    return change(path, decisions, [d for d in read_decisions(path) if d.topic in topics])


@dataclass(frozen=True)
class Merge:
    """Two people's decisions together, ours first; those of theirs that are new; and pairs (ours, theirs) on one topic
    with different verdicts or values."""

    decisions: list[Decision]
    added: list[Decision]
    conflicts: list[tuple[Decision, Decision]]


def merge(ours: Sequence[Decision], theirs: Sequence[Decision], prefer: str | None = None) -> Merge:
    """Put two files together. Where they conflict, ``prefer`` says whose decision holds: ours, theirs or newer (by
    ``when``; ours where that is equal). Raises UsageError for an unknown side."""
    if prefer is not None and prefer not in SIDES:
        raise UsageError(f"--prefer is '{prefer}'.", f"Known: {', '.join(SIDES)}.")
    mine, yours = {d.topic: d for d in ours}, {d.topic: d for d in theirs}
    shared = [(mine[topic], d) for topic, d in yours.items() if topic in mine]
    conflicts = [(our, their) for our, their in shared if (our.verdict, our.value) != (their.verdict, their.value)]
    added = [d for topic, d in yours.items() if topic not in mine]
    added += [d for our, d in conflicts if prefer == "theirs" or (prefer == "newer" and d.when > our.when)]
    replaced = {d.topic for d in added}
    return Merge([*(d for d in ours if d.topic not in replaced), *added], added, conflicts)
