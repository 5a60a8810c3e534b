"""The trials of a sweep: what is kept of each, and how one gets on beside the others."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from maskprep.base import UserError, write_atomic
from masktrain.runs import folder as runs

TRIALS = "trials.jsonl"
STATES = ("done", "pruned", "failed")


@dataclass(frozen=True)
class Trial:
    """One fit of a sweep.

    Attributes:
        number: from 1 on.
        values: of the varied settings.
        score: macro-F1 on the held-out people, 0..1; of a pruned trial its best so far, None of one that failed.
        state: ``done``, ``pruned`` (was worse than the median at the same epoch) or ``failed``.
        seconds: it took.
        epochs: macro-F1 after each epoch, folds after one another.
        why: it failed.
    """

    number: int
    values: dict[str, Any]
    score: float | None
    state: str
    seconds: float
    epochs: list[float]
    why: str = ""


def read(out: Path, varied: set[str]) -> list[Trial]:
    """The finished trials of a sweep, in order.

    Args:
        out: folder of the sweep.
        varied: names of the settings that it varies.

    Raises:
        UserError: they cannot be read.
    """
    if not (out / TRIALS).is_file():
        return []
    try:
        found = [Trial(**json.loads(line)) for line in (out / TRIALS).read_text(encoding="utf-8").splitlines()]
        if any(set(t.values) != varied or t.state not in STATES for t in found):
            raise ValueError("a trial has other settings or another state")
    except (ValueError, TypeError) as error:
        raise UserError(f"{out / TRIALS} cannot be read: {error}.", "Choose another --out.") from error
    return found


def write(out: Path, done: list[Trial]) -> None:
    """Write down the finished trials of a sweep."""
    write_atomic(out / TRIALS, "".join(json.dumps(asdict(t)) + "\n" for t in done).encode())


def folder(number: int) -> str:
    """Name of a trial's run."""
    return f"trial-{number:03}"


def epochs_of(run: Path) -> list[float]:
    """Macro-F1 after each epoch of a run so far, folds after one another."""
    parts = [run]
    if (run / runs.FOLDS).is_file():
        parts = [
            run / f"fold-{k}" for k in itertools.takewhile(lambda k: (run / f"fold-{k}").is_dir(), itertools.count(1))
        ]
    return [float(r["macro_f1"]) for part in parts for r in runs.read_metrics(part)]


def below_median(scores: list[float], others: list[list[float]], least: int = 4) -> bool:
    """Whether the best score so far is below the median of what others had at the same epoch.

    Args:
        scores: of the trial, one per epoch.
        others: of trials before it, in the same order.
        least: so many of them must have come that far.
    """
    reached = sorted(max(o[: len(scores)]) for o in others if len(o) >= len(scores))
    if len(reached) < least:
        return False
    middle = len(reached) // 2
    median = reached[middle] if len(reached) % 2 else (reached[middle - 1] + reached[middle]) / 2
    return max(scores) < median
