"""Scores against scikit-learn, and by hand."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, precision_recall_fscore_support

from maskprep.labels.schema import MASK_SCHEMA, Attribute, Schema
from masktrain.score import metrics

SIMULATION = runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "coverage.py"))


def case(name: str) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(len(name))
    truth = rng.integers(0, 18, 400)
    predicted = np.where(rng.random(400) < 0.6, truth, rng.integers(0, 18, 400))
    if name == "absent from truth":
        truth = np.where(truth >= 15, 2, truth)
    elif name == "absent from predictions":
        predicted = np.where(predicted >= 15, 2, predicted)
    elif name == "absent from both":
        truth, predicted = truth % 7, predicted % 7
    elif name == "all wrong":
        predicted = (truth + 1) % 18
    elif name == "one image":
        truth, predicted = truth[:1], truth[:1]
    return truth, predicted


CASES = ["all", "absent from truth", "absent from predictions", "absent from both", "all wrong", "one image"]


@pytest.mark.parametrize("name", CASES)
def test_scores_equal_scikit_learn(name: str) -> None:
    truth, predicted = case(name)
    got = metrics.score(truth, predicted, MASK_SCHEMA)
    assert got.n == len(truth)
    assert got.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro", zero_division=0), abs=1e-12)
    assert got.accuracy == pytest.approx(accuracy_score(truth, predicted), abs=1e-12)
    every = list(range(18))
    p, r, f, n = precision_recall_fscore_support(truth, predicted, labels=every, zero_division=0)
    for values, name_ in ((p, "precision"), (r, "recall"), (f, "f1"), (n, "support")):
        np.testing.assert_allclose([getattr(c, name_) for c in got.classes], values, atol=1e-12)
    assert got.macro_f1_all == pytest.approx(f.mean(), abs=1e-12)
    matrix = metrics.confusion(truth, predicted, 18)
    np.testing.assert_array_equal(matrix, confusion_matrix(truth, predicted, labels=every))


@pytest.mark.parametrize("name", CASES)
def test_attributes_equal_scikit_learn(name: str) -> None:
    truth, predicted = case(name)
    got = metrics.score(truth, predicted, MASK_SCHEMA).attributes
    for i, attribute in enumerate(("mask", "gender", "age")):
        t, p = ([MASK_SCHEMA.decode(k)[i] for k in v.tolist()] for v in (truth, predicted))
        assert got[attribute]["accuracy"] == pytest.approx(accuracy_score(t, p), abs=1e-12)
        assert got[attribute]["macro_f1"] == pytest.approx(f1_score(t, p, average="macro", zero_division=0), abs=1e-12)


def test_no_images() -> None:
    none = np.zeros(0, dtype=np.int64)
    got = metrics.score(none, none, MASK_SCHEMA)
    assert (got.macro_f1, got.accuracy, got.n) == (0.0, 0.0, 0)


def test_the_interval_is_over_people_not_photos() -> None:
    rng = np.random.default_rng(0)
    truth = np.tile([0, 1], 200)
    wrong = np.repeat(rng.random(20) < 0.3, 20)  # whole people are wrong
    predicted = np.where(wrong, 1 - truth, truth)
    by_person = metrics.interval(truth, predicted, np.repeat(np.arange(20), 20).astype(str).tolist(), 2)
    by_photo = metrics.interval(truth, predicted, np.arange(400).astype(str).tolist(), 2)
    assert by_person.people == 20
    assert by_person.high - by_person.low > 2.5 * (by_photo.high - by_photo.low)
    point = metrics.macro_f1(metrics.confusion(truth, predicted, 2))
    assert by_person.low < point < by_person.high


def test_the_interval_repeats() -> None:
    truth, predicted = case("all")
    people = (np.arange(400) // 7).astype(str).tolist()
    assert metrics.interval(truth, predicted, people, 18) == metrics.interval(truth, predicted, people, 18)


def test_perfect_predictions_of_few_people_are_not_certain() -> None:
    truth, _ = case("all")
    got = metrics.interval(truth, truth, [str(i // 20) for i in range(400)], 18)
    assert (got.low, got.high) == pytest.approx((0.025 ** (1 / 20), 1.0))  # Clopper-Pearson: 20 people of 20


def test_too_few_people_have_no_interval() -> None:
    truth, predicted = case("all")
    got = metrics.interval(truth, predicted, [str(i % 7) for i in range(400)], 18)
    assert (got.low, got.high, got.text()) == (0.0, 1.0, "too few people")
    assert metrics.interval(truth, predicted, [str(i % 8) for i in range(400)], 18).text() != "too few people"
    rare = np.where(np.arange(400) // 4 < 97, np.arange(400) % 2, 2)  # class 2: photos of three people of 100
    each = metrics.class_intervals(rare, rare, [str(i // 4) for i in range(400)], 3)
    assert [i.people for i in each] == [97, 97, 3] and each[2].text() == "too few people"


def test_the_standard_error_is_the_jackknife() -> None:
    rng = np.random.default_rng(2)
    truth, person = np.tile([0, 1, 2], 40), np.repeat(np.arange(12), 10)
    predicted = np.where(rng.random(120) < rng.random(12)[person], truth, 0)
    names = [f"{k:02d}" for k in person]

    def f1(rows: np.ndarray) -> float:
        return float(f1_score(truth[rows], predicted[rows], average="macro"))

    value, moved = metrics.Counts.of(truth, predicted, names, 3).left_out()
    without = np.array([f1(person != k) for k in range(12)])
    assert value == pytest.approx(f1(person >= 0))
    np.testing.assert_allclose(moved, (without - without.mean()) * (11 / 12) ** 0.25, atol=1e-12)


@pytest.mark.parametrize(("classes", "people"), [(18, 15), (6, 38)])
def test_the_intervals_cover(classes: int, people: int) -> None:
    """95 % should; of 120 samples 90 to 99 % may. The percentiles of a bootstrap cover 80 to 85 % here."""
    made = SIMULATION["coverage"](SIMULATION["Population"](classes, 0.75), people, 120)
    for what in ("macro-F1", "difference"):
        assert 0.9 <= made[what][0] <= 0.99, what


def test_chance_is_an_expectation() -> None:
    rng = np.random.default_rng(0)
    truth = rng.choice(3, 600, p=[0.6, 0.3, 0.1])
    (_, always), (_, shares) = metrics.guesses(np.array([60.0, 30.0, 10.0]), 600)
    assert (always == 0).all() and shares.shape == (600, 3)
    draws = [rng.choice(3, 600, p=[0.6, 0.3, 0.1]) for _ in range(300)]
    got, people = metrics.confusion(truth, shares, 3), [str(i // 6) for i in range(600)]
    assert metrics.macro_f1(got) == pytest.approx(
        np.mean([metrics.macro_f1(metrics.confusion(truth, d, 3)) for d in draws]), abs=0.005
    )
    assert metrics.accuracy(got) == pytest.approx(np.mean([(truth == d).mean() for d in draws]), abs=0.005)
    for answers in (draws[0], np.eye(3)[draws[0]]):  # an answer is a guess with one share
        assert metrics.interval(truth, answers, people, 3) == metrics.interval(truth, draws[0], people, 3)


def test_balanced_accuracy_log_loss_and_errors_of_numbers_are_those_of_scikit_learn() -> None:
    from sklearn.metrics import balanced_accuracy_score, log_loss, mean_absolute_error

    rng = np.random.default_rng(0)
    schema = Schema((Attribute("a", ("x", "y", "z")), Attribute("age", bins=(30.0, 60.0))))
    truth = rng.choice([0, 1, 3, 4, 8], 200)  # some classes do not occur
    table = rng.dirichlet(np.ones(9), 200)
    ages = np.where(rng.random(200) < 0.2, np.nan, rng.uniform(18, 80, 200))
    told = ages + rng.normal(0, 5, 200)
    told[3] = np.nan
    found = metrics.score(truth, table.argmax(1), schema, table, {"age": (ages, told)})
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(truth, table.argmax(1)))
    assert found.log_loss == pytest.approx(log_loss(truth, table, labels=range(9)))
    known = np.isfinite(ages) & np.isfinite(told)
    assert found.mae == {"age": pytest.approx(mean_absolute_error(ages[known], told[known]))}
    table[5] = np.nan  # no probabilities of its own
    others = np.arange(200) != 5
    again = metrics.score(truth, table.argmax(1), schema, table)
    assert again.log_loss == pytest.approx(log_loss(truth[others], table[others], labels=range(9))) and again.mae == {}
    assert metrics.score(truth, truth, schema).log_loss is None
