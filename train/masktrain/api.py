"""What the commands do, as plain functions with the same names and defaults."""

from masktrain.compare import Comparison, compare
from masktrain.crossfit import Crossfitted, crossfit
from masktrain.evaluate import evaluate
from masktrain.fit import Fitted, fit, resume
from masktrain.plan import Plan, plan
from masktrain.predict import Predictions, predict
from masktrain.scored import Report

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
