"""Score a run on images with known answers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.dataset import View, open_view
from maskprep.errors import UsageError, UserError
from masktrain import answers as tables
from masktrain import inference, metrics, runs
from masktrain.learn.checkpoint import write_json


@dataclass(frozen=True)
class Report:
    """Scores of a run.

    Attributes:
        what: the images that were scored, in words.
        scores, interval: with the interval of macro-F1 over people.
        without_crop: images that have no crop; their answer is the most frequent training class.
        warnings: what a reader must know about these scores.
        file: the JSON file in the run folder.
    """

    run: str
    cache: str
    view: str
    what: str
    scores: metrics.Scores
    interval: metrics.Interval
    without_crop: list[str]
    warnings: list[str]
    file: Path

    def to_dict(self) -> dict[str, Any]:
        """Plain types, as kept in the JSON file."""
        return {k: v for k, v in asdict(self).items() if k != "file"}


def evaluate(
    run: Path,
    cache: Path,
    *,
    split: str | None = None,
    answers: Path | None = None,
    view: str | None = None,
    batch_size: int = 64,
    device: str = "auto",
    tta: str | None = None,
) -> Report:
    """Score a run's best model. Every image with an answer counts, whether it has a crop or not.

    Args:
        split: ``train``, ``eval`` or ``val`` (the people the run held out). By default, with answers, all images;
            without, the labelled images of the split ``eval`` if there are any, otherwise ``val``.
        answers: CSV with ImageID (or image, file) and ans (or label, or one column per attribute).
        view: by default the one the run was trained on.
        tta: ``mirror`` or ``none``; by default as the run was validated.

    Returns:
        The report; it is written to ``eval-<cache>.json`` in the run folder, too.

    Raises:
        UserError: nothing to score, or names and answers that cannot be matched.
    """
    predictor = inference.load(run, device, tta=tta)
    pictures = open_view(cache, view or predictor.sidecar.view)
    schema = predictor.schema
    images = pd.concat([pictures.table, pictures.missing], ignore_index=True)
    data = runs.read_data(run)
    if answers is not None:
        chosen, truth, people = _answered(images, answers, predictor, data, split)
        what = f"{len(chosen)} images answered in {answers.name}"
    else:
        if pictures.schema != schema:
            raise UserError(
                f"The cache has other classes ({', '.join(pictures.schema.joint)}) than the run"
                f" ({', '.join(schema.joint)}).",
                "Give the answers with --answers.",
            )
        chosen, what = _labelled(images, pictures, data, split)
        truth = chosen["label"].to_numpy(dtype=np.int64)
        people = chosen["person"].tolist()
    probabilities = np.zeros((len(chosen), schema.num_classes), dtype=np.float32)
    probabilities[:, predictor.sidecar.fallback] = 1.0
    rows = pd.Series(pictures.table.index, index=pictures.table["image"]).reindex(chosen["image"]).to_numpy()
    cropped = ~np.isnan(rows.astype(np.float64))
    probabilities[cropped] = predictor(pictures, rows[cropped].astype(np.int64), batch_size)
    predicted = probabilities.argmax(1)
    report = Report(
        run=str(run),
        cache=str(cache),
        view=pictures.name,
        what=what,
        scores=metrics.score(truth, predicted, schema),
        interval=metrics.interval(truth, predicted, people, schema.num_classes),
        without_crop=chosen["image"][~cropped].tolist(),
        warnings=_warnings(chosen, pictures, predictor, data),
        file=run / f"eval-{cache.resolve().name}.json",
    )
    write_json(report.file, report.to_dict())
    return report


def _answered(
    images: pd.DataFrame, file: Path, predictor: inference.Predictor, data: dict[str, Any], split: str | None
) -> tuple[pd.DataFrame, NDArray[np.int64], list[str]]:
    """The images of an answers file with their labels and people (the file's own, if it names them)."""
    if split is not None:
        images = images[_in_split(images, split, data)]
    table = tables.read_csv(file)
    if not len(table):
        raise UserError(f"{file} has no rows.")
    truth = tables.labels(table, predictor.schema, file)
    found = tables.match(table[tables.name_column(table, file)].tolist(), images["image"], file)
    chosen = images.set_index("image", drop=False).loc[found].reset_index(drop=True)
    people = chosen["person"].tolist()
    if "person" in table and (table["person"].str.strip() != "").all():
        people = table["person"].tolist()
    return chosen, truth, people


def _labelled(
    images: pd.DataFrame, pictures: View, data: dict[str, Any], split: str | None
) -> tuple[pd.DataFrame, str]:
    """The images whose labels the cache knows, and what they are in words."""
    labelled = images[images["label"].notna() & images["excluded"].isna()]
    if split is None:
        split = "eval" if (labelled["split"] == "eval").any() else "val"
    chosen = labelled[_in_split(labelled, split, data)].reset_index(drop=True)
    if split == "val" and not _same_source(pictures, data):
        raise UsageError(
            f"{pictures.path} has no labels for the split 'eval', and its people are not those of the run.",
            "Give the answers with --answers, or choose --split train.",
        )
    if not len(chosen):
        raise UserError(f"{pictures.path} has no labelled images in the split '{split}'.", "Give them with --answers.")
    names = {"val": "of the people the run held out", "eval": "of the split 'eval'", "train": "of the split 'train'"}
    return chosen, f"{len(chosen)} images {names[split]}"


def _in_split(images: pd.DataFrame, split: str, data: dict[str, Any]) -> pd.Series[bool]:
    if split not in ("train", "eval", "val"):
        raise UsageError(f"There is no split '{split}'.", "Choose train, eval or val.")
    if split == "val":
        return images["person"].isin(data["people"]["val"]) & (images["split"] != "eval")
    return images["split"] == split


def _same_source(pictures: View, data: dict[str, Any]) -> bool:
    """Whether a cache was made from the photos that the run was trained on, so that person means the same person."""
    return pictures.fingerprint() == data["fingerprint"] or bool(pictures.dataset.get("source") == data["source"])


def _warnings(chosen: pd.DataFrame, pictures: View, predictor: inference.Predictor, data: dict[str, Any]) -> list[str]:
    found = []
    if _same_source(pictures, data):
        seen = chosen["person"].isin(data["people"]["train"]) & (chosen["split"] != "eval")
        if seen.any():
            found.append(
                f"{int(seen.sum())} of the {len(chosen)} images show people the run was trained on:"
                " this is not a score on people it never saw."
            )
    geometry = predictor.sidecar.geometry
    differs = [k for k in ("margin", "align", "alignment") if geometry.get(k) != pictures.info.get(k)]
    if differs:
        found.append(f"The crops were made with another {' and '.join(differs)} than those the run was trained on.")
    return found
