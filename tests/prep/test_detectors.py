"""The detectors on one real face, and on photos of impossible shapes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from maskprep.errors import UsageError
from maskprep.faces.detectors import (
    DETECTORS,
    check_names,
    open_detectors,
    reduce_for_detection,
)
from maskprep.faces.face import cluster


@pytest.fixture(scope="module")
def find(all_detectors: None):  # type: ignore[no-untyped-def]
    with open_detectors(tuple(DETECTORS), {}) as detectors:
        yield lambda pixels: [face for find in detectors.values() for face in find(pixels)]


@pytest.mark.parametrize("factor", [1, 4])
def test_all_see_one_face_in_the_photo_s_own_pixels(find, portrait: Image.Image, factor: int) -> None:  # type: ignore[no-untyped-def]
    side = 300 * factor
    photo = np.asarray(portrait.resize((side, side)))
    faces = find(photo)
    assert {face.detector for face in faces} == set(DETECTORS)
    main = cluster(faces)[0]
    assert {faces[i].detector for i in main} == set(DETECTORS), "boxes of one face overlap"
    for i in main:
        face = faces[i]
        x0, y0, x1, y1 = np.array(face.box) / factor
        assert 80 < x0 < 130 and 150 < x1 < 210 and 40 < y0 < 120 and 150 < y1 < 200
        right, left, nose = face.keypoints[:3] / factor
        assert right[0] < left[0], "the person's right eye is on the left of the picture"
        assert min(right[1], left[1]) < nose[1]
        assert ((face.keypoints[:3] / factor > (x0, y0)) & (face.keypoints[:3] / factor < (x1, y1))).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (2, 3000), (3000, 2), (20000, 1), (31, 33)])
def test_photos_of_any_shape(find, shape: tuple[int, int]) -> None:  # type: ignore[no-untyped-def]
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3)).astype(np.uint8)
    for face in find(noise):
        assert np.isfinite(face.box).all()


def test_pixels_in_any_memory_order(find, portrait: Image.Image) -> None:  # type: ignore[no-untyped-def]
    photo = np.asarray(portrait)
    other = np.asfortranarray(photo)[::-1][::-1]
    for a, b in zip(find(photo), find(other), strict=True):
        assert a.box == b.box


def test_reducing() -> None:
    small, scale = reduce_for_detection(np.zeros((3000, 1500, 3), np.uint8))
    assert small.shape == (640, 320, 3)
    assert scale == pytest.approx(640 / 3000)
    same, one = reduce_for_detection(np.zeros((640, 10, 3), np.uint8))
    assert (same.shape, one) == ((640, 10, 3), 1.0)


@pytest.mark.parametrize("names", [(), ("x",), ("yunet", "yunet")])
def test_names_are_checked(names: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        check_names(names)
