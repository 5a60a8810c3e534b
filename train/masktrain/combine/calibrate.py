"""Fit a temperature and decision thresholds to a run, on its predictions for people it was not trained on."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UsageError, write_json
from masktrain.combine import voting
from masktrain.config.settings import nearest
from masktrain.data.units import units
from masktrain.runs import predictions
from masktrain.score import calibration, metrics, paired
from masktrain.score.calibration import Calibration
from masktrain.score.paired import Paired

WHEN = ("clear", "always", "never")
LOWEST, HIGHEST = 0.05, 20.0
"""Limits of the temperature."""

FACTORS = np.exp(np.linspace(np.log(1 / 8), np.log(8), 49))
"""Factors tried for a class; 1 is among them."""

SWEEPS = 3

Ints = NDArray[np.int64]
Table = NDArray[np.float64]


@dataclass(frozen=True)
class Calibrated:
    """What calibration did, scored on people that it was not fitted on.

    Args:
        ece, nll: before and after tempering: expected calibration error, and mean negative log-likelihood.
        thresholds: macro-F1 with decision thresholds minus without.
        before, after: macro-F1 without and with decision thresholds.
        kept: whether the limits are used from now on.
        warnings: what speaks against them.
    """

    run: Path
    calibration: Calibration
    images: int
    ece: tuple[float, float]
    nll: tuple[float, float]
    before: float
    after: float
    thresholds: Paired
    kept: bool
    warnings: list[str]


def calibrate(run: Path, *, thresholds: str = "clear", seed: int = 0) -> Calibrated:
    """Fit calibration.json of a run or an ensemble; evaluate, predict and export use it from then on.

    Everything is fitted on the out-of-fold predictions, and scored by folds of the people, fitted on the others.

    Args:
        thresholds: whether to keep decision thresholds: when their gain in macro-F1 is ``clear`` (see
            :attr:`masktrain.score.paired.Paired.better`), ``always`` or ``never``.
        seed: which folds of the people the scoring uses.

    Raises:
        UserError: not a run, or one without out-of-fold predictions.
    """
    if thresholds not in WHEN:
        near = nearest(thresholds, WHEN)
        raise UsageError(f"--thresholds cannot be '{thresholds}'.", f"Use {', '.join(near or WHEN)}.")
    held = predictions.read(run)
    schema, table, labels = held.schema, held.probabilities, held.labels

    def split(fit: Callable[[Table, Ints], Calibration], use: Callable[[Calibration, Table], Any]) -> NDArray[Any]:
        def answer(known: NDArray[np.bool_], asked: NDArray[np.bool_]) -> NDArray[Any]:
            return np.asarray(use(fit(table[known], labels[known]), table[asked]))

        return voting.nested(labels, held.people, schema, answer, seed, held.linked)

    tempered = split(lambda t, y: Calibration(temperature(t, y)), Calibration.temper).astype(np.float64)
    losses = (metrics.nll(table, labels), metrics.nll(tempered, labels))
    helps = losses[1] <= losses[0]
    plain = np.asarray(table.argmax(1), dtype=np.int64)
    limited = split(lambda t, y: fit_both(t, y, helps), lambda c, t: c.decide(c.temper(t)))
    found = paired.compare(labels, limited, plain, held.people, schema.num_classes)
    kept = thresholds == "always" or (thresholds == "clear" and found.better)
    warnings, over = [], units(found.people, len(held))
    if not helps:
        warnings.append(
            "On people that it was not fitted on, the temperature makes the log-loss higher"
            f" ({losses[0]:.4f} -> {losses[1]:.4f}): it is not kept; the temperature stays 1."
        )
    if not found.better:
        warnings.append(
            f"With decision thresholds, macro-F1 changes by {found.text} (95% over {over})"
            + ("; they are kept, as --thresholds always asks." if kept else "; they are not kept.")
        )
    fitted = fit_both(table, labels, helps)
    made = fitted if kept else Calibration(fitted.temperature)
    result = Calibrated(
        run=run,
        calibration=made,
        images=len(held),
        ece=(calibration.ece(table, labels), calibration.ece(tempered, labels)),
        nll=losses,
        before=metrics.macro_f1(metrics.confusion(labels, plain, schema.num_classes)),
        after=metrics.macro_f1(metrics.confusion(labels, limited, schema.num_classes)),
        thresholds=found,
        kept=kept,
        warnings=warnings,
    )
    about = {k: v for k, v in asdict(result).items() if k not in ("run", "calibration")}
    write_json(run / calibration.FILE, {**json.loads(made.to_json()), "scores": about})
    return result


def fit_both(table: Table, labels: Ints, temper: bool = True) -> Calibration:
    """A temperature, or 1 where ``temper`` is false, and decision thresholds for the tempered probabilities."""
    plain = Calibration(temperature(table, labels) if temper else 1.0)
    return Calibration(plain.temperature, tuple(limits(plain.temper(table).astype(np.float64), labels).tolist()))


def temperature(table: Table, labels: Ints) -> float:
    """The temperature that makes the labels likeliest (one number, so a search along a line finds it)."""
    from scipy.optimize import minimize_scalar

    logs = np.log(np.maximum(table, calibration.TINY))
    at = np.arange(len(labels))

    def loss(log_t: float) -> float:
        scaled = logs / np.exp(log_t)
        top = scaled.max(1)
        return float((top + np.log(np.exp(scaled - top[:, None]).sum(1)) - scaled[at, labels]).mean())

    found = minimize_scalar(loss, bounds=(np.log(LOWEST), np.log(HIGHEST)), method="bounded", options={"xatol": 1e-6})
    return float(np.exp(found.x))


def limits(table: Table, labels: Ints) -> NDArray[np.float64]:
    """A factor for each class [C] that makes macro-F1 highest: class after class, a few times around.

    Of factors that are alike the one nearest to 1 is taken, so that nothing changes without a gain.
    """
    classes = table.shape[1]
    factors = np.ones(classes)
    order = FACTORS[np.argsort(np.abs(np.log(FACTORS)), kind="stable")]

    def mark() -> float:
        return metrics.macro_f1(metrics.confusion(labels, (table * factors).argmax(1), classes))

    best = mark()
    for _ in range(SWEEPS):
        before = best
        for k in np.unique(labels).tolist():
            kept = factors[k]
            for factor in order.tolist():
                factors[k] = factor
                if (now := mark()) > best + 1e-12:
                    best, kept = now, factor
            factors[k] = kept
        if best == before:
            break
    return factors
