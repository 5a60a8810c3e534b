"""Score a run on images with known answers, beside another run and beside baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError
from maskprep.dataset import View
from masktrain.answer import baselines as simple
from masktrain.answer import persons
from masktrain.answer.members import FILE as ENSEMBLE
from masktrain.answer.model import Model, load, open_for, rows_of
from masktrain.answer.spec import differences
from masktrain.runs import folder as runs
from masktrain.runs import predictions
from masktrain.runs.predictions import Predictions
from masktrain.score import evalset
from masktrain.score.calibration import Calibration
from masktrain.score.evalset import EvalSet
from masktrain.score.report import Report, score


def evaluate(
    run: Path,
    cache: Path,
    *,
    split: str | None = None,
    answers: Path | None = None,
    view: str | None = None,
    against: Path | None = None,
    baselines: bool = False,
    probe: str | None = None,
    by: Sequence[str] | None = None,
    batch_size: int = 64,
    device: str = "auto",
    tta: str | None = None,
    tta_mean: str = "probability",
    person_mean: str | None = None,
) -> Report:
    """Score a run's best model. Every image with an answer counts, whether it has a crop or not.

    Args:
        split: ``train``, ``eval`` or ``val`` (the people the run held out). By default, with answers, all images;
            without, the labelled images of the split ``eval`` if there are any, otherwise ``val``.
        answers: CSV with ImageID (or image, file) and ans (or label, or one column per attribute).
        view: by default the one the run was trained on.
        against: another run or ensemble, or a CSV file of predictions, to compare with on the same images.
        baselines: compare with the most frequent class, with chance, and with a linear probe on frozen features.
        probe: network of the linear probe; by default the run's own, if it started from pretrained weights.
        by: what to slice by, columns or attributes, several together as ``a*b``; see
            :func:`masktrain.score.slices.default`.
        tta: see :func:`masktrain.answer.model.load`, with ``tta_mean``.
        person_mean: attributes that a person has in all photos, separated by commas: their probabilities become the
            mean over the person's photos among those that are scored; ``against`` and baselines keep theirs.

    Returns:
        The report; it is written to ``eval-<cache>-<split>.json`` in the run folder, too, with answers to
        ``eval-<cache>-by-<answers>.json``. With ``person_mean`` the name of the file begins with ``person-``.

    Raises:
        UserError: nothing to score, or names and answers that cannot be matched.
    """
    if run.is_file():
        raise UsageError(
            f"{run} is a file, not a run folder.",
            "Exported files can be used with masktrain predict; predictions must be a CSV file.",
        )
    model = load(run, device, tta, tta_mean)
    pictures = open_for(model, cache, view)
    schema, data = model.schema, runs.read_data(run)
    asked = evalset.ask(pictures, schema, data, answers, split)
    model, warnings = _fair(model, pictures, asked, data)
    table, known = answer(run, model, pictures, asked, batch_size)
    asked, table = asked.take(known), table.take(known)
    shared = persons.attributes(person_mean, schema)
    if shared:
        table = _over_photos(table, shared, model)
    kept = asked.split == "val" and (run / ENSEMBLE).is_file()
    if kept:
        asked = asked.called("of held-out people, each by the models that were not trained on them")
    warnings += _warnings(asked, pictures, model, data, seen=not kept)
    rivals: list[tuple[str, Predictions]] = []
    if against is not None and predictions.is_csv(against):
        images = [*pictures.table["image"], *pictures.missing["image"]]
        rivals.append((str(against), asked.answered_in(against, images, schema)))
    elif against is not None:
        other = load(against, device, tta, tta_mean)
        rivals.append((str(against), _other(against, cache, asked, model, other, warnings, batch_size)))
    if baselines or probe is not None:
        rows = simple.rows(run, model, pictures, asked, data, probe=probe, batch_size=batch_size, device=device)
        rivals += [(name, table.saying(table.probabilities, told)) for name, told in rows]
    seen = evalset.same_source(pictures, data) and asked.images["person"].isin(data["people"]["train"]).any()
    return score(
        table,
        asked,
        cache,
        run / ("person-" * bool(shared) + evalset.report_name(cache, asked, answers, split)),
        run=run,
        view=pictures.name,
        by=by,
        rivals=rivals,
        known=kept or not seen,
        warnings=warnings,
    )


def answer(
    run: Path, model: Model, pictures: View, asked: EvalSet, batch_size: int
) -> tuple[Predictions, NDArray[np.bool_]]:
    """What a run answers about the images of a view, and for which of them that counts [n].

    Images without a crop get the most frequent training class. An ensemble answers for people that its members held
    out by what it has kept of them, as each of the others may have seen them; for those it has not kept nothing counts.
    """
    spec = model.spec
    probabilities = np.zeros((len(asked), len(spec.classes)), dtype=np.float32)
    probabilities[:, spec.fallback] = 1.0
    numbers = {name: np.full(len(asked), np.nan) for name in model.numbers}
    rows = rows_of(pictures, asked.images["image"])
    cropped = rows >= 0
    known = np.ones(len(asked), dtype=bool)
    if asked.split == "val" and (run / ENSEMBLE).is_file():
        held = predictions.read(run)
        place = pd.Index(held.images).get_indexer(pd.Index(asked.images["image"]))
        found = cropped & (place >= 0)
        known = found | ~cropped
        probabilities[found] = model.calibration.temper(held.probabilities[place[found]])
        for name in numbers.keys() & held.numbers.keys():
            numbers[name][found] = held.numbers[name][place[found]]
    else:
        probabilities[cropped], told = model.read(pictures, rows[cropped], batch_size)
        for name, values in told.items():
            numbers[name][cropped] = values
    decided = model.decide(probabilities)
    decided[~cropped] = spec.fallback
    images, people = asked.images["image"].to_numpy(dtype=object), np.array(asked.people, dtype=object)
    table = probabilities.astype(np.float64)
    return Predictions(images, people, asked.truth, table, model.schema, decided, cropped, numbers=numbers), known


def _over_photos(table: Predictions, names: Sequence[str], model: Model) -> Predictions:
    """The table with the mean of some attributes over each person's photos that have a crop."""
    seen = np.ones(len(table), dtype=bool) if table.scored is None else table.scored
    part = table.take(seen)
    probabilities, means = persons.mean_over_photos(table.schema, part.people, part.probabilities, part.numbers, names)
    every, decided = table.probabilities.copy(), np.array(table.answers)
    every[seen], decided[seen] = probabilities, model.decide(probabilities)
    numbers = {name: values.copy() for name, values in table.numbers.items()}
    for name, values in means.items():
        numbers[name][seen] = values
    return dataclasses.replace(table, probabilities=every, decided=decided, numbers=numbers)


def _fair(model: Model, pictures: View, asked: EvalSet, data: dict[str, Any]) -> tuple[Model, list[str]]:
    """Without the calibration, where it was fitted on the very people that are asked about."""
    if model.calibration == Calibration() or not evalset.same_source(pictures, data):
        return model, []
    same = asked.images["person"].isin(data["people"]["val"]) & (asked.images["split"] == "train")
    if not same.any():
        return model, []
    plain = dataclasses.replace(model, calibration=Calibration())
    return plain, ["The calibration was fitted on people in these images, so these scores are without it."]


def _other(
    run: Path,
    cache: Path,
    asked: EvalSet,
    model: Model,
    other: Model,
    warnings: list[str],
    batch_size: int,
) -> Predictions:
    """Another run's answers to the same images; what speaks against the comparison is added to the warnings."""
    if other.spec.classes != model.spec.classes:
        raise UsageError(f"{run} has other classes, so it cannot be compared on these labels.")
    pictures, data = open_for(other, cache), runs.read_data(run)
    other, _ = _fair(other, pictures, asked, data)
    table, known = answer(run, other, pictures, asked, batch_size)
    if not known.any():
        raise UserError(f"{run} has no out-of-fold answer for any of these images.")
    if evalset.same_source(pictures, data) and not (asked.split == "val" and (run / ENSEMBLE).is_file()):
        seen = asked.images["person"].isin(data["people"]["train"]) & (asked.images["split"] == "train")
        if seen.any():
            warnings.append(f"{run} was trained on the people in {int(seen.sum())} of the {len(asked)} images.")
    return table.take(known)


def _warnings(asked: EvalSet, pictures: View, model: Model, data: dict[str, Any], seen: bool) -> list[str]:
    found = []
    if seen and evalset.same_source(pictures, data):
        trained = asked.images["person"].isin(data["people"]["train"]) & (asked.images["split"] == "train")
        if trained.any():
            found.append(
                f"{int(trained.sum())} of the {len(asked)} images show people that the run was"
                " trained on, so the score is too high for new people."
            )
    if differ := differences(model.spec.inputs[0], pictures, model.spec.settings, ("view",)):
        found.append(f"The crops were not made as those the run was trained on: {'; '.join(differ)}.")
    return found
