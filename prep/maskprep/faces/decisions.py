"""A person's rulings on single photos: decisions.csv, the only file of a cache that is edited by hand.

A ruling is about a photo's content, so it survives renaming and ends when the photo changes. It says what it expects to
find; when that is no longer so, it is stale: reported, and not applied.

=======  =============================  ==========================================================
verdict  value                          expected (empty: no check)
=======  =============================  ==========================================================
keep     empty                          box of the choice that is confirmed, "x0 y0 x1 y1"
face     number of the face             box of that face
box      "x0 y0 x1 y1" in photo pixels  box of the choice that is replaced
drop     empty                          box of the choice that is dropped
relabel  "field=new"                    "field=old"
keep     "duplicate:<content>"          empty; the photo of that content is known to be alike, and may stay
=======  =============================  ==========================================================

The last two say nothing about the face: see :func:`of_faces`, :func:`relabels` and :func:`waived`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from maskprep.base.csv_files import read_csv, unguard
from maskprep.errors import UserError
from maskprep.faces.choice import Choice
from maskprep.faces.face import Box, Face, iou

COLUMNS = ("content", "image", "verdict", "value", "expected", "reason", "by", "when")
VERDICTS = ("keep", "drop", "face", "box", "relabel")
DUPLICATE = "duplicate:"

SAME_BOX_IOU = 0.5
"""An expected box and one found now are the same when they overlap this much."""


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
    line: int = 0


def read_decisions(path: Path) -> list[Decision]:
    """The rulings of a file, in order; none when there is no file.

    Raises:
        UserError: not a CSV of rulings, naming the line.
    """
    if not path.is_file():
        return []
    table = read_csv(path)
    for name in ("content", "verdict"):
        if name not in table.names:
            raise UserError(f"'{path}' has no column '{name}'.", f"Its columns are: {', '.join(COLUMNS)}.")
    rows = []
    for line, cells in table.records():
        row = Decision(**{name: unguard(cells.get(name, "")) for name in COLUMNS}, line=line)
        if problem := _problem(row):
            raise UserError(f"'{path}', line {line}: {problem[0]}", problem[1])
        rows.append(row)
    return rows


def _problem(row: Decision) -> tuple[str, str] | None:
    """What is wrong with a ruling, and a hint; None where it can be applied."""
    if row.verdict not in VERDICTS:
        return f"unknown verdict '{row.verdict}'.", f"Known: {', '.join(VERDICTS)}."
    if row.verdict == "relabel":
        return _problem_of_label(row)
    if row.verdict == "face" and not (row.value.isascii() and row.value.isdigit()):
        return f"'{row.value}' is no number of a face.", ""
    if row.verdict == "box":
        box = parse_box(row.value)
        if box is None:
            return f"'{row.value}' is no box.", 'A box is "x0 y0 x1 y1" in pixels.'
        if min(box[2] - box[0], box[3] - box[1]) < 1:
            return f"the box '{row.value}' is smaller than a pixel.", ""
    if row.expected and parse_box(row.expected) is None:
        return f"expected '{row.expected}' is no box.", ""
    return None


def _problem_of_label(row: Decision) -> tuple[str, str] | None:
    field, equals, new = (part.strip() for part in row.value.partition("="))
    if not (field and equals and new):
        return f"'{row.value}' is no new label.", 'Write it as "field=new".'
    before, equals, old = (part.strip() for part in row.expected.partition("="))
    if row.expected and not (before == field and equals and old):
        return f"expected '{row.expected}' is no label '{field}'.", f'Write it as "{field}=old".'
    return None


def of_faces(decisions: Iterable[Decision]) -> list[Decision]:
    """The rulings about which face counts."""
    return [d for d in decisions if d.verdict != "relabel" and not d.value.startswith(DUPLICATE)]


def relabels(decisions: Iterable[Decision]) -> list[Decision]:
    """The rulings on labels; of several on one label of one photo, the last."""
    last = {(d.content, d.image, d.value.partition("=")[0].strip()): d for d in decisions if d.verdict == "relabel"}
    return list(last.values())


def waived(decisions: Iterable[Decision]) -> set[frozenset[str]]:
    """The pairs of contents that were looked at and may stay although they are alike."""
    return {
        frozenset((d.content, d.value.removeprefix(DUPLICATE).strip()))
        for d in decisions
        if d.verdict == "keep" and d.value.startswith(DUPLICATE)
    }


def parse_box(text: str) -> Box | None:
    """``x0 y0 x1 y1`` as numbers; None when it is not a finite box with an area."""
    try:
        values = [float(part) for part in text.replace(",", " ").split()]
    except ValueError:
        return None
    if len(values) != 4 or not (values[0] < values[2] and values[1] < values[3] and all(map(math.isfinite, values))):
        return None
    return (values[0], values[1], values[2], values[3])


def format_box(box: Box) -> str:
    """The form that :func:`parse_box` reads."""
    return " ".join(f"{v:.1f}" for v in box)


def by_image(decisions: Iterable[Decision], contents: dict[str, str]) -> tuple[dict[str, Decision], list[str]]:
    """The last ruling on the face of each image, and sentences about rulings on photos that are not there.

    Args:
        decisions: in order; a later one on the same photo replaces an earlier one.
        contents: image -> content of every photo.
    """
    images: dict[str, list[str]] = {}
    for image, content in contents.items():
        images.setdefault(content, []).append(image)
    found: dict[str, Decision] = {}
    lost = []
    for decision in decisions:
        holders = images.get(decision.content, [])
        if decision.image in holders:
            holders = [decision.image]  # of several copies, the one that was ruled on
        if not holders:
            what = "has changed" if decision.image in contents else "is not there"
            lost.append(f"decisions.csv, line {decision.line}: stale, the photo '{decision.image}' {what}.")
        for image in holders:
            found[image] = decision
    return found, lost


def ruling_reason(decision: Decision) -> str:
    """Why a ruling was made: the person's words, or who made it."""
    return decision.reason or f"ruled {decision.verdict}" + (f" by {decision.by}" if decision.by else "")


def rule(decision: Decision, choice: Choice, faces: Sequence[Face]) -> tuple[Choice, str]:
    """Apply a ruling to the automatic choice.

    Returns:
        The choice that holds (status ``decided`` or ``dropped``), or the automatic one when the ruling is stale,
        and in that case why.
    """
    expected = parse_box(decision.expected)
    reason = ruling_reason(decision)
    if choice.status == "unreadable":
        return choice, "" if decision.verdict == "drop" else "the photo cannot be read"
    if decision.verdict == "face":
        wanted = next((face for face in faces if int(decision.value) in face.faces), None)
        if expected is not None and (wanted is None or iou(wanted.box, expected) < SAME_BOX_IOU):
            alike = [face for face in faces if iou(face.box, expected) >= SAME_BOX_IOU]
            wanted = max(alike, key=lambda face: iou(face.box, expected)) if alike else None
        if wanted is None:
            return choice, f"there is no such face {decision.value} any more"
        return Choice("decided", wanted.faces[0], wanted.box, reason, wanted.keypoints), ""
    if expected is not None and (choice.box is None or iou(choice.box, expected) < SAME_BOX_IOU):
        return choice, "the choice is another one now"
    if decision.verdict == "drop":
        return Choice("dropped", reason=reason), ""
    if decision.verdict == "box":
        return Choice("decided", None, parse_box(decision.value), reason), ""
    if choice.box is None:
        return choice, "there is no choice to keep"
    return Choice("decided", choice.face, choice.box, reason, choice.keypoints), ""
