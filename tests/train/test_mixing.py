"""Mixed images: what is in them, what their labels are, and that every draw can be repeated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskprep.dataset import open_view
from maskprep.errors import UsageError
from masktrain.learn.augment import Augment, described, shown
from masktrain.learn.batches import Batch, Batches
from masktrain.learn.mixing import cutmix, halves, mixup
from masktrain.sections import RECIPES, AugmentConfig

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
