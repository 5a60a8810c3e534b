"""Whatever was trained, ready to answer: a run, an ensemble or an exported file, all with one interface.

torch is imported only for runs: an exported file needs NumPy and onnxruntime.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UsageError
from maskprep.dataset import View, open_view
from masktrain.answer.predictor import Predictor, Rows, find_view, same_images
from masktrain.data import tasks
from masktrain.score import calibration as calibrations


def load(run: Path, device: str = "auto", tta: str | None = None, mean: str = "probability") -> Predictor:
    """A run's best model, an ensemble, or a file that ``masktrain export`` wrote (.onnx).

    Args:
        tta: ``none``, ``mirror``, ``shifts`` (moved to four sides) or ``mirror+shifts``; by default as validated.
        mean: over these looks, of the ``probability`` or of its ``logit``.

    Raises:
        UsageError: it is none of these, or the device is not here.
    """
    if run.suffix == ".onnx":
        from masktrain.answer import portable

        if tta is not None or mean != "probability":
            raise UsageError("--tta has no meaning for an exported file: it does what its run did.")
        return portable.load(run)
    from masktrain.answer import trained

    manual, source = trained.load(run, device, tta, mean)
    return Predictor(manual, source, calibrations.load(run, len(manual.classes)), str(run))


def open_for(predictor: Predictor, cache: Path, view: str | None = None) -> View:
    """The view of a cache that a predictor looks at first: the one named, or the one with its kind of crops.

    Raises:
        UsageError: there is none; or one is named to something that looks at several kinds of crops.
    """
    first = predictor.manual.inputs[0]
    if view is None:
        return tasks.like(find_view(cache, first), predictor.schema)
    if len(predictor.manual.inputs) > 1:
        names = ", ".join(i.view for i in predictor.manual.inputs)
        raise UsageError(f"--view has no meaning here: this looks at several kinds of crops ({names}).")
    return tasks.like(open_view(cache, view), predictor.schema)


def over_views(
    predictor: Predictor, views: Sequence[View], rows: Rows, batch_size: int, mean: str = "probability"
) -> NDArray[np.float32]:
    """Mean of the probabilities float32 [n, C] over several views of one cache, for rows of the first one's table.

    Args:
        mean: of the ``probability``, or of its ``logit``.

    Raises:
        UserError: a view lacks some of the images, or has crops of another size than the model takes.
    """
    first = views[0]
    tables = [predictor(v, rows if v is first else same_images(first, rows, v), batch_size) for v in views]
    if len(tables) == 1:
        return tables[0]
    if mean == "probability":
        return np.asarray(np.mean(tables, axis=0), np.float32)
    logits = np.mean([np.log(np.maximum(t, 1e-12)) for t in tables], axis=0)
    odds = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(odds / odds.sum(1, keepdims=True), np.float32)
