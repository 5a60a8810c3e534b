"""The search for the faces of one photo: as few looks as the choice needs, more where the photo is hard.

A look is one detector on one rendition of the photo. Every photo is looked at by YuNet, which detects small and far
faces, and BlazeFace short range, which detects near ones. The search ends where the subject is clear:

1. Both families see the likeliest subject, it is large and central, and no doubtful face is large enough to be it
   instead: most portraits.
2. A passer-by must not hide the subject, so BlazeFace looks at the padded photo and CenterFace at the small one.
   CenterFace then takes a close look at the likeliest face, at doubtful ones that are large enough to be the subject,
   and at the next one where it sees none. Any confirmed face ends the search.
3. Photos on which nothing is confirmed are hard: all detectors look, and look at the padded photo. Where there is still
   no credible face, they look at one rendition after another, and lower scores count, until there is one.

=============  ==========================================================  =======================================
search pass    what the detectors see                                      what for
=============  ==========================================================  =======================================
as_is          the photo, at most 640 pixels long                          nearly every photo
small          the photo, at most 320 pixels long                          near faces, blurred ones
close          three times the side of one face, at 96 x 96 pixels         a second opinion on that face
padded         the photo with half its size added on every side            faces that fill the frame or leave it
double         the photo at twice the size                                 far faces
tiles          four overlapping quarters at up to twice the size           small faces
low            what the passes before saw with a lower score               faint, dark, covered faces
turned         the photo turned by 20 and 40 degrees either way            tilted heads
=============  ==========================================================  =======================================
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from maskprep.base import Box
from maskprep.faces.choice import candidates, place
from maskprep.faces.detectors import DETECTORS, Detection, Find, reduce_for_detection
from maskprep.faces.face import CREDIBLE, NOTHING, Face, area, cluster, confirmed, evidence, merge, same
from maskprep.faces.renditions import SMALL_SIDE, close, looks, map_face, similarity
from maskprep.photos import Pixels

CONFIRMING = "centerface"
"""The detector family that takes close looks."""

HARD = ("as_is", "padded", "double", "tiles", "low", "turned")
"""Passes for photos on which no face was confirmed, in order."""

CHEAP = ("as_is", "padded")
"""Those of them that try to confirm a credible face; CenterFace, whose cost grows with the pixels, looks here too."""

PASSES = ("as_is", "small", "close", *HARD[1:])

MIN_SIDE, MAX_OFFSET = 0.15, 0.3
"""To end the search, a subject's side (square root of its area) relative to the photo's is at least this, and its
centre at most so far from the middle of the photo, relative to width and height."""

RIVAL = 0.7
"""A doubtful face of at least this many times the subject's side leaves the subject in doubt."""

ASKED = 0.05
"""Evidence from which on a near face that is larger than the subject is worth a close look."""

WORTH = 0.12
"""Probability by its score from which on a detection counts while the search decides where to look next."""

CLOSE_LOOKS = 6
"""Close looks at the faces of one photo, at most, after each rendition."""

SEEN_PIXELS = 16.0
"""A face of at least this side in a rendition would have been seen there by CenterFace."""

Grey = Any
"""uint8 [h, w]."""


def find_faces(
    photo: Pixels, detectors: Mapping[str, Find], thresholds: Mapping[str, float]
) -> tuple[list[Detection], list[Face]]:
    """Look at an upright photo until the subject is clear.

    Args:
        detectors: by name, opened at their lowest thresholds.
        thresholds: scores from which on a detection counts before the pass ``low``.

    Returns:
        Every detection in pixels of the photo, those of one face side by side and its best first; and the faces, whose
        ``faces`` are indices into the detections.
    """
    return _Search(photo, detectors, thresholds).run()


@dataclass
class _Search:
    """The state of the search on one photo; see :func:`find_faces` for its arguments."""

    photo: Pixels
    detectors: Mapping[str, Find]
    thresholds: Mapping[str, float]

    def __post_init__(self) -> None:
        import cv2

        self._base, self._scale = reduce_for_detection(self.photo)
        self._height, self._width = self._base.shape[:2]
        self._grey: Grey = cv2.cvtColor(self._base, cv2.COLOR_RGB2GRAY)
        self._detections: list[Detection] = []  # in pixels of the reduced photo, as all boxes here
        self._faint: list[Detection] = []
        self._families = min(2, len({DETECTORS[name].family for name in self.detectors}))
        self._shown: set[tuple[str, str]] = set()  # detector and search pass
        self._asked: list[Box] = []  # faces that had a close look
        self._ranked: list[Face] | None = None
        self._merged: dict[tuple[tuple[int, ...], float], Face] = {}

    def run(self) -> tuple[list[Detection], list[Face]]:
        self._search()
        back = similarity(1 / self._scale, 0.0, 0.0)
        detections: list[Detection] = []
        faces: list[Face] = []
        for members in cluster(self._detections):
            own = [self._detections[i] for i in members]
            sure = self._evidence(own)
            if self._scale != 1.0:
                own = [map_face(face, back) for face in own]
            numbers = range(len(detections), len(detections) + len(own))
            faces.append(merge(own, numbers, sure, confirmed(own, sure, self._families)))
            detections += own
        return detections, faces

    def _search(self) -> None:
        near = [name for name in self.detectors if DETECTORS[name].family == "blazeface"][-1:]
        confirming = [name for name in self.detectors if DETECTORS[name].family == CONFIRMING]
        far = [name for name in self.detectors if DETECTORS[name].family == "yunet"]
        self._look("as_is", [*far, *near] or confirming)
        if self._clear():
            return
        self._look("padded", near)
        self._look("small", confirming)
        for each in HARD:
            self._look_close(confirming, far)
            if any(face.confirmed or (face.evidence >= CREDIBLE and each not in CHEAP) for face in self._faces()):
                return
            if each == "low":
                self._add([replace(face, search_pass=each) for face in self._faint])
            else:
                self._look(each, [name for name in self.detectors if each in CHEAP or name not in confirming])

    def _look(self, search_pass: str, names: Sequence[str]) -> None:
        """Show the renditions of a pass to the detectors that have not seen them yet."""
        names = [name for name in names if (name, search_pass) not in self._shown]
        for look in looks(search_pass, self._base, self.photo, self._scale) if names else ():
            for name in names:
                found = [map_face(face, look.back) for face in self.detectors[name](look.pixels)]
                for face in (replace(face, search_pass=search_pass) for face in found):
                    if search_pass == "turned" or face.score >= self.thresholds[name]:
                        self._add([face])
                    else:
                        self._faint.append(face)
        self._shown.update((name, search_pass) for name in names)
        self._ranked = None

    def _look_close(self, confirming: Sequence[str], far: Sequence[str]) -> None:
        """Close looks at the faces on which the choice depends, until the subject is clear."""
        for _ in range(CLOSE_LOOKS if confirming else 0):
            face = self._doubtful()
            if face is None:
                return
            look = close(self.photo, [v / self._scale for v in face.box], self._scale)
            seen = {self._detections[i].detector for i in face.faces}
            for name in (*confirming, *(name for name in far if name not in seen)):
                found = self.detectors[name](look.pixels)
                self._add([replace(map_face(f, look.back), search_pass="close") for f in found])
            self._asked.append(face.box)
            self._ranked = None

    def _doubtful(self) -> Face | None:
        """The face that must have a close look next, None where that would not change the choice."""
        faces = self._faces()
        subject = area(faces[0].box) if faces and faces[0].confirmed else 0.0
        for face in faces:
            if face.confirmed or any(same(face.box, box) for box in self._asked):
                continue
            if face.evidence >= NOTHING and area(face.box) >= RIVAL**2 * subject:
                return face
            if face.evidence >= ASKED and area(face.box) >= max(subject, MIN_SIDE**2 * self._height * self._width):
                return face
        return None

    def _add(self, detections: Sequence[Detection]) -> None:
        self._detections += [replace(face, sharpness=sharpness(self._grey, face.box)) for face in detections]
        self._ranked = None

    def _evidence(self, detections: Sequence[Detection]) -> float:
        """What all looks say of a face; see :func:`maskprep.faces.face.evidence`.

        CenterFace may answer twice: on the whole photo, where the face is large enough to be seen, and in a close look.
        """
        asked = any(same(face.common_box, box) for face in detections for box in self._asked)
        shown = {name for name, _ in self._shown}
        answers: dict[str, list[float]] = {}
        for family in {DETECTORS[name].family for name in self.detectors}:
            own = [face for face in detections if DETECTORS[face.detector].family == family]
            looked = [name for name in shown if DETECTORS[name].family == family]
            lowest = max(
                DETECTORS[name].probability(0.0) for name in looked or DETECTORS if DETECTORS[name].family == family
            )
            if family != CONFIRMING:
                if own or looked:
                    answers[family] = [max([face.probability for face in own], default=lowest)]
                continue
            seen = [face.probability for face in own if face.search_pass != "close"]
            if seen or (looked and (not asked or self._reduced_side(detections) >= SEEN_PIXELS)):
                answers[family] = [max(seen, default=lowest)]
            if asked:
                near = [face.probability for face in own if face.search_pass == "close"]
                answers.setdefault(family, []).append(max(near, default=lowest))
        return evidence(answers)

    def _reduced_side(self, detections: Sequence[Detection]) -> float:
        """The side of a face on the rendition ``small``, pixels."""
        box = max(detections, key=lambda face: face.probability).common_box
        return math.sqrt(area(box)) * min(1.0, SMALL_SIDE / int(max(self._height, self._width)))

    def _faces(self) -> list[Face]:
        """The faces so far, the likeliest subject first."""
        if self._ranked is None:
            seen = [i for i, face in enumerate(self._detections) if face.probability >= WORTH]
            clusters = cluster([self._detections[i] for i in seen])
            faces = [self._face(tuple(seen[i] for i in members)) for members in clusters]
            self._ranked = [candidate.face for candidate in candidates(faces, self._width, self._height)]
        return self._ranked

    def _face(self, members: tuple[int, ...]) -> Face:
        own = [self._detections[i] for i in members]
        sure = self._evidence(own)
        key = (members, sure)
        if key not in self._merged:
            self._merged[key] = merge(own, members, sure, confirmed(own, sure, self._families))
        return self._merged[key]

    def _clear(self) -> bool:
        """Whether the likeliest subject is confirmed, large and central, and no doubtful face is large enough to be it
        instead."""
        faces = self._faces()
        if not faces or not faces[0].confirmed:
            return False
        limit = RIVAL**2 * area(faces[0].box)
        if any(NOTHING <= face.evidence < CREDIBLE for face in faces[1:] if area(face.box) >= limit):
            return False
        at = place(faces[0].box, self._width, self._height)
        return at.log_size >= math.log(MIN_SIDE) and max(abs(at.x - 0.5), abs(at.y - 0.5)) <= MAX_OFFSET


def sharpness(grey: Grey, box: Box) -> float:
    """Detail of the upper half of a face (a mask has none), from 0 (flat, blurred, or outside the photo) to about 2:
    spread of the Laplacian relative to that of the greys.

    Measured at a width of 64 pixels or less, so that a large face is not thought blurred for its size.
    """
    import cv2

    height, width = grey.shape
    x0, x1 = min(max(int(box[0]), 0), width), min(max(int(box[2]), 0), width)
    y0, y1 = min(max(int(box[1]), 0), height), min(max(int((box[1] + box[3]) / 2), 0), height)
    if x1 - x0 < 8 or y1 - y0 < 4:
        return 0.0
    part: Any = grey[y0:y1, x0:x1]
    if x1 - x0 > 64:
        part = cv2.resize(part, (64, max(4, round(64 * (y1 - y0) / (x1 - x0)))), interpolation=cv2.INTER_AREA)
    detail, spread = (cv2.meanStdDev(values)[1].item() for values in (cv2.Laplacian(part, cv2.CV_16S), part))
    return float(detail / (spread + 5))
