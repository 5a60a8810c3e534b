"""Detections as faces: which of them are one face, how sure it is that there is one, and who confirmed it."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskprep.base import Box
from maskprep.faces.detectors import DETECTORS, Detection

SAME_FACE_IOU = 0.35
"""Boxes of different detectors that overlap this much (see :attr:`Detection.common_box`) are one face."""

NEAR, ALIKE = 0.4, 1.8
"""Or boxes whose centres are closer than this (relative to their sides) and whose sides differ by no more than this
factor: small boxes are too coarse for an overlap."""

NOTHING, CREDIBLE, SURELY = 0.2, 0.35, 0.7
"""Evidence from which on there may be a face, it can be the subject, and two looks confirm it."""

CONFIRMS = 0.5
"""Probability by its score from which on a detection confirms a face."""

LIMIT = 0.01
"""Distance from 0 and 1 of the surest probability."""


@dataclass(frozen=True)
class Face:
    """One face of a photo, detected by one or more detectors.

    Args:
        faces: numbers of its detections in faces.parquet, best detector first.
        box: the detectors' boxes brought to one extent and averaged, weighted by score.
        evidence: probability that this is a face, 0..1; see :func:`evidence`.
        confirmed: whether two independent looks saw it; see :func:`confirmed`.
        probability: of its best detection alone, 0..1.
        keypoints: right eye, left eye, nose tip and mouth centre, float [4, 2], averaged likewise.
        sharpness: detail around the eyes, the median over the detections; NaN when not measured.
        matte: share of it that the photo's matte holds, 0..1, the median likewise; NaN without a matte.
    """

    faces: tuple[int, ...]
    box: Box
    evidence: float
    confirmed: bool
    probability: float
    keypoints: NDArray[np.float64]
    sharpness: float = math.nan
    matte: float = math.nan


def iou(a: Box, b: Box) -> float:
    """Intersection over union of two boxes, 0..1."""
    shared = area(intersection(a, b))
    return shared / (area(a) + area(b) - shared) if shared else 0.0


def intersection(a: Box, b: Box) -> Box:
    """What two boxes share; without area where they share nothing."""
    return (max(a[0], b[0]), max(a[1], b[1]), min(a[2], b[2]), min(a[3], b[3]))


def area(box: Box) -> float:
    """Width by height; 0 for a box without any."""
    return max(0.0, box[2] - box[0]) * max(0.0, box[3] - box[1])


def cluster(detections: Sequence[Detection]) -> list[list[int]]:
    """Which detections are one face: indices per face, the first of each being its best (by detector, then score)."""
    rank = {name: i for i, name in enumerate(DETECTORS)}
    order = sorted(
        range(len(detections)),
        key=lambda i: (rank.get(detections[i].detector, len(rank)), -detections[i].score, detections[i].box),
    )
    boxes = [face.common_box for face in detections]
    clusters: list[list[int]] = []
    for i in order:
        likely = [members for members in clusters if same(boxes[i], boxes[members[0]])]
        if likely:
            max(likely, key=lambda members: iou(boxes[i], boxes[members[0]])).append(i)
        else:
            clusters.append([i])
    return clusters


def same(a: Box, b: Box) -> bool:
    """Whether two boxes (of one extent) show one face."""
    apart_x, apart_y = abs(a[0] + a[2] - b[0] - b[2]) / 2, abs(a[1] + a[3] - b[1] - b[3]) / 2
    if apart_x > max(a[2] - a[0], b[2] - b[0]) or apart_y > max(a[3] - a[1], b[3] - b[1]):
        return False  # most pairs: they neither overlap nor are near
    if iou(a, b) >= SAME_FACE_IOU:
        return True
    side_a, side_b = (math.sqrt(max(1e-9, area(box))) for box in (a, b))
    near = math.hypot(apart_x, apart_y) <= NEAR * min(side_a, side_b)
    return near and max(side_a, side_b) <= ALIKE * min(side_a, side_b)


def evidence(answers: Mapping[str, Sequence[float]]) -> float:
    """Probability that there is a face, 0..1, by those that each look of a detector family gave; at least one look.

    Log-odds are averaged, first over the looks of each family, then over the families, weighted by their trust: a
    logistic regression over the labelled faces of street photos gave those weights. Doubtful scores do not add up, and
    what a family overlooked counts against a face.
    """
    trusts = {spec.family: spec.trust for spec in DETECTORS.values()}
    total = weight = 0.0
    for family in sorted(answers):
        trust = trusts[family]
        odds = [math.log(p / (1 - p)) for p in (min(1 - LIMIT, max(LIMIT, p)) for p in answers[family])]
        total += trust * sum(odds) / len(odds)
        weight += trust
    return 1 / (1 + math.exp(-total / weight))


def confirmed(detections: Sequence[Detection], evidence: float, needed: int = 2) -> bool:
    """Whether enough detector families saw a face of that evidence: one proposed it, another confirms it. One family is
    ``needed`` where the settings name detectors of one family only.
    """
    families = {DETECTORS[face.detector].family for face in detections if face.probability >= CONFIRMS}
    return evidence >= SURELY and len(families) >= needed


def merge(detections: Sequence[Detection], faces: Sequence[int], evidence: float, confirmed: bool) -> Face:
    """One face of its detections; ``faces`` are their numbers, the rest as in :class:`Face`."""
    votes: dict[str, Detection] = {}
    for face in detections:  # one vote per detector, however many renditions it looked at
        if face.detector not in votes or face.score > votes[face.detector].score:
            votes[face.detector] = face
    best = list(votes.values())
    box, points = best[0].common_box, _four_points(best[0])
    if len(best) > 1:
        weights = np.array([face.score for face in best]) + 1e-6
        weights /= weights.sum()
        x0, y0, x1, y1 = (float(v) for v in weights @ np.array([face.common_box for face in best]))
        box = (x0, y0, x1, y1)
        points = np.tensordot(weights, np.array([_four_points(face) for face in best]), 1)
    detail = statistics.median([face.sharpness for face in detections])
    matte = statistics.median([face.matte for face in detections])
    probability = max(face.probability for face in detections)
    return Face(tuple(faces), box, evidence, confirmed, probability, points, detail, matte)


def _four_points(face: Detection) -> NDArray[np.float64]:
    """Right eye, left eye, nose tip, mouth centre. BlazeFace gives its centre, the others two corners."""
    points = face.keypoints
    mouth = points[3:5].mean(axis=0) if len(points) == 5 else points[3]
    return np.vstack([points[:3], mouth])
