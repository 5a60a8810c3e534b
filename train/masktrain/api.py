"""What the commands do, as plain functions with the same names and defaults; each is loaded when it is first used.

``fit`` and ``sweep`` take settings as they are; :func:`settings` makes those that the commands would, by the ground
rules of the cache.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskprep.dataset import open_view
    from masktrain.answering.evaluate import evaluate
    from masktrain.answering.export import export
    from masktrain.answering.predict import Predictions, predict
    from masktrain.combining.calibrate import Calibrated, calibrate
    from masktrain.combining.compose import Composed, compose
    from masktrain.combining.ensemble import Ensemble, ensemble
    from masktrain.fitting.crossfit import Crossfitted, crossfit
    from masktrain.fitting.fit import Fitted, fit, resume
    from masktrain.fitting.plan import Plan, plan
    from masktrain.fitting.protocol import Protocol, init, settings
    from masktrain.fitting.sweep import Swept, sweep
    from masktrain.options.config import FitConfig
    from masktrain.pages.compare import Comparison, compare
    from masktrain.pages.explain import explain
    from masktrain.pages.report import report
    from masktrain.pages.standings import standings
    from masktrain.records.pack import pack, unpack
    from masktrain.scoring.scored import Report

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
    "standings",
    "sweep",
    "unpack",
]

_HOMES = {
    "Calibrated": "masktrain.combining.calibrate",
    "Comparison": "masktrain.pages.compare",
    "Composed": "masktrain.combining.compose",
    "Crossfitted": "masktrain.fitting.crossfit",
    "Ensemble": "masktrain.combining.ensemble",
    "FitConfig": "masktrain.options.config",
    "Fitted": "masktrain.fitting.fit",
    "Plan": "masktrain.fitting.plan",
    "Predictions": "masktrain.answering.predict",
    "Protocol": "masktrain.fitting.protocol",
    "Report": "masktrain.scoring.scored",
    "Swept": "masktrain.fitting.sweep",
    "calibrate": "masktrain.combining.calibrate",
    "compare": "masktrain.pages.compare",
    "compose": "masktrain.combining.compose",
    "crossfit": "masktrain.fitting.crossfit",
    "ensemble": "masktrain.combining.ensemble",
    "evaluate": "masktrain.answering.evaluate",
    "explain": "masktrain.pages.explain",
    "export": "masktrain.answering.export",
    "fit": "masktrain.fitting.fit",
    "init": "masktrain.fitting.protocol",
    "open_view": "maskprep.dataset",
    "pack": "masktrain.records.pack",
    "plan": "masktrain.fitting.plan",
    "predict": "masktrain.answering.predict",
    "report": "masktrain.pages.report",
    "resume": "masktrain.fitting.fit",
    "settings": "masktrain.fitting.protocol",
    "standings": "masktrain.pages.standings",
    "sweep": "masktrain.fitting.sweep",
    "unpack": "masktrain.records.pack",
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
