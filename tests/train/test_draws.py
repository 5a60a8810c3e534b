"""Random draws without a generator: uniform, independent, and the same in any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from masktrain.train.draws import AUGMENT, MIX, draw_seed, keys, uniform

ROWS = torch.arange(40_000)
FIRST = torch.zeros_like(ROWS)


def drawn(seed: int = 0, epoch: int = 1, times: int = 0, stream: int = AUGMENT, columns: int = 4) -> np.ndarray:
    return uniform(keys(seed, epoch, ROWS, FIRST + times, stream), columns).numpy()


def test_draws_are_uniform() -> None:
    """By chi-square over 100 intervals, for images, for columns of one image, and for seeds and epochs."""
    many = [
        drawn().T,
        drawn(columns=2000)[:20],
        np.stack([drawn(s, e)[:400, 0] for s in range(5) for e in range(20)]).T,
    ]
    for values in (row for part in many for row in np.asarray(part)[:400]):
        assert values.min() >= 0 and values.max() < 1
        cells = 100 if len(values) > 1000 else 10
        counts = np.histogram(values, cells, (0, 1))[0]
        assert stats.chisquare(counts).pvalue > 1e-5
    bits = (drawn(columns=1)[:, 0] * 2**24).astype(np.int64)
    shares = [(bits >> k & 1).mean() for k in range(24)]
    np.testing.assert_allclose(shares, 0.5, atol=0.012)  # every bit, within five deviations


@pytest.mark.parametrize("other", [{"seed": 1}, {"epoch": 2}, {"times": 1}, {"stream": MIX}])
def test_draws_of_anything_else_are_independent(other: dict[str, int]) -> None:
    one, two = drawn(), drawn(**other)
    assert (one == two).mean() < 1e-3
    together = np.corrcoef(np.concatenate([one, two], 1).T) - np.eye(8)
    assert np.abs(together).max() < 0.025  # five deviations of 40,000 draws
    next_ones = np.corrcoef(one[:-1].T, one[1:].T) - np.eye(8)
    assert np.abs(next_ones).max() < 0.025


def test_a_draw_does_not_depend_on_the_batch() -> None:
    rows = torch.tensor([7, 3, 39_999, 2**33 + 7])
    own = uniform(keys(5, 2, rows, torch.tensor([0, 1, 0, 0]), AUGMENT), 6)
    for i, (row, times) in enumerate(((7, 0), (3, 1), (39_999, 0), (2**33 + 7, 0))):
        alone = uniform(keys(5, 2, torch.tensor([row]), torch.tensor([times]), AUGMENT), 6)
        assert torch.equal(own[i], alone[0])
    later = uniform(keys(5, 2, rows, torch.tensor([0, 1, 0, 0]), AUGMENT), 2, first=4)
    assert torch.equal(own[:, 4:], later) and not torch.equal(own[0], own[3])


def test_seeds_depend_on_every_number_and_their_order() -> None:
    seeds = {draw_seed(*numbers) for numbers in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (0, 1), (0, 1, 3)]}
    assert len(seeds) == 5 and draw_seed(0, 1, 2) == draw_seed(0, 1, 2)
