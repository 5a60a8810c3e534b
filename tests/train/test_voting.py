"""How members are combined: each kind against scikit-learn or by hand, scored on people nothing was fitted on."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from sklearn.ensemble import VotingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, matthews_corrcoef

from maskprep.labels.schema import Attribute, Schema
from masktrain.answer.graph import Combination
from masktrain.combine import ensemble, voting


def combine(kind: str, tables: np.ndarray, groups: list[int] | None = None, **fitted: object) -> np.ndarray:
    made = Combination(kind, groups or list(range(len(tables))), **fitted)  # type: ignore[arg-type]
    return np.asarray(made(torch.from_numpy(tables).float()).numpy())


def random_tables(members: int, n: int, classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that lean to the labels, the first member's most."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=n)
    lean = np.eye(classes)[labels] * np.linspace(2, 0.5, members)[:, None, None]
    logits = rng.normal(size=(members, n, classes)) + lean
    return np.exp(logits) / np.exp(logits).sum(2, keepdims=True), labels


def test_soft_and_hard_votes_equal_scikit_learn() -> None:
    tables, _ = random_tables(3, 200, 4)

    class Known:
        """A classifier of scikit-learn's kind that gives one of the tables."""

        def __init__(self, table: np.ndarray) -> None:
            self.table = table

        def predict_proba(self, rows: np.ndarray) -> np.ndarray:
            return self.table[rows[:, 0]]

        def predict(self, rows: np.ndarray) -> np.ndarray:
            return self.table[rows[:, 0]].argmax(1)

    for kind in ("soft", "hard"):
        theirs = VotingClassifier([(str(i), None) for i in range(3)], voting=kind)
        theirs.estimators_ = [Known(t) for t in tables]
        theirs.le_ = type("Names", (), {"inverse_transform": staticmethod(lambda x: x)})
        expected = theirs.predict(np.arange(200)[:, None])
        ours = combine(kind, tables).argmax(1)
        if kind == "hard":  # ties are decided in another way there, by the lowest index: compare without them
            votes = np.stack([t.argmax(1) for t in tables])
            clear = np.array([np.bincount(v).max() > 1 for v in votes.T])
            assert clear.mean() > 0.7
            expected, ours = expected[clear], ours[clear]
        np.testing.assert_array_equal(ours, expected)


def test_a_tied_vote_goes_to_the_higher_mean() -> None:
    # one vote each for 0 and 1; the mean prefers 2, which has no vote, and 1 over 0
    tables = np.array([[[0.5, 0.05, 0.45]], [[0.02, 0.5, 0.48]]])
    made = combine("hard", tables)
    assert made.argmax() == 1
    # (votes + mean) / (members + 1)
    np.testing.assert_allclose(made, [[1.26 / 3, 1.275 / 3, 0.465 / 3]], atol=1e-6)


def test_folds_speak_as_one() -> None:
    tables, _ = random_tables(3, 5, 3)
    by_hand = (tables[0] + (tables[1] + tables[2]) / 2) / 2
    np.testing.assert_allclose(combine("soft", tables, [0, 1, 1]), by_hand, atol=1e-6)


def test_weights_are_the_likeliest() -> None:
    tables, labels = random_tables(3, 300, 4)
    right = tables[:, np.arange(300), labels]
    start = np.full(3, 1 / 3)
    found = minimize(
        lambda w: -np.log(w @ right).mean(),
        start,
        bounds=[(0, 1)] * 3,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        method="SLSQP",
        options={"ftol": 1e-12},
    )
    np.testing.assert_allclose(voting.likeliest_weights(tables, labels), found.x, atol=2e-3)


def test_greedy_takes_what_helps_by_hand() -> None:
    labels = np.array([0, 1, 2])
    # alone, b has two of three right and is the likelier; a has two right as well; w none
    a = np.array([[0.9, 0.05, 0.05], [0.05, 0.9, 0.05], [0.35, 0.33, 0.32]])
    b = np.array([[0.30, 0.45, 0.25], [0.05, 0.9, 0.05], [0.03, 0.03, 0.94]])
    w = np.array([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1], [0.1, 0.8, 0.1]])
    # round 1: macro-F1 of a is (2/3 + 1 + 0) / 3, of b (0 + 2/3 + 1) / 3: equal, and
    # log-likelihoods are ln .9 + ln .9 + ln .32 = -1.35 for a, ln .30 + ln .9 + ln .94 = -1.37 for b: a is taken
    # round 2: (a + b) / 2 has all three right; no further round can be better, unless it is likelier
    tables = np.stack([w, b, a])
    picks = voting.greedy(tables, labels, rounds=2)
    assert picks == [2, 1]
    assert voting.greedy(tables, labels, rounds=1) == [2]
    fitted = voting.fit("greedy", tables, labels)
    assert fitted.weights is not None and fitted.weights[0] == 0 and fitted.weights.sum() == pytest.approx(1)
    assert f1_score(labels, (fitted.weights[:, None, None] * tables).sum(0).argmax(1), average="macro") == 1.0


def test_greedy_never_keeps_what_does_not_help() -> None:
    tables, labels = random_tables(1, 100, 3)
    worse = np.roll(tables, 1, axis=2)
    assert set(voting.greedy(np.concatenate([worse, tables]), labels)) == {1}


def test_stacking_equals_scikit_learn() -> None:
    tables, labels = random_tables(2, 400, 4)
    fitted = voting.stack(tables, labels)
    logs = np.concatenate([np.log(t) for t in tables], axis=1)
    theirs = LogisticRegression(max_iter=1000).fit(logs, labels).predict_proba(logs)
    ours = combine("stack", tables, coefficients=fitted.coefficients, intercepts=fitted.intercepts)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    # two classes of four: the others get no probability to speak of
    few = labels % 2
    fitted = voting.stack(tables, few)
    theirs = LogisticRegression(max_iter=1000).fit(logs, few).predict_proba(logs)
    ours = combine("stack", tables, coefficients=fitted.coefficients, intercepts=fitted.intercepts)
    np.testing.assert_allclose(ours[:, :2], theirs, atol=1e-4)


def test_errors_correlate_as_by_matthews() -> None:
    wrong = np.random.default_rng(0).random((3, 500)) < 0.3
    wrong[1] ^= wrong[0] & (np.arange(500) % 2 == 0)
    found = voting.error_correlation(wrong)
    for i in range(3):
        for j in range(3):
            assert found[i, j] == pytest.approx(1 if i == j else matthews_corrcoef(wrong[i], wrong[j]), abs=1e-9)


@pytest.mark.parametrize("kind", ["weighted", "greedy", "stack"])
def test_nothing_is_fitted_on_whom_it_is_scored_on(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each person's images are told apart by their values, so what is fitted on and what is asked can be seen."""
    schema = Schema((Attribute("a", ("x", "y", "z")),))
    tables, labels = random_tables(2, 120, 3)
    people = np.array([f"p{i // 4}" for i in range(120)], dtype=object)
    owner = {tables[0, i].tobytes(): people[i] for i in range(120)}
    fitted_on: list[set[str]] = []
    fit_as_it_is = voting.fit

    def spy(kind: str, tables: np.ndarray, labels: np.ndarray, budget: voting.Budget | None = None) -> voting.Fitted:
        fitted_on.append({owner[row.tobytes()] for row in tables[0]})
        return fit_as_it_is(kind, tables, labels, budget)

    asked_of: list[set[str]] = []
    answer_as_it_is = ensemble.nested_answer(kind, tables, labels)

    def answer(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
        asked_of.append(set(people[asked]))
        return answer_as_it_is(known, asked)

    monkeypatch.setattr(voting, "fit", spy)
    voting.nested(labels, people, schema, answer)
    assert len(fitted_on) == len(asked_of) == 5
    for fitted, asked in zip(fitted_on, asked_of, strict=True):
        assert fitted and asked and not fitted & asked
    assert set().union(*asked_of) == set(people)


def test_linked_people_are_never_on_both_sides() -> None:
    """Of 40 ids two each are one person, as the run has written down."""
    schema = Schema((Attribute("a", ("x", "y")),))
    labels = np.random.default_rng(0).integers(2, size=80)
    people = np.array([f"p{i // 2}" for i in range(80)], dtype=object)
    linked = [(f"p{k}", f"p{k + 20}") for k in range(20)] + [("p0", "gone")]
    person = {name: min(pair) for pair in linked[:20] for name in pair}
    apart: list[bool] = []

    def answer(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
        apart.append(not {person[p] for p in people[known]} & {person[p] for p in people[asked]})
        return labels[asked]

    assert (voting.nested(labels, people, schema, answer, linked=linked) == labels).all()
    assert len(apart) == 5 and all(apart)
    apart.clear()
    voting.nested(labels, people, schema, answer)
    assert not all(apart)


def test_noise_scores_as_noise() -> None:
    """Stacking on pure noise fits its own images well; the score that is reported must not."""
    schema = Schema((Attribute("a", ("x", "y")),))
    people = np.array([f"p{i // 2}" for i in range(60)], dtype=object)
    inside, outside = [], []
    for seed in range(8):
        rng = np.random.default_rng(seed)
        tables, labels = rng.dirichlet(np.ones(2), size=(12, 60)), rng.integers(2, size=60)
        fitted = voting.stack(tables, labels)
        own = combine("stack", tables, coefficients=fitted.coefficients, intercepts=fitted.intercepts)
        others = voting.nested(labels, people, schema, ensemble.nested_answer("stack", tables, labels))
        inside.append((own.argmax(1) == labels).mean())
        outside.append((others.argmax(1) == labels).mean())
    assert np.mean(inside) > 0.7
    assert abs(np.mean(outside) - 0.5) < 0.08


def test_stacking_on_one_class_says_that_class() -> None:
    tables, labels = random_tables(2, 40, 4)
    fitted = voting.fit("stack", tables[:, labels == 2], labels[labels == 2])
    assert fitted.coefficients is not None and not fitted.coefficients.any()
    told = combine("stack", tables, coefficients=fitted.coefficients.tolist(), intercepts=fitted.intercepts.tolist())
    assert (told.argmax(1) == 2).all() and told[:, 2].min() > 0.999
