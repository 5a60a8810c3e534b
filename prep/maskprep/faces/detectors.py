"""Face detectors behind one small interface: YuNet and CenterFace (OpenCV), BlazeFace short and full range (MediaPipe).

None of them is enough alone. BlazeFace short range detects faces that fill the frame, YuNet and CenterFace small and
far ones. CenterFace errs least on street photos and costs four times as much as YuNet, so it runs where its answer can
change the choice (:mod:`maskprep.faces.search`).
"""

from __future__ import annotations

import bisect
import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import Box, UsageError, nearest, quiet
from maskprep.photos import Pixels
from maskprep.weights import REGISTRY, locate

WORKING_SIDE = 640
"""Detectors see the photo reduced (area filter) to at most this many pixels on its longer side."""


@dataclass(frozen=True)
class Detection:
    """One face as one detector saw it.

    Args:
        detector: name of the detector.
        score: its confidence, 0..1; not comparable between detectors.
        box: x0, y0, x1, y1 in pixels of the upright photo; may reach beyond its border.
        keypoints: float [k, 2] in the same pixels; the first three are the right eye, the left eye (the person's
            own right and left) and the nose tip, followed by the mouth (BlazeFace: centre and the two ears;
            YuNet and CenterFace: right and left corner).
        sharpness: detail around the eyes, see :func:`maskprep.faces.search.sharpness`; NaN when not measured.
        matte: mean of the whole photo's matte within the box, 0..1; NaN when there is none.
        search_pass: on whose renditions of the photo it was detected, see :mod:`maskprep.faces.search`.
    """

    detector: str
    score: float
    box: Box
    keypoints: NDArray[np.float64]
    sharpness: float = math.nan
    matte: float = math.nan
    search_pass: str = "as_is"

    @cached_property
    def probability(self) -> float:
        """Chance that there is a face, 0..1, by the score alone."""
        return DETECTORS[self.detector].probability(self.score)

    @cached_property
    def common_box(self) -> Box:
        """The box with the extent that the reference detector would have given it."""
        x0, y0, x1, y1 = self.box
        width, height = x1 - x0, y1 - y0
        dx, dy, sw, sh = DETECTORS[self.detector].extent
        cx, cy = (x0 + x1) / 2 + dx * width, (y0 + y1) / 2 + dy * height
        return (cx - sw * width / 2, cy - sh * height / 2, cx + sw * width / 2, cy + sh * height / 2)


Find = Callable[[Pixels], list[Detection]]
"""uint8 [h, w, 3] RGB -> faces in its pixels."""


@dataclass(frozen=True)
class DetectorSpec:
    """A detector by name.

    Args:
        name: as given to ``--detectors``, and in the weights registry.
        open: makes the detector from its model file and threshold; closed when the context ends.
        family: detectors of one family err on the same things: one does not confirm another.
        trust: weight of the family's answer beside those of the others, see :func:`maskprep.faces.face.evidence`.
        calibration: scores, and the share of the detections with that score that were faces.
        extent: how this detector's box must change to have the extent of YuNet's, so that crops do not depend on
            which detector saw the face: shift of the centre in x and y and factors for width and height, all relative
            to the box's own width and height. Medians over photos on which both saw the face.
        threshold: faces below this score are not kept.
    """

    name: str
    open: Callable[[Path, float], contextlib.AbstractContextManager[Find]]
    family: str
    trust: float
    calibration: tuple[tuple[float, ...], tuple[float, ...]]
    extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)
    threshold: float = 0.3

    @property
    def sha256(self) -> str:
        """Hash of the model file, part of every key of the stage."""
        return REGISTRY[self.name].sha256

    def probability(self, score: float) -> float:
        """Chance that a detection with this score is a face, 0..1, interpolated between the calibrated scores."""
        scores, shares = self.calibration
        i = bisect.bisect_right(scores, score)
        if i in (0, len(scores)):
            return shares[max(0, i - 1)]
        part = (score - scores[i - 1]) / (scores[i] - scores[i - 1])
        return shares[i - 1] + part * (shares[i] - shares[i - 1])


@contextlib.contextmanager
def _open_blazeface(name: str, path: Path, threshold: float) -> Iterator[Find]:
    import mediapipe as mp
    from mediapipe.tasks.python import BaseOptions, vision

    options = vision.FaceDetectorOptions(
        base_options=BaseOptions(model_asset_buffer=path.read_bytes()), min_detection_confidence=threshold
    )

    with vision.FaceDetector.create_from_options(options) as task:

        def find(pixels: Pixels) -> list[Detection]:
            height, width = pixels.shape[:2]
            image = mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(pixels))
            with quiet():  # it warns once, at the first call whose tensor happens not to be aligned
                result = task.detect(image)
            faces = []
            for face in result.detections:
                box = face.bounding_box
                points = np.array([[p.x * width, p.y * height] for p in face.keypoints], np.float64)
                x0, y0 = float(box.origin_x), float(box.origin_y)
                corners = (x0, y0, x0 + box.width, y0 + box.height)
                faces.append(Detection(name, float(face.categories[0].score), corners, points))
            return faces

        yield find


@contextlib.contextmanager
def _open_yunet(path: Path, threshold: float) -> Iterator[Find]:
    import cv2

    model = np.frombuffer(path.read_bytes(), np.uint8)
    net = cv2.FaceDetectorYN.create("onnx", model, np.empty(0, np.uint8), (320, 320), threshold, 0.3, 5000)

    def find(pixels: Pixels) -> list[Detection]:
        height, width = pixels.shape[:2]
        net.setInputSize((width, height))
        _, rows = net.detect(np.ascontiguousarray(pixels[:, :, ::-1]))
        faces = []
        for row in rows if rows is not None else ():
            x, y, w, h = (float(v) for v in row[:4])
            points = np.asarray(row[4:14], np.float64).reshape(5, 2)
            faces.append(Detection("yunet", float(row[14]), (x, y, x + w, y + h), points))
        return faces

    yield find


@contextlib.contextmanager
def _open_centerface(path: Path, threshold: float) -> Iterator[Find]:
    """CenterFace (Xu et al., 2019, arXiv 1911.03599): one heat map of face centres at a quarter of the size."""
    import cv2

    net: Any = cv2.dnn.readNetFromONNX(np.frombuffer(path.read_bytes(), np.uint8))

    def find(pixels: Pixels) -> list[Detection]:
        height, width = pixels.shape[:2]
        down, right = -height % 32, -width % 32  # the network halves five times
        padded: Any = cv2.copyMakeBorder(pixels, 0, down, 0, right, cv2.BORDER_REPLICATE)
        net.setInput(np.ascontiguousarray(padded.transpose(2, 0, 1)[None], np.float32))
        heat, sizes, offsets, points = (np.asarray(out)[0] for out in net.forward(["537", "538", "539", "540"]))
        rows, columns = np.nonzero(heat[0] >= threshold)
        scores = heat[0][rows, columns]
        h, w = 4 * np.exp(sizes[:, rows, columns].astype(np.float64))
        top = 4 * (rows + offsets[0, rows, columns] + 0.5) - h / 2
        left = 4 * (columns + offsets[1, rows, columns] + 0.5) - w / 2
        boxes = np.stack([left, top, w, h], axis=1)
        kept = cv2.dnn.NMSBoxes(boxes.tolist(), scores.tolist(), threshold, 0.3)
        faces = []
        for i in np.asarray(kept, int).ravel():
            y, x = points[:, rows[i], columns[i]].reshape(5, 2).astype(np.float64).T
            marks = np.stack([left[i] + x * w[i], top[i] + y * h[i]], axis=1)
            box = (float(left[i]), float(top[i]), float(left[i] + w[i]), float(top[i] + h[i]))
            faces.append(Detection("centerface", float(scores[i]), box, marks))
        return faces

    yield find


DETECTORS = {
    spec.name: spec
    for spec in (
        DetectorSpec(
            "yunet",
            _open_yunet,
            "yunet",
            1.0,
            ((0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9), (0.05, 0.12, 0.20, 0.35, 0.50, 0.75, 0.93, 0.99)),
        ),
        DetectorSpec(
            "centerface",
            _open_centerface,
            "centerface",
            3.0,
            ((0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0.05, 0.13, 0.28, 0.55, 0.76, 0.90, 0.97, 0.99)),
        ),
        DetectorSpec(
            "blazeface_full",
            partial(_open_blazeface, "blazeface_full"),
            "blazeface",
            0.5,
            ((0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0.15, 0.30, 0.45, 0.70, 0.87, 0.95, 0.99)),
            extent=(0.0, -0.056, 0.91, 1.20),
        ),
        DetectorSpec(
            "blazeface_short",
            partial(_open_blazeface, "blazeface_short"),
            "blazeface",
            0.5,
            ((0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8), (0.08, 0.15, 0.30, 0.50, 0.65, 0.85, 0.99)),
            extent=(0.0, -0.105, 0.955, 1.265),
        ),
    )
}
"""Every detector, the one whose box extent is the reference first. Calibrations are shares on half of 302 street
photos whose faces are labelled; a detection counts as a face where it overlaps a labelled one."""


def check_names(names: Sequence[str]) -> None:
    """Raise UsageError for no, unknown or repeated detectors."""
    unknown = [name for name in names if name not in DETECTORS]
    if unknown or not names or len(set(names)) != len(names):
        what = "Name each detector once, and at least one."
        if unknown:
            what = f"Unknown detector '{unknown[0]}'.{nearest(unknown[0], DETECTORS)}"
        raise UsageError(what, f"Known detectors: {', '.join(DETECTORS)}.")


@contextlib.contextmanager
def open_detectors(names: Sequence[str], thresholds: dict[str, float]) -> Iterator[dict[str, Find]]:
    """Load several detectors, by name.

    To be called in the process that detects: an instance inherited over fork hangs.
    """
    import cv2

    cv2.setNumThreads(1)  # processes are the unit of parallelism, and sums then have one order
    with contextlib.ExitStack() as stack:
        with quiet():
            finders = {}
            for name in names:
                threshold = thresholds.get(name, DETECTORS[name].threshold)
                finders[name] = stack.enter_context(DETECTORS[name].open(locate(name), threshold))
            blank = np.zeros((64, 64, 3), np.uint8)
            for find in finders.values():
                find(blank)  # loads lazily and writes to stderr

        try:
            yield finders
        finally:
            with quiet():
                stack.close()


def reduce_for_detection(pixels: Pixels, side: int = WORKING_SIDE) -> tuple[Pixels, float]:
    """The photo at most ``side`` pixels long (area filter), and the factor by which it was reduced (1: untouched)."""
    import cv2

    longest = max(pixels.shape[:2])
    if longest <= side:
        return pixels, 1.0
    scale = side / longest
    height, width = (max(1, round(n * scale)) for n in pixels.shape[:2])
    small: Any = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
    return small, scale
