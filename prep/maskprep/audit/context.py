"""What checks look at: the tables of a cache as data frames, and each readable photo as a sample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.audit.predictions import Predictions
from maskprep.base import Box
from maskprep.crops import ViewSettings
from maskprep.faces import Candidate, ChooseSettings, Habit, Place, Subjects, place
from maskprep.labels import Attribute, Schema
from maskprep.photos import Pixels

T = TypeVar("T")

CONSTANT = 0.95
"""An attribute that this share of people has one value of is theirs (gender, age), not the photo's (mask)."""


@dataclass(frozen=True)
class AuditSample:
    """One readable photo and its subject; size and box in pixels of the upright photo.

    Args:
        person: None where nobody is named.
        status: as in subjects.parquet, like ``reason``.
        box: None without a subject.
        keypoints: right eye, left eye, nose tip, mouth centre, float [4, 2]; None when not seen.
        candidates: every face with its signals, best first.
        habit: where the subject usually is in the person's other photos, None with fewer than two.
    """

    image: str
    person: str | None
    width: float
    height: float
    status: str
    box: Box | None
    keypoints: NDArray[np.float64] | None
    reason: str
    candidates: tuple[Candidate, ...]
    habit: Habit | None

    @property
    def place(self) -> Place | None:
        """Where the subject lies in the photo."""
        return None if self.box is None else place(self.box, int(self.width), int(self.height))

    @cached_property
    def chosen(self) -> Candidate | None:
        """The face that the subject's box was taken from: the one whose box it is, within a pixel."""
        for candidate in self.candidates:
            if self.box is not None and np.abs(np.subtract(candidate.face.box, self.box)).max() < 1:
                return candidate
        return None


@dataclass(frozen=True)
class Context:
    """The tables of a cache: images, faces, subjects, labels and duplicates as in their files; images, subjects and
    labels have the same rows.

    Args:
        schema: what is classified.
        choose: how subjects were chosen.
        views: geometry of the views that were cut.
        measures: image and the columns of :mod:`maskprep.audit.measure`.
        patches: uint8 [n, h, w, 3] RGB, the faces in the order of ``measures``.
        embeddings: float64 [n, d], vectors of these faces by a network, NaN where it saw none; None without one.
        mattes: mattes.parquet of each view that has one.
        duplicates: None where they were not looked for.
        predictions: out-of-fold predictions of one or more runs.
        twins: photos beside which a hidden file ``._<name>`` lies.
        crops: image, invented and margin of the crops of each view (:func:`maskprep.crops.read_geometry`).
    """

    images: pd.DataFrame
    faces: pd.DataFrame
    subjects: pd.DataFrame
    labels: pd.DataFrame
    schema: Schema
    choose: ChooseSettings = field(default_factory=ChooseSettings)
    views: dict[str, ViewSettings] = field(default_factory=dict)
    measures: pd.DataFrame = field(default_factory=lambda: pd.DataFrame({"image": []}))
    patches: Pixels = field(default_factory=lambda: np.empty((0, 48, 48, 3), np.uint8))
    embeddings: NDArray[np.float64] | None = None
    mattes: dict[str, pd.DataFrame] = field(default_factory=dict)
    duplicates: pd.DataFrame | None = None
    predictions: tuple[Predictions, ...] = ()
    twins: frozenset[str] = frozenset()
    crops: dict[str, pd.DataFrame] = field(default_factory=dict)
    _memory: dict[Any, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def once(self, compute: Callable[..., T], *arguments: Any) -> T:
        """``compute(context, *arguments)``, what several checks need: computed by the first of them."""
        key = (compute, *arguments)
        if key not in self._memory:
            self._memory[key] = compute(self, *arguments)
        value: T = self._memory[key]
        return value

    @property
    def shows_faces(self) -> bool:
        """Whether faces were looked for; without them no sample has a box."""
        return not self.views or any(view.crop == "face" for view in self.views.values())

    @property
    def subject(self) -> str:
        """What was measured, for people."""
        return "face" if self.shows_faces else "photo"

    @cached_property
    def samples(self) -> dict[str, AuditSample]:
        """Every readable photo, in the order of the tables."""
        chooser = Subjects(self.images, self.faces, self.choose)
        readable = self.images["error"].isna()
        rows: Any = zip(self.images[readable].itertuples(), self.subjects[readable].itertuples(), strict=True)
        samples = {}
        for photo, subject in rows:
            corners = (subject.x0, subject.y0, subject.x1, subject.y1)
            points = subject.keypoints
            samples[photo.image] = AuditSample(
                photo.image,
                photo.person if isinstance(photo.person, str) else None,
                float(photo.width),
                float(photo.height),
                subject.status,
                corners if self.shows_faces and not pd.isna(subject.x0) else None,
                None if np.ndim(points) == 0 else np.reshape(points, (4, 2)).astype(np.float64),
                subject.reason if isinstance(subject.reason, str) else "",
                tuple(chooser.candidates(photo.image)),
                chooser.context(photo.image)[0],
            )
        return samples

    @cached_property
    def boxed(self) -> list[tuple[AuditSample, Box]]:
        """The samples whose subject has a box; what a person dropped has none."""
        return [(sample, sample.box) for sample in self.samples.values() if sample.box is not None]

    @cached_property
    def people(self) -> dict[str, list[str]]:
        """person -> images, readable or not, in the order of the tables."""
        people: dict[str, list[str]] = {}
        for image, person in zip(self.labels["image"], self.labels["person"], strict=True):
            if isinstance(person, str):
                people.setdefault(person, []).append(image)
        return people

    @cached_property
    def person_of(self) -> dict[str, str]:
        """image -> person, for those that have one."""
        return {image: person for person, images in self.people.items() for image in images}

    @cached_property
    def split_of(self) -> dict[str, str]:
        """image -> train or eval."""
        return dict(zip(self.images["image"], self.images["split"], strict=True))

    def measured(self, name: str) -> dict[str, float]:
        """image -> value of a column of ``measures``, for photos of which it is known."""
        known = self.measures[self.measures[name].notna()]
        return dict(zip(known["image"], known[name].astype(float), strict=True))

    def classes_of(self, attribute: Attribute) -> dict[str, int]:
        """image -> class index, for images with a value."""
        if attribute.name not in self.labels:
            return {}
        values = self.labels.set_index("image")[attribute.name].dropna()
        index = {value: attribute.index(value) for value in set(values)}
        return {str(image): k for image, value in values.items() if (k := index[value]) is not None}

    def of_people(self, classes: dict[str, int]) -> bool:
        """Whether an attribute, given its :meth:`classes_of`, is a person's rather than a photo's."""
        groups = [images for images in self.people.values() if len(images) > 1]
        known = [n for images in groups if (n := len({classes[i] for i in images if i in classes}))]
        return bool(known) and known.count(1) >= CONSTANT * len(known)
