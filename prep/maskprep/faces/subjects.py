"""The table of subjects: the choice of :mod:`maskprep.faces.choice` for every image of a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from maskprep.base import BOX_COLUMNS, Box
from maskprep.faces.choice import (
    Candidate,
    Choice,
    ChooseSettings,
    Habit,
    Place,
    candidates,
    choose,
    habit,
    not_faces,
    place,
)
from maskprep.faces.detect import CORNERS, faces_by_image
from maskprep.faces.face import Face, iou
from maskprep.store import (
    Decision,
    Recipe,
    Report,
    Tables,
    TableStage,
    holders,
    images_by_content,
    parse_box,
    schema_of,
)

VERSION = 5

STATUSES = ("ok", "given", "rescued", "ambiguous", "no_face", "unreadable", "dropped", "decided")

NOT_SOUGHT = "the whole photo: no view shows faces, so none were detected"
"""Reason of the status ``given`` where the whole photo is the subject."""

SAME_BOX_IOU = 0.5
"""The box that a decision expects and one found now are the same when they overlap this much."""

TABLE = schema_of(
    [
        ("image", pa.string()),
        ("status", pa.string()),
        ("face", pa.int64()),
        *((corner, pa.float64()) for corner in CORNERS),
        ("reason", pa.string()),
        ("keypoints", pa.list_(pa.float64())),
    ]
)
"""subjects.parquet. keypoints: right eye, left eye, nose tip, mouth centre of the chosen face, as x, y, ..."""


@dataclass(frozen=True)
class Choose(TableStage):
    """subjects.parquet: the face that counts, for every photo; ``decisions`` are a person's, on faces, in order."""

    settings: ChooseSettings
    decisions: tuple[Decision, ...] = ()
    sought: bool = True
    name: ClassVar[str] = "choose"
    needs: ClassVar[tuple[str, ...]] = ("images", "faces")
    file: ClassVar[str] = "subjects.parquet"

    @property
    def recipe(self) -> Recipe:
        return Recipe(VERSION, dataclasses.asdict(self.settings) if self.sought else {})

    def other_inputs(self, tables: Tables) -> Any:
        return [dataclasses.astuple(decision) for decision in self.decisions]

    def subjects(self, tables: Tables) -> Subjects:
        """The choices, with what is needed to explain one."""
        images, faces = tables.table("images"), tables.table("faces")
        return Subjects(images, faces, self.settings, self.decisions, sought=self.sought)

    def build(self, tables: Tables, report: Report) -> pa.Table:
        chosen = self.subjects(tables)
        report.progress.start(self.name, len(chosen.images))
        return chosen.table(report.progress.advance)

    def notes(self, tables: Tables) -> list[str]:
        return self.subjects(tables).stale_decisions() if self.decisions else []


def given_boxes(images: pd.DataFrame) -> dict[str, tuple[Box, int]]:
    """The boxes that came with the photos: image -> its largest box, and how many it has."""
    if BOX_COLUMNS[0] not in images:
        return {}
    own = images[images[BOX_COLUMNS[0]].notna() & images["error"].isna()]
    rows = zip(*(own[c].tolist() for c in ("image", "boxes", *BOX_COLUMNS)), strict=True)
    return {image: ((x0, y0, x1, y1), int(count)) for image, count, x0, y0, x1, y1 in rows}


def by_image(decisions: Iterable[Decision], contents: dict[str, str]) -> tuple[dict[str, Decision], list[str]]:
    """The last decision on the face of each image, and sentences about decisions on photos that are not there.
    ``contents``: image -> content of every photo."""
    images = images_by_content(contents)
    last: dict[str, Decision] = {}
    lost = []
    for decision in decisions:
        held = holders(decision, images)
        last |= dict.fromkeys(held, decision)
        if not held:
            what = "has changed" if decision.image in contents else "is not there"
            lost.append(f"decisions.csv, line {decision.line}: stale, the photo '{decision.image}' {what}.")
    return last, lost


def decision_reason(decision: Decision) -> str:
    """Why it was decided so: the person's words, or the verdict and who gave it."""
    return decision.reason or f"decided: {decision.verdict}" + (f" by {decision.by}" if decision.by else "")


def apply_decision(decision: Decision, choice: Choice, faces: Sequence[Face]) -> tuple[Choice, str]:
    """The choice under a decision (status ``decided`` or ``dropped``), or the automatic one where it is stale,
    and why it is.
    """
    expected = parse_box(decision.expected)
    reason = decision_reason(decision)

    def overlap(box: Box | None) -> float:
        return 1.0 if expected is None else 0.0 if box is None else iou(box, expected)

    if choice.status == "unreadable":
        return choice, "" if decision.verdict == "drop" else "the photo cannot be read"
    if decision.verdict == "face":
        wanted = next((face for face in faces if int(decision.value) in face.faces), None)
        if expected is not None and (wanted is None or overlap(wanted.box) < SAME_BOX_IOU):
            alike = [face for face in faces if overlap(face.box) >= SAME_BOX_IOU]
            wanted = max(alike, key=lambda face: overlap(face.box), default=None)
        if wanted is None:
            return choice, f"there is no longer a face {decision.value}"
        return Choice("decided", wanted.faces[0], wanted.box, reason, wanted.keypoints), ""
    if overlap(choice.box) < SAME_BOX_IOU:
        return choice, "another face is chosen now"
    if decision.verdict == "drop":
        return Choice("dropped", reason=reason), ""
    if decision.verdict == "box":
        return Choice("decided", None, parse_box(decision.value), reason), ""
    if choice.box is None:
        return choice, "there is no choice to keep"
    return Choice("decided", choice.face, choice.box, reason, choice.keypoints), ""


@dataclass
class Subjects:
    """Choices for a whole data set, with what is needed to explain one.

    Args:
        images: images.parquet.
        faces: faces.parquet.
        settings, decisions: as in :class:`Choose`.
        stale: filled with sentences about decisions that were not applied.
        sought: whether faces were looked for. If not, the subject of every photo is the whole photo (status
            ``given``), and of a person's decisions only those that drop a photo count.
    """

    images: pd.DataFrame
    faces: pd.DataFrame
    settings: ChooseSettings
    decisions: Sequence[Decision] = ()
    stale: list[str] = field(default_factory=list)
    sought: bool = True

    def __post_init__(self) -> None:
        columns = ("image", "width", "height", "person", "error", "detail", "content")
        self._rows: dict[str, Any] = {
            row[0]: SimpleNamespace(**dict(zip(columns, row, strict=True)))
            for row in zip(*(self.images[c] for c in columns), strict=True)
        }
        self._faces = {
            image: faces
            for image, faces in faces_by_image(self.faces).items()
            if image in self._rows  # faces of photos that are gone stay until the next detection
        }
        self._given = given_boxes(self.images)
        self._places: dict[str, Place] = {}  # of the likeliest face of each photo, judged by the photo alone
        for image, faces in self._faces.items():
            row = self._rows[image]
            if not isinstance(row.error, str) and (ranked := candidates(faces, row.width, row.height)):
                self._places[image] = place(ranked[0].face.box, row.width, row.height)
        usual = habit(list(self._places.values()))
        self._dataset = usual if usual is not None and usual.narrow else None
        self._decided, lost = by_image(self.decisions, {image: row.content for image, row in self._rows.items()})
        self.stale.extend(lost)
        self._people: dict[str, list[str]] = {}
        for image, row in self._rows.items():
            if isinstance(row.person, str):
                self._people.setdefault(row.person, []).append(image)

    def context(self, image: str) -> tuple[Habit | None, Habit | None]:
        """The usual place in the person's other photos (None with fewer than two of them), and in the data set."""
        person = self._rows[image].person
        others = self._people.get(person, []) if isinstance(person, str) else []
        places = [self._places[other] for other in others if other != image and other in self._places]
        return (habit(places) if len(places) >= 2 else None), self._dataset

    def candidates(self, image: str) -> list[Candidate]:
        """Every face of one image with its signals, best first."""
        row = self._rows[image]
        return candidates(self._faces.get(image, []), row.width, row.height, *self.context(image))

    def not_faces(self, image: str) -> list[str]:
        """Sentences about the detections of one image that count as no face."""
        row = self._rows[image]
        return not_faces(self._faces.get(image, []), row.width, row.height)

    def choose(self, image: str) -> Choice:
        """The subject of one image: a person's decision where there is one, else the automatic choice."""
        decision = self._decided.get(image)
        if decision is None:
            return self.automatic(image)
        decided, stale = self.apply(image, decision)
        if stale:
            self.stale.append(f"decisions.csv, line {decision.line}: stale, {stale} ('{image}').")
        return decided

    def apply(self, image: str, decision: Decision) -> tuple[Choice, str]:
        """The subject of one image under a decision, and why the decision does not hold (empty where it does)."""
        choice = self.automatic(image)
        if not self.sought:
            dropped = decision.verdict == "drop" and choice.status != "unreadable"
            return (Choice("dropped", reason=decision_reason(decision)) if dropped else choice), ""
        decided, stale = apply_decision(decision, choice, self._faces.get(image, []))
        if not stale and decided.box is not None:
            (x0, y0, x1, y1), row = decided.box, self._rows[image]
            shows = x0 < row.width and y0 < row.height and x1 > 0 and y1 > 0
            if not shows or x1 - x0 > 3 * row.width or y1 - y0 > 3 * row.height:
                decided, stale = choice, "the box lies outside the photo or beyond three times its size"
        return decided, stale

    def automatic(self, image: str) -> Choice:
        """The subject of one image, whatever was decided."""
        row = self._rows[image]
        if isinstance(row.error, str):
            detail = f": {row.detail}" if isinstance(row.detail, str) else ""
            return Choice("unreadable", reason=f"{row.error}{detail}")
        if not self.sought:
            return Choice("given", box=(0.0, 0.0, float(row.width), float(row.height)), reason=NOT_SOUGHT)
        if image in self._given:
            box, count = self._given[image]
            return Choice("given", box=box, reason="" if count == 1 else f"the largest of the {count} boxes given")
        faces: list[Face] = self._faces.get(image, [])
        return choose(faces, row.width, row.height, *self.context(image), self.settings)

    def stale_decisions(self) -> list[str]:
        """Sentences about the decisions that are not applied, without making the whole table."""
        for image in self._decided:
            self.choose(image)
        return self.stale

    def table(self, advance: Callable[[int], None] = lambda n: None) -> pa.Table:
        """subjects.parquet."""
        rows: list[tuple[Any, ...]] = []
        for image in self.images["image"]:
            choice = self.choose(image)
            points = None if choice.keypoints is None else choice.keypoints.ravel().tolist()
            corners = choice.box or (None,) * 4
            rows.append((image, choice.status, choice.face, *corners, choice.reason or None, points))
            advance(1)
        return pa.Table.from_pylist([dict(zip(TABLE.names, row, strict=True)) for row in rows], schema=TABLE)
