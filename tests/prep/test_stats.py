"""Mean and standard deviation from exact sums."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from maskprep.crops.crop import CHANNELS, sums
from maskprep.crops.statistics import by_split, moments


def rows_of(crops: np.ndarray, masks: np.ndarray | None = None) -> pd.DataFrame:
    records = []
    for i, crop in enumerate(crops):
        nothing = dict.fromkeys(["fg_count", *(f"fg_{k}_{c}" for k in ("sum", "sumsq") for c in CHANNELS)])
        foreground = nothing if masks is None else sums(crop, masks[i], "fg_")
        records.append({**sums(crop), **foreground})
    return pd.DataFrame(records)


@pytest.fixture(scope="module")
def crops() -> np.ndarray:
    random = np.random.default_rng(0)
    return random.normal([120, 90, 200], [40, 10, 70], (37, 16, 12, 3)).clip(0, 255).astype(np.uint8)


def test_by_hand() -> None:
    """Red: 0, 255, 255, 255. Mean 3/4; variance 3/4 - 9/16 = 3/16. Green: all 51, a fifth. Blue: 0, 0, 102, 102."""
    pixels = np.array([[[0, 51, 0], [255, 51, 0]], [[255, 51, 102], [255, 51, 102]]], np.uint8)
    found = moments(rows_of(pixels[None]))
    assert found is not None
    assert found.mean == pytest.approx((0.75, 0.2, 0.2), abs=1e-15)
    assert found.std == pytest.approx((np.sqrt(3) / 4, 0, 0.2), abs=1e-15)
    assert (found.images, found.pixels) == (1, 4)


def test_as_numpy_says(crops: np.ndarray) -> None:
    found = moments(rows_of(crops))
    assert found is not None
    flat = crops.reshape(-1, 3) / 255.0
    assert np.abs(np.array(found.mean) - flat.mean(axis=0, dtype=np.float64)).max() < 1e-12
    assert np.abs(np.array(found.std) - flat.std(axis=0, dtype=np.float64)).max() < 1e-12
    assert (found.images, found.pixels) == (37, 37 * 16 * 12)


def test_it_is_not_the_known_wrong_formula(crops: np.ndarray) -> None:
    """Squares of 0..255 less the square of mean/255: more than twice the true value."""
    found = moments(rows_of(crops))
    assert found is not None
    values = crops[..., 0].astype(np.float64)
    wrong = np.sqrt((values**2).mean() - (values.mean() / 255) ** 2) / 255
    assert wrong > 2 * found.std[0]


def test_any_subset_of_people_is_exact(crops: np.ndarray) -> None:
    rows = rows_of(crops)
    people = np.arange(37) % 5
    for person in range(5):
        found = moments(rows[people == person])
        assert found is not None
        flat = crops[people == person].reshape(-1, 3) / 255.0
        assert np.abs(np.array(found.std) - flat.std(axis=0)).max() < 1e-12


def test_foreground(crops: np.ndarray) -> None:
    masks = np.random.default_rng(1).random((37, 16, 12)) < 0.3
    rows = rows_of(crops, masks)
    found = moments(rows, "fg_")
    assert found is not None
    flat = crops[masks] / 255.0
    assert np.abs(np.array(found.mean) - flat.mean(axis=0)).max() < 1e-12
    assert found.pixels == masks.sum()
    rows.loc[0, [c for c in rows if c.startswith("fg_")]] = None
    part = moments(rows, "fg_")
    assert part is not None
    assert (part.images, part.pixels) == (36, masks[1:].sum())


def test_no_cancellation_and_no_overflow() -> None:
    """A thousand million pixels of 254 and one of 255."""
    pixels = 10**9
    total, squares = 254 * (pixels - 1) + 255, 254**2 * (pixels - 1) + 255**2
    row = {"count": pixels} | {f"sum_{c}": total for c in CHANNELS} | {f"sumsq_{c}": squares for c in CHANNELS}
    found = moments(pd.DataFrame([row] * 100))
    assert found is not None
    assert found.std[0] == pytest.approx(np.sqrt(1e-9 * (1 - 1e-9)) / 255, rel=1e-12)


def test_one_colour_has_no_deviation() -> None:
    found = moments(rows_of(np.full((3, 5, 7, 3), 201, np.uint8)))
    assert found is not None
    assert found.std == (0, 0, 0)


def test_splits(crops: np.ndarray) -> None:
    rows = rows_of(crops)
    split = pd.Series(["train"] * 30 + ["eval"] * 7, index=range(100, 137))
    entry = by_split(rows, split)
    assert {name: entry[name]["whole"]["images"] for name in entry} == {"train": 30, "eval": 7, "all": 37}
    assert entry["eval"]["whole"]["mean"] == pytest.approx(crops[30:].reshape(-1, 3).mean(axis=0) / 255)
    assert entry["train"]["foreground"] is None
    assert by_split(rows, pd.Series(["train"] * 37))["eval"]["whole"] is None
    assert moments(rows[:0]) is None
