"""Fit how members are combined, on probabilities of people that none of them was trained on."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.labels import Schema
from masktrain.data import folds
from masktrain.score import metrics

Tables = NDArray[np.float64]
"""Probabilities [groups, n, C]."""

Ints = NDArray[np.int64]

EM_ROUNDS, EM_GAIN = 2000, 1e-10
GREEDY_ROUNDS = 25
TINY = 1e-6
ABSENT = -30.0
"""Intercept of a class that no image to fit on has."""

NESTED_FOLDS = 5

ALIKE = 0.9
"""Correlation of errors above which members are said to add little to each other."""


@dataclass(frozen=True)
class Fitted:
    """What a combination has learnt: weights of the groups (they sum to 1), or a linear function of log-probabilities.

    Args:
        weights: [groups], None for stack.
        coefficients: [C, groups * C], intercepts [C]; None for all but stack.
        picks: for greedy, the groups in the order in which they were taken.
    """

    weights: NDArray[np.float64] | None = None
    coefficients: NDArray[np.float64] | None = None
    intercepts: NDArray[np.float64] | None = None
    picks: tuple[int, ...] = ()


@dataclass(frozen=True)
class Budget:
    """What groups may cost together, for greedy: ``costs`` of each [groups], and the ``most`` of their sum."""

    costs: tuple[float, ...]
    most: float

    def allows(self, taken: set[int], group: int) -> bool:
        """Whether a group may be taken besides those that are; one that is taken costs nothing again."""
        return sum(self.costs[g] for g in taken | {group}) <= self.most


def fit(kind: str, tables: Tables, labels: Ints, budget: Budget | None = None) -> Fitted:
    """Fit a combination; soft and hard have nothing to fit.

    Args:
        tables: probabilities [groups, n, C] of images nobody was trained on.
        labels: their joint labels [n].
        budget: of greedy.
    """
    if kind == "weighted":
        return Fitted(likeliest_weights(tables, labels))
    if kind == "greedy":
        picks = greedy(tables, labels, budget=budget)
        weights = np.bincount(picks, minlength=len(tables)) / len(picks)
        return Fitted(weights, picks=tuple(picks))
    if kind == "stack":
        return stack(tables, labels)
    return Fitted()


def likeliest_weights(tables: Tables, labels: Ints) -> NDArray[np.float64]:
    """Weights of the mean (0..1, sum 1) that make the labels likeliest: EM for mixture weights, from equal ones.

    The likelihood is concave in the weights, so where it starts does not matter.
    """
    right = np.maximum(tables[:, np.arange(len(labels)), labels], 1e-12)  # [groups, n]
    weights = np.full(len(tables), 1 / len(tables))
    before = -np.inf
    for _ in range(EM_ROUNDS):
        mixed = weights @ right
        now = float(np.log(mixed).mean())
        if now - before < EM_GAIN:
            break
        before = now
        weights = weights * (right / mixed).mean(1)
    return np.asarray(weights / weights.sum())


def greedy(tables: Tables, labels: Ints, rounds: int = GREEDY_ROUNDS, budget: Budget | None = None) -> list[int]:
    """Groups to average, taken one by one, with replacement (Caruana et al., ICML 2004).

    Each round takes the group that makes macro-F1 of the mean highest, among equals the likelier, then the first; the
    shortest list that was best counts. With a budget only groups that it allows besides those taken stand for choice.
    """
    classes = tables.shape[2]
    at = np.arange(len(labels))

    def mark(mean: NDArray[np.float64]) -> tuple[float, float]:
        f1 = metrics.macro_f1(metrics.confusion(labels, mean.argmax(1), classes))
        return f1, float(np.log(np.maximum(mean[at, labels], 1e-12)).mean())

    total = np.zeros(tables.shape[1:])
    picks: list[int] = []
    best, marks = 0, (-1.0, 0.0)
    for size in range(1, rounds + 1):
        found = [mark((total + table) / size) for table in tables]
        free = [g for g in range(len(tables)) if budget is None or budget.allows(set(picks), g)]
        if not free:
            break
        choice = max(free, key=lambda g: (found[g], -g))
        picks.append(choice)
        total += tables[choice]
        if found[choice] > marks:
            best, marks = size, found[choice]
    return picks[:best]


def stack(tables: Tables, labels: Ints) -> Fitted:
    """Logistic regression (scikit-learn, its default ridge) of the labels on the groups' log-probabilities.

    Of labels that are all of one class nothing can be learnt: that class is then the answer to everything.
    """
    from sklearn.linear_model import LogisticRegression

    classes = tables.shape[2]
    coefficients = np.zeros((classes, len(tables) * classes))
    intercepts = np.full(classes, ABSENT)
    if len(only := np.unique(labels)) == 1:
        intercepts[only] = 0.0
        return Fitted(coefficients=coefficients, intercepts=intercepts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # not converged to the last digit: the ridge makes it good enough
        model = LogisticRegression(max_iter=1000).fit(features(tables), labels)
    if len(model.classes_) == 2:  # one function for two classes: half of it for and half against
        coefficients[model.classes_] = np.vstack([-model.coef_, model.coef_]) / 2
        intercepts[model.classes_] = np.concatenate([-model.intercept_, model.intercept_]) / 2
    else:
        coefficients[model.classes_], intercepts[model.classes_] = model.coef_, model.intercept_
    return Fitted(coefficients=coefficients, intercepts=intercepts)


def features(tables: Tables) -> NDArray[np.float64]:
    """Log-probabilities [n, groups * C]."""
    logs = np.log(np.maximum(tables, TINY))
    return np.asarray(logs.transpose(1, 0, 2).reshape(tables.shape[1], -1))


def nested(
    labels: Ints,
    people: NDArray[np.object_],
    schema: Schema,
    answer: Callable[[NDArray[np.bool_], NDArray[np.bool_]], NDArray[Any]],
    seed: int = 0,
    linked: Sequence[Sequence[str]] = (),
) -> NDArray[Any]:
    """Answers on people that nothing was fitted on: fit on some folds of the people, answer for the one left out.

    Args:
        answer: given which images [n] to fit on and which to answer for, the answers for the latter in their order.
        linked: groups of people who are one person, and stay in one fold.

    Returns:
        The answers for all images, in their order.
    """
    table = pd.DataFrame({"person": people, "label": labels})
    there = set(people.tolist())
    together = [group for each in linked if (group := [p for p in each if p in there])]
    fold = folds.fold_people(table, schema, NESTED_FOLDS, seed, together)
    number = np.array([fold[p] for p in people])
    out: NDArray[Any] | None = None
    for k in sorted(set(number.tolist())):
        got = answer(number != k, number == k)
        if out is None:
            out = np.empty((len(labels), *got.shape[1:]), dtype=got.dtype)
        out[number == k] = got
    assert out is not None
    return out


def error_correlation(wrong: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Pearson correlation of being wrong [members, members], of [members, n]; 0 where a member is always the same."""
    centred = wrong - wrong.mean(1, keepdims=True)
    norm = np.sqrt((centred**2).sum(1))
    scale = np.where(norm > 0, norm, 1.0)
    found = (centred @ centred.T) / np.outer(scale, scale)
    np.fill_diagonal(found, 1.0)
    return np.asarray(found)
