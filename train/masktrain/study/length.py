"""How many epochs a fit has: by updates, within some minutes, or more than it had."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from maskprep.base import UsageError, counted
from masktrain.config.config import FitConfig
from masktrain.config.sections import OptimConfig, SelectConfig
from masktrain.runs import folder as runs
from masktrain.study.recorder import Recorder

UPDATES, SHORTEST, LONGEST, PATIENCE = 600, 8, 60, 5
"""Updates that the default length is to give, its limits in epochs, and the least patience of its early stopping."""
END = 5.0
"""Seconds that the report of a fit takes."""


def by_updates(optim: OptimConfig, select: SelectConfig, images: int) -> tuple[OptimConfig, SelectConfig]:
    """The settings with as many epochs of some images as give enough updates, and a patience that fits them."""
    steps = -(-images // optim.batch_size)
    epochs = min(LONGEST, max(SHORTEST, -(-UPDATES // steps)))
    patience = max(PATIENCE, epochs // 4) if select.patience is None else select.patience
    return replace(optim, epochs=epochs), replace(select, patience=patience)


def shortened(cache: Path, config: FitConfig, started: float) -> FitConfig:
    """The settings with no more epochs than some steps, which are tried, say will fit into the minutes.

    Raises:
        UsageError: not even one will; or several processes are to agree on it.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--minutes needs a single process.", "With torchrun, give --epochs.")
    from masktrain.study import preflight  # it prepares a fit itself

    each = preflight.plan(cache, config).seconds / config.optim.epochs
    left = started + config.run.minutes * 60 - END - time.monotonic()
    if (fit_in := int(left / each)) < 1:
        raise UsageError(
            f"One epoch takes about {each:.0f} seconds here, and {max(left, 0):.0f} are left of"
            f" {config.run.minutes:g} minutes.",
            "Give more --minutes, a smaller --model, or a view of smaller crops.",
        )
    return replace(config, optim=replace(config.optim, epochs=min(config.optim.epochs, fit_in)))


def extended(run: Path, config: FitConfig, done: int, epochs: int) -> FitConfig:
    """The settings of a run that is to have more epochs.

    Raises:
        UsageError: it has had so many, or its result is an average of its epochs.
    """
    if epochs <= done:
        raise UsageError(
            f"{run} has had {counted(done, 'epoch')}; --epochs {epochs} adds none.", "--epochs is the total."
        )
    if config.select.soup != "none":
        raise UsageError(
            f"The weights of {run} are an average of its last epochs, which cannot be trained on.",
            f"Begin a new run with them: masktrain fit CACHE --from {run}",
        )
    return replace(
        config,
        optim=replace(config.optim, epochs=epochs),
        run=replace(config.run, minutes=0.0, extended=(*config.run.extended, done)),
    )


def deadline(run: Path, minutes: float, started: float) -> float:
    """When the last epoch is to end, by ``time.monotonic()``; a finished run gets no more time."""
    if not minutes:
        return math.inf
    if (run / runs.RESULT).is_file():
        return -math.inf
    spent = sum(float(r.get("seconds", 0.0)) for r in runs.read_metrics(run))
    return started + minutes * 60 - END - spent


def reopened(recorder: Recorder) -> None:
    """Write down that a run goes on: it is no longer finished, and from here on its checkpoint and settings say so."""
    (recorder.run / runs.RESULT).unlink(missing_ok=True)
    recorder.save()
    recorder.flush()
    runs.write_config(recorder.run, recorder.config)


def improving(records: Sequence[dict[str, Any]]) -> bool:
    """Whether the last quarter of some epochs was better than the quarter before it, by macro-F1 and the loss of the
    people held out."""
    k = max(1, len(records) // 4)
    last, before = records[-k:], records[-2 * k : -k]
    if not before:
        return False
    f1, loss = ([float(np.mean([r[key] for r in part])) for part in (before, last)] for key in ("macro_f1", "val_loss"))
    return f1[1] > f1[0] + 0.01 and loss[1] < 0.98 * loss[0]
