"""One network whose weights are the mean of several (model soups, arXiv 2203.05482)."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from maskprep.base import UsageError, UserError, read_json, write_json, write_with
from maskprep.dataset import open_view
from masktrain.answer import inference
from masktrain.answer.members import Candidate
from masktrain.data import tasks
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.runs.predictions import Predictions
from masktrain.score import metrics
from masktrain.train import checkpoint
from masktrain.train.averaging import mean_state

FILE, OF = "soup.json", "mean of"


def cook(members: Sequence[Candidate], out: Path, cache: Path | None = None) -> Predictions:
    """Average the weights of runs of one architecture that held out the same people, as a plain run.

    The mean's own predictions on the held-out people are computed and scored. Running means and variances of batch
    norms are averaged like weights.

    Args:
        cache: where the crops are if the cache has moved.

    Returns:
        Its predictions on the held-out people.

    Raises:
        UserError: different networks, crops or held-out people; the cache is gone or has changed.
    """
    first = members[0]
    for other in members[1:]:
        if other.held.images.tolist() != first.held.images.tolist():
            raise UsageError(
                f"{first.folder} and {other.folder} held out different people: their mean has seen all of them.",
                "Use --kind soft, or train them with the same --split-seed.",
            )
        for what in ("model", "second", "target", "cosine", "size", "geometry", "mean", "std", "background", "colour"):
            if getattr(other.sidecar, what) != getattr(first.sidecar, what):
                raise UsageError(
                    f"{first.folder} and {other.folder} have another {what}, so their weights have no mean.",
                    "Use --kind soft.",
                )
    states = [inference.load(m.folder, "cpu").model.state_dict() for m in members]
    if any({k: v.shape for k, v in s.items()} != {k: v.shape for k, v in states[0].items()} for s in states):
        raise UsageError("The runs' networks have weights of different shapes, so they have no mean.")
    mean = mean_state(states)
    where = cache or Path(first.data["cache"])
    if not (where / "dataset.json").is_file():
        raise UsageError(f"The cache of {first.folder} is no longer at {where}.", "Say where it is: --cache CACHE")
    view = tasks.like(open_view(where, first.sidecar.view), first.sidecar.labels())
    for member in members:
        if runs.changed(view, member.data, member.sidecar.background):
            raise UserError(
                f"The cache {where} has changed since {member.folder} was trained: other crops, mattes, labels or"
                " people.",
                "Use --kind soft, which needs no cache, or say where the one of then is: --cache CACHE",
            )
    rows = view.table.reset_index().set_index("image")["index"].reindex(first.held.images)
    if rows.isna().any():
        raise UserError(f"{where} lacks images that {first.folder} held out.")
    predictor = inference.load(first.folder, "cpu")
    view = view.before(predictor.sidecar.behind())
    predictor.model.load_state_dict(mean)
    probabilities = predictor(view, rows.to_numpy(dtype=np.int64))
    made = dataclasses.replace(first.held, probabilities=probabilities.astype(np.float64))
    matrix = metrics.confusion(made.labels, probabilities.argmax(1), probabilities.shape[1])
    out.mkdir(parents=True, exist_ok=True)
    for file in (runs.DATA, runs.CONFIG):
        shutil.copy2(first.folder / file, out / file)
    write_json(out / FILE, {OF: [m.folder.resolve().name for m in members]})
    frame = heldout.to_frame(made)
    write_with(out / runs.OOF, lambda part: frame.to_parquet(part, compression="zstd", index=False))
    sidecar = dataclasses.replace(first.sidecar, epoch=0, score=metrics.macro_f1(matrix))
    checkpoint.save_best(out, predictor.model, sidecar, runs.read_settings(out))
    return made


def read(run: Path) -> list[str]:
    """Names of the runs that a soup is the mean of.

    Raises:
        UserError: it is none, or soup.json is damaged.
    """
    return list(read_json(run / FILE, {OF: list}, "Make the soup again: masktrain ensemble RUN... --kind soup")[OF])
