"""Which face is the subject: pure functions over the table of detections. No pixels, no models.

Never by score: when the subject wears a mask and a passer-by does not, every detector is surer of the passer-by.
Scores only tell whether there is a face at all (:func:`~maskprep.faces.face.evidence`). Among the credible faces the
weighted mean of a few signals between 0 and 1 decides: how large, how central, how sharp, how well it fits the person's
other photos and the data set. A face that no second look confirmed and a close call are ``ambiguous``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from maskprep.base import Box, UsageError
from maskprep.faces.face import CREDIBLE, NOTHING, Face, area, intersection

INSIDE, SURER, INNER_SIDE, SURE = 0.8, 3.0, 1 / 3, 0.9
"""A face is no face when this share of another lies within it, and that one is this many times less doubtful, has at
least this share of its side, and at least this evidence: see :func:`holds_another`."""

WEIGHTS = {"size": 0.4, "person": 0.2, "centre": 0.15, "dataset": 0.1, "sharpness": 0.05, "matte": 0.15}
"""Weight of each signal; those that a photo does not have are left out of the mean."""

MORE = {
    "size": "larger",
    "person": "nearer to its place in the person's other photos",
    "centre": "nearer to the middle",
    "dataset": "nearer to its usual place in the data set",
    "sharpness": "in better focus",
    "matte": "more of it in the matte",
}
"""Each signal's comparative."""

LITTLE = 0.01
"""A difference of marks that is not worth a word."""

FOCUS_SIZE, FOCUS_CENTRE, FOCUS_BLUR = 0.05, 0.4, 0.5
"""Limits of :func:`in_focus_instead`: smallest ratio of the areas, smallest difference of the centre signals, largest
ratio of the sharpnesses."""

FACE_ASPECT = 0.755
"""Width by height of an upright face's box in the reference extent, for boxes that no detector gave."""

EDGE = 0.01
"""A box that comes this near to the photo's border, relative to the photo's side, may be cut by it."""

SPREAD = (0.15, 0.15, 0.35)
"""Smallest spread of a usual place: x and y relative to the photo's width and height, logarithm of the size."""

MATTED = 0.5
"""A matte that holds less of every credible face than this has found something else, and says nothing."""

NO_FACE = ("rescue", "drop", "whole", "error")


@dataclass(frozen=True)
class ChooseSettings:
    """The ``choose`` section of maskprep.yaml.

    Args:
        no_face: what to do with a photo without a face: ``rescue`` takes the box from the person's other photos, else
            the data set's median box; ``whole`` takes the whole photo; ``drop`` leaves it without a crop; ``error``
            does so too and makes the command fail.
        close: candidates whose marks differ by less than this are a close call.
        weak: a best candidate below this mark is not believed to be the subject.
        matte: whether mattes of whole photos are made and help to tell which of several faces is the subject.

    Raises:
        UsageError: an unknown policy or a number out of range.
    """

    no_face: str = "rescue"
    close: float = 0.08
    weak: float = 0.25
    matte: bool = False

    def __post_init__(self) -> None:
        if self.no_face not in NO_FACE:
            raise UsageError(f"choose.no_face is '{self.no_face}'.", f"Known policies: {', '.join(NO_FACE)}.")
        if not (0 <= self.close <= 1 and 0 <= self.weak <= 1):
            raise UsageError("choose.close and choose.weak must be from 0 to 1.")


@dataclass(frozen=True)
class Choice:
    """The subject of one photo.

    Args:
        status: ok, ambiguous, rescued, no_face, unreadable or dropped.
        face: number of the chosen detection in faces.parquet, None without one.
        box: x0, y0, x1, y1 in pixels of the upright photo, None without one.
        reason: why, in words; empty for a clear case.
        keypoints: as in :class:`Face`, None when the box was not seen on this photo.
    """

    status: str
    face: int | None = None
    box: Box | None = None
    reason: str = ""
    keypoints: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Place:
    """Where a face lies in its photo: centre 0..1 in x and y, and the logarithm of its size relative to the photo's
    (square roots of the areas)."""

    x: float
    y: float
    log_size: float


@dataclass(frozen=True)
class Habit:
    """Where the subject usually is: the coordinate-wise median place of several photos, and how far they stray from it
    in x, y and log_size: 1.5 times the median absolute deviation, but at least :data:`SPREAD`, so that a few equal
    photos do not make every other place impossible.
    """

    place: Place
    spread: tuple[float, float, float]

    @property
    def narrow(self) -> bool:
        """Whether the photos agree: unrelated photos have no usual place."""
        return self.spread == SPREAD

    def likeness(self, at: Place) -> float:
        """1 for the usual place and size, falling to 0 (Gaussian)."""
        far = (at.x - self.place.x, at.y - self.place.y, at.log_size - self.place.log_size)
        return math.exp(-0.5 * sum((d / s) ** 2 for d, s in zip(far, self.spread, strict=True)))


@dataclass(frozen=True)
class Candidate:
    """A face and how it did: the signals that could be told, and their weighted mean."""

    face: Face
    signals: dict[str, float] = field(default_factory=dict)

    @property
    def mark(self) -> float:
        """Weighted mean of the signals, 0..1, cut down for a face that is hardly one."""
        total = sum(WEIGHTS[name] for name in self.signals)
        mean = sum(WEIGHTS[name] * value for name, value in self.signals.items()) / total
        return mean * min(1.0, self.face.evidence / CREDIBLE)


def holds_another(face: Face, others: Sequence[Face], width: int, height: int) -> bool:
    """Whether a face's box holds a whole other face, as far as the photo shows it: then it is no face itself.

    Faces are not transparent, but detectors take a small head with its shoulders, or two heads side by side, for one
    large face now and then. The doubt of a face is one minus its evidence.
    """
    photo = (0.0, 0.0, float(width), float(height))
    for other in others:
        if other is face or other.evidence < SURE or 1 - face.evidence < SURER * (1 - other.evidence):
            continue
        outer, inner = intersection(face.box, photo), intersection(other.box, photo)
        shared = area(intersection(outer, inner))
        if INNER_SIDE**2 * area(outer) <= area(inner) < area(outer) and shared >= INSIDE * area(inner) > 0:
            return True
    return False


def place(box: Box, width: int, height: int) -> Place:
    """Where a box lies in a photo of the given size.

    A face cut by the border is as large as its whole side says: half a face in front is not smaller than a whole one
    behind it.
    """
    wide, high = box[2] - box[0], box[3] - box[1]
    cut_x = box[0] <= EDGE * width or box[2] >= (1 - EDGE) * width
    cut_y = box[1] <= EDGE * height or box[3] >= (1 - EDGE) * height
    full_wide = max(wide, high * FACE_ASPECT) if cut_x else wide
    full_high = max(high, wide / FACE_ASPECT) if cut_y else high
    area = max(1e-6, full_wide * full_high)
    return Place((box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height, 0.5 * math.log(area / (width * height)))


def habit(places: Sequence[Place]) -> Habit | None:
    """Where the subject usually is, None of nothing."""
    if not places:
        return None
    values = np.array([(p.x, p.y, p.log_size) for p in places])
    middle = np.median(values, axis=0)
    x, y, size = np.maximum(1.5 * np.median(np.abs(values - middle), axis=0), SPREAD).tolist()
    return Habit(Place(*middle.tolist()), (x, y, size))


def candidates(
    faces: Sequence[Face], width: int, height: int, person: Habit | None = None, dataset: Habit | None = None
) -> list[Candidate]:
    """Every face with its signals, best first; without those that :func:`holds_another` says are none.

    - size: area relative to the largest credible face of the photo
    - centre: nearness to the middle of the photo
    - sharpness: detail around the eyes relative to the sharpest credible face: the subject is in focus
    - matte: share that the whole photo's matte holds, relative to the face of which it holds most: it shows the subject
    - person, dataset: likeness to the usual place in the person's other photos, in all photos
    """
    faces = [face for face in faces if not holds_another(face, faces, width, height)]
    if not faces:
        return []
    places = [place(face.box, width, height) for face in faces]
    credible = [(face, at) for face, at in zip(faces, places, strict=True) if face.evidence >= CREDIBLE]
    largest = max([at.log_size for _, at in credible] or [at.log_size for at in places])
    sharpest = max((face.sharpness for face, _ in credible if face.sharpness > 0), default=0.0)
    matted = max((face.matte for face, _ in credible if face.matte >= MATTED), default=0.0)
    found = []
    for face, at in zip(faces, places, strict=True):
        signals = {
            "size": math.exp(2 * min(0.0, at.log_size - largest)),
            "centre": math.exp(-0.5 * (((at.x - 0.5) / 0.25) ** 2 + ((at.y - 0.5) / 0.35) ** 2)),
        }
        if sharpest > 0 and not math.isnan(face.sharpness):
            signals["sharpness"] = min(1.0, face.sharpness / sharpest)
        if matted > 0 and not math.isnan(face.matte):
            signals["matte"] = min(1.0, face.matte / matted)
        for name, usual in (("person", person), ("dataset", dataset)):
            if usual is not None:
                signals[name] = usual.likeness(at)
        found.append(Candidate(face, signals))
    return sorted(found, key=lambda c: (c.face.evidence < CREDIBLE, -c.mark, c.face.faces))


def in_focus_instead(best: Candidate, other: Candidate) -> bool:
    """Whether ``other`` may be the subject after all: ``best`` is larger, but blurred and at the edge."""
    mine, theirs = best.signals, other.signals
    return (
        other.face.evidence >= CREDIBLE
        and "sharpness" in mine
        and "sharpness" in theirs
        and theirs["size"] >= FOCUS_SIZE * mine["size"]
        and theirs["centre"] - mine["centre"] >= FOCUS_CENTRE
        and mine["sharpness"] <= FOCUS_BLUR * theirs["sharpness"]
    )


def choose(
    faces: Sequence[Face],
    width: int,
    height: int,
    person: Habit | None = None,
    dataset: Habit | None = None,
    settings: ChooseSettings = ChooseSettings(),
) -> Choice:
    """The subject among all faces of one upright photo.

    Args:
        person, dataset: where the subject usually is in the person's other photos, in all photos.
    """
    ranked = candidates([face for face in faces if face.evidence >= NOTHING], width, height, person, dataset)
    if ranked and (ranked[0].mark >= settings.weak or (person is None and dataset is None)):
        best = ranked[0]
        reasons = []
        if not best.face.confirmed:
            reasons.append(f"no second detector confirmed this face (evidence {best.face.evidence:.2f})")
        for other in ranked[1:]:
            number = other.face.faces[0]
            if best.mark - other.mark < settings.close:
                reasons.append(f"face {number} is nearly as likely (marks {best.mark:.2f} and {other.mark:.2f})")
                break
            if in_focus_instead(best, other):
                reasons.append(f"face {number} is nearer to the middle and sharper")
                break
        status = "ambiguous" if reasons else "ok"
        return Choice(status, best.face.faces[0], best.face.box, "; ".join(reasons), best.face.keypoints)
    why = "no face detected" if not ranked else f"the only faces are unlikely (best mark {ranked[0].mark:.2f})"
    usual, origin = (person, "the person's other photos") if person else (dataset, "the data set's median")
    if settings.no_face == "whole":
        return Choice("rescued", box=(0.0, 0.0, float(width), float(height)), reason=f"{why}; the whole photo")
    if settings.no_face != "rescue" or usual is None:
        return Choice("no_face", reason=why)
    return Choice("rescued", box=box_at(usual.place, width, height), reason=f"{why}; box from {origin}")


def box_at(at: Place, width: int, height: int) -> Box:
    """A box at a place in a photo, with the shape of a face."""
    side = math.exp(at.log_size) * math.sqrt(width * height)
    half_width, half_height = side * math.sqrt(FACE_ASPECT) / 2, side / math.sqrt(FACE_ASPECT) / 2
    cx, cy = at.x * width, at.y * height
    return (cx - half_width, cy - half_height, cx + half_width, cy + half_height)


def compare(chosen: Candidate, other: Candidate) -> str:
    """Why ``chosen`` stands before ``other``: what speaks for it, the weightiest first, then what speaks against it."""
    shared = [name for name in WEIGHTS if name in chosen.signals and name in other.signals]
    total = sum(WEIGHTS[name] for name in shared)
    gain = {name: WEIGHTS[name] / total * (chosen.signals[name] - other.signals[name]) for name in shared}
    ordered = sorted((name for name in shared if abs(gain[name]) >= LITTLE), key=lambda name: -abs(gain[name]))

    def say(name: str) -> str:
        return f"{MORE[name]} ({chosen.signals[name]:.2f} against {other.signals[name]:.2f})"

    pros = [say(name) for name in ordered if gain[name] > 0]
    if other.face.evidence < min(CREDIBLE, chosen.face.evidence):
        pros.insert(0, f"the other is probably no face (evidence {other.face.evidence:.2f})")
    cons = [f"not {say(name)}" for name in ordered if gain[name] < 0]
    against = f"; although {', '.join(cons)}" if cons else ""
    return (", ".join(pros) or "their signals hardly differ") + against


def not_faces(faces: Sequence[Face], width: int, height: int) -> list[str]:
    """A sentence for each detection that counts as no face because somebody's face lies within it."""
    return [
        f"face {face.faces[0]} is no face: a much more certain face lies within its box"
        for face in faces
        if holds_another(face, faces, width, height)
    ]
