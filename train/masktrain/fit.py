"""Train a model on a cache, or go on with a run that was stopped."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from maskprep.backgrounds import parse_colour
from maskprep.dataset import View, open_view
from maskprep.errors import UsageError, UserError
from masktrain import folds, metrics, runs, show
from masktrain.config import FitConfig
from masktrain.learn import checkpoint, loop
from masktrain.learn.augment import Augment, draw_seed
from masktrain.learn.batches import Batches
from masktrain.learn.losses import make_objective
from masktrain.learn.model import build, check_size, native_size
from masktrain.learn.targets import make_target
from masktrain.snapshots import Snapshots


@dataclass(frozen=True)
class Fitted:
    """A finished fit: its folder, the best epoch's line of metrics.jsonl, and the interval of its macro-F1."""

    run: Path
    best: dict[str, Any]
    interval: metrics.Interval


def fit(
    cache: Path, config: FitConfig | None = None, *, out: Path | None = None, progress: show.Fit | None = None
) -> Fitted:
    """Train on the people of a cache, keep the epoch that is best on the people held out.

    Args:
        config: the settings; defaults where not given.
        out: folder of the run, by default a new one under ``runs/``.
        progress: what shows how it gets on; nothing by default.

    Raises:
        UserError: the cache, the settings, the model or its weights are not usable; stopped by Ctrl-C or SIGTERM
            (exit 130 and 143).
    """
    config = config or FitConfig()
    view = open_view(cache, config.data.view)
    if view.schema.num_classes < 2:
        raise UserError(f"{cache} has {view.schema.num_classes} classes; there is nothing to learn.")
    split = folds.split(view, config.data.val_ratio, config.data.split_seed)
    device = loop.choose_device(config.run.device)
    if config.data.background != "original":
        view.need_mattes(np.concatenate([split.train, split.val]))
    mean, std = view.mean_std(split.train, foreground=config.data.statistics == "foreground")
    learner = _learner(config, view, split, mean, std, device, pretrained=config.model.pretrained)

    run = runs.new_run(config, out)
    runs.write_config(run, config)
    data = runs.data_record(view, split)
    checkpoint.write_json(run / runs.DATA, data)
    checkpoint.write_json(run / runs.ENV, runs.environment(str(device)))
    checkpoint.write_json(run / "augment.json", Augment(config.augment.recipe, config.run.seed).to_dict())
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
        colour=_colour(config, mean),
    )
    _save_last(run, learner, config, sidecar)
    return _train(run, view, split, learner, config, sidecar, progress or show.Fit())


def _colour(config: FitConfig, mean: NDArray[np.float64]) -> list[int]:
    """R, G, B of a background of one colour: as given, or the mean that crops are normalised by."""
    if config.data.background == "mean":
        return [int(v) for v in np.rint(mean * 255)]
    return list(parse_colour(config.data.colour))


def resume(run: Path, cache: Path | None = None, *, progress: show.Fit | None = None) -> Fitted:
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
    view = open_view(cache or Path(data["cache"]), data["view"])
    split = folds.split(view, config.data.val_ratio, config.data.split_seed)
    mattes = view.mattes_fingerprint() if config.data.background != "original" else data.get("mattes")
    if view.fingerprint() != data["fingerprint"] or split.hash != data["folds"] or mattes != data.get("mattes"):
        raise UserError(
            f"The cache {view.path} has changed since {run} was started: other crops, mattes, labels or people.",
            f"Start a new run: masktrain fit {view.path}",
        )
    device = loop.choose_device(config.run.device)
    mean, std = np.array(sidecar.mean), np.array(sidecar.std)
    learner = _learner(config, view, split, mean, std, device, pretrained=False)
    learner.load(state["learner"])
    return _train(run, view, split, learner, config, sidecar, progress or show.Fit())


def _learner(
    config: FitConfig,
    view: View,
    split: folds.Split,
    mean: NDArray[np.float64],
    std: NDArray[np.float64],
    device: torch.device,
    pretrained: bool,
) -> loop.Learner:
    target = make_target(config.target.kind, view.schema)
    labels = view.table["label"].iloc[split.train].to_numpy(dtype=np.int64)
    objective = make_objective(target, labels, config)
    torch.manual_seed(draw_seed(config.run.seed))  # the weights of the classifier
    model = build(
        config.model.name,
        target.outputs,
        view.size,
        pretrained=pretrained,
        dropout=config.model.dropout,
        cosine=_cosine(config),
    )
    check_size(model, config.model.name, view.size)
    return loop.make_learner(model, config, objective, mean, std, device)


def _cosine(config: FitConfig) -> float:
    """Scale of a classifier by direction, 0 for a linear one."""
    if config.model.head == "cosine" and config.target.kind == "ordinal":
        raise UsageError("A cosine head has no place for limits between ordered classes.", "Set model.head=linear.")
    return config.loss.scale if config.model.head == "cosine" else 0.0


def _train(
    run: Path,
    view: View,
    split: folds.Split,
    learner: loop.Learner,
    config: FitConfig,
    sidecar: checkpoint.Sidecar,
    progress: show.Fit,
) -> Fitted:
    folds.check(view.table, split)
    device, size = learner.precision.device, config.optim.batch_size
    seed = config.run.seed
    view = view.before(sidecar.behind(split.train, seed))
    train = Batches(view, split.train, size, device, recipe=config.augment.recipe, seed=seed)
    val = Batches(view, split.val, size, device)

    def evaluate(probabilities: NDArray[np.float32]) -> dict[str, Any]:
        scores = metrics.score(val.labels, probabilities.argmax(1), view.schema)
        kept = {k: getattr(scores, k) for k in ("macro_f1", "macro_f1_all", "accuracy", "attributes")}
        return kept | {"class_f1": {c.name: c.f1 for c in scores.classes}}

    def after_epoch(record: dict[str, Any], probabilities: NDArray[np.float32], best: bool) -> None:
        runs.append_metrics(run, record)
        if best:
            named = dataclasses.replace(sidecar, epoch=record["epoch"], score=record["macro_f1"])
            checkpoint.save_best(run, learner.scored, named)
            runs.write_oof(run, view, split.val, probabilities)
        _save_last(run, learner, config, sidecar)

    about = {
        "model": config.model.name,
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "native size": native_size(learner.model),
        "size": view.size,
        "device": str(device),
        "precision": str(learner.precision.dtype or torch.float32).removeprefix("torch."),
        "steps": train.steps,
    }

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

    snapshots = Snapshots(keep, config.run.snapshot_seconds, stopped)
    where = (learner.epoch, learner.step)
    with runs.locked(run), progress.running(run, config, runs.data_record(view, split), about, *where):
        runs.keep_metrics(run, learner.epoch)
        with snapshots.listening():
            loop.fit(learner, config, train, val, evaluate, after_epoch, progress, snapshots.pause)
    return _finished(run, view)


def _finished(run: Path, view: View) -> Fitted:
    """The result of a run, from what it has written."""
    import pandas as pd

    records = runs.read_metrics(run)
    best = next(r for r in records if r["epoch"] == records[-1]["best_epoch"])
    oof = pd.read_parquet(run / runs.OOF)
    people = view.table.set_index("image")["person"].loc[oof["image"]].tolist()
    predicted = oof.filter(regex=r"^p_\d+$").to_numpy().argmax(1)
    truth = oof["label"].to_numpy(dtype=np.int64)
    return Fitted(run, best, metrics.interval(truth, predicted, people, view.schema.num_classes))


def _save_last(run: Path, learner: loop.Learner, config: FitConfig, sidecar: checkpoint.Sidecar) -> None:
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
