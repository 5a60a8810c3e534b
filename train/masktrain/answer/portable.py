"""Exported models: an ONNX file with everything in it, run by onnxruntime. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, missing_extra
from masktrain.answer.manual import Manual
from masktrain.answer.predictor import Predictor, Sights
from masktrain.score.calibration import Calibration

MANUAL_KEY, CALIBRATION_KEY = "masktrain.manual", "masktrain.calibration"


@dataclass(frozen=True)
class Portable:
    """An ONNX graph from crops uint8 [n, H, W, 3], one input per kind of crops, to probabilities float32 [n, C]."""

    session: Any

    def __call__(self, sights: Sights, batch_size: int) -> NDArray[np.float32]:
        """Probabilities of the images."""
        n = len(next(iter(sights.values()))[1])
        parts = []
        for start in range(0, n, batch_size):
            part = slice(start, min(start + batch_size, n))
            feed = {f"crops_{name}": view.gather(rows[part]) for name, (view, rows) in sights.items()}
            parts.append(self.session.run(None, feed)[0])
        return np.concatenate(parts).astype(np.float32)


def load(file: Path) -> Predictor:
    """An exported ONNX file.

    Raises:
        UsageError: there is no such file.
        UserError: it is none that ``masktrain export`` wrote, or onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise missing_extra("onnxruntime", "onnx") from error
    if not file.is_file():
        raise UsageError(f"{file} does not exist.")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has an error class per status code, without a common base
        raise UserError(f"{file} is no ONNX file: {str(error).splitlines()[0]}") from error
    held = session.get_modelmeta().custom_metadata_map
    manual = Manual.from_json(held.get(MANUAL_KEY, ""), str(file))
    said = json.loads(held[CALIBRATION_KEY])
    # the graph tempers by itself; the limits per class are left to whoever decides
    thresholds = Calibration.from_dict(said, len(manual.classes), str(file)).thresholds
    return Predictor(manual, Portable(session), Calibration(1.0, thresholds), str(file))
