"""What the commands do, as plain functions with the same names and defaults."""

from masktrain.evaluate import Report, evaluate
from masktrain.fit import Fitted, fit, resume
from masktrain.predict import Predictions, predict

__all__ = ["Fitted", "Predictions", "Report", "evaluate", "fit", "predict", "resume"]
