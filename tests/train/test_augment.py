"""What training images go through: on one image and on whole batches, mixed, and by the recipes of their classes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from maskprep.base import UsageError
from maskprep.dataset import open_view
from maskprep.labels import Schema
from masktrain.cli import show
from masktrain.config.config import FitConfig
from masktrain.config.images import RECIPES, AugmentConfig
from masktrain.study.fit import fit
from masktrain.train.augment import Augmenter, Mixing, Transforms, by_class, shown
from masktrain.train.draws import AUGMENT, MIX, keys

Make = Callable[..., FitConfig]


def augmenter(recipe: str, size: tuple[int, int], **settings: Any) -> Augmenter:
    return Augmenter(AugmentConfig(recipe=recipe, **settings), Schema(()), size, 0)


def drawn(made: Augmenter, n: int, epoch: int = 1) -> Transforms:
    rows = torch.arange(n)
    return made.transforms(keys(0, epoch, rows, torch.zeros_like(rows), AUGMENT), torch.zeros_like(rows))


def smooth(n: int, size: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Random pictures uint8 [n, H, W, 3] without noise."""
    coarse = np.random.default_rng(seed).integers(0, 256, (n, 6, 6, 3), dtype=np.uint8)
    return np.stack([cv2.resize(c, size[::-1], interpolation=cv2.INTER_CUBIC) for c in coarse])


def everywhere(made: Augmenter, pixels: np.ndarray, what: Transforms) -> tuple[np.ndarray, np.ndarray]:
    """Pixels as a GPU transforms them, whole batches at once, and as a CPU does, one after the other."""
    host = pixels.copy()
    made.apply_on_host(host, what, np.zeros(len(host), dtype=np.int64))
    return made.apply(torch.from_numpy(pixels), what).numpy(), host


@pytest.mark.parametrize("recipe", ["none", "light", "base", "strong"])
@pytest.mark.parametrize("size", [(48, 48), (64, 40)])
def test_every_device_makes_the_same_images(recipe: str, size: tuple[int, int]) -> None:
    """Within half a level of 255 on average; only interpolation and rounding differ."""
    made, pixels = augmenter(recipe, size), smooth(64, size)
    device, host = everywhere(made, pixels, drawn(made, 64))
    apart = np.abs(device.astype(int) - host)
    assert apart.mean() < 0.5 and apart.mean((1, 2, 3)).max() < 1
    assert recipe == "none" or (host != pixels).any((1, 2, 3)).mean() > 0.8


def still(n: int) -> Transforms:
    """What changes nothing."""
    same = torch.zeros(n)
    return Transforms(
        torch.eye(2, 3).repeat(n, 1, 1), same, torch.arange(n), torch.eye(3).repeat(n, 1, 1), same + 1, same + 1,
        same.long(), same, same.long(), torch.zeros(n, 2, 4, dtype=torch.long),
    )  # fmt: skip


def changed(what: Transforms, **values: Tensor) -> Transforms:
    return dataclasses.replace(what, **values)


def test_batched_augmentation_by_hand() -> None:
    """Nothing changes nothing; a mirror image, a move by whole pixels, light, grey and erased boxes are exact."""
    size = (24, 16)
    made, pixels = augmenter("strong", size), smooth(5, size)
    plain = still(5)
    for out in everywhere(made, pixels, plain):
        np.testing.assert_array_equal(out, pixels)
    mirror = torch.tensor([[-1.0, 0, 15], [0, 1, 0]]).repeat(5, 1, 1)
    for out in everywhere(made, pixels, changed(plain, matrix=mirror)):
        np.testing.assert_array_equal(out, pixels[:, :, ::-1])
    moved = torch.tensor([[1.0, 0, 3], [0, 1, -2]]).repeat(5, 1, 1)
    for out in everywhere(made, pixels, changed(plain, matrix=moved)):
        np.testing.assert_array_equal(out[:, 2:, :-3], pixels[:, :-2, 3:])
    bright = np.minimum(np.rint(pixels * np.float32(1.2)), 255)
    for out in everywhere(made, pixels, changed(plain, colour=1.2 * plain.colour)):
        assert np.abs(out - bright).max() <= 1
    centred = pixels - pixels.mean((1, 2, 3), keepdims=True)
    contrast = np.clip(pixels.mean((1, 2, 3), keepdims=True) + 0.5 * centred, 0, 255)
    for out in everywhere(made, pixels, changed(plain, contrast=plain.contrast / 2)):
        assert np.abs(out - contrast).max() <= 1
    box = torch.tensor([[[2, 7, 3, 9], [0, 0, 0, 0]]]).repeat(5, 1, 1)
    for out in everywhere(made, pixels, changed(plain, boxes=box)):
        same = np.ones(size, bool)
        same[2:7, 3:9] = False
        np.testing.assert_array_equal(out[:, same], pixels[:, same])
        assert np.std(out[:, 2:7, 3:9].astype(float)) == pytest.approx(64, rel=0.3)


def test_moves_turns_and_scales_are_those_of_the_recipe() -> None:
    """The corners of the picture in the result, by trigonometry, and how far they get at most."""
    made = augmenter("light", (120, 60))
    what = drawn(made, 2000)
    linear = what.matrix[:, :, :2].double()
    scale = 1 / linear.det().abs().sqrt()
    angle = torch.rad2deg(torch.atan2(linear[:, 1, 0], linear[:, 1, 1]))
    moves = (what.matrix != torch.eye(2, 3)).any(2).any(1) & (scale != 1)
    assert float(moves.double().mean()) == pytest.approx(0.8, abs=0.03)
    assert float((linear[:, 0, 0] < 0).double().mean()) == pytest.approx(0.5, abs=0.04)
    for values, reach in ((scale - 1, 0.1), (angle, 10.0)):
        assert float(values.abs().max()) <= reach + 1e-4 and float(values.abs().max()) > 0.95 * reach
        assert float(values[moves].std()) == pytest.approx(2 * reach / 12**0.5, rel=0.06)  # uniform
    centre = what.matrix.double() @ torch.tensor([29.5, 59.5, 1.0], dtype=torch.float64) - torch.tensor([29.5, 59.5])
    assert 0.05 < float((centre[:, 0] / 60).abs().max()) <= 0.0601
    assert 0.05 < float((centre[:, 1] / 120).abs().max()) <= 0.0601


def test_turns_keep_shapes_in_oblong_crops() -> None:
    """A square turned by ten degrees is a square still: as wide as it is high."""
    picture = np.zeros((1, 120, 60, 3), np.uint8)
    picture[:, 48:72, 18:42] = 255
    made, a = augmenter("none", (120, 60)), np.pi / 18
    turn = cv2.invertAffineTransform(cv2.getRotationMatrix2D((29.5, 59.5), 10, 1))
    what = changed(still(1), matrix=torch.from_numpy(turn).float().unsqueeze(0))
    for out in everywhere(made, picture, what):
        high, wide = ((out[0, :, :, 0] > 127).any(k).sum() for k in (1, 0))
        assert abs(int(high) - int(wide)) <= 1 and wide == pytest.approx(24 * (np.cos(a) + np.sin(a)), abs=2)


def test_light_augmentation_keeps_the_middle_of_the_picture() -> None:
    """Nose and chin decide the mask state: a mark at 15 % from the border must stay in, 50 times out of 50."""
    pixels = np.zeros((50, 64, 64, 3), dtype=np.uint8)
    pixels[:, 10:13, 30:34] = pixels[:, 51:54, 30:34] = 255
    grey = shown("light", 0, pixels, np.arange(50)).astype(int).mean(3)
    assert (grey[:, :32].max((1, 2)) > 100).all() and (grey[:, 32:].max((1, 2)) > 100).all()


def test_steps_are_drawn_apart_from_each_other() -> None:
    """As many as the shares say are only mirrored, moved but not mirrored, and so on."""
    before = np.random.default_rng(0).integers(0, 255, (600, 16, 16, 3), dtype=np.uint8)
    pixels = shown("base", 0, before.copy(), np.arange(600))
    same = (pixels == before).all((1, 2, 3)).mean()
    mirrored = (pixels == before[:, :, ::-1]).all((1, 2, 3)).mean()
    by_hand = 0.5 * 0.2 * 0.7 * 0.5  # mirrored or not, not moved, no elastic waves, neither blurred nor noisy
    assert same == pytest.approx(by_hand, abs=0.025) and mirrored == pytest.approx(by_hand, abs=0.025)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_works_on_small_and_oblong_crops(recipe: str) -> None:
    before = np.random.default_rng(0).integers(0, 255, (24, 40, 28, 3), dtype=np.uint8)
    pixels = shown(recipe, 0, before.copy(), np.arange(24))
    assert pixels.shape == before.shape and pixels.dtype == np.uint8
    share = (pixels != before).any((1, 2, 3)).mean()
    assert share == 0 if recipe == "none" else share > 0.8
    assert augmenter(recipe, (40, 28)).to_dict()["recipe"] == recipe


def test_albumentations_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("- HorizontalFlip: {p: 0.5}\n- RandomBrightnessContrast\n")
    before = smooth(40, (16, 16))
    name = f"albumentations:{file}"
    one, two = (shown(name, 0, before[rows].copy(), rows) for rows in (np.arange(40), np.arange(40)[::-1].copy()))
    np.testing.assert_array_equal(one, two[::-1])  # by image, whatever the batch
    assert (one != before).any((1, 2, 3)).mean() > 0.4 and augmenter(name, (16, 16)).on_host
    for text, said in (
        ("- Nonesuch", "no transform 'Nonesuch'"),
        ("- HorizontalFlip: 3", "no list of alb"),
        ("3", "no list of"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=said):
            augmenter(name, (16, 16)).to_dict()
    with pytest.raises(UsageError, match="no list of albumentations"):
        augmenter(f"albumentations:{tmp_path / 'nowhere.yaml'}", (16, 16)).to_dict()


def mixed(n: int = 400, alpha: float = 1.0, **shares: float) -> tuple[Augmenter, Mixing, Tensor]:
    """How ``n`` images of four classes are mixed, and with whom."""
    made = augmenter("none", (20, 30), alpha=alpha, **shares)
    labels, rows = torch.arange(n) * 4 // n, torch.arange(n)
    starts = torch.arange(5) * n // 4
    how, place = made.mixing(keys(0, 1, rows, torch.zeros_like(rows), MIX), rows, starts, labels)
    return made, how, place


@pytest.mark.parametrize("kind", ["mixup", "cutmix", "halves"])
def test_the_share_is_what_is_left_of_the_image(kind: str) -> None:
    made, how, _ = mixed(**{kind: 1.0})
    white = torch.full((400, 20, 30, 3), 255, dtype=torch.uint8)
    left = made.mix(white, torch.zeros_like(white), how).double().mean((1, 2, 3)) / 255
    np.testing.assert_allclose(left, how.share, atol=0.002)
    assert float(how.share.min()) >= 0 and float(how.share.max()) <= 1 and float(how.share.std()) > 0.01


@pytest.mark.parametrize("alpha", [0.4, 1.0, 3.0])
def test_shares_of_mixup_have_the_distribution_that_is_set(alpha: float) -> None:
    from scipy import stats

    _, how, _ = mixed(4000, alpha, mixup=1.0)
    assert stats.kstest(how.share.numpy(), stats.beta(alpha, alpha).cdf).pvalue > 1e-3


def test_halves_are_halves_of_faces() -> None:
    made, how, _ = mixed(halves=1.0)
    white = torch.full((400, 20, 30, 3), 255, dtype=torch.uint8)
    pixels = made.mix(white, torch.zeros_like(white), how)[:, :, :, 0].numpy()
    edges = (np.diff(pixels[:, 0].astype(int), axis=1) != 0).sum(1)
    assert (pixels == pixels[:, :1]).all() and (edges == 1).all()
    assert float(how.share.min()) >= 0.43 and float(how.share.max()) <= 0.57
    assert (pixels[:, 0, 0] > 0).mean() == pytest.approx(0.5, abs=0.1)


def test_as_many_are_mixed_as_asked_for() -> None:
    _, how, partner = mixed(4000, mixup=0.25, cutmix=0.25)
    assert float((how.share < 1).double().mean()) == pytest.approx(0.5, abs=0.03)
    assert float((how.blend < 1).double().mean()) == pytest.approx(0.25, abs=0.03)
    assert np.histogram(partner.numpy(), 4)[0] / 4000 == pytest.approx([0.25] * 4, abs=0.03)
    assert not augmenter("none", (8, 8)).mixes


def test_halves_within_the_class_keep_the_label() -> None:
    for within, alike in ((1.0, 1.0), (0.0, 0.25), (0.5, 0.625)):
        _, how, partner = mixed(2000, halves=1.0, within=within)
        same = (partner * 4 // 2000 == torch.arange(2000) * 4 // 2000).double().mean()
        assert float(same) == pytest.approx(alike, abs=0.05) and bool((how.share < 1).all())


def test_shares_cannot_be_more_than_everything() -> None:
    with pytest.raises(UsageError, match="more than 1"):
        AugmentConfig(mixup=0.5, cutmix=0.4, halves=0.2)


def test_the_recipe_of_an_image_is_that_of_its_class(cache: Path) -> None:
    view = open_view(cache)
    labels = view.table["label"].dropna().to_numpy(np.int64)
    config = AugmentConfig(
        recipe="light", classes=("mask=Normal:none", "gender=female:strong", "joint=wear/male:base", "mask=wear:none")
    )
    recipes, kinds = by_class(config, view.schema, labels)
    mask, gender = labels // 2, labels % 2
    wanted = np.where(gender == 1, "strong", np.where(mask == 0, "base", "light"))
    assert np.array(recipes)[kinds].tolist() == np.where(mask == 2, "none", wanted).tolist()


@pytest.mark.parametrize(
    "text, said",
    [
        ("gender=female", "is not ATTRIBUTE=CLASS:RECIPE"),
        ("gender=female:strongest", "no recipe 'strongest'"),
        ("sex=female:strong", "no attribute 'sex'"),
        ("gender=woman:strong", "no class of gender 'woman'"),
    ],
)
def test_recipes_of_classes_that_are_none(cache: Path, config: Make, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit(cache, config(augment__classes=(text,)), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_recipes_of_classes_are_kept_and_shown(
    cache: Path, config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(augment__classes=("mask=normal:strong",), optim__epochs=1)
    run = fit(cache, settings, out=tmp_path / "run", progress=show.PrintedFit()).run
    assert "light for 96 images, strong for 24 images" in capsys.readouterr().out
    kept = json.loads((run / "augment.json").read_text())
    assert kept["recipes"]["strong"]["erase"] == 0.4 and kept["recipe"] == "light"
    assert "mask=normal:strong" in (run / "report.html").read_text()
