"""What a fit is fed: the images to train on, from one cache or several, drawn and made into batches."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from maskprep.crops import Background
from maskprep.dataset import View, open_view
from masktrain.config.config import FitConfig
from masktrain.data import bands, folds, sources, tasks
from masktrain.data.bands import Training
from masktrain.train import parallel
from masktrain.train.batches import Batches
from masktrain.train.sampling import Sampler, Several, make_samplers
from masktrain.train.targets import make_target


def opened(cache: Path, config: FitConfig, view: str | None = None) -> View:
    """The view of a cache that the settings name (or another one), asking for the attributes that they name.

    Raises:
        UserError: there is none; or there is no such attribute.
    """
    return tasks.of(open_view(cache, view or config.data.view), config.data.task)


def settled(view: View, config: FitConfig) -> FitConfig:
    """The settings with the target decided where they leave that to the data.

    It is ``number`` if the classes of an attribute are bins of a number that the training images tell (not only by one
    number for each class), and the classifier is linear; otherwise ``joint``.
    """
    if config.target.kind != "auto":
        return config
    told = bands.told_by_number(view, split_of(view, config).train)
    kind = "number" if told and config.model.head == "linear" else "joint"
    return dataclasses.replace(config, target=dataclasses.replace(config.target, kind=kind))


def split_of(view: View, config: FitConfig) -> folds.Split:
    """The split that the settings ask for."""
    data = config.data
    return folds.split(view, data.val_ratio, data.split_seed, fold=data.fold, file=data.folds_file)


def training_of(view: View, config: FitConfig) -> Training:
    """The training part of a view's split with all that training does differently.

    Raises:
        UserError: settings that cannot be met.
    """
    joined = sources.join(view, split_of(view, config), config.data)
    where = tasks.parse(config.data.where, tasks.whole(view)[1])
    rows = tasks.rows_where(joined.view, joined.split.train, where)
    chosen = dataclasses.replace(joined.split, train=rows)
    if where is not None:
        gone = {f"not {where}, in training only": len(joined.split.train) - len(rows)}
        chosen = dataclasses.replace(chosen, left_out={**joined.split.left_out, **gone})
    made = bands.prepare(joined.view, chosen, config.data)
    return dataclasses.replace(made, number=joined.number, weights=joined.weights, extra=joined.record)


def sampler_of(training: Training, config: FitConfig) -> Sampler | Several:
    """What draws the images of an epoch.

    Raises:
        UsageError: see :func:`masktrain.train.sampling.make_sampler`.
    """
    return make_samplers(
        training.view, training.split.train, training.number, training.weights, config.sample, config.run.seed
    )


def held_out(view: View, split: folds.Split, config: FitConfig, behind: Background, device: torch.device) -> Batches:
    """The batches that are scored: never augmented, mixed or sampled.

    Args:
        behind: what lies behind the subjects; random ones are for training only.
    """
    return Batches(view.before(behind), split.val, config.optim.batch_size, device)


def batches_of(training: Training, config: FitConfig, behind: Background, device: torch.device) -> Batches:
    """The batches that are trained on.

    Args:
        behind: what lies behind the subjects.
    """
    rows = training.split.train
    target = make_target(config.target.kind, training.view.schema, config.target.route)
    return Batches(
        training.view.before(behind),
        rows,
        config.optim.batch_size,
        device,
        augment=config.augment,
        sampler=sampler_of(training, config),
        seed=config.run.seed,
        soft=training.soft,
        numbers=bands.numbers_of(training.view, rows, target.numbers),
        part=(parallel.rank(), parallel.world()),
    )
