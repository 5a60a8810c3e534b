"""Which face is the subject: pure functions over the table of detections. No pixels, no models.

Never by score: when the subject wears a mask and a passer-by does not, every detector is surer of the passer-by.
Instead each candidate gets a few signals between 0 and 1 (how large, how central, how many detectors agree, how well
it fits the person's other photos and the data set), and the weighted mean decides. A close call is ``ambiguous``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from maskprep.errors import UsageError
from maskprep.faces.detectors import DETECTORS, Detection

Box = tuple[float, float, float, float]

SAME_FACE_IOU = 0.35
"""Boxes of different detectors that overlap this much (after :func:`common_extent`) are one face."""

WEIGHTS = {"size": 0.35, "agreement": 0.25, "person": 0.2, "centre": 0.1, "dataset": 0.1}
"""Weight of each signal; those that cannot be told for a photo are left out of the mean."""

FACE_ASPECT = 0.755
"""Width by height of an upright face's box in the reference extent, for boxes that no detector gave."""

NO_FACE = ("rescue", "drop")


@dataclass(frozen=True)
class ChooseSettings:
    """The ``choose`` section of maskprep.yaml.

    Args:
        no_face: what to do with a photo without a face: ``rescue`` takes the box from the person's other photos, else
            the data set's median box; ``drop`` leaves it without a crop.
        close: candidates whose marks differ by less than this are a close call.
        weak: a best candidate below this mark is not believed to be the subject.

    Raises:
        UsageError: an unknown policy or a number out of range.
    """

    no_face: str = "rescue"
    close: float = 0.08
    weak: float = 0.25

    def __post_init__(self) -> None:
        if self.no_face not in NO_FACE:
            raise UsageError(f"choose.no_face is '{self.no_face}'.", f"Known policies: {', '.join(NO_FACE)}.")
        if not (0 <= self.close <= 1 and 0 <= self.weak <= 1):
            raise UsageError("choose.close and choose.weak lie between 0 and 1.")


@dataclass(frozen=True)
class Face:
    """One face of a photo, seen by one or more detectors.

    Args:
        faces: numbers of its detections in faces.parquet, best detector first.
        box: the detectors' boxes brought to one extent and averaged, weighted by score.
        agreement: share of the detectors that saw it, 0..1.
        keypoints: right eye, left eye, nose tip and mouth centre, float [4, 2], averaged likewise.
    """

    faces: tuple[int, ...]
    box: Box
    agreement: float
    keypoints: NDArray[np.float64]


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
    """Where a face lies in its photo, free of the photo's size: centre 0..1 in x and y, and the logarithm of its
    size (square root of the area) relative to the photo's (square root of the area)."""

    x: float
    y: float
    log_size: float

    def likeness(self, other: Place) -> float:
        """1 for the same place and size, falling to 0: a Gaussian with a spread of 0.15 in place, 0.35 in size."""
        far = ((self.x - other.x) ** 2 + (self.y - other.y) ** 2) / 0.15**2
        return math.exp(-0.5 * (far + (self.log_size - other.log_size) ** 2 / 0.35**2))


@dataclass(frozen=True)
class Candidate:
    """A face and how it did: the signals that could be told, and their weighted mean."""

    face: Face
    signals: dict[str, float] = field(default_factory=dict)

    @property
    def mark(self) -> float:
        """Weighted mean of the signals, 0..1."""
        total = sum(WEIGHTS[name] for name in self.signals)
        return sum(WEIGHTS[name] * value for name, value in self.signals.items()) / total


def common_extent(face: Detection) -> Box:
    """A detection's box with the extent that the reference detector would have given it."""
    x0, y0, x1, y1 = face.box
    width, height = x1 - x0, y1 - y0
    dx, dy, sw, sh = DETECTORS[face.detector].extent if face.detector in DETECTORS else (0.0, 0.0, 1.0, 1.0)
    cx, cy = (x0 + x1) / 2 + dx * width, (y0 + y1) / 2 + dy * height
    return (cx - sw * width / 2, cy - sh * height / 2, cx + sw * width / 2, cy + sh * height / 2)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    shared = width * height
    return shared / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - shared)


def group(detections: Sequence[Detection]) -> list[list[int]]:
    """Which detections are one face: indices per face, the first of each being its best (by detector, then score)."""
    rank = {name: i for i, name in enumerate(DETECTORS)}
    order = sorted(
        range(len(detections)),
        key=lambda i: (rank.get(detections[i].detector, len(rank)), -detections[i].score, detections[i].box),
    )
    boxes = [common_extent(face) for face in detections]
    groups: list[list[int]] = []
    for i in order:
        overlaps = [(iou(boxes[i], boxes[members[0]]), members) for members in groups]
        best = max(overlaps, key=lambda pair: pair[0], default=None)
        if best is not None and best[0] >= SAME_FACE_IOU:
            best[1].append(i)
        else:
            groups.append([i])
    return groups


def merge(detections: Sequence[Detection], faces: Sequence[int], detectors: int) -> Face:
    """One face of its detections; ``faces`` are their numbers, ``detectors`` how many detectors looked."""
    weights = np.array([face.score for face in detections]) + 1e-6
    boxes = np.array([common_extent(face) for face in detections])
    x0, y0, x1, y1 = (float(v) for v in np.average(boxes, axis=0, weights=weights))
    points = np.average([_four_points(face) for face in detections], axis=0, weights=weights)
    agreement = len({face.detector for face in detections}) / max(1, detectors)
    return Face(tuple(faces), (x0, y0, x1, y1), agreement, points)


def _four_points(face: Detection) -> NDArray[np.float64]:
    """Right eye, left eye, nose tip, mouth centre. YuNet gives two mouth corners, BlazeFace the centre."""
    points = face.keypoints
    mouth = points[3:5].mean(axis=0) if len(points) == 5 else points[3]
    return np.vstack([points[:3], mouth])


def place(box: Box, width: int, height: int) -> Place:
    """Where a box lies in a photo of the given size."""
    area = max(1e-6, (box[2] - box[0]) * (box[3] - box[1]))
    return Place((box[0] + box[2]) / 2 / width, (box[1] + box[3]) / 2 / height, 0.5 * math.log(area / (width * height)))


def median_place(places: Sequence[Place]) -> Place | None:
    """The coordinate-wise median, None of nothing."""
    if not places:
        return None
    x, y, log_size = np.median([(p.x, p.y, p.log_size) for p in places], axis=0)
    return Place(float(x), float(y), float(log_size))


def candidates(
    faces: Sequence[Face], width: int, height: int, person: Place | None = None, dataset: Place | None = None
) -> list[Candidate]:
    """Every face with its signals, best first.

    - size: side relative to the largest face of the photo
    - agreement: share of the detectors that saw it
    - centre: nearness to the middle of the photo
    - person, dataset: likeness to the median place of the person's other photos, of all photos
    """
    if not faces:
        return []
    places = [place(face.box, width, height) for face in faces]
    largest = max(p.log_size for p in places)
    found = []
    for face, at in zip(faces, places, strict=True):
        signals = {
            "size": math.exp(at.log_size - largest),
            "agreement": face.agreement,
            "centre": math.exp(-0.5 * (((at.x - 0.5) / 0.25) ** 2 + ((at.y - 0.5) / 0.35) ** 2)),
        }
        if person is not None:
            signals["person"] = at.likeness(person)
        if dataset is not None:
            signals["dataset"] = at.likeness(dataset)
        found.append(Candidate(face, signals))
    return sorted(found, key=lambda c: (-c.mark, c.face.faces))


def choose(
    faces: Sequence[Face],
    width: int,
    height: int,
    person: Place | None = None,
    dataset: Place | None = None,
    settings: ChooseSettings = ChooseSettings(),
) -> Choice:
    """The subject among the faces of one photo.

    Args:
        faces: all faces of the photo.
        width: of the upright photo, pixels.
        height: likewise.
        person: median place of the subject in the person's other photos.
        dataset: median place of the subject in all photos.
        settings: limits and the policy for a photo without a face.
    """
    ranked = candidates(faces, width, height, person, dataset)
    if ranked and (ranked[0].mark >= settings.weak or (person is None and dataset is None)):
        best = ranked[0]
        status, reason = "ok", ""
        if len(ranked) > 1 and best.mark - ranked[1].mark < settings.close:
            status = "ambiguous"
            reason = (
                f"face {ranked[1].face.faces[0]} is nearly as likely (marks {best.mark:.2f} and {ranked[1].mark:.2f})"
            )
        return Choice(status, best.face.faces[0], best.face.box, reason, best.face.keypoints)
    why = "no face found" if not ranked else f"the only faces are unlikely (best mark {ranked[0].mark:.2f})"
    source = person or dataset
    if settings.no_face == "drop" or source is None:
        return Choice("no_face", reason=why)
    origin = "the person's other photos" if person else "the data set's median"
    return Choice("rescued", box=box_at(source, width, height), reason=f"{why}; box from {origin}")


def box_at(at: Place, width: int, height: int) -> Box:
    """A box at a place in a photo, with the shape of a face."""
    side = math.exp(at.log_size) * math.sqrt(width * height)
    half_width, half_height = side * math.sqrt(FACE_ASPECT) / 2, side / math.sqrt(FACE_ASPECT) / 2
    cx, cy = at.x * width, at.y * height
    return (cx - half_width, cy - half_height, cx + half_width, cy + half_height)
