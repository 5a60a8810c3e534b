"""What to do next about a run: the costliest sources of its errors, and what its curves and baselines suggest."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from masktrain.runs import folder as runs
from masktrain.score import metrics
from masktrain.score.origins import ErrorSource

SOURCES = 4
"""Sources of errors that are advised on, the costliest."""
WORTH = 0.005
"""Gain of macro-F1 below which a source is not worth a look."""


@dataclass(frozen=True)
class Advice:
    """One thing to do: ``what`` is known, what is ``todo``, and the names, or links, of some ``images``."""

    what: str
    todo: str
    images: Sequence[object] = ()


def of_errors(
    ranked: Sequence[ErrorSource],
    cache: Path,
    run: Path,
    people: int,
    images: NDArray[np.object_],
    photo: Callable[[str], object],
) -> list[Advice]:
    """Advice on the costliest sources of errors.

    Args:
        ranked: the costliest first.
        people: how many the scores are over.
        images: names of the images that ``examples`` number.
        photo: name of an image, or a link to it.
    """
    here, there = (shlex.quote(str(path)) for path in (cache, run))
    todo = {
        "label": f"Look at each and correct what is wrong: `maskprep review {here}`. `masktrain explain {there} {here}`"
        " drafts decisions.",
        "crop": f"Look at the faces that were chosen, and decide those that are wrong: `maskprep faces {here}`,"
        f" then `maskprep review {here}`.",
        "limit": "Neighbouring classes look alike there, and no model tells them surely: check these labels first.",
        "people": f"Look at all photos of these people together: `maskprep review {here}`, filtered by person.",
        "attribute": "Look at its confusion matrix below, and add photos of the classes that are confused most.",
    }
    made = []
    for source in [o for o in ranked if o.wrong and o.gain >= WORTH][:SOURCES]:
        interval = metrics.between(source.low, source.high, people, "+.3f")
        between = f" (95 %: {interval})" if people >= metrics.FEW else ""
        subject = source.what if source.kind != "attribute" else f"errors in {source.name}"
        cost = f"{source.wrong} wrong answers cost {source.gain:.3f} of macro-F1{between}"
        what = f"{subject[:1].upper()}{subject[1:]}: {cost}."
        examples = [photo(str(images[i])) for i in source.examples] if source.kind != "attribute" else []
        made.append(Advice(what, todo.get(source.kind, ""), examples))
    return made


def of_training(
    run: Path, reached: float, probe: dict[str, Any], records: Sequence[dict[str, Any]], cache: Path
) -> list[Advice]:
    """Advice from the linear probe and from the curve of one fit.

    Args:
        reached: macro-F1 of the run.
        probe: ``macro_f1`` of the linear probe on the same images; empty for none.
        records: the epochs; empty where there are several fits.
    """
    made = []
    if probe and reached < probe["macro_f1"]:
        what = (
            f"The linear probe scores {probe['macro_f1']:.4f}, more than this run's {reached:.4f}: training did harm."
        )
        made.append(
            Advice(what, "Try a lower `--lr`, more `--epochs`, or `--freeze -1`, which trains the classifier alone.")
        )
    if len(records) > 1 and records[-1]["best_epoch"] == records[-1]["epoch"]:
        what = "The last epoch is the best: it may still be improving."
        again = f"masktrain fit --resume {shlex.quote(str(run))} --epochs {2 * len(records)}"
        made.append(Advice(what, f"Train longer: `{again}`."))
    if records and not (run / runs.FOLDS).is_file():
        what = "These scores are of the people of one fold."
        made.append(Advice(what, f"Score everybody: `masktrain fit {shlex.quote(str(cache))} --folds all`."))
    return made
