"""Train a model on a cache, or go on with a run that was stopped."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, parse_colour, write_json
from maskprep.crops import Background
from maskprep.dataset import View
from maskprep.store import Cache
from masktrain.answer import model as answering
from masktrain.combine import averages
from masktrain.config.config import FitConfig
from masktrain.data import folds, labels
from masktrain.data.trainset import TrainSet, open_view_of
from masktrain.pages import report
from masktrain.runs import environment
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.score import metrics
from masktrain.study import length, loggers, warmstart
from masktrain.study import probe as probing
from masktrain.study.progress import Progress
from masktrain.study.recorder import Recorder
from masktrain.train import checkpoint, criteria, loop
from masktrain.train import device as devices
from masktrain.train.augment import Augmenter
from masktrain.train.draws import draw_seed
from masktrain.train.losses import Objective
from masktrain.train.model import assemble, check_size, native_size, native_statistics
from masktrain.train.pixels import Crops, Feed, held_out
from masktrain.train.sampling import make_sampler
from masktrain.train.targets import Target, make_target

AUGMENT = "augment.json"
FIRST = (runs.CONFIG, runs.DATA, runs.ENV, runs.LOCK, runs.PROBE, AUGMENT)
"""What a run holds before its first checkpoint."""

MANY = 3000
"""Training images from which on a GPU gets larger batches."""
LONG = 300_000
"""Images of a whole fit from which on compiling the step pays."""
MEASURED = 2000
"""The most crops whose mean and deviation are measured behind another background."""


@dataclass(frozen=True)
class Fitted:
    """A finished fit: its folder, epochs, the best one's line of metrics.jsonl, the interval of its macro-F1; ``ended``
    is why it has fewer epochs than planned: ``patience``, ``minutes`` or nothing."""

    run: Path
    epochs: int
    best: dict[str, Any]
    interval: metrics.Interval
    ended: str = ""


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
        UserError: the cache, the settings, the model or its weights are not usable; stopped by Ctrl-C, SIGTERM or
            SIGHUP (exit status 128 and the signal's number).
    """
    started, asked = time.monotonic(), config or FitConfig()
    view, progress = open_view_of(cache, asked), progress or Progress()
    Cache(cache).clear_of_photos(out)
    data = TrainSet.open(view, asked)
    device = devices.choose_device(asked.run.device, deterministic=asked.run.deterministic)
    config = settled(data, asked, device)
    check(data, config)
    if config.run.minutes:
        config = length.shortened(cache, config, started)
    devices.start(device)
    mean, std = statistics(data, config)
    state = make_state(config, data, mean, std, device, pretrained=True, say=progress.say)
    record = runs.data_record(view, data)
    if config.run.device == "auto" and (why := devices.without_gpu()):
        progress.say(f"note    trained on the CPU: {why}")
    if (twin := runs.twin(config, record, *runs.beside(out))) is not None:
        progress.say(f"note    {twin} is a finished fit with the same settings and data")
    sidecar = _sidecar(config, data, record, mean, std)
    behind = view.before(background(config, sidecar.colour, data.split.train))
    probe = devices.broadcast(lambda: probing.probe(data, behind, state, sidecar)) if config.run.probe else {}
    for line in probing.lines(probe):
        progress.say(line)
    run = devices.broadcast(lambda: _begin(config, data, record, device, out, note))
    if probe and not devices.rank():
        write_json(run / runs.PROBE, probe)
    return _train(run, view, data, state, sidecar, progress, asked, started)


def resume(
    run: Path, cache: Path | None = None, *, epochs: int | None = None, progress: Progress | None = None
) -> Fitted:
    """Go on with a run after its last snapshot; the weights end up bit-identical to those of an unbroken run.

    Args:
        cache: where the cache is now, if it has moved.
        epochs: of the whole run, more than it has had; the schedule goes on as that of a run of this length, and
            early stopping begins to count anew.

    Raises:
        UsageError: the run has had so many epochs.
        UserError: the run has no checkpoint, or the cache is no longer the one it was started on.
    """
    saved = checkpoint.load_last(run)
    config = FitConfig.from_dict(json.loads(saved["config"]))
    sidecar = checkpoint.Sidecar(**json.loads(saved["sidecar"]))
    record = runs.read_data(run)
    where = runs.need_cache(cache or Path(record["cache"]), run, f"masktrain fit NEW_CACHE --resume {run}")
    view = open_view_of(where, config, record["view"])
    data = TrainSet.open(view, config)
    recipes = Augmenter(config.augment, view.schema, view.size, config.run.seed).to_dict()
    now = (data.split.hash, data.extra, json.loads(json.dumps(recipes)))
    then = (record["folds"], record.get("extra", []), json.loads((run / AUGMENT).read_text(encoding="utf-8")))
    if runs.changed(view, record, config.data.background) or now != then:
        raise UserError(
            f"The cache {view.path} has changed since {run} was started (other crops, mattes, labels or people), or a"
            " file of albumentations has.",
            f"Start a new run: masktrain fit {view.path}",
        )
    device = devices.choose_device(config.run.device, deterministic=config.run.deterministic)
    devices.start(device)
    state = make_state(config, data, np.array(sidecar.mean), np.array(sidecar.std), device, pretrained=False)
    state.load(saved["learner"])
    if epochs is not None:
        state.config, state.stops = length.extended(run, config, state.epoch, epochs), []
    return _train(run, view, data, state, sidecar, progress or Progress(), None, time.monotonic())


def settled(data: TrainSet, config: FitConfig, device: torch.device) -> FitConfig:
    """The settings with everything decided that they leave to the data and the device.

    The target is ``number`` if the classes of an attribute are bins of a number that the training images tell (not only
    by one number for each class) and the classifier is linear, otherwise ``joint``.
    """
    target, optim, select, run = config.target, config.optim, config.select, config.run
    if target.kind == "auto":
        numeric = labels.numeric_attributes(data.view, data.split.train)
        target = replace(target, kind="number" if numeric and config.model.head == "linear" else "joint")
    on_gpu = device.type == "cuda"
    if not optim.batch_size:
        optim = replace(optim, batch_size=64 if on_gpu and len(data) > MANY else 16)
    if not optim.lr:
        optim = replace(optim, lr=float(f"{1e-3 * (optim.batch_size / 16) ** 0.5:.3g}"))
    if not optim.epochs:
        images = len(make_sampler(data, config.sample, run.seed).order(1))
        optim, select = length.by_updates(optim, select, images)
    if run.compile is None:
        run = replace(run, compile=on_gpu and len(data) * optim.epochs > LONG)
    return replace(config, target=target, optim=optim, select=select, run=run)


def check(data: TrainSet, config: FitConfig) -> None:
    """Find settings that cannot be met before anything is written.

    Raises:
        UserError: what cannot be met.
    """
    make_sampler(data, config.sample, config.run.seed)
    Augmenter(config.augment, data.view.schema, data.view.size, config.run.seed).to_dict()
    loggers.check(config.run.log)
    nobody = metrics.score(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), data.view.schema)
    for by in (config.select.by, config.select.stop_by or config.select.by):
        criteria.criterion({**nobody.to_dict(), "val_loss": 0.0}, by)
    if config.select.epoch == "last" and (config.schedule.kind == "plateau" or config.model.thaw_on_plateau):
        raise UsageError(
            "With --select last nothing is chosen on the people held out, and a plateau is.",
            "Use another schedule, and model.thaw in place of model.thaw_on_plateau.",
        )


def statistics(data: TrainSet, config: FitConfig) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (0..1, float64 [3]) that crops are normalised by, from the training people or timm.

    Behind another background than the photo's they are measured over the crops as they are trained on.

    Raises:
        UserError: crops without mattes where the settings need them.
    """
    view, split, wanted = data.view, data.split, config.data
    if wanted.background != "original":
        view.need_mattes(np.concatenate([split.train, split.val]))
    if wanted.statistics == "model":
        return native_statistics(config.model.name)
    if wanted.background == "original" or wanted.statistics == "foreground":
        return view.mean_std(split.train, foreground=wanted.statistics == "foreground")
    rows = split.train[:: -(-len(split.train) // MEASURED)]
    behind = view.before(background(config, colour(data, config), split.train))
    sums = np.zeros((2, 3))
    for start in range(0, len(rows), 64):
        values = behind.gather(rows[start : start + 64], epoch=1).astype(np.float64) / 255
        sums += [values.sum((0, 1, 2)), (values**2).sum((0, 1, 2))]
    mean, square = sums / (len(rows) * view.size[0] * view.size[1])
    return mean, np.sqrt(np.maximum(square - mean**2, 0))


def background(config: FitConfig, colour: Sequence[int], rows: NDArray[np.int64]) -> Background:
    """What is to lie behind the subjects in training; random ones are borrowed from some table rows."""
    red, green, blue = colour
    return Background(config.data.background, (red, green, blue), config.run.seed, rows)


def colour(data: TrainSet, config: FitConfig) -> list[int]:
    """R, G, B of a background of one colour: as given, or the mean of the training people's crops or foregrounds."""
    if config.data.background == "mean":
        mean, _ = data.view.mean_std(data.split.train, foreground=config.data.statistics == "foreground")
        return [int(v) for v in np.rint(mean * 255)]
    return list(parse_colour(config.data.colour))


def target_of(data: TrainSet, config: FitConfig) -> Target:
    """What the network answers."""
    return make_target(config.target.kind, data.view.schema, data.limits)


def make_state(
    config: FitConfig,
    data: TrainSet,
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    device: torch.device,
    pretrained: bool,
    say: Callable[[str], None] = lambda _: None,
) -> loop.State:
    """Model, loss and optimiser of a fit, ready for its first step.

    Class weights are those of what an epoch draws.

    Args:
        pretrained: with the weights that the settings start from; ``say`` is told what was taken of a run's or file's.
    """
    target, cosine = target_of(data, config), _cosine(config)
    drawn = data.truth[make_sampler(data, config.sample, config.run.seed).order(1)].sum(0, dtype=np.float64)
    objective = Objective(target, drawn, config.loss, config.target, cosine > 0)
    torch.manual_seed(draw_seed(config.run.seed))  # the weights of the classifier
    model = assemble(
        config.model.name,
        target.outputs,
        data.view.size,
        second=config.model.second,
        pretrained=pretrained and config.model.pretrained and not config.model.start,
        dropout=config.model.dropout,
        drop_path=config.model.drop_path,
        cosine=cosine,
    )
    check_size(model, config.model.name, data.view.size)
    if pretrained and config.model.start:
        warmstart.start(model, data, config, target, say)
    return loop.make_state(model, config, objective, mean, std, device)


def feeds(data: TrainSet, config: FitConfig, colour: Sequence[int], device: torch.device) -> tuple[Feed, Crops]:
    """The batches that are trained on, and the crops that are scored."""
    view = data.view.before(background(config, colour, data.split.train))
    return Feed(data, view, config, target_of(data, config).numbers, device), held_out(data, view, config, device)


def outline(state: loop.State, train: Feed, data: TrainSet) -> dict[str, Any]:
    """What is about to be trained, on what and how often, for people.

    ``recipes``: images that each augmentation takes in an epoch; ``drawn``: images of each class in an epoch;
    ``weights``: weights of the classes in the loss, for each head.
    """
    order, view = train.order(1), data.view
    return {
        "model": state.config.model.name,
        "parameters": sum(p.numel() for p in state.model.parameters()),
        "native size": native_size(state.model),
        "size": view.size,
        "device": str(state.device),
        "precision": str(state.precision.dtype or torch.float32).removeprefix("torch."),
        "steps": train.steps,
        "batch": train.batch,
        "schema": view.schema,
        "weights": state.objective.class_weights(),
        "recipes": {r: int((train.kinds[order] == k).sum()) for k, r in enumerate(train.recipes)},
        "drawn": np.bincount(train.labels[order].reshape(-1), minlength=view.schema.num_classes),
    }


def _cosine(config: FitConfig) -> float:
    """Scale of a classifier by direction, 0 for a linear one."""
    if config.model.head == "cosine" and config.target.kind in ("ordinal", "number"):
        raise UsageError("A cosine head has no place for limits between ordered classes.", "Set model.head=linear.")
    return config.loss.scale if config.model.head == "cosine" else 0.0


def _begin(
    config: FitConfig, data: TrainSet, record: dict[str, Any], device: torch.device, out: Path | None, note: str
) -> Path:
    """The folder of a new run with what it holds before its first checkpoint."""
    view, run = data.view, runs.new_run(config, out)
    runs.write_config(run, config)
    write_json(run / runs.DATA, record)
    write_json(run / runs.ENV, environment.describe(str(device)) | {"note": note})
    write_json(run / AUGMENT, Augmenter(config.augment, view.schema, view.size, config.run.seed).to_dict())
    return run


def _sidecar(
    config: FitConfig,
    data: TrainSet,
    record: dict[str, Any],
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
) -> checkpoint.Sidecar:
    view = data.view
    return checkpoint.Sidecar(
        model=config.model.name,
        schema=view.schema.to_dict(),
        classes=list(view.schema.class_names),
        view=view.name,
        size=list(view.size),
        geometry=view.info,
        mean=mean.tolist(),
        std=std.tolist(),
        settings=view.dataset.get("settings", {}),
        fallback=int(np.argmax(record["classes"]["train"])),
        target=config.target.kind,
        cosine=_cosine(config),
        tta=config.run.tta,
        background=config.data.background,
        colour=colour(data, config),
        second=config.model.second,
        limits={name: list(limits) for name, limits in data.limits.items()},
    )


def _train(
    run: Path,
    view: View,
    data: TrainSet,
    state: loop.State,
    sidecar: checkpoint.Sidecar,
    progress: Progress,
    asked: FitConfig | None,
    started: float,
) -> Fitted:
    """Train from where the state stands to the end, and write it all down.

    A new run has ``asked``, the settings before anything was decided; ``started`` is ``time.monotonic()`` at the start.
    """
    config = state.config
    folds.check(data.view.table, data.split, folds.copies(view))
    train, val = feeds(data, config, sidecar.colour, state.device)
    recorder = Recorder(run, state, data, sidecar, train.steps)

    def evaluate(probabilities: NDArray[np.float32]) -> dict[str, Any]:
        scores = metrics.score(val.labels, probabilities.argmax(1), view.schema)
        named = {k: getattr(scores, k) for k in ("macro_f1", "macro_f1_all", "accuracy", "attributes")}
        return named | {"class_f1": {c.name: c.f1 for c in scores.classes}}

    if devices.rank():
        with recorder.recording():
            loop.fit(state, train, val, evaluate, recorder.epoch, recorder.pause, Progress())
        return _parted(Fitted(run, 0, {}, metrics.Interval(0.0, 0.0, 0.0, 0)))
    with contextlib.ExitStack() as stack:
        stack.enter_context(runs.locked(run))
        about, where = outline(state, train, data) | {"asked": asked}, (state.epoch, state.step)
        if asked is not None:
            _first_checkpoint(recorder)
        elif runs.read_config(run) != config:
            length.reopened(recorder)
        runs.keep_metrics(run, state.epoch)
        stack.enter_context(progress.running(run, config, runs.data_record(view, data), about, *where))
        logs = stack.enter_context(loggers.logging(run, config.run.log))
        stack.enter_context(recorder.recording())
        recorder.update_logs = logs.update
        until = length.deadline(run, config.run.minutes, started)
        ended = loop.fit(state, train, val, evaluate, recorder.epoch, recorder.pause, progress, until)
        made = _averaged(run, state, train, val, evaluate, progress) if config.select.soup != "none" else None
        if made is not None:
            recorder.best(made.epochs[-1], made.scores["macro_f1"], made.probabilities, made.state)
        recorder.flush()
        fitted = replace(_finished(run, view, made, state.device), ended=ended)
    return _parted(fitted)


def _averaged(
    run: Path,
    state: loop.State,
    train: Feed,
    val: Crops,
    evaluate: Callable[[NDArray[np.float32]], dict[str, Any]],
    progress: Progress,
) -> averages.Averaged | None:
    """The mean of the epochs that are kept, if it scores higher than the best of them all."""
    net = copy.deepcopy(state.scored)

    def predict(weights: averages.State) -> NDArray[np.float32]:
        net.load_state_dict(weights)
        return loop.predict(state, val, network=net)[0]

    def settle(weights: averages.State) -> averages.State:
        net.load_state_dict(weights)
        crops = Crops(train.view, train.rows, train.batch, state.device)
        averages.recompute_norms(net, (loop.normalise(batch, state.mean, state.std) for batch in crops))
        return {k: v.clone() for k, v in net.state_dict().items()}

    def scores(probabilities: NDArray[np.float32]) -> dict[str, Any]:
        return {"val_loss": metrics.nll(probabilities, val.labels), **evaluate(probabilities)}

    if advice := averages.advice(*averages.alike(run, state.epoch, val.labels, predict)):
        progress.say(f"note    {advice}")
    return averages.choose(run, state.scores, state.config.select, predict, scores, settle)


def _first_checkpoint(recorder: Recorder) -> None:
    """Write the state before the first step; a run without one could not go on, and would be in the way of another."""
    try:
        recorder.save()
        recorder.flush()
    except UserError:
        for name in FIRST:
            (recorder.run / name).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            recorder.run.rmdir()
        raise


def _parted(fitted: Fitted) -> Fitted:
    """What the first process made, for all of them; then they part."""
    made = devices.broadcast(lambda: fitted)
    devices.finish()
    return made


def _finished(run: Path, view: View, made: averages.Averaged | None, device: torch.device) -> Fitted:
    """The result of a run, from what it has written; oof.parquet gets the numbers of the best epoch."""
    records = runs.read_metrics(run)
    best = runs.best_epoch(run, records)
    if made is not None:
        best = best | made.scores | {"epoch": made.epochs[-1], "soup": made.epochs}
    held = heldout.read(run)
    rows = answering.rows_of(view, held.images)
    if checkpoint.load_sidecar(run).answers().numbers:
        held = replace(held, numbers=answering.load(run, str(device)).read(view, rows)[1])
        held.write(run / runs.OOF)
    scores = metrics.score_table(held, labels.numbers_behind(view.table.iloc[rows], view.schema))
    best = best | {"balanced_accuracy": scores.balanced_accuracy, "log_loss": scores.log_loss, "mae": scores.mae}
    interval = metrics.interval(held.labels, held.answers, held.people.tolist(), view.schema.num_classes)
    result = {"epochs": len(records), "best": best, "best by": criteria.bests(records)} | runs.latest(records)
    write_json(run / runs.RESULT, result | {"interval": dataclasses.asdict(interval)})
    report.report(run, view.path)
    return Fitted(run, len(records), best, interval)
