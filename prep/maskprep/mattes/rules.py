"""From a network's prediction to the matte of the subject: what a network cannot know, decided by rules.

- A prediction without contrast has found nothing; it is never stretched into a person (status ``low_contrast``).
- What lies beyond the photo's border (a crop's padding) is not the person.
- The subject's face stays: the ellipse inscribed in its box is foreground, whatever the network says about masks. It
  has a soft edge where the network left more than a tenth of it out: there it may lie beside the face.
- Other people are cut where they are apart from the subject: of the connected parts, those that touch the face stay.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskprep.crops import NOTHING_FOUND, SOLID, Transform, invert, map_points
from maskprep.photos import Pixels

EMPTY, FULL = 0.01, 0.99
"""Coverage below and above which a matte separates nothing."""

FACE_SEEN = 0.9
"""From this share of the face on the network has seen it whole, and the ellipse only closes holes."""

FACE_HALF = 0.5
"""Below this share the network has missed the face, and the status is ``face_missed``."""

SOFT = 0.3
"""How far the soft edge of a face's ellipse reaches inwards, relative to the smaller half axis."""

SPECK = 5e-4
"""Parts smaller than this share of the picture are not counted as components."""

STATUSES = ("ok", "low_contrast", "empty", "full", "face_missed")
"""``low_contrast`` and ``empty``: the network found nobody, and the background is kept; ``full``: all is foreground;
``face_missed``: it left out more than half of the face, of which a soft ellipse was put there."""


Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Matte:
    """A matte and what there is to say about it.

    Args:
        alpha: uint8 [H, W], 255 = the subject.
        status: one of STATUSES, the first that applies in the order low_contrast, empty, face_missed, full, ok.
        coverage: mean of alpha, 0..1.
        face_coverage: share of the subject's face (ellipse) that the network saw as person; None without a face.
        components: connected parts of the network's matte, specks aside.
        border_share: share of the picture's outermost pixels that are foreground.
    """

    alpha: Pixels
    status: str
    coverage: float
    face_coverage: float | None
    components: int
    border_share: float

    @property
    def found(self) -> bool:
        """Whether anybody was found."""
        return self.status not in NOTHING_FOUND


def finish(
    alpha: Pixels,
    clear: bool,
    face: Mask | None = None,
    *,
    force: bool = True,
    inside: Mask | None = None,
) -> Matte:
    """Apply the rules to one matte.

    Args:
        alpha: the network's matte, uint8 [H, W].
        clear: whether its prediction had contrast.
        face: where the subject's face is, bool [H, W]; None when there is no subject, then no part is cut.
        force: whether the face was really seen there, so that it must be foreground.
        inside: what shows the photo, bool [H, W]; None for everything.
    """
    alpha, whole = alpha.copy(), face
    if inside is not None:
        alpha[~inside] = 0
        face = None if face is None else face & inside
    if face is not None and not face.any():
        face = None
    before = float((alpha >= SOLID).mean())
    seen = None if face is None else float((alpha[face] >= SOLID).mean())
    count = _count(alpha)
    if face is not None and whole is not None:
        if force:
            alpha[face] = 255 if seen is not None and seen >= FACE_SEEN else np.maximum(alpha, _softened(whole))[face]
        alpha = keep_touching(alpha, face)
    if not clear:
        status = "low_contrast"
    elif before < EMPTY:
        status = "empty"
    elif seen is not None and force and seen < FACE_HALF:
        status = "face_missed"
    elif float((alpha >= SOLID).mean()) > FULL:
        status = "full"
    else:
        status = "ok"
    return Matte(alpha, status, float(alpha.mean() / 255), seen, count, border_share(alpha))


def _softened(face: Mask) -> Pixels:
    """A face's ellipse with a soft edge, which reaches 0 at the ellipse: uint8 [H, W]."""
    import cv2

    depth = cv2.distanceTransform(face.astype(np.uint8), cv2.DIST_L2, 5)
    return np.asarray(np.rint(255 * np.clip(depth / max(SOFT * float(depth.max()), 1.0), 0, 1)), np.uint8)


def keep_touching(alpha: Pixels, face: Mask) -> Pixels:
    """Only the connected parts of a matte that touch the face; all of them when none does.

    Parts are those of the solid matte (8 neighbours). A soft pixel goes with the solid part nearest to it.
    """
    import cv2

    solid = (alpha >= SOLID).astype(np.uint8)
    if not solid.any() or not (solid[face] > 0).any():
        return alpha
    count, parts = cv2.connectedComponents(solid, connectivity=8)
    if count <= 2:
        return alpha
    kept = np.zeros(count, bool)
    kept[np.unique(parts[face & (solid > 0)])] = True
    _, nearest = cv2.distanceTransformWithLabels(1 - solid, cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_PIXEL)
    owner = np.zeros(int(nearest.max()) + 1, np.int32)  # label of the nearest solid pixel -> its part
    owner[nearest[solid > 0]] = parts[solid > 0]
    return np.where(kept[owner[nearest]], alpha, 0).astype(np.uint8)


def _count(alpha: Pixels) -> int:
    import cv2

    _, _, measures, _ = cv2.connectedComponentsWithStats((alpha >= SOLID).astype(np.uint8), connectivity=8)
    return int((measures[1:, cv2.CC_STAT_AREA] >= max(1.0, SPECK * alpha.size)).sum())


def border_share(alpha: Pixels) -> float:
    """Share of the outermost pixels that are foreground."""
    edge = np.concatenate([alpha[0], alpha[-1], alpha[1:-1, 0], alpha[1:-1, -1]])
    return float((edge >= SOLID).mean())


def face_mask(
    box: tuple[float, float, float, float], size: tuple[int, int], transform: Transform | None = None
) -> Mask:
    """The ellipse inscribed in a face's box, as bool [H, W]: the pixels whose centre lies in it.

    Args:
        box: x0, y0, x1, y1 in the photo's pixels.
        size: height and width of the picture.
        transform: photo -> picture, float [2, 3]; None when they are the same.
    """
    u, v = _within(box, size, transform)
    return np.asarray(u**2 + v**2 <= 1)


def photo_mask(transform: Transform, photo: tuple[int, int], size: tuple[int, int]) -> Mask:
    """Which pixels of a crop have their centre within the photo, bool [H, W].

    Args:
        transform: photo -> crop.
        photo: height and width of the photo.
        size: height and width of the crop.
    """
    u, v = _within((0, 0, photo[1], photo[0]), size, transform)
    return np.asarray((abs(u) <= 1) & (abs(v) <= 1))


def _within(
    box: tuple[float, float, float, float], size: tuple[int, int], transform: Transform | None
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where the pixels' centres lie in a box of the photo: float [H, W] each, -1 and 1 at its sides."""
    rows, columns = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64) + 0.5
    points = np.column_stack([columns.ravel(), rows.ravel()])
    x, y = (points if transform is None else map_points(invert(transform), points)).T.reshape(2, *size)
    half = max(box[2] - box[0], 1e-6) / 2, max(box[3] - box[1], 1e-6) / 2
    return (x - (box[0] + box[2]) / 2) / half[0], (y - (box[1] + box[3]) / 2) / half[1]
