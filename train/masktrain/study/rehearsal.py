"""A fit that is set up as it would be, and then not done: for what tries it out first. Nothing is written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from maskprep.crops import Background
from maskprep.dataset import View
from masktrain.config.config import FitConfig
from masktrain.data import bands
from masktrain.study import fit as fitting
from masktrain.train import feed, host, loop
from masktrain.train.batches import Batches


@dataclass(frozen=True)
class Rehearsal:
    """All that a fit begins with.

    Args:
        view: the cache's view, with the labels of the schema.
        config: the settings, the target decided.
        training: who is trained on and held out, with the labels of training.
        learner: model, loss and optimiser before the first step.
        behind: what lies behind the subjects.
        train: the batches that are trained on.
    """

    view: View
    config: FitConfig
    training: bands.Training
    learner: loop.Learner
    behind: Background
    train: Batches


def prepare(cache: Path, config: FitConfig | None = None) -> Rehearsal:
    """Set a fit up as :func:`masktrain.study.fit.fit` would.

    Raises:
        UserError: all that would stop the fit.
    """
    config = config or FitConfig()
    view = feed.opened(cache, config)
    config = feed.settled(view, config)
    training = fitting.check(view, config)
    device = host.choose_device(config.run.device)
    mean, std = fitting.statistics(training, config)
    learner = fitting.make_learner(config, training, mean, std, device, pretrained=config.model.pretrained)
    behind = fitting.background(config, fitting.colour(training, config), training.split.train)
    return Rehearsal(view, config, training, learner, behind, feed.batches_of(training, config, behind, device))
