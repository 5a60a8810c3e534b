"""Crops brought into their photo: what is moved, what is shrunk, what is invented after all."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskprep.crops.fitting import CORE, CORNERS, INVENTED
from maskprep.crops.geometry import TEMPLATE, ViewSettings, cut, invented_share, invert, map_points, transform_for

PHOTO = (300, 400)
Box = tuple[float, float, float, float]


def shown(box: Box, photo: tuple[int, int] = PHOTO, **settings: object) -> np.ndarray:
    """The rectangle x0, y0, x1, y1 of the photo that an upright crop shows."""
    made = transform_for(ViewSettings(**settings), photo, box)  # type: ignore[arg-type]
    assert made is not None and made[0, 1] == made[1, 0] == 0 and made[0, 0] == pytest.approx(made[1, 1])
    size = ViewSettings(**settings).size  # type: ignore[arg-type]
    return map_points(invert(made), np.array([[0.0, 0.0], [size[1], size[0]]])).ravel()


def test_a_crop_that_lies_in_the_photo_is_what_it_ever_was() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (*PHOTO, 3)).astype(np.uint8)
    for box in ((120.0, 80.0, 200.0, 190.0), (53.5, 38.5, 133.5, 148.5)):  # the second touches two edges
        inside, before = cut(photo, ViewSettings(), box), cut(photo, ViewSettings(border="reflect"), box)
        assert inside is not None and before is not None
        assert np.array_equal(inside.pixels, before.pixels) and np.array_equal(inside.transform, before.transform)
        assert (inside.invented, inside.margin) == (0.0, pytest.approx(0.35))


def test_a_crop_at_the_edge_is_moved_no_farther_than_needed() -> None:
    """A square of 170 around a face whose middle lies 60 from the left and 50 from the upper edge."""
    assert shown((20, 0, 100, 100)) == pytest.approx([0, 0, 170, 170])
    assert shown((250, 100, 350, 200)) == pytest.approx([215, 65, 385, 235])  # nothing to be done
    assert shown((310, 180, 390, 280)) == pytest.approx([230, 130, 400, 300])


def test_a_crop_larger_than_the_photo_is_shrunk() -> None:
    """A square of 340 does not fit a height of 300."""
    assert shown((100, 50, 250, 250)) == pytest.approx([25, 0, 325, 300])
    made = cut(np.zeros((*PHOTO, 3), np.uint8), ViewSettings(), (100, 50, 250, 250))
    assert made is not None and made.invented == 0 and made.margin == pytest.approx((300 / 200 - 1) / 2)


def test_an_oblong_crop_keeps_its_shape() -> None:
    """A crop twice as wide as high around a face of 200: 680 x 340 becomes 400 x 200."""
    assert shown((100, 50, 300, 250), size=(100, 200)) == pytest.approx([0, 50, 400, 250])


def test_of_a_face_beyond_the_edge_the_photographed_part_counts() -> None:
    """Half a face of 200 x 200 at the left edge of a narrow photo: 100 wide, so a square of 200 fits."""
    assert shown((-100, 50, 100, 250), (300, 220)) == pytest.approx([0, 40, 220, 260])


def test_a_wide_photo_that_the_face_fills_is_cut_at_the_face() -> None:
    assert shown((110, -5, 185, 104), (100, 300)) == pytest.approx([97.5, 0, 197.5, 100])


def test_a_tall_face_in_a_narrow_photo_loses_forehead_and_gets_a_narrow_edge() -> None:
    """A face of 100 x 130 in a photo of 100 x 150: a square of 100 / (1 - 0.07), nearer to the chin."""
    box = (0.0, 10.0, 100.0, 140.0)
    x0, y0, x1, y1 = shown(box, (150, 100))
    side = 100 / (1 - INVENTED)
    assert (x1 - x0, y1 - y0) == pytest.approx((side, side), rel=1e-6)
    assert x0 + x1 == pytest.approx(100)
    assert 140 - y1 < (y0 - 10) / 3, "the forehead is cut before the chin"
    eyes, mouth = (75 + 130 * y for y in (TEMPLATE[0, 1], TEMPLATE[3, 1]))
    assert y0 < eyes - 0.1 * 130 and y1 > mouth + 0.1 * 130
    made = cut(np.zeros((150, 100, 3), np.uint8), ViewSettings(), box)
    assert made is not None and made.invented == pytest.approx(INVENTED, abs=1e-6)


def test_a_little_is_invented_rather_than_cutting_the_face() -> None:
    """A face of 104 in a photo of 100: 4 % of edge colour, and the whole face."""
    assert shown((0, 10, 100, 114), (150, 100)) == pytest.approx([-2, 10, 102, 114])


def test_in_a_slit_more_is_invented_before_eyes_and_mouth_are_cut() -> None:
    x0, y0, x1, y1 = shown((0, 50, 40, 150), (200, 40))
    assert y1 - y0 == pytest.approx(CORE * 100) and (x0, x1) == pytest.approx((-15, 55))


def test_what_is_invented_is_the_colour_of_the_edge() -> None:
    photo = np.zeros((150, 100, 3), np.uint8)
    photo[:, :2], photo[:, 2:50] = (10, 200, 30), (250, 0, 0)
    made = cut(photo, ViewSettings(), (0, 10, 100, 140))
    assert made is not None
    assert (made.pixels[:, :7] == (10, 200, 30)).all(), "no mirror image: the red beside it does not come back"
    assert (made.pixels[:, -7:] == 0).all()


@pytest.mark.parametrize("border", ["reflect", "replicate", "constant", "blur"])
def test_other_borders_leave_the_crop_where_it_is(border: str) -> None:
    assert shown((-10, 0, 90, 100), border=border) == pytest.approx([-45, -35, 125, 135])
    made = cut(np.zeros((*PHOTO, 3), np.uint8), ViewSettings(border=border), (-10, 0, 90, 100))
    assert made is not None and made.margin == pytest.approx(0.35)
    assert made.invented == pytest.approx(1 - 125 * 135 / 170**2)


@pytest.mark.parametrize("box", [(-500, -500, -400, -300), (900, 100, 1000, 200), (0, 0, 0, 0), (399, 299, 400, 300)])
def test_boxes_outside_the_photo_show_the_nearest_part_of_it(box: Box) -> None:
    x0, y0, x1, y1 = shown(box)
    assert min(x0, y0) >= -1e-6 and x1 <= 400 + 1e-6 and y1 <= 300 + 1e-6


@pytest.mark.parametrize("photo", [(1, 1), (1, 300), (300, 1), (3, 4)])
def test_tiny_photos(photo: tuple[int, int]) -> None:
    for box in ((0.0, 0.0, 1.0, 1.0), (-500.0, -500.0, 500.0, 500.0), (5.0, 5.0, 2.0, 2.0)):
        made = cut(np.full((*photo, 3), 9, np.uint8), ViewSettings(), box)
        assert made is not None and (made.pixels == 9).all() and 0 <= made.invented < 1


def turned(box: Box, degrees: float) -> np.ndarray:
    angle = math.radians(degrees)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    middle = [(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]
    return (box[3] - box[1]) * TEMPLATE @ rotation.T + middle


@pytest.mark.parametrize("align", ["eyes", "similarity"])
def test_turned_crops_show_the_face_and_invent_less(align: str) -> None:
    """Faces anywhere, of any size and turn: the crop holds the eyes and the mouth, and invents no more than before."""
    random, better = np.random.default_rng(4), 0
    for _ in range(300):
        height, width = random.integers(60, 400, 2).tolist()
        side = float(random.uniform(0.2, 1.1) * min(height, width))
        cx, cy = random.uniform(0.3, 0.7) * width, random.uniform(0.3, 0.7) * height
        box = (cx - 0.38 * side, cy - side / 2, cx + 0.38 * side, cy + side / 2)
        points = turned(box, float(random.uniform(-40, 40)))
        matrices = [
            transform_for(ViewSettings(align=align, border=b), (height, width), box, points)
            for b in ("inside", "reflect")
        ]
        inside, before = (invented_share(m, (height, width), (224, 224)) for m in matrices if m is not None)
        assert inside <= before + 1e-6
        better += inside < before / 2
        matrix = matrices[0]
        assert matrix is not None and (matrix[0, 0], matrix[0, 1]) == pytest.approx((matrix[1, 1], -matrix[1, 0]))
        there = points[(points > 0).all(axis=1) & (points < [width, height]).all(axis=1)]
        assert (np.abs(map_points(matrix, there) - 112) <= 112).all()
        right, left = map_points(matrix, points[:2])
        assert right[1] == pytest.approx(left[1], abs=1e-6), "still level"
    assert better > 200


@pytest.mark.parametrize(("left", "at", "most"), [(60.0, 170 / math.sqrt(2), 0.0), (20.0, 116.0, CORNERS)])
def test_a_turned_crop_with_room_beside_it_is_moved(left: float, at: float, most: float) -> None:
    """A square of 170 turned by 45 degrees reaches 120.2 from its middle; a face at the edge holds it back a little."""
    box = (left, 100.0, left + 80, 200.0)
    made = transform_for(ViewSettings(align="eyes"), (400, 600), box, turned(box, 45))
    assert made is not None
    assert map_points(invert(made), np.array([[112.0, 112.0]]))[0] == pytest.approx([at, 150], abs=0.3)
    assert invented_share(made, (400, 600), (224, 224)) <= most
    assert math.hypot(made[0, 0], made[1, 0]) == pytest.approx(224 / 170), "as large as the margin says"


def test_the_invented_share_is_exact() -> None:
    assert invented_share(np.array([[1.0, 0, -20], [0, 1, -10]]), (100, 100), (50, 50)) == 0
    assert invented_share(np.array([[1.0, 0, 25], [0, 1, 0]]), (100, 100), (50, 50)) == pytest.approx(0.5)
    assert invented_share(np.array([[1.0, 0, 500], [0, 1, 0]]), (100, 100), (50, 50)) == 1
    diamond = np.array([[0.5, -0.5, 50], [0.5, 0.5, 0]])  # the photo's corners touch the middles of the crop's sides
    assert invented_share(diamond, (100, 100), (100, 100)) == pytest.approx(0.5)
    random = np.random.default_rng(1)
    y, x = (np.mgrid[:700, :700] + 0.5) / 7
    grid = np.column_stack([x.ravel(), y.ravel()])
    for _ in range(20):
        angle, scale = random.uniform(-3, 3), random.uniform(0.3, 3)
        cos, sin = scale * math.cos(angle), scale * math.sin(angle)
        matrix = np.array([[cos, sin, random.uniform(-40, 140)], [-sin, cos, random.uniform(-40, 140)]])
        there = map_points(invert(matrix), grid)
        outside = ~((there > 0) & (there < [90, 60])).all(axis=1)
        assert invented_share(matrix, (60, 90), (100, 100)) == pytest.approx(outside.mean(), abs=2e-3)
