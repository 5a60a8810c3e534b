"""What the commands do, as plain functions with the same names and defaults."""

from masktrain.compare import Comparison, compare
from masktrain.crossfit import Crossfitted, crossfit
from masktrain.evaluate import Report, evaluate
from masktrain.fit import Fitted, fit, resume
from masktrain.plan import Plan, plan
from masktrain.predict import Predictions, predict

__all__ = [
    "Comparison",
    "Crossfitted",
    "Fitted",
    "Plan",
    "Predictions",
    "Report",
    "compare",
    "crossfit",
    "evaluate",
    "fit",
    "plan",
    "predict",
    "resume",
]
