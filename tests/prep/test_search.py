"""The search: what each pass shows, how faces map back, who is asked, and what ends it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageFilter

from maskprep.faces.detectors import DETECTORS, Detection, Find, reduce_for_detection
from maskprep.faces.face import Face, iou
from maskprep.faces.renditions import close, looks, map_face
from maskprep.faces.search import PASSES, find_faces, sharpness
from maskprep.photos.decode import Pixels

RED = (255, 0, 0)
PHOTO = np.zeros((512, 384, 3), np.uint8)
THRESHOLDS = dict.fromkeys(DETECTORS, 0.3)


def photo_with_square(height: int, width: int, box: tuple[int, int, int, int]) -> Pixels:
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[box[1] : box[3], box[0] : box[2]] = RED
    return pixels


def find_red(pixels: Pixels) -> list[Detection]:
    """A detector of red squares that knows nothing of search passes."""
    red = (pixels[:, :, 0] > 127) & (pixels[:, :, 1] < 64)
    if not red.any():
        return []
    ys, xs = np.nonzero(red)
    box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
    centre = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    return [Detection("yunet", 0.9, box, np.array([centre] * 5))]


@pytest.mark.parametrize("size", [(512, 384), (300, 700), (1800, 1300), (90, 70)])
@pytest.mark.parametrize("each", [r for r in PASSES if r not in ("low", "close")])
def test_what_a_pass_shows_maps_back_to_the_photo(each: str, size: tuple[int, int]) -> None:
    height, width = size
    side = min(size) // 5
    box = (width // 3, height // 3, width // 3 + side, height // 3 + side)
    photo = photo_with_square(height, width, box)
    base, scale = reduce_for_detection(photo)
    found = []
    for look in looks(each, base, photo, scale):
        for face in find_red(look.pixels):
            mapped = map_face(map_face(face, look.back), np.array([[1 / scale, 0, 0], [0, 1 / scale, 0]]))
            found.append(mapped)
            edge = face.box[0] <= 0 or face.box[1] <= 0
            cut = edge or face.box[2] >= look.pixels.shape[1] or face.box[3] >= look.pixels.shape[0]
            if each == "turned":  # an upright box around a turned square is larger, its centre is the same
                assert np.allclose(mapped.keypoints[0], [box[0] + side / 2, box[1] + side / 2], atol=0.02 * max(size))
            elif not cut:
                assert iou(mapped.box, tuple(float(v) for v in box)) > 0.85
    assert found
    if each == "tiles":
        assert any(iou(face.box, tuple(float(v) for v in box)) > 0.85 for face in found)


@pytest.mark.parametrize("box", [(100, 120, 160, 180), (0, 0, 50, 50), (340, 480, 384, 512), (3, 3, 9, 9)])
def test_a_close_look_shows_the_face_at_a_third_of_96_pixels(box: tuple[int, int, int, int]) -> None:
    photo = photo_with_square(512, 384, box)
    look = close(photo, [float(v) for v in box], 0.5)
    assert look.pixels.shape == (96, 96, 3)
    (face,) = find_red(look.pixels)
    assert 28 <= face.box[2] - face.box[0] <= 40
    half = tuple(v / 2 for v in box)  # in pixels of the photo at half its size
    assert np.allclose(map_face(face, look.back).box, half, atol=0.7)


# ---------------------------------------------------------------- who is asked


def face(x: float, y: float, side: float, detector: str, score: float) -> Detection:
    return Detection(detector, score, (x, y, x + side, y + side), np.full((6, 2), x + side / 2))


Sees = Callable[[str, Pixels], list[Detection]]


Shown = list[tuple[str, tuple[int, int]]]


def run(sees: Sees, names: tuple[str, ...] = tuple(DETECTORS)) -> tuple[list[Detection], list[Face], Shown]:
    """The search with made-up detectors: detections, faces, and who was shown pictures of which size."""
    shown: Shown = []

    def detector(name: str) -> Find:
        def find(pixels: Pixels) -> list[Detection]:
            shown.append((name, (pixels.shape[0], pixels.shape[1])))
            return [found for found in sees(name, pixels) if found.detector == name]

        return find

    return *find_faces(PHOTO, {name: detector(name) for name in names}, THRESHOLDS), shown


def seen_by(names: tuple[str, ...], x: float, y: float, side: float, score: float) -> list[Detection]:
    return [face(x, y, side, name, score) for name in names]


BOTH = ("yunet", "blazeface_short")


def test_a_portrait_needs_one_look_of_two_detectors() -> None:
    detections, (subject,), shown = run(lambda name, pixels: seen_by(BOTH, 130, 150, 120, 0.9))
    assert sorted(shown) == [("blazeface_short", (512, 384)), ("yunet", (512, 384))]
    assert subject.confirmed and {d.search_pass for d in detections} == {"as_is"}


def test_what_one_family_sees_gets_a_close_look() -> None:
    """YuNet alone is not enough; CenterFace sees the face at 96 x 96, where it is 32 pixels large."""

    def sees(name: str, pixels: Pixels) -> list[Detection]:
        if pixels.shape[:2] == (96, 96):
            return [face(32, 32, 32, "centerface", 0.8)]
        return [face(130, 150, 60, "yunet", 0.9)] if pixels.shape[:2] == (512, 384) else []

    def close_only(name: str, pixels: Pixels) -> list[Detection]:
        if pixels.shape[:2] == (320, 240):
            return [face(81, 94, 37, "centerface", 0.35)]
        return sees(name, pixels)

    detections, faces, shown = run(close_only)
    assert ("centerface", (96, 96)) in shown
    (subject,) = [f for f in faces if f.confirmed]
    assert {(detections[i].detector, detections[i].search_pass) for i in subject.faces} == {
        ("yunet", "as_is"),
        ("centerface", "small"),
        ("centerface", "close"),
    }
    assert iou(subject.box, (130, 150, 190, 210)) > 0.9


def test_a_face_that_the_close_look_denies_is_not_confirmed() -> None:
    _, faces, shown = run(lambda name, pixels: seen_by(BOTH, 20, 20, 100, 0.66) if len(pixels) == 512 else [])
    assert ("centerface", (96, 96)) in shown
    assert faces and not any(f.confirmed for f in faces)
    assert max(f.evidence for f in faces) < 0.35


@pytest.mark.parametrize("passer_by", [(5.0, 5.0, 60.0), (310.0, 20.0, 70.0), (170.0, 200.0, 40.0)])
@pytest.mark.parametrize("seen_at", ["padded", "small"])
def test_a_passer_by_does_not_end_the_search(passer_by: tuple[float, float, float], seen_at: str) -> None:
    """Small, or in a corner: seen by all with a high score, while the subject is seen only on another rendition."""

    def sees(name: str, pixels: Pixels) -> list[Detection]:
        shape = pixels.shape[:2]
        if shape == (512, 384):
            return [face(*passer_by, n, 0.99) for n in DETECTORS]
        if shape == (640, 480) and seen_at == "padded":  # 1024 x 768 reduced
            return [face(150, 220, 150, "blazeface_short", 0.6)]
        if shape == (320, 240) and seen_at == "small":
            return [face(70, 100, 90, "centerface", 0.7)]
        return [face(32, 32, 32, "centerface", 0.8)] if shape == (96, 96) else []

    detections, faces, _ = run(sees)
    (near,) = [f for f in faces if f.box[2] - f.box[0] > 100]
    assert near.evidence > 0.35
    assert {detections[i].search_pass for i in near.faces} == {seen_at, "close"}


def test_hard_photos_get_every_rendition_and_lower_scores() -> None:
    def faint(name: str, pixels: Pixels) -> list[Detection]:
        return seen_by(("yunet",), 130, 150, 120, 0.2) if pixels.shape[:2] == (512, 384) else []

    detections, _, shown = run(faint)
    assert {d.search_pass for d in detections} == {"low"}
    assert len({shape for _, shape in shown}) > 5

    def credible(name: str, pixels: Pixels) -> list[Detection]:
        return [*faint(name, pixels), *seen_by(("yunet", "centerface"), 30, 30, 40, 0.8)]

    detections, _, _ = run(credible)
    assert "low" not in {d.search_pass for d in detections}, "lower scores are for photos without a credible face"


def test_nothing_anywhere_is_an_empty_list() -> None:
    detections, faces, shown = run(lambda name, pixels: [])
    assert (detections, faces) == ([], [])
    assert len([1 for name, _ in shown if name == "yunet"]) == 1 + 1 + 1 + 4 + 4  # every rendition but the small one


def test_one_family_alone_can_be_trusted_by_its_score() -> None:
    for names in (("yunet",), ("blazeface_full",), ("centerface",)):
        _, faces, shown = run(lambda name, pixels: seen_by((name,), 130, 150, 120, 0.95), names)
        assert faces[0].confirmed, names
        assert {name for name, _ in shown} == set(names)


def test_sharpness_of_a_blurred_face_is_lower() -> None:
    grey = np.random.default_rng(0).integers(0, 256, (100, 100)).astype(np.uint8)
    flat = np.full((100, 100), 90, np.uint8)
    soft = np.asarray(Image.fromarray(grey).filter(ImageFilter.BoxBlur(3)))
    box = (10.0, 10.0, 90.0, 90.0)
    assert sharpness(grey, box) > 2 * sharpness(soft, box) > sharpness(flat, box) == 0
    assert sharpness(grey, (200.0, 200.0, 260.0, 260.0)) == 0
