"""What the commands do, as plain functions with the same names and defaults; each is loaded when it is first used.

``fit`` and ``sweep`` take settings as they are; :func:`settings` makes those that the commands would, by the ground
rules of the cache.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskprep.dataset import open_view
    from masktrain.answer.evaluate import evaluate
    from masktrain.answer.export import export
    from masktrain.answer.predict import Predictions, predict
    from masktrain.combine.calibrate import Calibrated, calibrate
    from masktrain.combine.compose import Composed, compose
    from masktrain.combine.ensemble import Ensemble, ensemble
    from masktrain.config.config import FitConfig
    from masktrain.pages.compare import Comparison, compare
    from masktrain.pages.explain import explain
    from masktrain.pages.report import report
    from masktrain.runs.archive import pack, unpack
    from masktrain.score.report import Report
    from masktrain.study.crossfit import Crossfitted, crossfit
    from masktrain.study.fit import Fitted, fit, resume
    from masktrain.study.plan import Plan, plan
    from masktrain.study.protocol import Protocol, init, settings
    from masktrain.study.sweep import Swept, sweep

__all__ = [
    "Calibrated",
    "Comparison",
    "Composed",
    "Crossfitted",
    "Ensemble",
    "FitConfig",
    "Fitted",
    "Plan",
    "Predictions",
    "Protocol",
    "Report",
    "Swept",
    "calibrate",
    "compare",
    "compose",
    "crossfit",
    "ensemble",
    "evaluate",
    "explain",
    "export",
    "fit",
    "init",
    "open_view",
    "pack",
    "plan",
    "predict",
    "report",
    "resume",
    "settings",
    "sweep",
    "unpack",
]

_HOMES = {
    "Calibrated": "masktrain.combine.calibrate",
    "Comparison": "masktrain.pages.compare",
    "Composed": "masktrain.combine.compose",
    "Crossfitted": "masktrain.study.crossfit",
    "Ensemble": "masktrain.combine.ensemble",
    "FitConfig": "masktrain.config.config",
    "Fitted": "masktrain.study.fit",
    "Plan": "masktrain.study.plan",
    "Predictions": "masktrain.answer.predict",
    "Protocol": "masktrain.study.protocol",
    "Report": "masktrain.score.report",
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
    "init": "masktrain.study.protocol",
    "open_view": "maskprep.dataset",
    "pack": "masktrain.runs.archive",
    "plan": "masktrain.study.plan",
    "predict": "masktrain.answer.predict",
    "report": "masktrain.pages.report",
    "resume": "masktrain.study.fit",
    "settings": "masktrain.study.protocol",
    "sweep": "masktrain.study.sweep",
    "unpack": "masktrain.runs.archive",
}
"""Name → the module that has it."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'masktrain.api' has no attribute '{name}'")
    found = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__all__)
