"""A report on the answers to some images: scores, parts of the images, where the errors come from, comparisons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from maskprep.base import UsageError, UserError, counted, html_table, write_json
from maskprep.dataset import image_table
from maskprep.labels import Schema
from maskprep.store import Cache
from masktrain.runs import predictions
from masktrain.runs.predictions import Predictions
from masktrain.score import calibration, evalset, metrics, origins, paired, slices
from masktrain.score.evalset import EvalSet
from masktrain.score.origins import ErrorSource


@dataclass(frozen=True)
class Report:
    """Scores of a run, or of a file of predictions.

    Attributes:
        view: which crops the run looked at; empty for a file of predictions.
        what: the images that were scored, in words.
        scores, interval: with the interval of macro-F1 over people.
        ece: expected calibration error of the images that have a crop; None where there are no probabilities.
        slices: scores of parts of the images.
        rivals: another run, and baselines, on the same images; ``against`` is what is scored minus them.
        without_crop: images that have no crop; their answer is the most frequent training class.
        warnings: what a reader must know about these scores.
        file: the JSON file in the run folder, or beside the predictions; the answers lie beside it as Parquet.
        origins: where the errors come from, the costliest first.
    """

    run: str
    cache: str
    view: str
    what: str
    scores: metrics.Scores
    interval: metrics.Interval
    ece: float | None
    slices: list[slices.Slice]
    rivals: list[paired.Comparison]
    without_crop: list[str]
    warnings: list[str]
    file: Path
    origins: list[ErrorSource] = field(default_factory=list)

    def _repr_html_(self) -> str:
        """For notebooks: the scores, with the interval of macro-F1."""
        interval = f"macro-F1 {self.scores.macro_f1:.4f}, 95 % interval over people: {self.interval.text()}"
        return html_table("\n".join([f"{self.run}, {self.what}", interval, *self.warnings]), self.scores.rows)


def score(
    table: Predictions,
    images: EvalSet,
    cache: Path,
    file: Path,
    *,
    run: Path,
    view: str = "",
    by: Sequence[str] | None = None,
    rivals: Sequence[tuple[str, Predictions]] = (),
    known: bool = True,
    warnings: Sequence[str] = (),
) -> Report:
    """Score answers, whoever gave them, and write the report and the answers.

    Args:
        table: the answers to all of the images, in their order.
        file: the JSON file to write; the answers are written beside it.
        run: where the answers come from.
        by: what to slice by, columns or attributes, several together as ``a*b``; see :func:`slices.default`.
        rivals: other answers by name, to the same images or some of them.
        known: whether the answers come from networks that did not know the people, so that they tell of wrong labels.
    """
    schema, answers, people = table.schema, table.answers, table.people.tolist()
    columns = {name: values for name, values in images.columns(cache).items() if name not in schema.names}
    own = np.ones(len(table), dtype=bool) if table.scored is None else table.scored
    evidence = origins.gather(cache, images.images, schema, table.labels, table.probabilities if known else None)
    place = {image: k for k, image in enumerate(table.images)}
    beside = []
    for name, other in rivals:
        both = table.take(np.array([place[image] for image in other.images], dtype=np.int64))
        found = paired.between(both, both.answers, other.answers)
        beside.append(paired.beside(name, both, other.answers, found))
    report = Report(
        run=str(run),
        cache=str(cache),
        view=view,
        what=f"{counted(len(table), 'image')} {images.what}",
        scores=metrics.score_table(table, evidence.numbers),
        interval=metrics.interval(table.labels, answers, people, schema.num_classes),
        ece=calibration.ece(table.probabilities[own], table.labels[own]) if own.any() else None,
        slices=slices.score(
            table.labels, answers, people, schema, columns, slices.default(schema, list(columns)) if by is None else by
        ),
        rivals=beside,
        without_crop=table.images[~own].tolist() if view else [],
        warnings=list(warnings),
        file=file,
        origins=origins.rank(table.labels, answers, people, schema, evidence),
    )
    write_json(file, {k: v for k, v in asdict(report).items() if k != "file"})
    table.write(file.with_suffix(".parquet"))
    return report


def score_file(
    file: Path,
    cache: Path,
    *,
    split: str | None = None,
    answers: Path | None = None,
    against: Path | None = None,
    baselines: bool = False,
    by: Sequence[str] | None = None,
) -> Report:
    """Score a CSV file of predictions: no run, no crops and no torch are needed. Every image needs an answer in it.

    Args:
        file: see :func:`masktrain.runs.predictions.read_csv`.
        cache: says which images, people and classes there are.
        split: ``train``, ``eval`` or ``val`` (the people that the file answers for). By default, with answers, all of
            these; without, the labelled images of the split ``eval`` if there are any, otherwise ``val``.
        answers: CSV with the true answers; otherwise the cache's labels count.
        against: another such file, on the same images.
        baselines: compare with the most frequent class and with chance among the other people's training labels.

    Raises:
        UserError: files that cannot be read or matched, or nothing to score.
    """
    schema = Schema.from_dict(Cache(cache).read()["schema"])
    images = image_table(cache, schema)
    given = predictions.read_csv(file, images["image"], schema)
    person = dict(zip(images["image"], images["person"], strict=True))
    people = sorted({person[image] for meant in given.meant for image in meant})
    asked = evalset.of_cache(cache, schema, images, people, answers, split)
    if asked.split == "val":
        asked = asked.called(f"of the people in {file.name}")
    table = given.of(asked.images["image"], asked.people, asked.truth, asked.what)
    rivals = []
    if against is not None:
        if not predictions.is_csv(against):
            raise UsageError(
                f"{against} is no CSV file of predictions.",
                f"To compare: masktrain evaluate RUN CACHE --against {file}",
            )
        rivals.append((str(against), asked.answered_in(against, images["image"], schema)))
    if baselines:
        counts = _others(images, asked, schema, cache)
        rivals += [(n, table.saying(table.probabilities, g)) for n, g in metrics.guesses(counts, len(asked))]
    unused = len(given.names) - len(asked)
    return score(
        table,
        asked,
        cache,
        file.with_name(f"{file.stem}-{evalset.report_name(cache, asked, answers, split)}"),
        run=file,
        by=by,
        rivals=rivals,
        known=False,
        warnings=[f"{counted(unused, 'row')} of {file.name} ignored: these photos are not among the scored ones."]
        if unused
        else [],
    )


def _others(images: pd.DataFrame, asked: EvalSet, schema: Schema, cache: Path) -> metrics.Floats:
    """Training images of each class of the people who are not asked about.

    Raises:
        UserError: there are none.
    """
    others = images[(images["split"] == "train") & images["label"].notna() & images["excluded"].isna()]
    others = others[~others["person"].isin(set(asked.images["person"]))]
    if not len(others):
        raise UserError(
            f"{cache} has no labelled people besides the scored ones, so the most frequent class is not known.",
            "Leave --baselines out, or score fewer people, such as --split eval.",
        )
    counts = np.bincount(others["label"].to_numpy(dtype=np.int64), minlength=schema.num_classes)
    return counts.astype(np.float64)
