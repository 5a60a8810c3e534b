"""The rules that turn a network's prediction into the subject's matte, on pictures drawn by hand."""

from __future__ import annotations

import numpy as np
import pytest

from maskprep.crops.compositing import foreground
from maskprep.mattes.refinement import refine
from maskprep.mattes.rules import face_mask, finish, keep_touching, photo_mask
from maskprep.mattes.runtime import matte_of

SIZE = (60, 80)


def disc(cx: float, cy: float, r: float, size: tuple[int, int] = SIZE) -> np.ndarray:
    y, x = np.mgrid[0 : size[0], 0 : size[1]] + 0.5
    return (x - cx) ** 2 + (y - cy) ** 2 <= r**2


def test_a_prediction_without_contrast_is_never_stretched_into_a_person() -> None:
    prediction = np.full(SIZE, 0.02, np.float32)
    prediction[20:40, 30:50] = 0.06
    alpha, clear = matte_of(prediction, SIZE)
    assert not clear and alpha.max() == 15  # 0.06 of 255, as it was
    matte = finish(alpha, clear)
    assert (matte.status, matte.components) == ("low_contrast", 0)
    sure = matte_of(prediction * 16, SIZE)
    assert sure[1] and sure[0].max() == 255 and sure[0].min() == 0


def test_a_matte_has_the_size_asked_for() -> None:
    alpha, _ = matte_of(np.eye(32, dtype=np.float32), (20, 50))
    assert (alpha.shape, alpha.dtype) == ((20, 50), np.uint8)


def test_another_person_apart_from_the_subject_is_cut_with_her_soft_edge() -> None:
    alpha = np.zeros(SIZE, np.uint8)
    alpha[disc(20, 30, 12)] = 200  # the subject, soft rim around it
    alpha[disc(20, 30, 10)] = 255
    alpha[disc(62, 30, 12)] = 60
    alpha[disc(62, 30, 10)] = 255
    face = face_mask((14, 24, 26, 36), SIZE)
    matte = finish(alpha, True, face)
    assert matte.status == "ok" and matte.components == 2
    assert matte.alpha[:, 45:].max() == 0  # all of her, the soft rim too
    np.testing.assert_array_equal(matte.alpha[:, :40], alpha[:, :40])
    assert matte.coverage == pytest.approx(alpha[:, :40].sum() / 255 / alpha.size)
    assert finish(alpha, True).alpha[:, 45:].max() == 255  # without a subject nobody is cut


def test_a_soft_strand_goes_with_the_nearest_solid_part() -> None:
    alpha = np.zeros(SIZE, np.uint8)
    alpha[10:50, 10:20] = 255
    alpha[10:50, 60:70] = 255
    alpha[30, 20:60] = 50  # a faint bridge joins the two; it is no connection
    kept = keep_touching(alpha, face_mask((12, 20, 18, 40), SIZE))
    assert kept[:, 60:70].max() == 0
    assert (kept[30, 20:39] == 50).all() and (kept[30, 41:60] == 0).all()


@pytest.mark.parametrize(("seen", "status"), [(36, "ok"), (24, "face_missed")])
def test_the_face_stays_even_where_the_network_sees_a_mask_as_background(seen: int, status: str) -> None:
    """A soft ellipse of it is put back, never its box; the status says whether most of the face was missed."""
    alpha = np.zeros(SIZE, np.uint8)
    alpha[:seen] = 255
    box = (20.0, 15.0, 50.0, 45.0)
    face = face_mask(box, SIZE)
    matte = finish(alpha, True, face)
    assert matte.status == status and matte.face_coverage == pytest.approx((alpha[face] > 0).mean())
    assert (matte.alpha[(disc(35, 30, 9)) | (alpha > 0)] == 255).all()
    assert matte.alpha[45:].max() == 0 and matte.alpha[43:45, [20, 49]].max() == 0  # no corner of the box
    edge = matte.alpha[40:45, 35].astype(int)
    assert (np.diff(edge) < 0).all() and 0 < edge[-1] < 128  # soft
    guess = finish(alpha, True, face, force=False)  # a rescued box is a guess
    assert guess.status == "ok" and (guess.alpha == alpha).all()


def test_a_face_that_was_seen_does_not_drag_the_corners_of_its_box_in() -> None:
    box = (20.0, 10.0, 60.0, 50.0)
    alpha = (disc(40, 30, 20.5) * 255).astype(np.uint8)
    matte = finish(alpha, True, face_mask(box, SIZE))
    assert matte.status == "ok" and matte.alpha[11, 21] == 0


def test_padding_is_not_the_person() -> None:
    transform = np.array([[1.0, 0, 10], [0, 1.0, 5]])  # the photo begins at (10, 5) of the crop and is 40x30
    inside = photo_mask(transform, (30, 40), SIZE)
    assert inside.sum() == 30 * 40 and inside[5:35, 10:50].all()
    matte = finish(np.full(SIZE, 255, np.uint8), True, face_mask((-5, -5, 20, 20), SIZE, transform), inside=inside)
    assert (matte.alpha > 0).sum() == 30 * 40


@pytest.mark.parametrize(("share", "status"), [(0.0, "empty"), (0.5, "ok"), (1.0, "full")])
def test_a_matte_that_separates_nothing_says_so(share: float, status: str) -> None:
    alpha = np.zeros(SIZE, np.uint8)
    alpha[: round(60 * share)] = 255
    matte = finish(alpha, True)
    assert matte.status == status
    # 2*80 + 2*58 pixels lie outermost; of the upper half these are 80 + 2*29
    assert matte.border_share == pytest.approx({0.0: 0, 0.5: 138 / 276, 1.0: 1}[share])


def test_the_face_turns_with_the_crop() -> None:
    quarter = np.array([[0.0, -1.0, 60], [1.0, 0.0, 0]])  # (x, y) -> (60 - y, x)
    found = face_mask((10, 20, 30, 30), (60, 60), quarter)
    rows, columns = np.nonzero(found)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (10, 29, 30, 39)


def test_foreground_colours_leave_no_halo() -> None:
    """A red disc with a soft edge on blue; the truth is known, and red it must be again."""
    y, x = np.mgrid[0:64, 0:64] + 0.5
    share = np.clip((22 - np.hypot(x - 32, y - 32)) / 6 + 0.5, 0, 1)
    alpha = np.rint(share * 255).astype(np.uint8)
    red, blue = np.array([200, 40, 30]), np.array([20, 60, 220])
    seen = np.rint(red * share[..., None] + blue * (1 - share[..., None])).astype(np.uint8)
    soft = (alpha > 0) & (alpha < 255)
    found = foreground(seen, alpha)
    assert np.abs(found[soft].astype(int) - red).max() <= 5
    assert np.abs(seen[soft].astype(int) - red).max() > 100  # what it would be without
    assert (found[alpha == 255] == seen[alpha == 255]).all()


@pytest.mark.parametrize("method", ["guided", "closed-form"])
def test_refinement_follows_the_picture(method: str) -> None:
    """A coarse matte, off by two pixels, comes closer to the true edge."""
    if method == "closed-form":
        pytest.importorskip("pymatting")
    truth = disc(40, 30, 18)
    pixels = np.where(truth[..., None], [210, 160, 120], [40, 70, 60]).astype(np.uint8)
    rough = (disc(42, 30, 18) * 255).astype(np.uint8)
    better = refine(pixels, rough, method)
    wrong = ((better >= 128) != truth).sum()
    assert wrong < 0.55 * ((rough >= 128) != truth).sum()
    blank = np.zeros(SIZE, np.uint8)
    assert refine(pixels, blank, method) is blank
