"""Calibration: equal to other implementations, and scored on people it was not fitted on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from masktrain.answer import model
from masktrain.answer.evaluate import evaluate
from masktrain.combine import calibrate
from masktrain.runs import predictions as heldout
from masktrain.score import calibration
from masktrain.score.calibration import Calibration


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


def sharpened(n: int, by: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities [n, 3] of labels drawn from them, then sharpened: p^by."""
    rng = np.random.default_rng(seed)
    true = rng.dirichlet(np.ones(3), size=n)
    labels = np.array([rng.choice(3, p=p) for p in true])
    sharp = true**by
    return sharp / sharp.sum(1, keepdims=True), labels


def test_temperature_undoes_what_was_done_and_equals_torch() -> None:
    table, labels = sharpened(4000, 2.5)
    found = calibrate.temperature(table, labels)
    assert found == pytest.approx(2.5, rel=0.1)
    logits, truth = torch.from_numpy(np.log(table)), torch.from_numpy(labels)
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits / log_t.exp(), truth)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert found == pytest.approx(float(log_t.exp()), rel=1e-3)
    tempered = Calibration(found).temper(table)
    expected = (logits / found).softmax(1).numpy()
    np.testing.assert_allclose(tempered, expected, atol=1e-6)
    assert calibration.ece(tempered, labels) < 0.03 < calibration.ece(table, labels)


def test_calibration_error_by_hand() -> None:
    table = np.array([[0.95, 0.05], [0.9, 0.1], [0.35, 0.65], [0.38, 0.62], [1.0, 0.0]])
    labels = np.array([0, 1, 1, 1, 0])
    # of 10 bins: 0.95, 0.9 and 1.0 share the last (2 of 3 right), 0.65 and 0.62 another (both right)
    expected = 3 / 5 * abs(2 / 3 - 2.85 / 3) + 2 / 5 * abs(1 - 1.27 / 2)
    assert calibration.ece(table, labels, bins=10) == pytest.approx(expected, abs=1e-12)
    assert calibration.ece(table[:0], labels[:0]) == 0


def test_limits_find_the_best_of_a_fine_grid() -> None:
    table, labels = sharpened(60, 1.0)
    table = table * [1.0, 0.5, 0.3]  # classes 1 and 2 are told too seldom
    table /= table.sum(1, keepdims=True)

    def score(second: float, third: float) -> float:
        return float(f1_score(labels, (table * [1, second, third]).argmax(1), average="macro"))

    by_search = max(score(a, b) for a in calibrate.FACTORS[::3] for b in calibrate.FACTORS[::3])
    found = calibrate.limits(table, labels)
    reached = f1_score(labels, (table * found).argmax(1), average="macro")
    assert score(1, 1) < reached and reached > by_search - 0.02
    # where nothing can be won, nothing is changed
    assert calibrate.limits(np.eye(3)[[0, 1, 2]], np.array([0, 1, 2])).tolist() == [1, 1, 1]


def noise(run: Path, seed: int = 0) -> None:
    """Make a run's held-out predictions say nothing about the labels."""
    file = run / "oof.parquet"
    table = pd.read_parquet(file)
    columns = [c for c in table if c.startswith("p_")]
    table[columns] = np.random.default_rng(seed).dirichlet(np.ones(len(columns)), size=len(table)).astype(np.float32)
    table.to_parquet(file)


def test_limits_fitted_on_noise_win_nothing_that_is_reported(own_run: Path) -> None:
    gains, inside = [], []
    for seed in range(4):
        noise(own_run, seed)
        done = calibrate.calibrate(own_run)
        held = heldout.read(own_run)
        fitted = calibrate.fit_both(held.probabilities, held.labels)
        own = fitted.decide(fitted.temper(held.probabilities))
        inside.append(f1_score(held.labels, own, average="macro", zero_division=0) - done.before)
        gains.append(done.after - done.before)
        assert not done.kept and "they are not kept" in done.warnings[0]
    assert np.mean(inside) > 0.05  # what would have been reported of the images it was fitted on
    assert np.mean(gains) < 0.02


def test_limits_of_very_few_people_are_not_kept(own_run: Path) -> None:
    """Five people whose second class is always told a little too seldom."""
    file = own_run / "oof.parquet"
    table = pd.read_parquet(file)
    columns = [c for c in table if c.startswith("p_")]
    values = np.full((30, len(columns)), 0.01)
    labels = np.tile([0, 1], 15)
    values[:, 0], values[:, 1] = np.where(labels, 0.5, 0.8), np.where(labels, 0.46, 0.16)
    few = pd.concat([table] * 2).iloc[:30].assign(label=labels, **dict(zip(columns, values.T, strict=True)))
    few = few.assign(image=[f"{k:02d}" for k in range(30)], person=np.repeat(list("abcde"), 6))
    few.to_parquet(file)
    done = calibrate.calibrate(own_run)
    assert done.after == 1.0 > done.before and not done.thresholds.better
    assert not done.kept and "too few people (95% over 5 people); they are not kept" in done.warnings[0]
    few.assign(person=np.repeat(list("abcdefghij"), 3)).to_parquet(file)
    assert calibrate.calibrate(own_run).kept


def test_a_temperature_that_hurts_people_it_was_not_fitted_on_is_not_kept(own_run: Path) -> None:
    """One person of five is always answered wrongly, and sure; who is fitted without them is surer than is right."""
    file = own_run / "oof.parquet"
    table = pd.read_parquet(file)
    columns = [c for c in table if c.startswith("p_")]
    labels, person = np.tile(np.arange(2), 15), np.repeat(list("abcde"), 6)
    told = np.where(person == "a", 1 - labels, labels)
    values = np.full((30, len(columns)), 0.01)
    values[np.arange(30), told] = 1 - 0.01 * (len(columns) - 1)
    odd = pd.concat([table] * 2).iloc[:30].assign(label=labels, **dict(zip(columns, values.T, strict=True)))
    odd.assign(image=[f"{k:02d}" for k in range(30)], person=person).to_parquet(file)
    done = calibrate.calibrate(own_run)
    assert done.nll[1] > done.nll[0] and done.calibration.temperature == 1.0
    assert "it is not kept; the temperature stays 1" in done.warnings[0]
    assert model.load(own_run).calibration.temperature == 1.0


def test_it_is_fitted_on_other_people_than_it_is_scored_on(own_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    held = heldout.read(own_run)
    owner = {row.tobytes(): person for row, person in zip(held.probabilities, held.people, strict=True)}
    seen: list[tuple[set[str], set[str]]] = []
    fit, temper = calibrate.temperature, Calibration.temper
    current: set[str] = set()

    def fit_spy(table: np.ndarray, labels: np.ndarray) -> float:
        current.clear()
        current.update(owner[row.tobytes()] for row in table)
        return fit(table, labels)

    def temper_spy(self: Calibration, table: np.ndarray) -> np.ndarray:
        seen.append((set(current), {owner[row.tobytes()] for row in table}))
        return temper(self, table)

    monkeypatch.setattr(calibrate, "temperature", fit_spy)
    monkeypatch.setattr(Calibration, "temper", temper_spy)
    calibrate.calibrate(own_run)
    scored = [(known, asked) for known, asked in seen if known != asked]  # limits are fitted on tempered tables
    assert len(scored) == 10  # five folds for the temperature, five for both
    assert all(not known & asked for known, asked in scored)
    assert set().union(*(asked for _, asked in scored)) == set(held.people)


def test_the_run_uses_it_from_then_on(own_run: Path, cache: Path) -> None:
    before = evaluate(own_run, cache)
    view, rows = open_view(cache), np.arange(10)
    plain = model.load(own_run)(view, rows)
    done = calibrate.calibrate(own_run, thresholds="always")
    assert done.kept and done.calibration.thresholds is not None
    predictor = model.load(own_run)
    assert predictor.calibration == done.calibration
    np.testing.assert_allclose(predictor(view, rows), done.calibration.temper(plain), atol=1e-6)
    again = evaluate(own_run, cache)  # on the very people: left out, and said so
    assert again.scores == before.scores and "calibration was fitted on people in" in again.warnings[0]
    assert json.loads((own_run / "calibration.json").read_text())["scores"]["images"] == done.images


def test_what_cannot_be_calibrated(own_run: Path) -> None:
    with pytest.raises(UsageError, match="--thresholds cannot be 'alway'") as error:
        calibrate.calibrate(own_run, thresholds="alway")
    assert "always" in error.value.hint
    (own_run / "calibration.json").write_text('{"temperature": 1.5, "thresholds": [1, 2]}')
    with pytest.raises(UserError, match="does not fit this model"):
        model.load(own_run)
    (own_run / "calibration.json").write_text("{")
    with pytest.raises(UserError, match="cannot be read"):
        model.load(own_run)
    (own_run / "calibration.json").unlink()
    (own_run / "oof.parquet").unlink()
    with pytest.raises(UsageError, match=r"has no oof\.parquet"):
        calibrate.calibrate(own_run)


def test_the_command(own_run: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert call("calibrate", own_run, "--thresholds", "never") == 0
    said = capsys.readouterr().out
    assert "temperature" in said and "macro-F1 with decision thresholds" in said
    assert model.load(own_run).calibration.thresholds is None
