"""Score a run on images with known answers, beside another run and beside baselines."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, write_json
from maskprep.dataset import View
from masktrain.answer import baselines as simple
from masktrain.answer import predictors
from masktrain.answer.members import FILE as ENSEMBLE
from masktrain.answer.predictor import Predictor
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.score import calibration, metrics, origins, questions, slices, submission
from masktrain.score.calibration import Calibration
from masktrain.score.questions import Questions
from masktrain.score.scored import Report, Rival, rival


@dataclass(frozen=True)
class Answers:
    """What something trained says to some questions.

    Args:
        probabilities: float32 [n, C], predicted: [n].
        cropped: whether an image has a crop [n].
        known: whether there is an answer that counts [n]: of held-out images an ensemble has only those it kept.
    """

    probabilities: NDArray[np.float32]
    predicted: NDArray[np.int64]
    cropped: NDArray[np.bool_]
    known: NDArray[np.bool_]


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
        tta: see :func:`masktrain.answer.predictors.load`, with ``tta_mean``.

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
    predictor = predictors.load(run, device, tta, tta_mean)
    pictures = predictors.open_for(predictor, cache, view)
    schema, data = predictor.schema, runs.read_data(run)
    asked = questions.ask(pictures, schema, data, answers, split)
    predictor, warnings = _fair(predictor, pictures, asked, data)
    given = answer(run, predictor, pictures, asked, batch_size)
    asked, given = asked.take(given.known), _take(given, given.known)
    kept = asked.split == "val" and (run / ENSEMBLE).is_file()
    if kept:
        asked = dataclasses.replace(asked, what="of people held out, as answered by its members that had not seen them")
    warnings += _warnings(asked, pictures, predictor, data, seen=not kept)
    rivals = []
    if against is not None:
        rivals.append(_other(against, cache, asked, given, predictor, warnings, batch_size, device, tta, tta_mean))
    if baselines or probe is not None:
        rows = simple.rows(run, predictor, pictures, asked, data, probe=probe, batch_size=batch_size, device=device)
        rivals += [rival(name, asked, given.predicted, told) for name, told in rows]
    columns = {name: values for name, values in asked.columns(cache).items() if name not in schema.names}
    if by is None:
        by = slices.default(schema, list(columns))
    seen = questions.same_source(pictures, data) and asked.images["person"].isin(data["people"]["train"]).any()
    fair = given.probabilities if kept or not seen else None
    known = origins.gather(cache, asked.images, schema, asked.truth, fair)
    report = Report(
        run=str(run),
        cache=str(cache),
        view=pictures.name,
        what=f"{len(asked)} images {asked.what}",
        scores=metrics.score(asked.truth, given.predicted, schema),
        interval=metrics.interval(asked.truth, given.predicted, asked.people, schema.num_classes),
        ece=calibration.ece(given.probabilities[given.cropped], asked.truth[given.cropped]),
        slices=slices.score(asked.truth, given.predicted, asked.people, schema, columns, by),
        rivals=rivals,
        without_crop=asked.images["image"][~given.cropped].tolist(),
        warnings=warnings,
        file=run / questions.report_name(cache, asked, answers, split),
        origins=origins.rank(asked.truth, given.predicted, asked.people, schema, known),
    )
    write_json(report.file, report.to_dict())
    return report


def answer(run: Path, predictor: Predictor, pictures: View, asked: Questions, batch_size: int) -> Answers:
    """What a run says to some questions about the images of a view.

    Images without a crop get the most frequent training class. An ensemble answers for people that its members held
    out by what it has kept of them, as each of the others may have seen them.
    """
    manual = predictor.manual
    probabilities = np.zeros((len(asked), len(manual.classes)), dtype=np.float32)
    probabilities[:, manual.fallback] = 1.0
    rows = pd.Series(pictures.table.index, index=pictures.table["image"]).reindex(asked.images["image"]).to_numpy()
    cropped = ~np.isnan(rows.astype(np.float64))
    known = np.ones(len(asked), dtype=bool)
    if asked.split == "val" and (run / ENSEMBLE).is_file():
        held = heldout.read(run)
        place = pd.Series(np.arange(len(held)), index=held.images).reindex(asked.images["image"]).to_numpy()
        found = cropped & ~np.isnan(place.astype(np.float64))
        known = found | ~cropped
        probabilities[found] = predictor.calibration.temper(held.probabilities[place[found].astype(np.int64)])
    else:
        probabilities[cropped] = predictor(pictures, rows[cropped].astype(np.int64), batch_size)
    predicted = predictor.decide(probabilities)
    predicted[~cropped] = manual.fallback
    return Answers(probabilities, predicted, cropped, known)


def _take(given: Answers, chosen: NDArray[np.bool_]) -> Answers:
    return Answers(*(getattr(given, f.name)[chosen] for f in dataclasses.fields(Answers)))


def _fair(predictor: Predictor, pictures: View, asked: Questions, data: dict[str, Any]) -> tuple[Predictor, list[str]]:
    """Without the calibration, where it was fitted on the very people that are asked about."""
    if predictor.calibration == Calibration() or not questions.same_source(pictures, data):
        return predictor, []
    same = asked.images["person"].isin(data["people"]["val"]) & (asked.images["split"] == "train")
    if not same.any():
        return predictor, []
    plain = dataclasses.replace(predictor, calibration=Calibration())
    return plain, ["The calibration was fitted on people among these images, so it is left out of these scores."]


def _other(
    run: Path,
    cache: Path,
    asked: Questions,
    given: Answers,
    predictor: Predictor,
    warnings: list[str],
    batch_size: int,
    device: str,
    tta: str | None,
    tta_mean: str,
) -> Rival:
    """Another run on the same images; what speaks against the comparison is added to the warnings."""
    if submission.is_one(run):
        told = submission.read(run, cache, predictor.schema).answer(asked)
        return rival(str(run), asked, given.predicted, told.predicted)
    other = predictors.load(run, device, tta, tta_mean)
    if other.manual.classes != predictor.manual.classes:
        raise UsageError(f"{run} tells other classes, so it cannot be compared on these answers.")
    pictures, data = predictors.open_for(other, cache), runs.read_data(run)
    other, _ = _fair(other, pictures, asked, data)
    said = answer(run, other, pictures, asked, batch_size)
    if not said.known.any():
        raise UserError(f"{run} has no out-of-fold answer for any of these images.")
    if questions.same_source(pictures, data) and not (asked.split == "val" and (run / ENSEMBLE).is_file()):
        seen = asked.images["person"].isin(data["people"]["train"]) & (asked.images["split"] == "train")
        if seen.any():
            warnings.append(f"{run} was trained on the people in {int(seen.sum())} of the {len(asked)} images.")
    both = asked.take(said.known)
    return rival(str(run), both, given.predicted[said.known], said.predicted[said.known])


def _warnings(asked: Questions, pictures: View, predictor: Predictor, data: dict[str, Any], seen: bool) -> list[str]:
    found = []
    if seen and questions.same_source(pictures, data):
        trained = asked.images["person"].isin(data["people"]["train"]) & (asked.images["split"] == "train")
        if trained.any():
            found.append(
                f"{int(trained.sum())} of the {len(asked)} images show people the run was trained on:"
                " this is not a score on people it never saw."
            )
    geometry = predictor.manual.inputs[0].geometry
    differs = [k for k in ("crop", "margin", "align", "border") if geometry.get(k) != pictures.info.get(k)]
    if differs:
        found.append(f"The crops were made with another {' and '.join(differs)} than those the run was trained on.")
    return found
