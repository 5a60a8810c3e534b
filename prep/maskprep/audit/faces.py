"""Checks of the choice of the subject and of its box."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from maskprep.audit.context import Context, Scene
from maskprep.audit.findings import Hit, NotRunError, check, ramp, robust
from maskprep.crops.geometry import TEMPLATE, ViewSettings
from maskprep.faces.choice import Candidate, habit
from maskprep.faces.face import CREDIBLE, SAME_FACE_IOU, Box, iou

Z_FROM, Z_TO = 3.5, 10.0
"""Robust z score from which on a value is unusual, and from which on it is as unusual as it gets."""


def _subjects(c: Context) -> Iterator[tuple[Scene, Box]]:
    """Scenes whose subject has a box; what a person dropped has none."""
    for scene in c.scenes.values():
        if scene.box is not None:
            yield scene, scene.box


@check("face_none", "faces", "No face was found and none could be guessed.")
def face_none(c: Context) -> Iterable[Hit]:
    """Photos without a subject."""
    for scene in c.scenes.values():
        if scene.status == "no_face":
            yield scene.image, 0.95, scene.reason or "no face found"


@check("face_rescued", "faces", "No face was found; the box is a guess from other photos.")
def face_rescued(c: Context) -> Iterable[Hit]:
    """Photos whose box was not seen on them."""
    for scene in c.scenes.values():
        if scene.status == "rescued":
            yield scene.image, 0.8, scene.reason


@check("face_ambiguous", "faces", "Another face is nearly as likely to be the subject.")
def face_ambiguous(c: Context) -> Iterable[Hit]:
    """Close calls: the nearer the two marks, the more severe."""
    for scene in c.scenes.values():
        if len(scene.candidates) > 1 and scene.status in ("ok", "ambiguous"):
            gap = scene.candidates[0].mark - scene.candidates[1].mark
            close = 1.25 * c.choose.close
            if severity := ramp(gap, close, 0.0, 0.3, 0.55):
                other = scene.candidates[1].face.faces[0]
                yield scene.image, severity, f"face {other} is nearly as likely (marks differ by {gap:.2f})"


@check("face_not_seen", "faces", "The box is not where any detector sees a face.")
def face_not_seen(c: Context) -> Iterable[Hit]:
    """The box overlaps no face of the photo as one face's boxes do."""
    for scene, box in _subjects(c):
        if scene.status in ("rescued", "decided") or not scene.candidates:
            continue
        best = max(iou(box, candidate.face.box) for candidate in scene.candidates)
        if severity := ramp(best, 0.7, SAME_FACE_IOU, 0.4, 0.85):
            yield scene.image, severity, f"the nearest face overlaps the box by {best:.0%} only"


@check("face_not_best", "faces", "Judged again, another face is the likelier subject.")
def face_not_best(c: Context) -> Iterable[Hit]:
    """The chosen face is not the one with the best mark."""
    for scene, _ in _subjects(c):
        chosen = scene.chosen
        if chosen is None or scene.status == "decided" or chosen is scene.candidates[0]:
            continue
        best = scene.candidates[0]
        gap = best.mark - chosen.mark
        text = f"face {best.face.faces[0]} has mark {best.mark:.2f}, the chosen one {chosen.mark:.2f}"
        yield scene.image, ramp(gap, 0.0, 0.3, 0.5, 0.95), text


@check("face_unsure", "faces", "Another face of the photo is far surer to be one than the chosen box.")
def face_unsure(c: Context) -> Iterable[Hit]:
    """Evidence of the chosen face against that of the photo's surest."""
    for scene, _ in _subjects(c):
        if scene.chosen is None or scene.status == "decided":
            continue
        surest = max((k.face for k in scene.candidates), key=lambda face: face.evidence)
        gap = surest.evidence - scene.chosen.face.evidence
        if severity := ramp(gap, 0.15, 0.6, 0.6, 0.95):
            mine = f"{scene.chosen.face.evidence:.0%}"
            yield (
                scene.image,
                severity,
                f"probability of a face {mine}, that of face {surest.faces[0]} {surest.evidence:.0%}",
            )


@check("face_doubtful", "faces", "No second look confirmed that the box shows a face.")
def face_doubtful(c: Context) -> Iterable[Hit]:
    """A chosen face that is not confirmed; the less evidence, the worse."""
    for scene, _ in _subjects(c):
        if scene.chosen is not None and scene.status != "decided" and not scene.chosen.face.confirmed:
            severity = ramp(1 - scene.chosen.face.evidence, -0.01, 0.7, 0.6, 0.98)
            yield scene.image, severity, f"it is a face with a probability of {scene.chosen.face.evidence:.0%}"


@check("face_person_place", "faces", "The face is far from where it is on the person's other photos.")
def face_person_place(c: Context) -> Iterable[Hit]:
    """Distance of the box's centre and size from the person's habit, in its spreads."""
    for scene, _ in _subjects(c):
        if scene.habit is None or scene.place is None:
            continue
        at, usual, spread = scene.place, scene.habit.place, scene.habit.spread
        gaps = (at.x - usual.x, at.y - usual.y, at.log_size - usual.log_size)
        far = math.sqrt(sum((gap / width) ** 2 for gap, width in zip(gaps, spread, strict=True)))
        if severity := ramp(far, 2.0, 4.5, 0.3, 0.85):
            yield scene.image, severity, _where(*gaps, "the person's other photos")


def _where(x: float, y: float, log_size: float, whose: str) -> str:
    """How far a place is from the usual one, in words: only the parts that are off.

    Args:
        x: right of it, relative to the photo's width.
        y: below it, relative to the height.
        log_size: logarithm of how many times as large.
        whose: of which photos it is the usual one.
    """
    parts = []
    if abs(x) >= 0.1:
        parts.append(f"{abs(x):.0%} of the width further {'right' if x > 0 else 'left'}")
    if abs(y) >= 0.1:
        parts.append(f"{abs(y):.0%} of the height {'lower' if y > 0 else 'higher'}")
    if abs(log_size) >= 0.2:
        factor = math.exp(abs(log_size))
        parts.append(f"{factor:.1f} times {'larger' if log_size > 0 else 'smaller'}")
    return f"compared with {whose}, the face is {' and '.join(parts) or 'a little off'}"


@check("face_dataset_place", "faces", "The face is far from where it is on the data set's photos.")
def face_dataset_place(c: Context) -> Iterable[Hit]:
    """Robust z scores of centre and size over all photos, where most faces are in one place."""
    places = {scene.image: scene.place for scene, _ in _subjects(c)}
    known = [at for at in places.values() if at is not None]
    common = habit(known)
    if common is None or not common.narrow:
        raise NotRunError("the faces have no usual place: these photos were not taken alike")
    usual = [
        robust([at.x for at in known], 0.03),
        robust([at.y for at in known], 0.03),
        robust([at.log_size for at in known], 0.1),
    ]
    for image, at in places.items():
        if at is None:
            continue
        z = max(abs(v - m) / s for v, (m, s) in zip((at.x, at.y, at.log_size), usual, strict=True))
        if severity := ramp(z, Z_FROM, Z_TO, 0.25, 0.7):
            gaps = (at.x - usual[0][0], at.y - usual[1][0], at.log_size - usual[2][0])
            yield image, severity, _where(*gaps, "the other photos")


@check("face_shape", "faces", "The box is unusually wide, narrow or tilted.")
def face_shape(c: Context) -> Iterable[Hit]:
    """Robust z scores of the box's aspect and of the roll of the eyes over all photos."""
    aspects = {s.image: math.log((b[2] - b[0]) / max(1e-6, b[3] - b[1])) for s, b in _subjects(c) if b[2] > b[0]}
    rolls = {s.image: roll(s.keypoints) for s, _ in _subjects(c) if s.keypoints is not None}
    aspect, roll_usual = robust(list(aspects.values()), 0.05), robust(list(rolls.values()), 4.0)
    for image, value in aspects.items():
        if severity := ramp(abs(value - aspect[0]) / aspect[1], Z_FROM, Z_TO, 0.25, 0.6):
            text = f"the box's width is {math.exp(value):.2f} of its height"
            yield image, severity, f"{text}, usually {math.exp(aspect[0]):.2f}"
    for image, value in rolls.items():
        if severity := ramp(abs(value - roll_usual[0]) / roll_usual[1], Z_FROM, Z_TO, 0.25, 0.6):
            yield image, severity, f"the head is tilted by {value:.0f} degrees"


def roll(points: NDArray[np.float64]) -> float:
    """Tilt of the line between the eyes, degrees, -180..180."""
    dx, dy = points[1] - points[0]
    return math.degrees(math.atan2(dy, dx))


@check("face_cut", "faces", "The face is cut by the photo's border.")
def face_cut(c: Context) -> Iterable[Hit]:
    """Share of the box that lies outside the photo."""
    for scene, box in _subjects(c):
        width = max(0.0, min(box[2], scene.width) - max(box[0], 0.0))
        height = max(0.0, min(box[3], scene.height) - max(box[1], 0.0))
        outside = 1 - width * height / max(1e-6, (box[2] - box[0]) * (box[3] - box[1]))
        if severity := ramp(outside, 0.05, 0.5, 0.25, 0.9):
            yield scene.image, severity, f"{outside:.0%} of the box lies outside the photo"


@check("face_tiny", "faces", "The face has too few pixels.")
def face_tiny(c: Context) -> Iterable[Hit]:
    """Longer side of the box in the photo's pixels. A small face is a fact, not a mistake: it never ranks high."""
    for scene, box in _subjects(c):
        side = max(box[2] - box[0], box[3] - box[1])
        if severity := ramp(side, 64, 16, 0.1, 0.3):
            yield scene.image, severity, f"the face is {side:.0f} pixels large"


@check("face_larger_other", "faces", "Another face of the photo is larger than the subject's.")
def face_larger_other(c: Context) -> Iterable[Hit]:
    """Side of the largest other credible face relative to the subject's."""
    for scene, box in _subjects(c):
        side = math.sqrt((box[2] - box[0]) * (box[3] - box[1]))
        for other in _others(scene, box):
            b = other.face.box
            ratio = math.sqrt(max(0.0, (b[2] - b[0]) * (b[3] - b[1]))) / max(1e-6, side)
            if severity := ramp(ratio, 1.1, 2.0, 0.45, 0.9):
                yield scene.image, severity, f"face {other.face.faces[0]} is {ratio:.1f} times as large"


def _others(scene: Scene, box: Box) -> Iterator[Candidate]:
    """Credible faces that are not the subject."""
    for candidate in scene.candidates:
        apart = candidate is not scene.chosen and iou(candidate.face.box, box) < SAME_FACE_IOU
        if apart and candidate.face.evidence >= CREDIBLE:
            yield candidate


@check("face_geometry", "faces", "Eyes, nose and mouth do not lie as in a face.")
def face_geometry(c: Context) -> Iterable[Hit]:
    """Distance of the keypoints from a face's, after the best turn and size, relative to the distance of the eyes."""
    values = {s.image: misfit(s.keypoints) for s, _ in _subjects(c) if s.keypoints is not None}
    usual = robust(list(values.values()), 0.06)
    for image, value in values.items():
        if severity := ramp((value - usual[0]) / usual[1], Z_FROM, Z_TO, 0.3, 0.85):
            yield image, severity, f"eyes, nose and mouth are out of place by {value:.0%} of the distance of the eyes"


def misfit(points: NDArray[np.float64]) -> float:
    """Root mean square distance of four keypoints from the template's after the similarity that fits best, in units of
    the template's distance between the eyes (Umeyama 1991)."""
    ours, theirs = TEMPLATE - TEMPLATE.mean(axis=0), points - points.mean(axis=0)
    a, b = ours[:, 0] + 1j * ours[:, 1], theirs[:, 0] + 1j * theirs[:, 1]
    scale = (np.conj(a) @ b) / (np.conj(a) @ a)
    eyes = abs(scale) * float(np.hypot(*(TEMPLATE[1] - TEMPLATE[0])))
    return float(np.sqrt(np.mean(np.abs(b - scale * a) ** 2)) / max(1e-6, eyes))


@check("face_several", "faces", "Another person's face lies in the crop.")
def face_several(c: Context) -> Iterable[Hit]:
    """The largest other face whose middle lies in the tightest crop, by its size relative to the subject. In a crowd
    that is so, and no mistake: it never counts as likely."""
    view = min((v for v in c.views.values() if v.crop == "face"), key=lambda v: v.margin, default=ViewSettings())
    for scene, box in _subjects(c):
        side = max(box[2] - box[0], box[3] - box[1])
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        half = side * (0.5 + view.margin)
        for other in _others(scene, box):
            b = other.face.box
            if abs((b[0] + b[2]) / 2 - cx) < half and abs((b[1] + b[3]) / 2 - cy) < half:
                size = max(b[2] - b[0], b[3] - b[1]) / max(1e-6, side)
                severity = ramp(size, 0.3, 1.0, 0.2, 0.4)
                yield scene.image, severity, f"face {other.face.faces[0]}, {size:.1f} times as large, lies in the crop"
