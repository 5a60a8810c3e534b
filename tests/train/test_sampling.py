"""Which images an epoch holds: shares as promised, nothing twice before everything once, another draw every epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskprep.base import UsageError
from maskprep.dataset import open_view
from masktrain.cli import show
from masktrain.config.config import FitConfig
from masktrain.config.images import SampleConfig
from masktrain.data.trainset import TrainSet
from masktrain.study.fit import fit
from masktrain.train.sampling import Sampler, make_sampler, occurrences

LABELS = np.repeat([0, 1, 2], [100, 30, 7])
PEOPLE = np.arange(137) % 20


def sampler(seed: int = 0, **settings: Any) -> Sampler:
    return Sampler(LABELS, PEOPLE, LABELS, SampleConfig(**settings), seed)


def counts(drawn: np.ndarray, of: np.ndarray = LABELS) -> list[int]:
    return np.bincount(of[drawn]).tolist()


@pytest.mark.parametrize(
    "settings, wanted",
    [
        ({"kind": "all"}, [100, 30, 7]),
        ({"kind": "balanced"}, [46, 46, 45]),
        # 137 * root / (10 + 5.477 + 2.646)
        ({"kind": "sqrt"}, [76, 41, 20]),
        ({"kind": "weighted", "shares": (1, 0, 3)}, [34, 0, 103]),
        ({"kind": "oversample"}, [100, 100, 100]),
        ({"kind": "oversample", "level": 0.5}, [100, 50, 50]),
        ({"kind": "undersample"}, [7, 7, 7]),
        ({"kind": "undersample", "level": 0.5}, [14, 14, 7]),
    ],
)
def test_classes_get_their_shares(settings: dict[str, Any], wanted: list[int]) -> None:
    made = sampler(**settings)
    drawn = made.order(3)
    assert np.bincount(LABELS[drawn], minlength=3).tolist() == wanted
    for label in range(3):  # nothing comes twice more often than anything else
        times = np.bincount(drawn, minlength=137)[label == LABELS]
        assert times.max() - times.min() <= 1


def test_a_rank_is_no_class() -> None:
    """The weights of a published sampler were indexed by rank: one class got 167 times the share of another."""
    labels = np.repeat([0, 1, 2], [7, 100, 30])
    made = Sampler(labels, labels, labels, SampleConfig(kind="balanced"), 0)
    assert max(counts(made.order(1), labels)) - min(counts(made.order(1), labels)) <= 1


def test_people_alike() -> None:
    people = np.repeat(np.arange(3), [120, 10, 7])
    drawn = Sampler(LABELS, people, LABELS, SampleConfig(kind="person"), 0).order(1)
    assert counts(drawn, people) == [46, 46, 45]


def test_some_photos_of_each_person_and_class() -> None:
    labels = np.tile([0, 0, 0, 0, 0, 1, 2], 20)
    people = np.repeat(np.arange(20), 7)
    made = Sampler(labels, people, labels, SampleConfig(photos=1), 0)
    drawn = made.order(1)
    assert sorted(Counter(zip(people[drawn], labels[drawn], strict=True)).values()) == [1] * 60
    seen = {int(i) for epoch in range(1, 40) for i in made.order(epoch)}
    assert len(seen) == 140  # another one every epoch, in the end all
    assert len(Sampler(labels, people, labels, SampleConfig(photos=3), 0).order(1)) == 20 * 5


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    made = sampler(kind="sqrt")
    np.testing.assert_array_equal(made.order(2), sampler(kind="sqrt").order(2))
    assert (made.order(2) != made.order(3)).any() and (made.order(2) != sampler(1, kind="sqrt").order(2)).any()


def test_each_once_is_a_plain_permutation() -> None:
    assert sorted(sampler().order(1).tolist()) == list(range(137))


def test_how_often_something_came_before() -> None:
    assert occurrences(np.array([5, 3, 5, 5, 3, 9])).tolist() == [0, 0, 1, 2, 1, 0]
    assert occurrences(np.array([], dtype=np.int64)).tolist() == []


def test_an_attribute_can_be_balanced(cache: Path) -> None:
    data = TrainSet.open(open_view(cache), FitConfig())
    made = make_sampler(data, SampleConfig(kind="balanced", by="mask"), 0)
    labels = data.labels[made.order(1)]
    masks = np.bincount(labels // 2, minlength=3)
    assert masks.max() - masks.min() <= 1
    joint = np.bincount(labels, minlength=6)
    assert show.shares(joint, data.view.schema).startswith("mask wear 33%, incorrect 33%, normal 33%; gender male ")


@pytest.mark.parametrize(
    "settings, said",
    [
        ({"by": "gendre"}, "not an attribute"),
        ({"kind": "weighted", "shares": (1, 2)}, "has 2 values; joint has 6 classes"),
    ],
)
def test_what_cannot_be_sampled(cache: Path, settings: dict[str, Any], said: str) -> None:
    data = TrainSet.open(open_view(cache), FitConfig())
    with pytest.raises(UsageError, match=said):
        make_sampler(data, SampleConfig(**settings), 0)


def test_shares_of_classes_that_no_image_has(cache: Path) -> None:
    """The others come in proportion; if nothing else has a share, that is told instead of an epoch of a few images."""
    of = {"kind": "weighted", "by": "mask"}
    data = TrainSet.open(open_view(cache), FitConfig.from_keys({"data.where": "mask=wear|incorrect"}))
    labels = data.labels[make_sampler(data, SampleConfig(**of, shares=(1, 3, 4)), 0).order(1)]
    drawn = np.bincount(labels // 2, minlength=3)
    assert drawn[2] == 0 and drawn.sum() == len(data) and abs(drawn[0] - len(data) / 4) < 1
    with pytest.raises(UsageError, match=f"wants only classes of mask that none of {len(data)} training images has"):
        make_sampler(data, SampleConfig(**of, shares=(0, 0, 1)), 0)


def test_the_shares_are_printed_and_trained_on(
    cache: Path, config: Callable[..., FitConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(sample__kind="balanced", sample__by="mask", optim__epochs=1, augment__recipe="none")
    fit(cache, settings, out=tmp_path / "run", progress=show.PrintedFit())
    assert "120 images per epoch: mask wear 33%, incorrect 33%, normal 33%" in capsys.readouterr().out
