"""Other backgrounds, laid when crops are read."""

from __future__ import annotations

import numpy as np
import pytest

from maskprep.base.colours import parse_colour
from maskprep.crops.compositing import Background, blurred_ground, cut_out, empty_ground, noise, over, place
from maskprep.errors import UsageError

SIZE = (48, 40)


def crop(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A red person with a soft outline before a background of its own colour, and the matte."""
    y, x = np.mgrid[0 : SIZE[0], 0 : SIZE[1]] + 0.5
    share = np.clip((14 - np.hypot(x - 20, y - 26)) / 4 + 0.5, 0, 1)
    alpha = np.rint(share * 255).astype(np.uint8)
    ground = np.random.default_rng(seed).integers(0, 100, 3)
    pixels = np.array([220, 30, 20]) * share[..., None] + ground * (1 - share[..., None])
    return np.rint(pixels).astype(np.uint8), alpha


class Crops:
    """Ten crops; the last has no matte to speak of."""

    def gather_original(self, indices: list[int], out: None = None) -> np.ndarray:
        return np.stack([crop(i)[0] for i in indices])

    def gather_alpha(self, indices: list[int], out: None = None) -> np.ndarray:
        return np.stack([crop(i)[1] for i in indices])

    def matte_statuses(self, indices: list[int]) -> list[str | None]:
        return ["low_contrast" if i == 9 else "ok" for i in indices]


def laid(background: Background, rows: list[int], epoch: int | None = None) -> np.ndarray:
    pixels = Crops().gather_original(rows)
    background.lay(Crops(), pixels, np.array(rows), epoch)
    return pixels


def test_over_is_exact() -> None:
    person, ground = np.full((1, 3, 3), 200, np.uint8), np.full((1, 3, 3), 100, np.uint8)
    alpha = np.array([[255, 0, 128]], np.uint8)
    # 200*128/255 + 100*127/255 = 150.196
    assert over(person, alpha, ground)[0, :, 0].tolist() == [200, 100, 150]


def test_a_half_transparent_pixel_shows_no_trace_of_its_old_background() -> None:
    """rembg #474: laid on white, the soft edge of a red person before blue must be pink."""
    pixels, alpha = crop(3)
    white = place(pixels, alpha, np.array([255, 255, 255], np.uint8)).astype(int)
    share = alpha[..., None] / 255
    truth = np.array([220, 30, 20]) * share + 255 * (1 - share)
    assert np.abs(white - truth).max() <= 3
    naive = over(pixels, alpha, np.array([255, 255, 255], np.uint8))
    assert np.abs(naive - truth).max() > 25
    assert (place(pixels, alpha, np.zeros(3, np.uint8))[alpha == 255] == pixels[alpha == 255]).all()


def test_a_cut_out_keeps_colours_apart_from_alpha() -> None:
    pixels, alpha = crop(1)
    found = cut_out(pixels, alpha)
    assert found.shape == (*SIZE, 4) and (found[..., 3] == alpha).all()
    assert np.abs(found[alpha > 0][:, :3].astype(int) - [220, 30, 20]).max() <= 5
    assert found[alpha == 0].max() == 0


@pytest.mark.parametrize("fill", [empty_ground, blurred_ground])
def test_the_person_leaves_no_trace_in_a_background(fill: object) -> None:
    pixels, alpha = crop(4)
    ground = fill(pixels, alpha)  # type: ignore[operator]
    assert np.abs(ground.astype(int) - pixels[0, 0]).max() <= 2
    everything = fill(pixels, np.full(SIZE, 255, np.uint8))  # type: ignore[operator]
    assert everything.shape == (*SIZE, 3)  # no background at all: grey


def test_one_colour_behind_everybody_but_those_without_a_matte() -> None:
    rows = [2, 9, 0]
    found = laid(Background("colour", (10, 200, 30)), rows)
    for i, row in enumerate(rows):
        pixels, alpha = crop(row)
        away = alpha == 0
        assert (found[i][away] == ((10, 200, 30) if row != 9 else pixels[away])).all()


def test_random_backgrounds_depend_on_seed_epoch_and_image_alone() -> None:
    sources = np.arange(9)
    draw = Background("random", seed=5, sources=sources)
    alone = {row: laid(draw, [row], 2)[0] for row in range(9)}
    together = laid(draw, [8, 3, 0, 5], 2)
    for i, row in enumerate([8, 3, 0, 5]):
        np.testing.assert_array_equal(together[i], alone[row])
    assert any((laid(draw, [row], 3)[0] != alone[row]).any() for row in range(9))
    other = Background("random", seed=6, sources=sources)
    assert any((laid(other, [row], 2)[0] != alone[row]).any() for row in range(9))


def test_random_backgrounds_are_for_training_and_of_every_kind() -> None:
    draw = Background("random", sources=np.array([7]))
    np.testing.assert_array_equal(laid(draw, [0, 1]), Crops().gather_original([0, 1]))
    borrowed, plain, kept = 0, 0, 0
    for epoch in range(60):
        found, (pixels, alpha) = laid(draw, [1], epoch)[0], crop(1)
        ground = found[alpha == 0]
        kept += bool((found == pixels).all())
        borrowed += bool(np.abs(ground.astype(int) - crop(7)[0][0, 0]).max() <= 2)
        plain += bool((ground == ground[0]).all() and not (found == pixels).all())
        assert (found[alpha == 255] == pixels[alpha == 255]).all()
    assert 15 <= borrowed <= 40 and kept >= 4 and plain - borrowed >= 4
    assert 60 - kept - plain >= 3  # noise


def test_noise_has_the_size_asked_for_and_is_repeatable() -> None:
    first, again = (noise((33, 20), np.random.default_rng(1)) for _ in range(2))
    assert first.shape == (33, 20, 3) and (first == again).all() and first.std() > 5


@pytest.mark.parametrize(
    ("text", "colour"), [("#0a14ff", (10, 20, 255)), ("10, 20,255", (10, 20, 255)), ("White", (255, 255, 255))]
)
def test_colours(text: str, colour: tuple[int, int, int]) -> None:
    assert parse_colour(text) == colour
    for wrong in ("#12345", "1,2", "300,0,0", "whitish", "²,1,1"):
        with pytest.raises(UsageError):
            parse_colour(wrong)
    with pytest.raises(UsageError, match="Unknown background"):
        Background("blurr")
