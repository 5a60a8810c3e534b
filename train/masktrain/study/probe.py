"""A linear probe on the features of a network before it is trained, beside what it scores afterwards."""

from __future__ import annotations

import copy
import time
from typing import Any

import numpy as np
from torch import nn

from maskprep.dataset import View
from masktrain.answer import baselines
from masktrain.data.trainset import TrainSet
from masktrain.score import metrics
from masktrain.train.checkpoint import Sidecar
from masktrain.train.loop import State
from masktrain.train.model import Paired


def probe(data: TrainSet, view: View, state: State, sidecar: Sidecar) -> dict[str, Any]:
    """How well logistic regression on the features of the untrained network answers for the people held out.

    Args:
        view: the crops, with what lies behind the subjects.

    Returns:
        ``macro_f1``, ``accuracy``, its ``answers`` by image, and the ``crops`` of the training people it was fitted on,
        of ``all``; or ``none``: why there is none.
    """
    config, started = state.config, time.monotonic()
    if not (config.model.pretrained or config.model.start):
        return {"none": "the network starts from random weights"}
    known, held = baselines.few(data.split.train, state.device), data.split.val
    net = headless(state.model)
    answers = baselines.probe_of(net, view, known, held, sidecar.mean, sidecar.std, state.device)
    scores = metrics.score(view.table["label"].iloc[held].to_numpy(dtype=np.int64), answers, view.schema)
    return {
        "network": config.model.start or sidecar.backbones,
        "macro_f1": scores.macro_f1,
        "accuracy": scores.accuracy,
        "answers": dict(zip(view.table["image"].iloc[held], answers.tolist(), strict=True)),
        "crops": len(known),
        "all": len(data),
        "seconds": round(time.monotonic() - started, 1),
    }


def lines(probe: dict[str, Any], reached: float | None = None) -> list[str]:
    """A linear probe in words.

    Args:
        reached: macro-F1 of the network on the same people, once it is trained.
    """
    if "none" in probe:
        return [f"probe   none: {probe['none']}"] if reached is None else []
    if not probe:
        return []
    some = f"{probe['crops']} of " * (probe["crops"] < probe["all"]) + f"{probe['all']} training crops"
    told = [
        f"probe   macro-F1 {probe['macro_f1']:.4f}, accuracy {probe['accuracy']:.4f} on the people held out: logistic"
        f" regression on the frozen features of {probe['network']}, {some}"
    ]
    if reached is not None and reached < probe["macro_f1"]:
        told.append(
            "        The trained network scores below this probe. More --epochs, another --lr, or --freeze -1 may help."
        )
    return told


def headless(model: nn.Module) -> nn.Module:
    """A copy of a network that answers with the features that its classifier is given."""
    made: Any = copy.deepcopy(model)
    if isinstance(made, Paired):
        made.classifier = nn.Identity()  # type: ignore[assignment]
    else:
        made.reset_classifier(0)
    return made.eval()  # type: ignore[no-any-return]
