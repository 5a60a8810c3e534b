"""Face detectors behind one small interface: BlazeFace short and full range (MediaPipe), YuNet (OpenCV).

None of them is enough alone. BlazeFace short range finds faces that fill the frame, YuNet small and far ones, and
they fail on different masked faces; so all of them look at every photo and nothing is thrown away here.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.errors import UsageError
from maskprep.photos.decode import Pixels
from maskprep.quiet import quiet
from maskprep.store.weights import REGISTRY, locate

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
            YuNet: right and left corner).
        sharpness: detail around the eyes, see :func:`maskprep.faces.ladder.sharpness`; NaN when not measured.
        matte: mean of the whole photo's matte within the box, 0..1; NaN when there is none.
    """

    detector: str
    score: float
    box: tuple[float, float, float, float]
    keypoints: NDArray[np.float64]
    sharpness: float = math.nan
    matte: float = math.nan


Find = Callable[[Pixels], list[Detection]]
"""uint8 [h, w, 3] RGB -> faces in its pixels."""


@dataclass(frozen=True)
class DetectorSpec:
    """A detector by name.

    Args:
        name: as given to ``--detectors``.
        weight: name in the weights registry.
        threshold: faces below this score are not kept.
        open: makes the detector from its model file and threshold; closed when the context ends.
        extent: how this detector's box must change to have the extent of YuNet's, so that crops do not depend on
            which detector saw the face: shift of the centre in x and y and factors for width and height, all relative
            to the box's own width and height. Medians over photos on which both saw the face.
    """

    name: str
    weight: str
    threshold: float
    open: Callable[[Path, float], contextlib.AbstractContextManager[Find]]
    extent: tuple[float, float, float, float] = (0.0, 0.0, 1.0, 1.0)

    @property
    def sha256(self) -> str:
        """Hash of the model file, part of every key of the stage."""
        return REGISTRY[self.weight].sha256


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
            result = task.detect(mp.Image(image_format=mp.ImageFormat.SRGB, data=np.ascontiguousarray(pixels)))
            faces = []
            for face in result.detections:
                box = face.bounding_box
                points = np.array([[p.x * width, p.y * height] for p in face.keypoints], np.float64)
                x0, y0 = float(box.origin_x), float(box.origin_y)
                corners = (x0, y0, x0 + box.width, y0 + box.height)
                faces.append(Detection(name, float(face.categories[0].score), corners, points))
            return faces

        yield find


def _open_short(path: Path, threshold: float) -> contextlib.AbstractContextManager[Find]:
    return _open_blazeface("blazeface_short", path, threshold)


def _open_full(path: Path, threshold: float) -> contextlib.AbstractContextManager[Find]:
    return _open_blazeface("blazeface_full", path, threshold)


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


DETECTORS = {
    spec.name: spec
    for spec in (
        DetectorSpec("yunet", "yunet", 0.3, _open_yunet),
        DetectorSpec("blazeface_full", "blazeface_full", 0.3, _open_full, extent=(0.0, -0.056, 0.91, 1.20)),
        DetectorSpec("blazeface_short", "blazeface_short", 0.3, _open_short, extent=(0.0, -0.105, 0.955, 1.265)),
    )
}
"""Every detector, the one whose box extent is the reference first."""


def check_names(names: Sequence[str]) -> None:
    """Raise UsageError for no, unknown or repeated detectors."""
    unknown = [name for name in names if name not in DETECTORS]
    if unknown or not names or len(set(names)) != len(names):
        what = f"Unknown detector '{unknown[0]}'." if unknown else "Name each detector once, and at least one."
        raise UsageError(what, f"Known detectors: {', '.join(DETECTORS)}.")


@contextlib.contextmanager
def open_detectors(names: Sequence[str], thresholds: dict[str, float]) -> Iterator[Find]:
    """Load several detectors; the function runs all of them on one picture, as it is.

    To be called in the process that detects: an instance inherited over fork hangs.
    """
    import cv2

    cv2.setNumThreads(1)  # processes are the unit of parallelism, and sums then have one order
    with contextlib.ExitStack() as stack:
        with quiet():
            finders = []
            for name in names:
                spec = DETECTORS[name]
                opened = spec.open(locate(spec.weight), thresholds.get(name, spec.threshold))
                finders.append(stack.enter_context(opened))
            blank = np.zeros((64, 64, 3), np.uint8)
            for find in finders:
                find(blank)  # the first call is the slow and the talkative one

        def find_all(pixels: Pixels) -> list[Detection]:
            return [face for find in finders for face in find(pixels)]

        try:
            yield find_all
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


def rescale(face: Detection, factor: float) -> Detection:
    """A face in pixels of an image ``factor`` times as large."""
    if factor == 1.0:
        return face
    x0, y0, x1, y1 = (v * factor for v in face.box)
    return Detection(face.detector, face.score, (x0, y0, x1, y1), face.keypoints * factor)
