"""What the commands do, as plain functions with the same names and defaults; each is loaded when it is first used.

``fit`` and ``sweep`` take settings as they are; :func:`settings` makes those that the commands would, by the ground
rules of the cache.
"""

from __future__ import annotations

import importlib
from typing import Any

HOMES = {
    "Calibrated": "masktrain.combine.calibrate",
    "Comparison": "masktrain.pages.compare",
    "Composed": "masktrain.combine.compose",
    "Crossfitted": "masktrain.study.crossfit",
    "Ensemble": "masktrain.combine.ensemble",
    "FitConfig": "masktrain.config.config",
    "Fitted": "masktrain.study.fit",
    "Plan": "masktrain.study.preflight",
    "Predictions": "masktrain.answer.predict",
    "Protocol": "masktrain.study.protocol",
    "Report": "masktrain.score.report",
    "Seeded": "masktrain.study.seeds",
    "Swept": "masktrain.study.sweep",
    "calibrate": "masktrain.combine.calibrate",
    "compare": "masktrain.pages.compare",
    "compose": "masktrain.combine.compose",
    "crossfit": "masktrain.study.crossfit",
    "ensemble": "masktrain.combine.ensemble",
    "evaluate": "masktrain.answer.evaluate",
    "explain": "masktrain.pages.explain",
    "export": "masktrain.answer.export",
    "fit": "masktrain.study.fit",
    "fit_seeds": "masktrain.study.seeds",
    "init": "masktrain.study.protocol",
    "open_view": "maskprep.dataset",
    "pack": "masktrain.runs.archive",
    "plan": "masktrain.study.preflight",
    "predict": "masktrain.answer.predict",
    "recipe": "masktrain.study.views",
    "report": "masktrain.pages.report",
    "resume": "masktrain.study.fit",
    "settings": "masktrain.study.protocol",
    "sweep": "masktrain.study.sweep",
    "unpack": "masktrain.runs.archive",
}
"""Name -> the module that has it."""

__all__ = list(HOMES)


def __getattr__(name: str) -> Any:
    if name not in HOMES:
        raise AttributeError(f"module 'masktrain.api' has no attribute '{name}'")
    found = getattr(importlib.import_module(HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(HOMES)
