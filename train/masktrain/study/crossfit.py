"""One fit for each fold: every person is held out once, and the models together are an ensemble.

No fold is scored at an epoch that it chose itself: what counts is what each said in the epoch that is best by the mean
of the other folds' curves. The models that are kept are of each fold's own best epoch, as in any fit.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskprep.base import UsageError, UserError, counted, html_table, write_json, write_with
from maskprep.store import Cache
from masktrain.answer import members
from masktrain.config.config import FitConfig
from masktrain.data import folds
from masktrain.data.labels import numbers_behind
from masktrain.data.names import VALUE
from masktrain.data.trainset import TrainSet, open_view_of
from masktrain.pages import report
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.score import metrics
from masktrain.study import fit as fitting
from masktrain.study.progress import Progress
from masktrain.train import criteria
from masktrain.train import device as devices
from masktrain.train.checkpoint import LAST


@dataclass(frozen=True)
class Crossfitted:
    """Scores over all people, each held out once; ``folds`` are the macro-F1 of the folds on their own, and ``chosen``
    says what chose their epochs."""

    run: Path
    scores: metrics.Scores
    interval: metrics.Interval
    folds: list[float]
    chosen: str

    def _repr_html_(self) -> str:
        """For notebooks: the scores of everybody, each by the model of another fold."""
        interval = f"macro-F1 {self.scores.macro_f1:.4f}, 95 % interval over people: {self.interval.text()}"
        return html_table(f"{self.run}, {counted(len(self.folds), 'fold')}\n{interval}", self.scores.rows)


def crossfit(
    cache: Path,
    config: FitConfig | None = None,
    *,
    out: Path | None = None,
    note: str = "",
    progress: Progress | None = None,
) -> Crossfitted:
    """Fit every fold of a cache.

    The folder holds one run per fold (``fold-1``, ...), the out-of-fold probabilities of everyone, and can be given to
    ``evaluate`` and ``predict``, which then take the mean over the folds' models.

    Raises:
        UserError: as :func:`masktrain.study.fit.fit`.
    """
    config = config or FitConfig()
    check(config)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("--folds all needs a single process.", "With torchrun, fit one at a time: --fold 1/5")
    view = open_view_of(cache, config)
    Cache(cache).clear_of_photos(out)
    device = devices.choose_device(config.run.device)
    count = folds.count(view, config.data)
    first = TrainSet.open(view, _fold(config, 1, count))
    if config.select.patience is None:  # all folds have one length
        config = dataclasses.replace(config, select=dataclasses.replace(config.select, patience=0))
    config = fitting.settled(first, config, device)
    fitting.check(first, config)
    if (twin := runs.twin(config, runs.data_record(view, first), *runs.beside(out), whole=True)) is not None:
        (progress or Progress()).say(f"note    {twin} is a finished fit of all folds with the same settings and data")
    run = runs.new_run(config, out)
    runs.write_config(run, config)
    write_json(run / runs.FOLDS, {"folds": count, "cache": str(cache.resolve()), "note": note})
    return resume(run, progress=progress)


def check(config: FitConfig) -> None:
    """Refuse settings that name one fold where all are to be fitted.

    Raises:
        UsageError: saying how their number is set.
    """
    if config.data.fold:
        raise UsageError(
            f"All folds are to be fitted, and fold {config.data.fold} alone is asked for.",
            "Leave one of the two out; the held-out share says how many folds there are, such as --val-ratio 0.2.",
        )


def resume(run: Path, cache: Path | None = None, *, progress: Progress | None = None) -> Crossfitted:
    """Go on with the folds that are not finished.

    Args:
        cache: where the cache is now, if it has moved.
    """
    about = runs.read_folds(run)
    config = runs.read_config(run)
    where = runs.need_cache(cache or Path(about["cache"]), run, f"masktrain fit NEW_CACHE --resume {run}")
    fitted = []
    for k in range(1, about["folds"] + 1):
        own = _fold(config, k, about["folds"])
        folder = run / f"fold-{k}"
        if (folder / LAST).is_file():
            fitted.append(fitting.resume(folder, cache, progress=progress))
        else:
            if folder.exists():
                _clear(folder)
            fitted.append(fitting.fit(where, own, out=folder, note=about.get("note", ""), progress=progress))
    return _joined(run, where, config, about, fitted)


def _clear(folder: Path) -> None:
    """Remove what a fold that was stopped before its first checkpoint has written; it is begun anew.

    Raises:
        UserError: there is something else.
    """
    files = list(folder.iterdir()) if folder.is_dir() else [folder]
    if other := [f for f in files if f.name not in fitting.FIRST and not f.name.startswith(".tmp-")]:
        raise UserError(f"{other[0]} is no part of a run.", "Move it away, then resume again.")
    for file in files:
        file.unlink()


def _fold(config: FitConfig, k: int, count: int) -> FitConfig:
    """The settings of one fold."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, fold=f"{k}/{count}"))


def _joined(
    run: Path, cache: Path, config: FitConfig, about: dict[str, Any], fitted: list[fitting.Fitted]
) -> Crossfitted:
    """Score everyone with the model that did not know them, and write it all down."""
    view = open_view_of(cache, config)
    epochs, chosen = _chosen(config, [f.run for f in fitted])
    tables = [heldout.read(f.run, file) for f, file in zip(fitted, epochs, strict=True)]
    oof = pd.concat([table.frame().assign(fold=k) for k, table in enumerate(tables, 1)], ignore_index=True)
    if oof["image"].duplicated().any():
        raise UserError(
            f"The folds of {run} hold out the same image twice.",
            "The cache has changed between the folds; fit them again with a new --out.",
        )
    table = oof.filter(regex=r"^p_\d+$").to_numpy()
    truth, predicted = oof["label"].to_numpy(dtype=np.int64), table.argmax(1)
    known = numbers_behind(view.table.set_index("image").loc[oof["image"]], view.schema)
    numbers = {n: (values, oof[f"{n}{VALUE}"].to_numpy()) for n, values in known.items() if f"{n}{VALUE}" in oof}
    made = Crossfitted(
        run,
        metrics.score(truth, predicted, view.schema, table, numbers),
        metrics.interval(truth, predicted, oof["person"].tolist(), view.schema.num_classes),
        [metrics.macro_f1(metrics.confusion(t.labels, t.answers, view.schema.num_classes)) for t in tables],
        chosen,
    )
    write_with(run / runs.OOF, lambda part: oof.to_parquet(part, compression="zstd"))
    data = runs.read_data(fitted[0].run)
    everyone = sorted({*data["people"]["train"], *data["people"]["val"]})
    write_json(run / runs.DATA, data | {"people": {"train": everyone, "val": everyone}})
    scores = {"out_of_fold": made.scores.to_dict(), "interval": dataclasses.asdict(made.interval), "each": made.folds}
    scores |= {"chosen": chosen}
    write_json(run / runs.FOLDS, about | scores)
    members.write(run, "soft", [f.run.name for f in fitted], [0] * len(fitted))
    report.report(run, view.path)
    return made


def best_elsewhere(curves: Sequence[Sequence[float]]) -> list[int]:
    """For each fold the epoch that is best by the mean of the other folds' curves.

    Args:
        curves: of each fold the score of every epoch, higher is better; one that ended early stays at its last. A fold
            that ended before the epoch has its own last one.
    """
    longest = max(map(len, curves))
    table = np.array([[*curve, *[curve[-1]] * (longest - len(curve))] for curve in curves])
    table = np.where(np.isnan(table), -np.inf, table)
    others = [np.delete(table, k, axis=0).mean(0) for k in range(len(table))]
    return [min(1 + int(mean.argmax()), len(curve)) for mean, curve in zip(others, curves, strict=True)]


def _chosen(config: FitConfig, fitted: Sequence[Path]) -> tuple[list[str], str]:
    """The file of each fold's answers that count, and how their epochs were chosen, in a sentence."""
    records = [runs.read_metrics(run) for run in fitted]
    last = f"the last epochs have {np.mean([r[-1]['macro_f1'] for r in records]):.4f} in the mean of the folds"
    if config.select.epoch == "last":
        return [runs.OOF] * len(fitted), "nothing was chosen on these people: every fold's last epoch"
    by = config.select.by
    epochs = best_elsewhere([[criteria.criterion(r, by) for r in each] for each in records])
    names = [heldout.epoch_file(epoch) for epoch in epochs]
    if config.select.soup != "none" or not all((run / name).is_file() for run, name in zip(fitted, names, strict=True)):
        return [runs.OOF] * len(fitted), f"chosen on these people: the best epoch of each fold; {last}"
    own = np.mean([max(r["macro_f1"] for r in each) for each in records])
    return names, (
        f"not chosen on these people: epochs {', '.join(map(str, epochs))}, each the best by {by} for the other folds;"
        f" {last}, the best epochs {own:.4f}. The models are those of each fold's best epoch"
    )
