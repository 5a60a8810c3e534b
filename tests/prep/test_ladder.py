"""The search: what each rung shows, how faces map back, and what ends it."""

from __future__ import annotations

import numpy as np
import pytest

from maskprep.faces.choice import iou
from maskprep.faces.detectors import Detection, reduce_for_detection
from maskprep.faces.ladder import RUNGS, climb, looks, map_face
from maskprep.photos.decode import Pixels

RED = (255, 0, 0)


def photo_with_square(height: int, width: int, box: tuple[int, int, int, int]) -> Pixels:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = RED
    return pixels


def find_red(pixels: Pixels) -> list[Detection]:
    """A detector of red squares that knows nothing of rungs."""
    red = (pixels[:, :, 0] > 127) & (pixels[:, :, 1] < 64)
    if not red.any():
        return []
    ys, xs = np.nonzero(red)
    box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    centre = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    return [Detection("yunet", 0.9, box, np.array([centre] * 5))]


@pytest.mark.parametrize("size", [(512, 384), (300, 700), (1800, 1300), (90, 70)])
@pytest.mark.parametrize("rung", [r for r in RUNGS if r != "low"])
def test_what_a_rung_shows_maps_back_to_the_photo(rung: str, size: tuple[int, int]) -> None:
    height, width = size
    side = min(size) // 5
    box = (width // 3, height // 3, width // 3 + side, height // 3 + side)
    photo = photo_with_square(height, width, box)
    base, scale = reduce_for_detection(photo)
    found = []
    for look in looks(rung, base, photo, scale):
        for face in find_red(look.pixels):
            mapped = map_face(map_face(face, look.back), np.array([[1 / scale, 0, 0], [0, 1 / scale, 0]]))
            found.append(mapped)
            edge = face.box[0] <= 0 or face.box[1] <= 0
            cut = edge or face.box[2] >= look.pixels.shape[1] or face.box[3] >= look.pixels.shape[0]
            if rung == "turned":  # an upright box around a turned square is larger, its centre is the same
                assert np.allclose(mapped.keypoints[0], [box[0] + side / 2, box[1] + side / 2], atol=0.02 * max(size))
            elif not cut:
                assert iou(mapped.box, tuple(float(v) for v in box)) > 0.85
    assert found
    if rung == "tiles":
        assert any(iou(face.box, tuple(float(v) for v in box)) > 0.85 for face in found)


def face(x: float, y: float, side: float, detector: str, score: float) -> Detection:
    return Detection(detector, score, (x, y, x + side, y + side), np.full((6, 2), x + side / 2))


def keep(found: Detection) -> bool:
    return found.score >= 0.3


BOTH = ("yunet", "blazeface_full")


def test_a_clear_face_needs_one_look() -> None:
    shown = []

    def find(pixels: Pixels) -> list[Detection]:
        shown.append(pixels.shape)
        return [face(130, 150, 120, name, 0.8) for name in BOTH]

    seen = climb(np.zeros((512, 384, 3), np.uint8), find, keep, 2)
    assert len(shown) == 1 and {s.rung for s in seen} == {"as_is"}


@pytest.mark.parametrize("passer_by", [(5.0, 5.0, 60.0), (310.0, 20.0, 70.0), (170.0, 200.0, 40.0)])
def test_a_passer_by_does_not_end_the_search(passer_by: tuple[float, float, float]) -> None:
    """Small, or in a corner: seen by all with a high score, while the subject is seen only on the padded photo."""

    def find(pixels: Pixels) -> list[Detection]:
        if pixels.shape[:2] == (512, 384):
            return [face(*passer_by, name, 0.99) for name in BOTH]
        if pixels.shape[:2] == (640, 480):  # 1024 x 768 reduced
            return [face(150, 220, 150, name, 0.5) for name in BOTH]
        return []

    seen = climb(np.zeros((512, 384, 3), np.uint8), find, keep, 2)
    padded = [s for s in seen if s.rung == "padded"]
    assert padded and padded[0].face.box[2] - padded[0].face.box[0] == pytest.approx(150 * 1024 / 640)


def test_faint_faces_count_only_when_nothing_else_is_found() -> None:
    photo = np.zeros((512, 384, 3), np.uint8)

    def faint(pixels: Pixels) -> list[Detection]:
        return [face(130, 150, 120, name, 0.2) for name in BOTH] if pixels.shape[:2] == (512, 384) else []

    assert {s.rung for s in climb(photo, faint, keep, 2)} == {"low"}

    def both(pixels: Pixels) -> list[Detection]:
        return [*faint(pixels), face(30, 30, 20, "yunet", 0.95)]

    assert "low" not in {s.rung for s in climb(photo, both, keep, 2)}


def test_nothing_anywhere_is_an_empty_list() -> None:
    shown = []
    assert climb(np.zeros((200, 160, 3), np.uint8), lambda p: shown.append(p) or [], keep, 2) == []  # type: ignore[func-returns-value]
    assert len(shown) == 1 + 1 + 1 + 1 + 4 + 4  # every rung was tried
