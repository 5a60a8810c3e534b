"""Crop geometry, and pixels against computations that share nothing with it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from maskprep.crops.crop import CHANNELS, Crop, CropRow, sums
from maskprep.crops.geometry import (
    TEMPLATE,
    Framing,
    ViewSettings,
    cut,
    invert,
    map_points,
    parse_size,
    transform_for,
    warp,
)
from maskprep.errors import UsageError
from maskprep.photos.decode import PhotoFile

BOX = (120.0, 80.0, 200.0, 190.0)
PHOTO = (300, 400)


def transform(photo: tuple[int, int] = PHOTO, box: tuple[float, ...] | None = BOX, points=None, **settings):  # type: ignore[no-untyped-def]
    view = ViewSettings(**{"border": "reflect", **settings})  # type: ignore[arg-type]
    return transform_for(view, photo, box, points)


def ramp(height: int, width: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    return np.stack([x % 256, y % 256, (x + y) % 256], axis=2).astype(np.uint8)


@pytest.mark.parametrize("size", [(224, 224), (100, 260), (260, 100)])
@pytest.mark.parametrize("margin", [0.0, 0.35, -0.2])
def test_the_middle_of_the_box_is_the_middle_of_the_crop(size: tuple[int, int], margin: float) -> None:
    matrix = transform(size=size, margin=margin)
    middle = map_points(matrix, np.array([[160.0, 135.0]]))[0]
    assert middle == pytest.approx((size[1] / 2, size[0] / 2))
    top, bottom = map_points(matrix, np.array([[160.0, 80.0], [160.0, 190.0]]))
    assert bottom[1] - top[1] == pytest.approx(min(size) / (1 + 2 * margin))
    assert matrix[0, 1] == matrix[1, 0] == 0
    assert matrix[0, 0] == matrix[1, 1]


def test_there_and_back() -> None:
    points = np.random.default_rng(0).uniform(-100, 500, (50, 2))
    matrix = transform(align="eyes", points=np.array([[130.0, 110], [180, 130], [150, 150], [150, 170]]))
    assert map_points(invert(matrix), map_points(matrix, points)) == pytest.approx(points)


@pytest.mark.parametrize("degrees", [-170, -90, -20, 0, 35, 90, 179])
def test_eyes_are_level(degrees: float) -> None:
    angle = math.radians(degrees)
    direction = np.array([math.cos(angle), math.sin(angle)])
    middle = np.array([160.0, 130.0])
    points = np.array([middle - 25 * direction, middle + 25 * direction, middle, middle])
    right, left = map_points(transform(align="eyes", points=points), points[:2])
    assert right[1] == pytest.approx(left[1])
    assert right[0] < left[0], "the person's right eye is on the left of the picture"
    assert map_points(transform(align="eyes", points=points), np.array([[160.0, 135.0]]))[0] == pytest.approx(
        (112, 112)
    )


@pytest.mark.parametrize("degrees", [0, 25, -120])
def test_keypoints_of_the_template_land_where_it_has_them(degrees: float) -> None:
    angle = math.radians(degrees)
    rotation = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    points = 90 * TEMPLATE @ rotation.T + [210, 140]
    landed = map_points(transform(align="similarity", points=points, margin=0.25, size=(300, 200)), points)
    assert landed == pytest.approx(200 / 1.5 * TEMPLATE + [100, 150])


def test_without_keypoints_nothing_is_turned() -> None:
    for align in ("eyes", "similarity"):
        assert transform(align=align) == pytest.approx(transform(align="none"))


def test_baselines_need_no_face() -> None:
    assert transform(box=None) is None
    stretched = transform(box=None, crop="none", size=(100, 100))
    assert map_points(stretched, np.array([[0.0, 0], [400, 300]])) == pytest.approx(np.array([[0.0, 0], [100, 100]]))
    centred = transform(box=None, crop="centre", size=(100, 100))
    assert map_points(centred, np.array([[50.0, 0], [350, 300]])) == pytest.approx(np.array([[0.0, 0], [100, 100]]))


def test_a_resized_photo_cut_to_its_middle() -> None:
    """Resize(512, 384) and CenterCrop(300, 200) of a photo of that size, pixel for pixel; and of one twice as large."""
    photo = np.random.default_rng(0).integers(0, 256, (512, 384, 3)).astype(np.uint8)
    view = ViewSettings(size=(300, 200), crop="centre", zoom=min(512 / 300, 384 / 200))
    made = transform_for(view, (512, 384), None)
    assert made is not None
    np.testing.assert_array_equal(warp(photo, made, (300, 200)), photo[106:406, 92:292])
    large = transform_for(view, (1024, 768), None)
    corners = np.array([[184.0, 212], [584, 812]])
    assert large is not None and map_points(large, corners) == pytest.approx(np.array([[0.0, 0], [200, 300]]))


def test_a_zoom_is_kept_only_where_there_is_one() -> None:
    assert "zoom" not in ViewSettings(crop="centre").to_dict()
    assert ViewSettings(crop="centre", zoom=1.5).to_dict()["zoom"] == 1.5
    for settings in ({"zoom": 2.0}, {"zoom": 0.5, "crop": "centre"}, {"zoom": 2.0, "crop": "none"}):
        with pytest.raises(UsageError, match="zoom"):
            ViewSettings(**settings)


def test_identity_is_exact() -> None:
    photo = np.random.default_rng(0).integers(0, 256, (50, 70, 3)).astype(np.uint8)
    assert (warp(photo, np.array([[1.0, 0, 0], [0, 1, 0]]), (50, 70)) == photo).all()
    shifted = warp(photo, np.array([[1.0, 0, -20], [0, 1, -10]]), (30, 40))
    assert (shifted == photo[10:40, 20:60]).all()


@pytest.mark.parametrize("factor", [2, 3, 4, 7])
def test_shrinking_is_the_mean_over_the_area(factor: int) -> None:
    photo = np.random.default_rng(1).integers(0, 256, (20 * factor, 30 * factor, 3)).astype(np.uint8)
    expected = photo.reshape(20, factor, 30, factor, 3).mean(axis=(1, 3))
    crop = warp(photo, np.array([[1 / factor, 0, 0], [0, 1 / factor, 0]]), (20, 30))
    assert np.abs(crop - expected).max() <= 0.51


def test_a_checkerboard_shrinks_to_grey() -> None:
    y, x = np.mgrid[:256, :256]
    photo = np.repeat(((x + y) % 2 * 255).astype(np.uint8)[:, :, None], 3, axis=2)
    for shrink in (4, 4.7, 10):
        crop = warp(photo, np.array([[1 / shrink, 0, 0], [0, 1 / shrink, 0]]), (24, 24))
        assert np.abs(crop.astype(int) - 127.5).max() <= 12 if shrink != 4 else (crop == 128).all()


def test_a_stretched_photo_does_not_alias() -> None:
    """crop=none of a very wide photo: shrunk by 19 across and not at all down."""
    photo = np.zeros((40, 760, 3), np.uint8)
    photo[:, ::2] = 255
    crop = warp(photo, transform((40, 760), None, crop="none", size=(40, 40)), (40, 40))
    assert np.abs(crop.astype(int) - 127.5).max() <= 8


def test_growing_a_ramp_is_linear() -> None:
    photo = ramp(40, 40)
    crop = warp(photo, np.array([[4.0, 0, 0], [0, 4.0, 0]]), (160, 160))
    y, x = np.mgrid[:160, :160]
    inner = (slice(4, -4), slice(4, -4))
    assert np.abs(crop[..., 0] - ((x + 0.5) / 4 - 0.5))[inner].max() <= 0.6
    assert np.abs(crop[..., 1] - ((y + 0.5) / 4 - 0.5))[inner].max() <= 0.6


def test_turning_by_a_quarter_is_rot90() -> None:
    photo = np.random.default_rng(2).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    quarter = np.array([[0.0, -1, 32], [1, 0, 0]])
    assert (warp(photo, quarter, (32, 32)) == np.rot90(photo, -1)).all()


def test_stored_transform_says_where_pixels_came_from() -> None:
    """A bright dot in the photo is found in the crop where the transform puts it."""
    photo = np.zeros((*PHOTO, 3), np.uint8)
    photo[131:134, 171:174] = 255
    points = np.array([[140.0, 120], [185, 140], [160, 150], [158, 170]])
    for align in ("none", "eyes", "similarity"):
        matrix = transform(align=align, points=points)
        crop = warp(photo, matrix, (224, 224)).astype(float)[..., 0]
        y, x = np.mgrid[:224, :224] + 0.5
        found = (crop * x).sum() / crop.sum(), (crop * y).sum() / crop.sum()
        assert found == pytest.approx(map_points(matrix, np.array([[172.5, 132.5]]))[0], abs=0.15)


def test_borders() -> None:
    photo = np.arange(1, 5, dtype=np.uint8).reshape(1, 4, 1).repeat(4, 0).repeat(3, 2) * 10
    matrix = np.array([[1.0, 0, 2], [0, 1, 0]])
    rows = {b: warp(photo, matrix, (4, 8), b)[0, :, 0].tolist() for b in ("reflect", "replicate", "constant")}
    assert rows == {
        "reflect": [30, 20, 10, 20, 30, 40, 30, 20],
        "replicate": [10, 10, 10, 20, 30, 40, 40, 40],
        "constant": [0, 0, 10, 20, 30, 40, 0, 0],
    }


@pytest.mark.parametrize("photo", [(1, 1), (1, 300), (300, 1), (3, 4)])
@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
def test_tiny_photos_and_boxes_far_outside(photo: tuple[int, int], border: str) -> None:
    pixels = np.full((*photo, 3), 9, np.uint8)
    for box in ((0.0, 0.0, 1.0, 1.0), (-500.0, -500.0, -400.0, -300.0), (0.0, 0.0, 0.0, 0.0), (5.0, 5.0, 2.0, 2.0)):
        crop = warp(pixels, transform(photo, box), (224, 224), border)
        assert crop.shape == (224, 224, 3)
        assert crop.max() <= 9
        assert border == "constant" or crop.min() == 9


def test_a_box_much_larger_than_the_photo() -> None:
    crop = warp(np.full((50, 50, 3), 7, np.uint8), transform((50, 50), (-500, -500, 550, 550)), (224, 224))
    assert (crop == 7).all()


@pytest.mark.parametrize(
    ("text", "size"), [("224", (224, 224)), ("100x200", (100, 200)), ("10X20", (10, 20)), ("8×9", (8, 9))]
)
def test_sizes(text: str, size: tuple[int, int]) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "x", "axb", "1x2x3", "1.5", "10x"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        parse_size(text)


@pytest.mark.parametrize(
    "settings",
    [{"size": (7, 8)}, {"size": (8, 2049)}, {"size": (8, 8, 8)}, {"margin": -0.5}, {"margin": 5}, {"border": "x"}],
)
def test_views_that_make_no_sense(settings: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        ViewSettings(**settings)  # type: ignore[arg-type]


def test_sums_are_exact() -> None:
    pixels = np.random.default_rng(3).integers(0, 256, (2048, 2048, 3)).astype(np.uint8)
    record = sums(pixels)
    wide = pixels.astype(np.int64)
    for i, channel in enumerate(CHANNELS):
        assert record[f"sum_{channel}"] == wide[..., i].sum()
        assert record[f"sumsq_{channel}"] == (wide[..., i] ** 2).sum()
    assert record["count"] == 2048 * 2048
    where = np.zeros((2048, 2048), np.uint8)
    where[:3, :5] = 1
    part = sums(pixels, where, "fg_")
    assert part["fg_sum_g"] == wide[:3, :5, 1].sum()
    assert part["fg_count"] == 15


def test_sums_of_white_do_not_overflow() -> None:
    assert sums(np.full((2048, 2048, 3), 255, np.uint8))["sumsq_r"] == 2048 * 2048 * 255**2


def test_shards_are_of_bounded_size() -> None:
    assert Crop("v", ViewSettings((224, 224))).rows_per_shard == 256
    assert Crop("v", ViewSettings((1024, 1024))).rows_per_shard == 21
    assert Crop("v", ViewSettings((2048, 2048))).rows_per_shard == 16


def test_a_photo_that_vanished_is_no_crop(tmp_path) -> None:  # type: ignore[no-untyped-def]
    with Crop("face", ViewSettings()).open() as compute:
        assert compute(PhotoFile(tmp_path / "gone.jpg"), CropRow(PHOTO, BOX, None)) is None


@pytest.mark.parametrize("border", ["inside", "reflect"])
@pytest.mark.parametrize("align", ["none", "similarity"])
def test_a_reduced_photo_gives_the_same_crop(border: str, align: str) -> None:
    """The transform and what is counted are those of the full photo; the pixels differ by less than a level or two."""
    photo = ramp(1200, 1600)
    small = photo.reshape(300, 4, 400, 4, 3).mean((1, 3)).round().astype(np.uint8)
    box, points = (500.0, 300.0, 900.0, 850.0), TEMPLATE * 550 + (700, 575)
    view = ViewSettings((64, 64), border=border, align=align)
    full, reduced = cut(photo, view, box, points), cut(small, view, box, points, (1200, 1600), 4)
    assert full is not None and reduced is not None
    assert np.array_equal(full.transform, reduced.transform)
    assert (full.invented, full.margin) == (reduced.invented, reduced.margin)
    assert np.abs(full.pixels.astype(int) - reduced.pixels.astype(int)).mean() < 1


def test_a_photo_is_reduced_while_its_crop_still_shrinks_it_twice() -> None:
    view = ViewSettings((100, 100), margin=0.0, border="reflect")
    sides = {199: 1, 399: 1, 401: 2, 801: 4, 1601: 8, 9999: 8}
    for side, expected in sides.items():
        assert Framing(view, (20000, 20000), (5000.0, 5000.0, 5000.0 + side, 5000.0 + side)).reduction == expected, side
    assert Framing(view, (300, 400), None).reduction == 1
