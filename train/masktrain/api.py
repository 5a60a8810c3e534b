"""What the commands do, as plain functions with the same names and defaults; each is loaded when it is first used.

``fit`` and ``sweep`` take settings as they are; :func:`settings` makes those that the commands would, by the ground
rules of the cache.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from maskprep.dataset import open_view
    from masktrain.calibrate import Calibrated, calibrate
    from masktrain.compare import Comparison, compare
    from masktrain.config import FitConfig
    from masktrain.crossfit import Crossfitted, crossfit
    from masktrain.ensemble import Ensemble, ensemble
    from masktrain.evaluate import evaluate
    from masktrain.explain import explain
    from masktrain.export import export
    from masktrain.fit import Fitted, fit, resume
    from masktrain.plan import Plan, plan
    from masktrain.predict import Predictions, predict
    from masktrain.protocol import Protocol, init, settings
    from masktrain.report import report
    from masktrain.scored import Report
    from masktrain.standings import standings
    from masktrain.sweep import Swept, sweep

__all__ = [
    "Calibrated",
    "Comparison",
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
    "crossfit",
    "ensemble",
    "evaluate",
    "explain",
    "export",
    "fit",
    "init",
    "open_view",
    "plan",
    "predict",
    "report",
    "resume",
    "settings",
    "standings",
    "sweep",
]

_ELSEWHERE = {
    "Calibrated": "masktrain.calibrate",
    "Comparison": "masktrain.compare",
    "Crossfitted": "masktrain.crossfit",
    "Ensemble": "masktrain.ensemble",
    "FitConfig": "masktrain.config",
    "Fitted": "masktrain.fit",
    "Plan": "masktrain.plan",
    "Predictions": "masktrain.predict",
    "Protocol": "masktrain.protocol",
    "Report": "masktrain.scored",
    "Swept": "masktrain.sweep",
    "init": "masktrain.protocol",
    "open_view": "maskprep.dataset",
    "resume": "masktrain.fit",
    "settings": "masktrain.protocol",
}
"""Names that are not those of their modules."""


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'masktrain.api' has no attribute '{name}'")
    found = getattr(importlib.import_module(_ELSEWHERE.get(name, f"masktrain.{name}")), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__all__)
