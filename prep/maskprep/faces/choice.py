"""Which face is the subject: pure functions over the table of detections. No pixels, no models.

Never by score: when the subject wears a mask and a passer-by does not, every detector is surer of the passer-by.
Instead each candidate gets a few signals between 0 and 1 (how large, how central, how many detectors agree, how well
it fits the person's other photos and the data set), and the weighted mean decides. Scores only tell whether there is
a face at all (:func:`evidence`): above that they count no further. A close call is ``ambiguous``.
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

NEAR, ALIKE = 0.4, 1.8
"""Or boxes whose centres are closer than this (relative to their sides) and whose sides differ by no more than this
factor: small boxes are too coarse for an overlap."""

CREDIBLE = 0.75
"""Evidence from which on a detection is simply a face."""

AGREED_SCORE = 0.3
"""Score from which on detectors of different families confirm each other."""

INSIDE, SURER, INNER_SIDE, SURE = 0.8, 3.0, 1 / 3, 0.9
"""A face is no face when this share of another lies within it, and that one is this many times less doubtful, has at
least this share of its side, and at least this evidence: see :func:`holds_another`."""

WEIGHTS = {
    "size": 0.4,
    "agreement": 0.15,
    "person": 0.2,
    "centre": 0.15,
    "dataset": 0.1,
    "sharpness": 0.05,
    "matte": 0.15,
}
"""Weight of each signal; those that cannot be told for a photo are left out of the mean."""

FACE_ASPECT = 0.755
"""Width by height of an upright face's box in the reference extent, for boxes that no detector gave."""

EDGE = 0.01
"""A box that comes this near to the photo's border, relative to the photo's side, may be cut by it."""

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
        evidence: how sure it is that this is a face at all, 0..1; see :func:`evidence`.
        keypoints: right eye, left eye, nose tip and mouth centre, float [4, 2], averaged likewise.
        sharpness: detail around the eyes, the median over the detections; NaN when not measured.
        matte: share of it that the photo's matte holds, 0..1, the median likewise; NaN without a matte.
    """

    faces: tuple[int, ...]
    box: Box
    agreement: float
    evidence: float
    keypoints: NDArray[np.float64]
    sharpness: float = math.nan
    matte: float = math.nan


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


@dataclass(frozen=True)
class Habit:
    """Where the subject usually is: the median place of several photos, and how far they stray from it.

    Args:
        place: coordinate-wise median.
        spread: width of the likeness in x, y and log_size: 1.5 times the median absolute deviation, but at least
            0.15, 0.15 and 0.35, so that a few equal photos do not make every other place impossible.
    """

    place: Place
    spread: tuple[float, float, float]

    def likeness(self, at: Place) -> float:
        """1 for the usual place and size, falling to 0 (Gaussian)."""
        far = [(at.x - self.place.x), (at.y - self.place.y), (at.log_size - self.place.log_size)]
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


def common_extent(face: Detection) -> Box:
    """A detection's box with the extent that the reference detector would have given it."""
    x0, y0, x1, y1 = face.box
    width, height = x1 - x0, y1 - y0
    dx, dy, sw, sh = DETECTORS[face.detector].extent if face.detector in DETECTORS else (0.0, 0.0, 1.0, 1.0)
    cx, cy = (x0 + x1) / 2 + dx * width, (y0 + y1) / 2 + dy * height
    return (cx - sw * width / 2, cy - sh * height / 2, cx + sw * width / 2, cy + sh * height / 2)


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    shared = _area(_overlap(a, b))
    return shared / (_area(a) + _area(b) - shared) if shared else 0.0


def _overlap(a: Box, b: Box) -> Box:
    """What two boxes share; without area where they share nothing."""
    return (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))


def _area(box: Box) -> float:
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def _clipped(box: Box, width: int, height: int) -> Box:
    return _overlap(box, (0.0, 0.0, float(width), float(height)))


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
        likely = [
            (iou(boxes[i], boxes[members[0]]), members) for members in groups if same(boxes[i], boxes[members[0]])
        ]
        if likely:
            max(likely, key=lambda pair: pair[0])[1].append(i)
        else:
            groups.append([i])
    return groups


def same(a: Box, b: Box) -> bool:
    """Whether two boxes (of one extent) show one face."""
    if iou(a, b) >= SAME_FACE_IOU:
        return True
    side_a, side_b = (math.sqrt(max(1e-9, (c[2] - c[0]) * (c[3] - c[1]))) for c in (a, b))
    apart = math.hypot(a[0] + a[2] - b[0] - b[2], a[1] + a[3] - b[1] - b[3]) / 2
    return apart <= NEAR * min(side_a, side_b) and max(side_a, side_b) <= ALIKE * min(side_a, side_b)


def evidence(detections: Sequence[Detection]) -> float:
    """How sure it is that there is a face, 0..1: one minus the chance that every detector that saw it was wrong.

    A detector's best score s counts as a chance of (s - 0.2) / 0.7, within 0..0.95, of being right. What YuNet and a
    BlazeFace both see (with a score of at least 0.3) is credible in any case: they hardly ever err at the same place,
    and a masked face often gets no more than that.
    """
    best: dict[str, float] = {}
    for face in detections:
        best[face.detector] = max(best.get(face.detector, 0.0), face.score)
    sure = 1 - math.prod(1 - min(0.95, max(0.0, (score - 0.2) / 0.7)) for score in best.values())
    families = {name.partition("_")[0] for name, score in best.items() if score >= AGREED_SCORE}
    return max(sure, CREDIBLE) if len(families) > 1 else sure


def holds_another(face: Face, others: Sequence[Face], width: int, height: int) -> bool:
    """Whether a face's box holds a whole other face, as far as the photo shows it: then it is no face itself.

    Faces are not transparent, but detectors take a small head with its shoulders, or two heads side by side, for one
    large face now and then. The doubt of a face is one minus its evidence.
    """
    for other in others:
        if other is face or other.evidence < SURE or 1 - face.evidence < SURER * (1 - other.evidence):
            continue
        outer, inner = _clipped(face.box, width, height), _clipped(other.box, width, height)
        shared = _area(_overlap(outer, inner))
        if INNER_SIDE**2 * _area(outer) <= _area(inner) < _area(outer) and shared >= INSIDE * _area(inner) > 0:
            return True
    return False


def merge(detections: Sequence[Detection], faces: Sequence[int], detectors: int) -> Face:
    """One face of its detections; ``faces`` are their numbers, ``detectors`` how many detectors looked."""
    best: dict[str, Detection] = {}
    for face in detections:  # one vote per detector, however many rungs it stood on
        if face.detector not in best or face.score > best[face.detector].score:
            best[face.detector] = face
    weights = np.array([face.score for face in best.values()]) + 1e-6
    boxes = np.array([common_extent(face) for face in best.values()])
    x0, y0, x1, y1 = (float(v) for v in np.average(boxes, axis=0, weights=weights))
    points = np.average([_four_points(face) for face in best.values()], axis=0, weights=weights)
    detail, matte = (float(np.median([getattr(face, name) for face in detections])) for name in ("sharpness", "matte"))
    seen = len(best) / max(1, detectors)
    return Face(tuple(faces), (x0, y0, x1, y1), seen, evidence(detections), points, detail, matte)


def _four_points(face: Detection) -> NDArray[np.float64]:
    """Right eye, left eye, nose tip, mouth centre. YuNet gives two mouth corners, BlazeFace the centre."""
    points = face.keypoints
    mouth = points[3:5].mean(axis=0) if len(points) == 5 else points[3]
    return np.vstack([points[:3], mouth])


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
    spread = np.maximum(1.5 * np.median(np.abs(values - middle), axis=0), (0.15, 0.15, 0.35))
    return Habit(Place(*(float(v) for v in middle)), (float(spread[0]), float(spread[1]), float(spread[2])))


def candidates(
    faces: Sequence[Face], width: int, height: int, person: Habit | None = None, dataset: Habit | None = None
) -> list[Candidate]:
    """Every face with its signals, best first; without those that :func:`holds_another` says are none.

    - size: side relative to the largest credible face of the photo
    - agreement: share of the detectors that saw it
    - centre: nearness to the middle of the photo
    - sharpness: detail around the eyes relative to the sharpest credible face: the subject is in focus
    - matte: share that the whole photo's matte holds, relative to the face of which it holds most: it shows the subject
    - person, dataset: likeness to the usual place in the person's other photos, in all photos
    """
    faces = [face for face in faces if not holds_another(face, faces, width, height)]
    if not faces:
        return []
    places = [place(face.box, width, height) for face in faces]
    credible = [p.log_size for p, face in zip(places, faces, strict=True) if face.evidence >= CREDIBLE]
    largest = max(credible or [p.log_size for p in places])
    sharpest = max((face.sharpness for face in faces if face.evidence >= CREDIBLE and face.sharpness > 0), default=0.0)
    matted = max((face.matte for face in faces if face.evidence >= CREDIBLE and face.matte >= MATTED), default=0.0)
    found = []
    for face, at in zip(faces, places, strict=True):
        signals = {
            "size": math.exp(min(0.0, at.log_size - largest)),
            "agreement": face.agreement,
            "centre": math.exp(-0.5 * (((at.x - 0.5) / 0.25) ** 2 + ((at.y - 0.5) / 0.35) ** 2)),
        }
        if sharpest > 0 and not math.isnan(face.sharpness):
            signals["sharpness"] = min(1.0, face.sharpness / sharpest)
        if matted > 0 and not math.isnan(face.matte):
            signals["matte"] = min(1.0, face.matte / matted)
        if person is not None:
            signals["person"] = person.likeness(at)
        if dataset is not None:
            signals["dataset"] = dataset.likeness(at)
        found.append(Candidate(face, signals))
    return sorted(found, key=lambda c: (-c.mark, c.face.faces))


def choose(
    faces: Sequence[Face],
    width: int,
    height: int,
    person: Habit | None = None,
    dataset: Habit | None = None,
    settings: ChooseSettings = ChooseSettings(),
) -> Choice:
    """The subject among the faces of one photo.

    Args:
        faces: all faces of the photo.
        width: of the upright photo, pixels.
        height: likewise.
        person: where the subject usually is in the person's other photos.
        dataset: where the subject usually is in all photos.
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
    if settings.no_face == "whole":
        return Choice("rescued", box=(0.0, 0.0, float(width), float(height)), reason=f"{why}; the whole photo")
    if settings.no_face != "rescue" or source is None:
        return Choice("no_face", reason=why)
    origin = "the person's other photos" if person else "the data set's median"
    return Choice("rescued", box=box_at(source.place, width, height), reason=f"{why}; box from {origin}")


def box_at(at: Place, width: int, height: int) -> Box:
    """A box at a place in a photo, with the shape of a face."""
    side = math.exp(at.log_size) * math.sqrt(width * height)
    half_width, half_height = side * math.sqrt(FACE_ASPECT) / 2, side / math.sqrt(FACE_ASPECT) / 2
    cx, cy = at.x * width, at.y * height
    return (cx - half_width, cy - half_height, cx + half_width, cy + half_height)
