"""One fit for each fold: every person is held out once, and the models together are an ensemble."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskprep.errors import UsageError, UserError
from maskprep.store.files import write_json, write_with
from masktrain import feed, folds, members, metrics, runs, show
from masktrain import fit as fitting
from masktrain.config import FitConfig
from masktrain.learn.checkpoint import LAST


@dataclass(frozen=True)
class Crossfitted:
    """Scores over all people, each held out once; ``folds`` are the macro-F1 of the folds on their own."""

    run: Path
    scores: metrics.Scores
    interval: metrics.Interval
    folds: list[float]


def crossfit(
    cache: Path,
    config: FitConfig | None = None,
    *,
    out: Path | None = None,
    note: str = "",
    progress: show.Fit | None = None,
) -> Crossfitted:
    """Fit every fold of a cache.

    The folder holds one run per fold (``fold-1``, ...), the out-of-fold probabilities of everyone, and can be given to
    ``evaluate`` and ``predict``, which then take the mean over the folds' models.

    Raises:
        UserError: as :func:`masktrain.fit.fit`.
    """
    config = config or FitConfig()
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UsageError("All folds in one go are fitted by one process.", "With torchrun, give one: --fold 1/5")
    view = feed.opened(cache, config)
    config = feed.settled(view, config)
    fitting.check(view, config)
    count = folds.count(view, config.data)
    first = runs.data_record(view, fitting.check(view, _fold(config, 1, count)))
    if (twin := runs.twin(config, first, *runs.beside(out), whole=True)) is not None:
        (progress or show.Fit()).say(f"note    {twin} is this very fit of all folds, finished")
    run = runs.new_run(config, out)
    runs.write_config(run, config)
    write_json(run / runs.FOLDS, {"folds": count, "cache": str(cache.resolve()), "note": note})
    return resume(run, progress=progress)


def resume(run: Path, cache: Path | None = None, *, progress: show.Fit | None = None) -> Crossfitted:
    """Go on with the folds that are not finished.

    Args:
        cache: where the cache is now, if it has moved.
    """
    about = json.loads((run / runs.FOLDS).read_text(encoding="utf-8"))
    config = runs.read_config(run)
    where = cache or Path(about["cache"])
    fitted = []
    for k in range(1, about["folds"] + 1):
        own = _fold(config, k, about["folds"])
        folder = run / f"fold-{k}"
        if (folder / LAST).is_file():
            fitted.append(fitting.resume(folder, cache, progress=progress))
        else:
            if folder.is_dir() and any(folder.iterdir()):
                raise UserError(f"{folder} holds something that is no run.", "Remove it, then resume again.")
            fitted.append(fitting.fit(where, own, out=folder, note=about["note"], progress=progress))
    return _joined(run, where, config, about, fitted)


def _fold(config: FitConfig, k: int, count: int) -> FitConfig:
    """The settings of one fold."""
    return dataclasses.replace(config, data=dataclasses.replace(config.data, fold=f"{k}/{count}"))


def _joined(
    run: Path, cache: Path, config: FitConfig, about: dict[str, Any], fitted: list[fitting.Fitted]
) -> Crossfitted:
    """Score everyone with the model that did not know them, and write it all down."""
    view = feed.opened(cache, config)
    tables = [pd.read_parquet(f.run / runs.OOF).assign(fold=k) for k, f in enumerate(fitted, 1)]
    oof = pd.concat(tables, ignore_index=True)
    if oof["image"].duplicated().any():
        raise UserError(f"The folds of {run} hold out the same image twice.", "Was the cache changed in between?")
    people = view.table.set_index("image")["person"].loc[oof["image"]].tolist()
    truth = oof["label"].to_numpy(dtype=np.int64)
    predicted = oof.filter(regex=r"^p_\d+$").to_numpy().argmax(1)
    made = Crossfitted(
        run,
        metrics.score(truth, predicted, view.schema),
        metrics.interval(truth, predicted, people, view.schema.num_classes),
        [f.best["macro_f1"] for f in fitted],
    )
    write_with(run / runs.OOF, lambda part: oof.to_parquet(part, compression="zstd"))
    data = runs.read_data(fitted[0].run)
    everyone = sorted({*data["people"]["train"], *data["people"]["val"]})
    write_json(run / runs.DATA, data | {"people": {"train": everyone, "val": everyone}})
    scores = {"out_of_fold": made.scores.to_dict(), "interval": dataclasses.asdict(made.interval), "each": made.folds}
    write_json(run / runs.FOLDS, about | scores)
    members.write(run, "soft", [f.run.name for f in fitted], [0] * len(fitted))
    return made
