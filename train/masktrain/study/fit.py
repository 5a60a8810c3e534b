"""Train a model on a cache, or go on with a run that was stopped."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, parse_colour, write_json
from maskprep.crops import Background
from maskprep.dataset import View
from maskprep.store import Cache
from masktrain.combine import averages
from masktrain.config.config import FitConfig
from masktrain.data import bands, folds
from masktrain.pages import report
from masktrain.runs import environment
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.score import metrics
from masktrain.study import loggers
from masktrain.study.progress import Progress
from masktrain.study.snapshots import Snapshots
from masktrain.train import checkpoint, criteria, feed, host, loop, parallel
from masktrain.train.augment import by_class, described, draw_seed
from masktrain.train.batches import Batches
from masktrain.train.losses import make_objective
from masktrain.train.model import check_size, native_size
from masktrain.train.networks import assemble, native_statistics
from masktrain.train.targets import make_target

AUGMENT = "augment.json"
FIRST = (runs.CONFIG, runs.DATA, runs.ENV, runs.LOCK, AUGMENT)
"""What a run holds before its first checkpoint."""


@dataclass(frozen=True)
class Fitted:
    """A finished fit: its folder, epochs, the best one's line of metrics.jsonl, and the interval of its macro-F1."""

    run: Path
    epochs: int
    best: dict[str, Any]
    interval: metrics.Interval


def fit(
    cache: Path,
    config: FitConfig | None = None,
    *,
    out: Path | None = None,
    note: str = "",
    progress: Progress | None = None,
) -> Fitted:
    """Train on the people of a cache, keep the epoch that is best on the people held out.

    Args:
        config: the settings; defaults where not given.
        out: folder of the run, by default a new one under ``runs/``.
        note: what the run is to find out; kept with it and shown by ``compare``.
        progress: what shows how it gets on; nothing by default.

    Raises:
        UserError: the cache, the settings, the model or its weights are not usable; stopped by Ctrl-C or SIGTERM
            (exit 130 and 143).
    """
    config = config or FitConfig()
    view = feed.opened(cache, config)
    Cache(cache).clear_of_photos(out)
    config = feed.settled(view, config)
    training = check(view, config)
    device = _device(config)
    mean, std = statistics(training, config)
    learner = make_learner(config, training, mean, std, device, pretrained=config.model.pretrained)

    data = runs.data_record(view, training)
    if (twin := runs.twin(config, data, *runs.beside(out))) is not None:
        (progress or Progress()).say(f"note    {twin} is this very fit, finished")

    def begin() -> Path:
        run = runs.new_run(config, out)
        runs.write_config(run, config)
        write_json(run / runs.DATA, data)
        write_json(run / runs.ENV, environment.describe(str(device)) | {"note": note})
        write_json(run / AUGMENT, described(config.augment.recipe, config.run.seed, config.augment.classes))
        return run

    run = parallel.from_first(begin)
    sidecar = checkpoint.Sidecar(
        model=config.model.name,
        schema=view.schema.to_dict(),
        classes=list(view.schema.class_names),
        view=view.name,
        size=list(view.size),
        geometry=view.info,
        mean=mean.tolist(),
        std=std.tolist(),
        settings=view.dataset.get("settings", {}),
        fallback=int(np.argmax(data["classes"]["train"])),
        target=config.target.kind,
        cosine=_cosine(config),
        tta=config.run.tta,
        background=config.data.background,
        colour=colour(training, config),
        second=config.model.second,
        route=config.target.route,
    )
    try:
        _save_last(run, learner, config, sidecar)
    except UserError:  # without a checkpoint the run could not go on, and its folder would be in the way of another
        for name in FIRST:
            (run / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            run.rmdir()
        raise
    return _train(run, view, training, learner, config, sidecar, progress or Progress())


def _device(config: FitConfig) -> torch.device:
    """The device, ready, and together with the other processes if there are several."""
    if config.run.deterministic:
        host.make_deterministic()
    device = host.choose_device(config.run.device)
    parallel.start(device)
    return device


def check(view: View, config: FitConfig) -> bands.Training:
    """The training part of a view's split; settings that cannot be met are found here, before anything is written.

    Raises:
        UserError: what cannot be met.
    """
    if view.schema.num_classes < 2:
        raise UserError(f"{view.path} has {view.schema.num_classes} classes; there is nothing to learn.")
    training = feed.training_of(view, config)
    feed.sampler_of(training, config)
    by_class(config.augment, view.schema, np.zeros(0, dtype=np.int64))
    loggers.check(config.run.log)
    nobody = metrics.score(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), view.schema)
    criteria.criterion({**nobody.to_dict(), "val_loss": 0.0}, config.select.by)
    return training


def statistics(training: bands.Training, config: FitConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (0..1, float64 [3]) that crops are normalised by, from the training people or timm.

    Raises:
        UserError: crops without mattes where the settings need them.
    """
    view, split = training.view, training.split
    if config.data.background != "original":
        view.need_mattes(np.concatenate([split.train, split.val]))
    if config.data.statistics == "model":
        return native_statistics(config.model.name)
    return view.mean_std(split.train, foreground=config.data.statistics == "foreground")


def background(config: FitConfig, colour: Sequence[int], rows: NDArray[np.int64]) -> Background:
    """What is to lie behind the subjects in training; random ones are borrowed from some table rows."""
    red, green, blue = colour
    return Background(config.data.background, (red, green, blue), config.run.seed, rows)


def colour(training: bands.Training, config: FitConfig) -> list[int]:
    """R, G, B of a background of one colour: as given, or the mean of the training people's crops or foregrounds."""
    if config.data.background == "mean":
        mean, _ = training.view.mean_std(training.split.train, foreground=config.data.statistics == "foreground")
        return [int(v) for v in np.rint(mean * 255)]
    return list(parse_colour(config.data.colour))


def resume(run: Path, cache: Path | None = None, *, progress: Progress | None = None) -> Fitted:
    """Go on with a run after its last snapshot; the weights end up bit-identical to those of an unbroken run.

    Args:
        cache: where the cache is now, if it has moved.

    Raises:
        UserError: the run has no checkpoint, or the cache is no longer the one it was started on.
    """
    state = checkpoint.load_last(run)
    config = FitConfig.from_dict(json.loads(state["config"]))
    sidecar = checkpoint.Sidecar(**json.loads(state["sidecar"]))
    data = runs.read_data(run)
    view = feed.opened(cache or Path(data["cache"]), config, data["view"])
    training = feed.training_of(view, config)
    now = (training.split.hash, training.extra)
    if runs.changed(view, data, config.data.background) or now != (data["folds"], data.get("extra", [])):
        raise UserError(
            f"The cache {view.path} has changed since {run} was started: other crops, mattes, labels or people.",
            f"Start a new run: masktrain fit {view.path}",
        )
    device = _device(config)
    mean, std = np.array(sidecar.mean), np.array(sidecar.std)
    learner = make_learner(config, training, mean, std, device, pretrained=False)
    learner.load(state["learner"])
    return _train(run, view, training, learner, config, sidecar, progress or Progress())


def make_learner(
    config: FitConfig,
    training: bands.Training,
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    device: torch.device,
    pretrained: bool,
) -> loop.Learner:
    """Model, loss and optimiser of a fit, ready for its first step."""
    view, split = training.view, training.split
    target = make_target(config.target.kind, view.schema, config.target.route)
    labels = view.table["label"].iloc[split.train].to_numpy(dtype=np.int64)
    objective = make_objective(target, labels, config)
    torch.manual_seed(draw_seed(config.run.seed))  # the weights of the classifier
    model = assemble(
        target,
        config.model.name,
        view.size,
        second=config.model.second,
        pretrained=pretrained,
        dropout=config.model.dropout,
        drop_path=config.model.drop_path,
        cosine=_cosine(config),
    )
    check_size(model, config.model.name, view.size)
    return loop.make_learner(model, config, objective, mean, std, device)


def outline(learner: loop.Learner, train: Batches, view: View, config: FitConfig) -> dict[str, Any]:
    """What is about to be trained, on what and how often, for people.

    ``recipes``: images that each augmentation takes in an epoch; ``drawn``: images of each class in an epoch;
    ``weights``: weights of the classes in the loss, for each head.
    """
    return {
        "model": config.model.name,
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "native size": native_size(learner.model),
        "size": view.size,
        "device": str(learner.precision.device),
        "precision": str(learner.precision.dtype or torch.float32).removeprefix("torch."),
        "steps": train.steps,
        "schema": view.schema,
        "weights": learner.objective.class_weights(),
        "recipes": {r: int((train.kinds[train.order(1)] == k).sum()) for k, r in enumerate(train.recipes)},
        "drawn": np.bincount(train.labels[train.order(1)], minlength=view.schema.num_classes),
    }


def _cosine(config: FitConfig) -> float:
    """Scale of a classifier by direction, 0 for a linear one."""
    if config.model.head == "cosine" and config.target.kind in ("ordinal", "number"):
        raise UsageError("A cosine head has no place for limits between ordered classes.", "Set model.head=linear.")
    return config.loss.scale if config.model.head == "cosine" else 0.0


def _train(
    run: Path,
    view: View,
    training: bands.Training,
    learner: loop.Learner,
    config: FitConfig,
    sidecar: checkpoint.Sidecar,
    progress: Progress,
) -> Fitted:
    split, device = training.split, learner.precision.device
    folds.check(training.view.table, split, folds.copies(view))
    behind = background(config, sidecar.colour, split.train)
    train = feed.batches_of(training, config, behind, device)
    val = feed.held_out(view, split, config, behind, device)

    def evaluate(probabilities: NDArray[np.float32]) -> dict[str, Any]:
        scores = metrics.score(val.labels, probabilities.argmax(1), view.schema)
        kept = {k: getattr(scores, k) for k in ("macro_f1", "macro_f1_all", "accuracy", "attributes")}
        return kept | {"class_f1": {c.name: c.f1 for c in scores.classes}}

    def after_epoch(record: dict[str, Any], probabilities: NDArray[np.float32], best: bool) -> None:
        if parallel.rank():
            return
        runs.append_metrics(run, record)
        if best:
            named = dataclasses.replace(sidecar, epoch=record["epoch"], score=record["macro_f1"])
            checkpoint.save_best(run, learner.scored, named, config.to_dict())
            heldout.write_oof(run, view, split.val, probabilities)
        averages.keep_epoch(run, learner.epoch, learner.scored.state_dict(), config.select)
        _save_last(run, learner, config, sidecar)
        logs.update()

    about = outline(learner, train, view, config)

    def stopped(code: int) -> UserError:
        return UserError(
            f"Stopped in epoch {learner.epoch + 1} of {config.optim.epochs}, after {learner.step} of {train.steps}"
            " steps; everything done so far is kept.",
            f"Go on with: masktrain fit --resume {run}",
            code=code,
        )

    def keep() -> None:
        if bool(learner.sums["loss"].isfinite()):  # a state that is lost must not take the place of a sound one
            _save_last(run, learner, config, sidecar)

    def predict(state: averages.State) -> NDArray[np.float32]:
        net.load_state_dict(state)
        return loop.predict(dataclasses.replace(learner, average=net), val)[0]

    def settle(state: averages.State) -> averages.State:
        net.load_state_dict(state)
        pictures = training.view.before(sidecar.behind())
        averages.recompute_norms(net, averages.images_of(pictures, split.train, sidecar, device))
        return {k: v.clone() for k, v in net.state_dict().items()}

    agree = functools.partial(parallel.highest, device=device) if parallel.world() > 1 else None
    snapshots = Snapshots(keep, config.run.snapshot_seconds, stopped, agree)
    where = (learner.epoch, learner.step)
    if parallel.rank():
        with snapshots.listening():
            loop.fit(learner, config, train, val, evaluate, after_epoch, Progress(), snapshots.pause)
        return _told(Fitted(run, 0, {}, metrics.Interval(0.0, 0.0, 0.0, 0)))
    with runs.locked(run), progress.running(run, config, runs.data_record(view, training), about, *where):
        runs.keep_metrics(run, learner.epoch)
        with loggers.logging(run, config.run.log) as logs, snapshots.listening():
            loop.fit(learner, config, train, val, evaluate, after_epoch, progress, snapshots.pause)
        net = copy.deepcopy(learner.scored)
        made = averages.choose(
            run,
            learner.scores,
            config.select,
            predict,
            lambda p: {"val_loss": metrics.nll(p, val.labels), **evaluate(p)},
            settle,
        )
        if config.select.soup != "none":
            alike = averages.alike(run, learner.epoch, val.labels, predict)
            if said := averages.advice(*alike):
                progress.say(f"note    {said}")
        if made is not None:
            named = dataclasses.replace(sidecar, epoch=made.epochs[-1], score=made.scores["macro_f1"])
            net.load_state_dict(made.state)
            checkpoint.save_best(run, net, named, config.to_dict())
            heldout.write_oof(run, view, split.val, made.probabilities)
        fitted = _finished(run, view, made)
    return _told(fitted)


def _told(fitted: Fitted) -> Fitted:
    """What the first process found, for all of them; then they part."""
    found = parallel.from_first(lambda: fitted)
    parallel.finish()
    return found


def _finished(run: Path, view: View, made: averages.Averaged | None) -> Fitted:
    """The result of a run, from what it has written."""
    records = runs.read_metrics(run)
    best = runs.best_epoch(run, records)
    if made is not None:
        best = best | made.scores | {"epoch": made.epochs[-1], "soup": made.epochs}
    held = heldout.read(run)
    predicted = held.probabilities.argmax(1)
    interval = metrics.interval(held.labels, predicted, held.people.tolist(), view.schema.num_classes)
    result = {"epochs": len(records), "best": best, "best by": criteria.bests(records)}
    write_json(run / runs.RESULT, result | {"interval": dataclasses.asdict(interval)})
    report.report(run, view.path)
    return Fitted(run, len(records), best, interval)


def _save_last(run: Path, learner: loop.Learner, config: FitConfig, sidecar: checkpoint.Sidecar) -> None:
    if parallel.rank():
        return
    checkpoint.save_last(
        run,
        {
            "format": checkpoint.FORMAT,
            "learner": learner.state(),
            "config": json.dumps(config.to_dict()),
            "config_hash": config.hash(),
            "sidecar": json.dumps(dataclasses.asdict(sidecar)),
        },
    )
