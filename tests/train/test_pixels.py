"""Batches: what they hold, that every draw can be repeated from any step, and that processes share them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from maskprep.dataset import open_view
from masktrain.train import device as devices
from masktrain.train.pixels import Batch, Crops

CPU = torch.device("cpu")
MIXED = {"augment__mixup": 0.3, "augment__cutmix": 0.3, "augment__halves": 0.4}
Fed = Callable[..., Any]


def same(one: Batch, two: Batch) -> bool:
    return torch.equal(one.pixels, two.pixels) and torch.equal(one.truth, two.truth)


def test_an_epoch_holds_every_image_once(cache: Path, fed: Fed) -> None:
    data, train, _ = fed(cache, optim__batch_size=25, augment__recipe="none")
    assert (train.steps, train.batch) == (5, 24)
    order = train.order(1)
    assert order.shape == (5, 24) and sorted(order.ravel()) == list(range(120))
    assert (train.order(2) != order).any()
    for where, batch in zip(order, train.epoch(1), strict=True):
        rows = data.split.train[where]
        np.testing.assert_array_equal(batch.pixels.numpy(), data.view.gather(rows))
        assert batch.labels.tolist() == data.view.table["label"].iloc[rows].tolist()
        np.testing.assert_array_equal(batch.truth.numpy(), data.truth[where])


def test_batches_of_one_size_are_filled_up_from_the_front(cache: Path, fed: Fed) -> None:
    for wanted, steps, batch in ((16, 8, 15), (50, 3, 40), (13, 10, 12), (11, 11, 11)):
        _, train, _ = fed(cache, optim__batch_size=wanted)
        assert (train.steps, train.batch) == (steps, batch)
    # 11 times 11 is one more than there are
    order, (*_, last) = train.order(3), train.epoch(3)
    assert order.ravel()[-1] == order[0, 0] and np.bincount(order.ravel()).tolist().count(2) == 1
    first = next(iter(train.epoch(3)))
    assert not torch.equal(last.pixels[-1], first.pixels[0])  # what comes twice is augmented twice


def test_without_an_epoch_nothing_is_shuffled_or_augmented(cache: Path) -> None:
    view = open_view(cache)
    crops = Crops(view, np.arange(3, 23), 8, CPU)
    for _ in range(2):
        np.testing.assert_array_equal(torch.cat(list(crops)).numpy(), view.gather(np.arange(3, 23)))
    assert len(crops) == 20 and crops.labels.tolist() == view.table["label"].fillna(-1)[3:23].tolist()


@pytest.mark.parametrize("recipe", ["none", "light", "strong"])
def test_a_mixed_epoch_repeats_from_any_step(cache: Path, fed: Fed, recipe: str) -> None:
    _, train, _ = fed(cache, augment__recipe=recipe, **MIXED)
    whole, part = list(train.epoch(2)), list(train.epoch(2, start=9))
    assert len(whole) == 15 and all(same(one, two) for one, two in zip(whole[9:], part, strict=True))
    _, other, _ = fed(cache, augment__recipe=recipe, run__seed=1, **MIXED)
    assert not same(whole[0], next(iter(other.epoch(2)))) and not same(whole[0], next(iter(train.epoch(3))))


def test_batched_epochs_repeat_and_differ(cache: Path, fed: Fed) -> None:
    """An image is the same in batches of any size: what is drawn depends on seed, epoch and image alone."""
    made = {}
    for size in (8, 60):
        _, train, _ = fed(cache, optim__batch_size=size, augment__recipe="strong", **MIXED)
        made[size] = {e: torch.cat([b.pixels for b in train.epoch(e)]) for e in (1, 2)}
    assert torch.equal(made[8][1], made[60][1]) and not torch.equal(made[8][1], made[8][2])


def test_labels_are_shared_as_the_pixels_are(cache: Path, fed: Fed) -> None:
    """Half an image whose halves are others' has a label of halves: what is left of it says how much."""
    data, train, _ = fed(cache, augment__recipe="none", augment__halves=1.0)
    shares = []
    for where, batch in zip(train.order(1), train.epoch(1), strict=True):
        own = data.view.gather(data.split.train[where])
        left = (batch.pixels.numpy() == own).all(3).mean((1, 2))  # noise of two pictures hardly ever agrees
        torch.testing.assert_close(batch.truth.sum(1), torch.ones(len(batch)))
        assert batch.labels.tolist() == data.labels[where].tolist()
        for truth, label, share in zip(batch.truth.numpy(), data.labels[where], left, strict=True):
            if truth.max() < 1:  # a partner of another class
                assert truth[label] == pytest.approx(share, abs=0.01) and np.count_nonzero(truth) == 2
                shares.append(share)
    assert len(shares) > 40


def test_classes_have_recipes_of_their_own(cache: Path, fed: Fed) -> None:
    """What an image goes through is what it would go through if all images went through it."""
    _, train, _ = fed(cache, augment__recipe="light", augment__classes=("mask=normal:none", "gender=female:strong"))
    assert train.recipes[0] == "light" and set(train.recipes) == {"light", "none", "strong"}
    alone = {r: torch.cat([b.pixels for b in fed(cache, augment__recipe=r)[1].epoch(2)]) for r in train.recipes}
    pixels, order = torch.cat([b.pixels for b in train.epoch(2)]), train.order(2).ravel()
    for i, picture in enumerate(pixels):
        assert torch.equal(picture, alone[train.recipes[train.kinds[order[i]]]][i])


def test_partners_have_the_recipe_of_their_own_class(cache: Path, fed: Fed) -> None:
    settings = {"augment__recipe": "none", "augment__mixup": 1.0, "augment__alpha": 50.0}
    _, chosen, _ = fed(cache, augment__classes=("gender=male:strong",), **settings)
    _, plain, _ = fed(cache, **settings)
    women, others = [], []
    for one, two in zip(chosen.epoch(1), plain.epoch(1), strict=True):
        only_women = (one.truth[:, ::2].sum(1) == 0).numpy()  # the image and its partner
        alike = (one.pixels == two.pixels).all(3).all(2).all(1).numpy()
        women += alike[only_women].tolist()
        others += alike[~only_women].tolist()
    assert len(women) > 15 and all(women) and np.mean(others) < 0.1


def test_an_error_while_making_a_batch_is_raised(cache: Path, fed: Fed, monkeypatch: pytest.MonkeyPatch) -> None:
    _, train, _ = fed(cache)
    monkeypatch.setattr(type(train.view), "gather", lambda *a, **k: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        list(train.epoch(1))


@pytest.mark.parametrize("world", [2, 3])
def test_processes_share_every_batch(cache: Path, fed: Fed, monkeypatch: pytest.MonkeyPatch, world: int) -> None:
    settings = {"optim__batch_size": 12, "augment__recipe": "strong", **MIXED}
    whole = list(fed(cache, **settings)[1].epoch(2))
    monkeypatch.setattr(devices, "world_size", lambda: world)
    shared = []
    for rank in range(world):
        monkeypatch.setattr(devices, "rank", lambda rank=rank: rank)
        shared.append(list(fed(cache, **settings)[1].epoch(2)))
    for i, batch in enumerate(whole):
        parts = [own[i] for own in shared]
        assert {len(p) for p in parts} == {12 // world}
        assert torch.equal(torch.cat([p.pixels for p in parts]), batch.pixels)
        assert torch.equal(torch.cat([p.truth for p in parts]), batch.truth)
