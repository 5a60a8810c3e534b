"""The table of subjects: the choice of :mod:`maskprep.faces.choice` for every image of a data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from maskprep.base import BOX_COLUMNS, Box
from maskprep.faces.choice import Candidate, Choice, ChooseSettings, Habit, Place, candidates, choose, habit, place
from maskprep.faces.decisions import by_image, decision_reason, rule
from maskprep.faces.detect import faces_by_image
from maskprep.faces.face import Face
from maskprep.faces.reasons import not_faces
from maskprep.store import Decision, Recipe, Report, Tables, TableStage, schema_of

VERSION = 5

STATUSES = ("ok", "given", "rescued", "ambiguous", "no_face", "unreadable", "dropped", "decided")

NOT_SOUGHT = "the whole photo: no view shows faces, so none were looked for"
"""Reason of the status ``given`` where the whole photo is the subject."""

TABLE = schema_of(
    [
        ("image", pa.string()),
        ("status", pa.string()),
        ("face", pa.int64()),
        ("x0", pa.float64()),
        ("y0", pa.float64()),
        ("x1", pa.float64()),
        ("y1", pa.float64()),
        ("reason", pa.string()),
        ("keypoints", pa.list_(pa.float64())),
    ]
)
"""subjects.parquet. keypoints: right eye, left eye, nose tip, mouth centre of the chosen face, as x, y, ..."""


@dataclass(frozen=True)
class Choose(TableStage):
    """subjects.parquet: the face that counts, for every photo.

    Args:
        settings: the ``choose`` section.
        decisions: a person's decisions on faces, in order.
        sought: whether faces were looked for.
    """

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
        return Subjects(
            tables.table("images"), tables.table("faces"), self.settings, self.decisions, sought=self.sought
        )

    def build(self, tables: Tables, report: Report) -> pa.Table:
        chosen = self.subjects(tables)
        report.progress.start(self.name, len(chosen.images))
        return chosen.table(report.progress.advance)

    def notes(self, tables: Tables) -> list[str]:
        return self.subjects(tables).stale_rulings() if self.decisions else []


def _inside(box: Box, row: Any) -> bool:
    """Whether a box shows some of the photo and is not absurdly large."""
    shows = box[0] < row.width and box[1] < row.height and box[2] > 0 and box[3] > 0
    return bool(shows and box[2] - box[0] <= 3 * row.width and box[3] - box[1] <= 3 * row.height)


def given_boxes(images: pd.DataFrame) -> dict[str, tuple[Box, int]]:
    """The boxes that came with the photos: image -> its largest box, and how many it has."""
    if BOX_COLUMNS[0] not in images:
        return {}
    own = images[images[BOX_COLUMNS[0]].notna() & images["error"].isna()]
    found: dict[str, tuple[Box, int]] = {}
    for image, count, x0, y0, x1, y1 in zip(*(own[c] for c in ("image", "boxes", *BOX_COLUMNS)), strict=True):
        found[image] = ((float(x0), float(y0), float(x1), float(y1)), int(count))
    return found


@dataclass
class Subjects:
    """Choices for a whole data set, with what is needed to explain one.

    Args:
        images: images.parquet.
        faces: faces.parquet.
        settings: how to choose.
        decisions: a person's rulings, in order.
        stale: filled with sentences about rulings that were not applied.
        sought: whether faces were looked for. If not, the subject of every photo is the whole photo (status
            ``given``), and of a person's rulings only those that drop a photo count.
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
        first = {image: self._first_guess(image) for image in self._faces if self._readable(image)}
        self._places = {image: at for image, at in first.items() if at is not None}
        usual = habit(list(self._places.values()))
        self._dataset = usual if usual is not None and usual.narrow else None
        contents = {image: row.content for image, row in self._rows.items()}
        self._ruled, lost = by_image(self.decisions, contents)
        self.stale.extend(lost)
        self._people: dict[str, list[str]] = {}
        for image in self._rows:
            if isinstance(person := self._rows[image].person, str):
                self._people.setdefault(person, []).append(image)

    def _readable(self, image: str) -> bool:
        return not isinstance(self._rows[image].error, str)

    def _first_guess(self, image: str) -> Place | None:
        """Place of the likeliest face, judged by the photo alone."""
        row = self._rows[image]
        ranked = candidates(self._faces[image], row.width, row.height)
        return place(ranked[0].face.box, row.width, row.height) if ranked else None

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
        """The subject of one image: a person's ruling where there is one, else the automatic choice."""
        choice = self.automatic(image)
        decision = self._ruled.get(image)
        if decision is None:
            return choice
        if not self.sought:
            dropped = decision.verdict == "drop" and choice.status != "unreadable"
            return Choice("dropped", reason=decision_reason(decision)) if dropped else choice
        ruled, stale = rule(decision, choice, self._faces.get(image, []))
        if not stale and ruled.box is not None and not _inside(ruled.box, self._rows[image]):
            ruled, stale = choice, "the box lies outside the photo or beyond three times its size"
        if stale:
            self.stale.append(f"decisions.csv, line {decision.line}: stale, {stale} ('{image}').")
        return ruled

    def automatic(self, image: str) -> Choice:
        """The subject of one image, whatever was ruled."""
        row = self._rows[image]
        if not self._readable(image):
            detail = f": {row.detail}" if isinstance(row.detail, str) else ""
            return Choice("unreadable", reason=f"{row.error}{detail}")
        if not self.sought:
            return Choice("given", box=(0.0, 0.0, float(row.width), float(row.height)), reason=NOT_SOUGHT)
        if image in self._given:
            box, count = self._given[image]
            return Choice("given", box=box, reason="" if count == 1 else f"the largest of the {count} boxes given")
        faces: list[Face] = self._faces.get(image, [])
        return choose(faces, row.width, row.height, *self.context(image), self.settings)

    def stale_rulings(self) -> list[str]:
        """Sentences about the rulings that are not applied, without making the whole table."""
        for image in self._ruled:
            self.choose(image)
        return self.stale

    def table(self, advance: Callable[[int], None] = lambda n: None) -> pa.Table:
        """subjects.parquet."""
        out: list[dict[str, Any]] = []
        for image in self.images["image"]:
            choice = self.choose(image)
            x0, y0, x1, y1 = choice.box or (None, None, None, None)
            points = None if choice.keypoints is None else choice.keypoints.ravel().tolist()
            record = {"image": image, "status": choice.status, "face": choice.face, "reason": choice.reason or None}
            out.append({**record, "x0": x0, "y0": y0, "x1": x1, "y1": y1, "keypoints": points})
            advance(1)
        return pa.Table.from_pylist(out, schema=TABLE)
