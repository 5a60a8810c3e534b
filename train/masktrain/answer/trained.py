"""Networks of run folders as a source of probabilities."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from maskprep.base import UsageError
from masktrain.answer import inference, members
from masktrain.answer.graph import Part
from masktrain.answer.manual import Manual, Member
from masktrain.answer.predictor import Sights, Source
from masktrain.runs import folder as runs
from masktrain.train.checkpoint import Sidecar


@dataclass(frozen=True)
class Single:
    """The best model of one run."""

    member: inference.Predictor
    view: str

    def __call__(self, sights: Sights, batch_size: int) -> NDArray[np.float32]:
        """Probabilities of the images."""
        return self.member(*sights[self.view], batch_size)


def load(run: Path, device: str, tta: str | None = None, mean: str = "probability") -> tuple[Manual, Source]:
    """A run folder or an ensemble's, with what must be known to use it.

    Raises:
        UsageError: the folder is not a run, or not all its folds are finished, or the device is not here.
    """
    if (run / runs.FOLDS).is_file():
        runs.members(run)
    if (run / members.FILE).is_file():
        return members.load(run, device, tta, mean)
    member = inference.load(run, device, tta=tta, mean=mean)
    return manual_of(run.resolve().name, member.sidecar), Single(member, member.sidecar.view)


def manual_of(name: str, sidecar: Sidecar) -> Manual:
    """What a run's sidecar says, in the form that all trained things share."""
    return Manual(
        schema=sidecar.schema,
        inputs=(members.input_of(sidecar),),
        members=(Member(sidecar.backbones, name, sidecar.view, sidecar.mean, sidecar.std),),
        settings=sidecar.settings,
        fallback=sidecar.fallback,
    )


def parts_of(source: Source) -> tuple[list[Part], nn.Module | None]:
    """The networks behind a source, and what combines them; None for a single one.

    Raises:
        UsageError: it has none that torch knows.
    """
    if isinstance(source, Single):
        return [Part(source.member.model, source.member.sidecar, 0, source.member.mirror)], None
    if isinstance(source, members.Several):
        order = list(dict.fromkeys(source.views))
        spreads = source.spreads or (None,) * len(source.members)
        parts = [
            Part(m.model, m.sidecar, order.index(v), m.mirror, s)
            for m, v, s in zip(source.members, source.views, spreads, strict=True)
        ]
        return parts, source.combination
    raise UsageError("This has no networks of torch; give the run that it was exported from.")
