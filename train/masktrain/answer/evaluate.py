"""Score a run on images with known answers, beside another run and beside baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, write_json
from maskprep.dataset import View
from masktrain.answer import baselines as simple
from masktrain.answer.model import Model, load, open_for, rows_of
from masktrain.answer.spec import differences
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.score import calibration, metrics, origins, questions, slices, submission
from masktrain.score.calibration import Calibration
from masktrain.score.questions import Questions
from masktrain.score.scored import Report, Rival, rival


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

    Returns:
        The report; it is written to ``eval-<cache>-<split>.json`` in the run folder, too, with answers to
        ``eval-<cache>-by-<answers>.json``.

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
    asked = questions.ask(pictures, schema, data, answers, split)
    model, warnings = _fair(model, pictures, asked, data)
    given = predictions(run, model, pictures, asked, batch_size)
    asked = asked.take(asked.images["image"].isin(given["image"]).to_numpy())
    table, predicted, cropped = probabilities(given), given["ans"].to_numpy(), given["cropped"].to_numpy()
    kept = _kept(run, asked)
    if kept:
        asked = dataclasses.replace(asked, what="of people held out, as answered by its members that had not seen them")
    warnings += _warnings(asked, pictures, model, data, seen=not kept)
    rivals = []
    if against is not None:
        rivals.append(_other(against, cache, asked, predicted, model, warnings, batch_size, device, tta, tta_mean))
    if baselines or probe is not None:
        rows = simple.rows(run, model, pictures, asked, data, probe=probe, batch_size=batch_size, device=device)
        rivals += [rival(name, asked, predicted, told) for name, told in rows]
    columns = {name: values for name, values in asked.columns(cache).items() if name not in schema.names}
    if by is None:
        by = slices.default(schema, list(columns))
    seen = questions.same_source(pictures, data) and asked.images["person"].isin(data["people"]["train"]).any()
    fair = table if kept or not seen else None
    known = origins.gather(cache, asked.images, schema, asked.truth, fair)
    report = Report(
        run=str(run),
        cache=str(cache),
        view=pictures.name,
        what=f"{len(asked)} images {asked.what}",
        scores=metrics.score(asked.truth, predicted, schema),
        interval=metrics.interval(asked.truth, predicted, asked.people, schema.num_classes),
        ece=calibration.ece(table[cropped], asked.truth[cropped]),
        slices=slices.score(asked.truth, predicted, asked.people, schema, columns, by),
        rivals=rivals,
        without_crop=asked.images["image"][~cropped].tolist(),
        warnings=warnings,
        file=run / questions.report_name(cache, asked, answers, split),
        origins=origins.rank(asked.truth, predicted, asked.people, schema, known),
    )
    write_json(report.file, report.to_dict())
    return report


def predictions(run: Path, model: Model, pictures: View, asked: Questions, batch_size: int = 64) -> pd.DataFrame:
    """What a run says to some questions about the images of a view, in their order.

    Images without a crop get the most frequent training class. An ensemble answers for people that its members held
    out by what it has kept of them, as each of the others may have seen them; it leaves out images it has not kept.

    Returns:
        image, person, label (the truth), ans, cropped (whether there is a crop), and p_0, p_1, ... of the classes.
    """
    spec, rows = model.spec, rows_of(pictures, asked.images["image"])
    cropped, table = rows >= 0, np.zeros((len(asked), len(model.spec.classes)), dtype=np.float32)
    table[:, spec.fallback] = 1.0
    known = np.ones(len(asked), dtype=bool)
    if _kept(run, asked):
        held = heldout.read(run)
        place = pd.Index(held.images).get_indexer(pd.Index(asked.images["image"]))
        known = (place >= 0) | ~cropped
        table[cropped & known] = model.calibration.temper(held.probabilities[place[cropped & known]])
    else:
        table[cropped] = model(pictures, rows[cropped], batch_size)
    predicted = np.where(cropped, model.decide(table), spec.fallback)
    about = {"image": asked.images["image"].to_numpy(), "person": asked.people, "label": asked.truth}
    frame = pd.DataFrame(about | {"ans": predicted, "cropped": cropped})
    columns = [f"p_{k}" for k in range(table.shape[1])]
    return pd.concat([frame, pd.DataFrame(table, columns=columns)], axis=1)[known].reset_index(drop=True)


def probabilities(given: pd.DataFrame) -> NDArray[np.float32]:
    """Those of a table of predictions [n, C]."""
    return given.filter(regex=r"^p_\d+$").to_numpy(np.float32)


def _kept(run: Path, asked: Questions) -> bool:
    """Whether a run answers with what it has kept of people that were held out."""
    return asked.split == "val" and (run / runs.ENSEMBLE).is_file()


def _fair(model: Model, pictures: View, asked: Questions, data: dict[str, Any]) -> tuple[Model, list[str]]:
    """Without the calibration, where it was fitted on the very people that are asked about."""
    if model.calibration == Calibration() or not questions.same_source(pictures, data):
        return model, []
    same = asked.images["person"].isin(data["people"]["val"]) & (asked.images["split"] == "train")
    if not same.any():
        return model, []
    plain = dataclasses.replace(model, calibration=Calibration())
    return plain, ["The calibration was fitted on people among these images, so it is left out of these scores."]


def _other(
    run: Path,
    cache: Path,
    asked: Questions,
    predicted: NDArray[np.int64],
    model: Model,
    warnings: list[str],
    batch_size: int,
    device: str,
    tta: str | None,
    tta_mean: str,
) -> Rival:
    """Another run on the same images; what speaks against the comparison is added to the warnings."""
    if submission.is_one(run):
        told = submission.read(run, cache, model.schema).answer(asked)
        return rival(str(run), asked, predicted, told.predicted)
    other = load(run, device, tta, tta_mean)
    if other.spec.classes != model.spec.classes:
        raise UsageError(f"{run} tells other classes, so it cannot be compared on these answers.")
    pictures, data = open_for(other, cache), runs.read_data(run)
    other, _ = _fair(other, pictures, asked, data)
    said = predictions(run, other, pictures, asked, batch_size)
    if not len(said):
        raise UserError(f"{run} has no out-of-fold answer for any of these images.")
    if questions.same_source(pictures, data) and not _kept(run, asked):
        seen = asked.images["person"].isin(data["people"]["train"]) & (asked.images["split"] == "train")
        if seen.any():
            warnings.append(f"{run} was trained on the people in {int(seen.sum())} of the {len(asked)} images.")
    both = asked.images["image"].isin(said["image"]).to_numpy()
    return rival(str(run), asked.take(both), predicted[both], said["ans"].to_numpy())


def _warnings(asked: Questions, pictures: View, model: Model, data: dict[str, Any], seen: bool) -> list[str]:
    found = []
    if seen and questions.same_source(pictures, data):
        trained = asked.images["person"].isin(data["people"]["train"]) & (asked.images["split"] == "train")
        if trained.any():
            found.append(
                f"{int(trained.sum())} of the {len(asked)} images show people the run was trained on:"
                " this is not a score on people it never saw."
            )
    if differ := differences(model.spec.inputs[0], pictures, model.spec.settings, ("view",)):
        found.append(f"The crops were not made as those the run was trained on: {'; '.join(differ)}.")
    return found
