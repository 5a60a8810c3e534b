"""Checks of the choice of the subject and of its box."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from maskprep.audit.context import AuditSample, Context
from maskprep.audit.findings import Hit, NotRunError, check, longer_side, ramp, robust, scored
from maskprep.base import Box
from maskprep.crops import TEMPLATE, ViewSettings
from maskprep.faces import CREDIBLE, SAME_FACE_IOU, Candidate, habit, iou

Z_FROM, Z_TO = 3.5, 10.0
"""Robust z score from which on a value is unusual, and from which on it is as unusual as it gets."""


@check("No face was found, and other photos do not tell where it is.")
def face_none(c: Context) -> Iterable[Hit]:
    """Photos without a subject."""
    for sample in c.samples.values():
        if sample.status == "no_face":
            yield sample.image, 0.95, sample.reason or "no face found"


@check("No face was found; the box is a guess from other photos.")
def face_rescued(c: Context) -> Iterable[Hit]:
    """Photos whose box was not seen on them."""
    for sample in c.samples.values():
        if sample.status == "rescued":
            yield sample.image, 0.8, sample.reason


@check("Another face is nearly as likely to be the subject.")
def face_ambiguous(c: Context) -> Iterable[Hit]:
    """Close calls: the nearer the two marks, the more severe."""
    close = 1.25 * c.choose.close
    for sample in c.samples.values():
        if len(sample.candidates) > 1 and sample.status in ("ok", "ambiguous"):
            best, other = sample.candidates[:2]
            gap = best.mark - other.mark
            text = f"face {other.face.faces[0]} is nearly as likely (marks differ by {gap:.2f})"
            yield sample.image, ramp(gap, close, 0.0, 0.3, 0.55), text


@check("The box is not where any detector sees a face.")
def face_not_seen(c: Context) -> Iterable[Hit]:
    """The box overlaps no face of the photo as one face's boxes do."""
    for sample, box in c.boxed:
        if sample.status not in ("rescued", "decided") and sample.candidates:
            best = max(iou(box, candidate.face.box) for candidate in sample.candidates)
            severity = ramp(best, 0.7, SAME_FACE_IOU, 0.4, 0.85)
            yield sample.image, severity, f"the nearest face overlaps the box by {best:.0%} only"


def _chosen(c: Context) -> Iterator[tuple[AuditSample, Candidate]]:
    """Samples whose box is that of a face, and that face; without those that a person decided."""
    samples = (sample for sample, _ in c.boxed if sample.status != "decided")
    return ((sample, sample.chosen) for sample in samples if sample.chosen is not None)


@check("Another face is more likely to be the subject.")
def face_not_best(c: Context) -> Iterable[Hit]:
    """The chosen face is not the one with the best mark."""
    for sample, chosen in _chosen(c):
        best = sample.candidates[0]
        if chosen is not best:
            text = f"face {best.face.faces[0]} has mark {best.mark:.2f}, the chosen one {chosen.mark:.2f}"
            yield sample.image, ramp(best.mark - chosen.mark, 0.0, 0.3, 0.5, 0.95), text


@check("Another detection is far more certain to be a face than the chosen one.")
def face_unsure(c: Context) -> Iterable[Hit]:
    """Evidence of the chosen face against that of the photo's surest."""
    for sample, chosen in _chosen(c):
        surest = max((k.face for k in sample.candidates), key=lambda face: face.evidence)
        severity = ramp(surest.evidence - chosen.face.evidence, 0.15, 0.6, 0.6, 0.95)
        text = f"probability of a face {chosen.face.evidence:.0%}, that of face {surest.faces[0]} {surest.evidence:.0%}"
        yield sample.image, severity, text


@check("No second detector confirmed that the box shows a face.")
def face_doubtful(c: Context) -> Iterable[Hit]:
    """A chosen face that is not confirmed; the less likely a face, the worse."""
    for sample, chosen in _chosen(c):
        if not chosen.face.confirmed:
            severity = ramp(1 - chosen.face.evidence, -0.01, 0.7, 0.6, 0.98)
            yield sample.image, severity, f"the probability that it is a face is {chosen.face.evidence:.0%}"


@check("The face is far from where it is on the person's other photos.")
def face_person_place(c: Context) -> Iterable[Hit]:
    """Distance of the box's centre and size from the person's habit, in its spreads."""
    for sample, _ in c.boxed:
        if sample.habit is None or sample.place is None:
            continue
        at, usual, spread = sample.place, sample.habit.place, sample.habit.spread
        gaps = (at.x - usual.x, at.y - usual.y, at.log_size - usual.log_size)
        far = math.sqrt(sum((gap / width) ** 2 for gap, width in zip(gaps, spread, strict=True)))
        yield sample.image, ramp(far, 2.0, 4.5, 0.3, 0.85), _gap_text("the person's other photos", *gaps)


def _gap_text(whose: str, x: float, y: float, log_size: float) -> str:
    """In words, by what a place differs from the usual one: shares of the photo's width and height to the right and
    down, and the logarithm of how many times as large the face is."""
    parts = {
        f"{abs(x):.0%} of the width further {'right' if x > 0 else 'left'}": abs(x) >= 0.1,
        f"{abs(y):.0%} of the height {'lower' if y > 0 else 'higher'}": abs(y) >= 0.1,
        f"{math.exp(abs(log_size)):.1f} times {'larger' if log_size > 0 else 'smaller'}": abs(log_size) >= 0.2,
    }
    off = [text for text, matters in parts.items() if matters]
    return f"compared with {whose}, the face is {' and '.join(off) or 'a little off'}"


@check("The face is far from where it is on the data set's photos.")
def face_dataset_place(c: Context) -> Iterable[Hit]:
    """Robust z scores of centre and size over all photos, where most faces are in one place."""
    places = {sample.image: at for sample, _ in c.boxed if (at := sample.place) is not None}
    common = habit(list(places.values()))
    if common is None or not common.narrow:
        raise NotRunError("the faces have no usual place in these photos")
    spots = np.array([(at.x, at.y, at.log_size) for at in places.values()])
    usual, spread = np.transpose([robust(spots[:, i], floor) for i, floor in enumerate((0.03, 0.03, 0.1))])
    for image, gaps in zip(places, spots - usual, strict=True):
        z = float((np.abs(gaps) / spread).max())
        yield image, ramp(z, Z_FROM, Z_TO, 0.25, 0.7), _gap_text("the other photos", *gaps.tolist())


@check("The box is unusually wide, narrow or tilted.")
def face_shape(c: Context) -> Iterable[Hit]:
    """Robust z scores of the box's aspect and of the roll of the eyes over all photos."""
    aspects = {s.image: math.log((b[2] - b[0]) / max(1e-6, b[3] - b[1])) for s, b in c.boxed if b[2] > b[0]}
    rolls = {s.image: roll(s.keypoints) for s, _ in c.boxed if s.keypoints is not None}
    for image, value, z, usual in scored(aspects, 0.05):
        text = f"the box's width is {math.exp(value):.2f} of its height, usually {math.exp(usual):.2f}"
        yield image, ramp(abs(z), Z_FROM, Z_TO, 0.25, 0.6), text
    for image, value, z, _ in scored(rolls, 4.0):
        yield image, ramp(abs(z), Z_FROM, Z_TO, 0.25, 0.6), f"the head is tilted by {value:.0f} degrees"


def roll(points: NDArray[np.float64]) -> float:
    """Tilt of the line between the eyes, degrees, -180..180."""
    return math.degrees(math.atan2(*(points[1] - points[0])[::-1]))


@check("The face is cut by the photo's border.")
def face_cut(c: Context) -> Iterable[Hit]:
    """Share of the box that lies outside the photo."""
    for sample, box in c.boxed:
        width = max(0.0, min(box[2], sample.width) - max(box[0], 0.0))
        height = max(0.0, min(box[3], sample.height) - max(box[1], 0.0))
        outside = 1 - width * height / max(1e-6, (box[2] - box[0]) * (box[3] - box[1]))
        yield sample.image, ramp(outside, 0.05, 0.5, 0.25, 0.9), f"{outside:.0%} of the box lies outside the photo"


@check("The face has too few pixels.")
def face_tiny(c: Context) -> Iterable[Hit]:
    """Longer side of the box in the photo's pixels. A small face is a fact, not a mistake: it never ranks high."""
    for sample, box in c.boxed:
        side = longer_side(box)
        yield sample.image, ramp(side, 64, 16, 0.1, 0.3), f"the face is {side:.0f} pixels large"


def _others(c: Context) -> Iterator[tuple[AuditSample, Box, str, Box]]:
    """Each sample and its box, with every other credible face of the photo: its name for people, and its box."""
    for sample, box in c.boxed:
        for other in sample.candidates:
            apart = other is not sample.chosen and iou(other.face.box, box) < SAME_FACE_IOU
            if apart and other.face.evidence >= CREDIBLE:
                yield sample, box, f"face {other.face.faces[0]}", other.face.box


@check("Another face of the photo is larger than the subject's.")
def face_larger_other(c: Context) -> Iterable[Hit]:
    """Side of the largest other credible face relative to the subject's."""
    for sample, box, name, other in _others(c):
        area = (box[2] - box[0]) * (box[3] - box[1])
        ratio = math.sqrt(max(0.0, (other[2] - other[0]) * (other[3] - other[1]))) / max(1e-6, math.sqrt(area))
        yield sample.image, ramp(ratio, 1.1, 2.0, 0.45, 0.9), f"{name} is {ratio:.1f} times as large"


@check("Eyes, nose and mouth do not lie as in a face.")
def face_geometry(c: Context) -> Iterable[Hit]:
    """Distance of the keypoints from a face's, after the best turn and size, relative to the distance of the eyes."""
    values = {s.image: misfit(s.keypoints) for s, _ in c.boxed if s.keypoints is not None}
    for image, value, z, _ in scored(values, 0.06):
        text = f"eyes, nose and mouth are out of place by {value:.0%} of the distance of the eyes"
        yield image, ramp(z, Z_FROM, Z_TO, 0.3, 0.85), text


def misfit(points: NDArray[np.float64]) -> float:
    """Root mean square distance of four keypoints from the template's after the similarity that fits best, in units of
    the template's distance between the eyes (Umeyama 1991)."""
    ours, theirs = TEMPLATE - TEMPLATE.mean(axis=0), points - points.mean(axis=0)
    a, b = ours[:, 0] + 1j * ours[:, 1], theirs[:, 0] + 1j * theirs[:, 1]
    scale = (np.conj(a) @ b) / (np.conj(a) @ a)
    eyes = abs(scale) * float(np.hypot(*(TEMPLATE[1] - TEMPLATE[0])))
    return float(np.sqrt(np.mean(np.abs(b - scale * a) ** 2)) / max(1e-6, eyes))


@check("Another person's face lies in the crop.")
def face_several(c: Context) -> Iterable[Hit]:
    """The largest other face whose middle lies in the tightest crop, by its size relative to the subject. In a crowd
    that is so, and no mistake: it never counts as likely."""
    view = min((v for v in c.views.values() if v.crop == "face"), key=lambda v: v.margin, default=ViewSettings())
    for sample, box, name, other in _others(c):
        side = longer_side(box)
        off = np.abs(np.add(other[:2], other[2:]) - np.add(box[:2], box[2:])) / 2
        if off.max() < side * (0.5 + view.margin):
            size = longer_side(other) / max(1e-6, side)
            yield sample.image, ramp(size, 0.3, 1.0, 0.2, 0.4), f"{name}, {size:.1f} times as large, lies in the crop"
