"""A fit in a folder of its own that is begun, gone on with, or done already: for what makes several of them."""

from __future__ import annotations

import shutil
from pathlib import Path

from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study import crossfit
from masktrain.study import fit as fitting
from masktrain.study.progress import Progress
from masktrain.train.checkpoint import LAST


def done(run: Path) -> bool:
    """Whether a fit, or that of all folds, is finished in a folder."""
    return ((run / runs.FOLDS).is_file() or (run / runs.ENV).is_file()) and runs.finished(run)


def fit_or_resume(cache: Path, config: FitConfig, run: Path, folds: bool, progress: Progress, note: str = "") -> float:
    """Macro-F1 of a fit, or with ``folds`` of that of all folds, from where it was stopped if it was.

    A folder without anything to go on with is removed, so it must be one that nobody else writes to.
    """
    if run.is_dir() and not (run / (runs.FOLDS if folds else LAST)).is_file():
        shutil.rmtree(run)
    if folds and run.is_dir():
        return crossfit.resume(run, cache, progress=progress).scores.macro_f1
    if folds:
        return crossfit.crossfit(cache, config, out=run, note=note, progress=progress).scores.macro_f1
    if run.is_dir():
        return float(fitting.resume(run, cache, progress=progress).best["macro_f1"])
    return float(fitting.fit(cache, config, out=run, note=note, progress=progress).best["macro_f1"])
