"""Mixed images: what is in them, what their labels are, and that every draw can be repeated."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError
from masktrain.cli.show import opening
from masktrain.config.config import FitConfig
from masktrain.config.images import RECIPES, AugmentConfig
from masktrain.study.fit import fit
from masktrain.study.preflight import plan
from masktrain.train.augment import Augment, by_class, described, shown
from masktrain.train.batches import Batch, Batches
from masktrain.train.mixing import cutmix, halves, mixup

Make = Callable[..., FitConfig]
CPU = torch.device("cpu")
BLACK, WHITE = np.zeros((20, 30, 3), dtype=np.uint8), np.full((20, 30, 3), 255, dtype=np.uint8)


@pytest.mark.parametrize("mix", [mixup, cutmix, halves])
def test_the_share_is_what_is_left_of_the_image(mix: Any) -> None:
    rng, found = np.random.default_rng(0), []
    for _ in range(50):
        pixels = WHITE.copy()
        share = mix(pixels, BLACK, rng, 1.0)
        assert pixels.mean() / 255 == pytest.approx(share, abs=0.002)
        found.append(share)
    assert min(found) >= 0 and max(found) <= 1 and np.std(found) > 0.01


def test_halves_are_halves_of_faces() -> None:
    rng, sides = np.random.default_rng(0), []
    for _ in range(40):
        pixels = WHITE.copy()
        share = halves(pixels, BLACK, rng, 1.0)
        assert 0.43 <= share <= 0.57
        columns = pixels[:, :, 0]
        assert (columns == columns[0]).all() and np.count_nonzero(np.diff(columns[0].astype(int))) == 1
        sides.append(bool(columns[0, 0]))
    assert 8 < sum(sides) < 32


def epoch(cache: Path, number: int = 1, start: int = 0, seed: int = 0, **settings: Any) -> list[Batch]:
    view = open_view(cache)
    rows = np.flatnonzero(view.table["label"].notna())[:60]
    augment = AugmentConfig(**{"recipe": "none"} | settings)
    return list(Batches(view, rows, 16, CPU, augment=augment, seed=seed).epoch(number, start))


def test_as_many_are_mixed_as_asked_for(cache: Path) -> None:
    mixed = [b.mixed for number in range(1, 9) for b in epoch(cache, number, mixup=0.25, cutmix=0.25)]
    shares = torch.cat([m[1] for m in mixed if m is not None])
    assert len(shares) == 480
    assert 0.42 < float((shares < 1).float().mean()) < 0.58  # 0.5, within three deviations
    assert all(b.mixed is None for b in epoch(cache))


def test_labels_are_shared_as_the_pixels_are(cache: Path) -> None:
    for batch in epoch(cache, halves=1.0):
        truth = batch.truth(6)
        assert batch.mixed is not None
        torch.testing.assert_close(truth.sum(1), torch.ones(len(truth)))
        for i, (own, other, share) in enumerate(zip(batch.labels, *batch.mixed, strict=True)):
            wanted = torch.zeros(6)
            wanted[own] += share
            wanted[other] += 1 - share
            torch.testing.assert_close(truth[i], wanted)


def test_halves_within_the_class_keep_the_label(cache: Path) -> None:
    for batch in epoch(cache, halves=1.0, within=1.0):
        assert batch.mixed is not None and batch.mixed[0].tolist() == batch.labels.tolist()
        assert (batch.mixed[1] < 1).all()
    others = [b.mixed[0] == b.labels for b in epoch(cache, halves=1.0) if b.mixed is not None]
    assert float(torch.cat(others).float().mean()) < 0.6


@pytest.mark.parametrize("recipe", ["none", "light", "batched"])
def test_a_mixed_epoch_repeats_from_any_step(cache: Path, recipe: str) -> None:
    settings = {"recipe": recipe, "mixup": 0.3, "cutmix": 0.3, "halves": 0.4}
    whole, part = epoch(cache, 2, **settings), epoch(cache, 2, start=2, **settings)
    assert len(part) == len(whole) - 2
    for one, two in zip(whole[2:], part, strict=True):
        assert torch.equal(one.pixels, two.pixels) and torch.equal(one.truth(6), two.truth(6))
    other = epoch(cache, 2, seed=1, **settings)
    assert not torch.equal(whole[0].pixels, other[0].pixels)


def test_shares_cannot_be_more_than_everything() -> None:
    with pytest.raises(UsageError, match="more than 1"):
        AugmentConfig(mixup=0.5, cutmix=0.4, halves=0.2)


def test_an_image_drawn_twice_is_augmented_twice(cache: Path) -> None:
    view = open_view(cache)
    pixels = view.gather([3, 3, 3])
    Augment("light", 0)(pixels, 1, np.array([3, 3, 3]), np.array([0, 1, 0]))
    assert (pixels[0] != pixels[1]).any() and (pixels[0] == pixels[2]).all()


def test_steps_are_drawn_apart_from_each_other() -> None:
    """As many as the shares say are only mirrored, moved but not mirrored, and so on."""
    pixels = np.random.default_rng(0).integers(0, 255, (600, 16, 16, 3), dtype=np.uint8)
    before = pixels.copy()
    Augment("base", 0)(pixels, 1, np.arange(600))
    same = (pixels == before).all((1, 2, 3)).mean()
    mirrored = (pixels == before[:, :, ::-1]).all((1, 2, 3)).mean()
    by_hand = 0.5 * 0.2 * 0.7 * 0.5
    assert same == pytest.approx(by_hand, abs=0.025) and mirrored == pytest.approx(by_hand, abs=0.025)


def test_classes_have_recipes_of_their_own(cache: Path) -> None:
    view = open_view(cache)
    rows = np.flatnonzero(view.table["label"].notna())[:40]
    labels = view.table["label"].iloc[rows].to_numpy(np.int64)
    config = AugmentConfig(
        recipe="light", classes=("mask=Normal:none", "gender=female:strong", "joint=wear/male:base", "mask=wear:none")
    )
    recipes, kinds = by_class(config, view.schema, labels)
    mask, gender = labels // 2, labels % 2
    wanted = np.where(gender == 1, "strong", np.where(mask == 0, "base", "light"))
    assert np.array(recipes)[kinds].tolist() == np.where(mask == 2, "none", wanted).tolist()
    # what an image goes through is what it would go through if all images went through it
    chosen = Batches(view, rows, 16, CPU, augment=config, seed=3)
    alone = {r: Batches(view, rows, 16, CPU, augment=AugmentConfig(recipe=r), seed=3) for r in recipes}
    pixels = {r: np.concatenate([x.pixels for x in b.epoch(2)]) for r, b in alone.items()}
    for i, picture in enumerate(np.concatenate([b.pixels for b in chosen.epoch(2)])):
        recipe = recipes[kinds[chosen.order(2)[i]]]
        np.testing.assert_array_equal(picture, pixels[recipe][i])
    plain = np.concatenate([b.pixels for b in chosen.epoch(None)])
    np.testing.assert_array_equal(plain, view.gather(rows).transpose(0, 3, 1, 2))


def test_partners_have_the_recipe_of_their_own_class(cache: Path) -> None:
    view = open_view(cache)
    config = AugmentConfig(recipe="none", classes=("gender=male:strong",), mixup=1.0)
    once, again = (list(Batches(view, np.arange(60), 20, CPU, augment=config).epoch(1, s)) for s in (0, 2))
    assert torch.equal(once[2].pixels, again[0].pixels)  # from any step, as ever
    plain = next(Batches(view, np.arange(60), 20, CPU, augment=AugmentConfig(recipe="none", mixup=1.0)).epoch(1))
    labels, _ = once[0].mixed
    same = (once[0].pixels == plain.pixels).all(1).all(1).all(1).numpy()
    women = (once[0].labels % 2 == 1).numpy() & (labels % 2 == 1).numpy()
    assert women.any() and same[women].all() and not same[~women].all()


@pytest.mark.parametrize(
    "text, said",
    [
        ("gender=female", "is not ATTRIBUTE=CLASS:RECIPE"),
        ("gender=female:strongest", "no recipe 'strongest'"),
        ("sex=female:strong", "no attribute 'sex'"),
        ("gender=woman:strong", "no class of gender 'woman'"),
        ("gender=female:batched", "takes all images alike"),
    ],
)
def test_recipes_of_classes_that_are_none(cache: Path, config: Make, tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit(cache, config(augment__classes=(text,)), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_recipes_of_classes_are_kept_and_shown(cache: Path, config: Make, tmp_path: Path) -> None:
    settings = config(augment__classes=("mask=normal:strong",), optim__epochs=1)
    made = plan(cache, settings)
    assert sum(made.about["recipes"].values()) == 120 and made.about["recipes"]["strong"] == 24
    assert "light for 96 images, strong for 24 images" in "\n".join(opening(None, settings, made.data, made.about))
    run = fit(cache, settings, out=tmp_path / "run").run
    kept = json.loads((run / "augment.json").read_text())
    assert "CoarseDropout" in json.dumps(kept["classes"]["mask=normal:strong"])
    assert "mask=normal:strong" in (run / "report.html").read_text()


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_works_on_small_and_oblong_crops(recipe: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (24, 40, 28, 3), dtype=np.uint8)
    before = pixels.copy()
    pixels = shown(recipe, 0, pixels, np.arange(24))
    assert pixels.shape == before.shape and pixels.dtype == np.uint8
    changed = (pixels != before).any((1, 2, 3)).mean()
    assert changed == 0 if recipe == "none" else changed > 0.9
    kept = described(recipe, 0)
    assert recipe == "none" or len(kept.get("transform", kept)) > 1
