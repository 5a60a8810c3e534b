"""A CSV file of predictions, whoever made it, and its scores: no run, no crops and no torch are needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, fold, write_json
from maskprep.dataset import image_table
from maskprep.labels import Schema
from maskprep.store import Cache
from masktrain.data import names as tables
from masktrain.score import calibration, guesses, metrics, origins, questions, slices
from masktrain.score.questions import Questions
from masktrain.score.scored import Report, rival

SUFFIX = ".csv"
OFF = 0.02
"""How far the probabilities of a row may be from adding up to 1; files round them."""


def is_one(path: Path) -> bool:
    """Whether a path names a file of predictions, and not a run."""
    return path.suffix.lower() == SUFFIX


@dataclass(frozen=True)
class Told:
    """Answers [n] to some questions, and their probabilities [n, C] where the file has them."""

    predicted: NDArray[np.int64]
    probabilities: NDArray[np.float64] | None


@dataclass(frozen=True)
class Submission:
    """Answers by name.

    Args:
        file: where they were read.
        names: of the photos [n], as written.
        meant: the images that each of them may mean [n], at least one.
        predicted: joint labels [n], -1 where there is no answer.
        probabilities: of the joint classes [n, C], NaN where there is no answer; None without such columns.
    """

    file: Path
    names: list[str] = field(repr=False)
    meant: list[list[str]] = field(repr=False)
    predicted: NDArray[np.int64] = field(repr=False)
    probabilities: NDArray[np.float64] | None = field(repr=False)

    def answer(self, asked: Questions) -> Told:
        """Its answers to some questions.

        Raises:
            UserError: images without a row, with several rows, or with a row that has no answer (with examples).
        """
        wanted = {image: k for k, image in enumerate(asked.images["image"])}
        row = np.full(len(wanted), -1, dtype=np.int64)
        unclear, twice = [], []
        for i, (name, images) in enumerate(zip(self.names, self.meant, strict=True)):
            found = [image for image in images if image in wanted]
            if len(found) > 1:
                unclear.append(f"{name} ({', '.join(found[:2])}{', ...' if len(found) > 2 else ''})")
            elif found:
                k = wanted[found[0]]
                if row[k] >= 0:
                    twice.append(name)
                row[k] = i
        if unclear:
            raise UserError(
                f"{self.file} names {len(unclear)} photos that several images are called: {tables.listed(unclear)}.",
                "Write their paths in the file, or choose --split.",
            )
        if twice:
            raise UserError(f"{self.file} names photos twice: {tables.listed(sorted(set(twice)))}.")
        if missing := [image for image, k in wanted.items() if row[k] < 0]:
            raise UserError(
                f"{self.file} lacks {len(missing)} of the {len(wanted)} images {asked.what}: {tables.listed(missing)}.",
                "Every image that is scored needs an answer; --split or --answers say which ones are.",
            )
        if empty := [self.names[i] for i in row if self.predicted[i] < 0]:
            raise UserError(
                f"{self.file} has no answer for {len(empty)} photos: {tables.listed(empty)}.",
                "Fill them in; masktrain predict --without-crop likeliest does.",
            )
        return Told(self.predicted[row], None if self.probabilities is None else self.probabilities[row])


def read(file: Path, cache: Path, schema: Schema) -> Submission:
    """Read predictions for images of a cache.

    The columns are ImageID (or image, file, ...) and ans (or label, or one per attribute), or a probability of each
    class (``p_0`` ..., or ``p_<class>`` as ``masktrain predict`` writes them). ``ans`` counts before probabilities,
    these before anything else, as tables with both keep the true label beside them.

    Raises:
        UserError: no such columns, answers that are no class, or photos that are not in the cache.
    """
    table = tables.read_csv(file)
    if not len(table):
        raise UserError(f"{file} has no rows.")
    names = table[tables.name_column(table, file)].tolist()
    finder = tables.Names(image_table(cache, schema)["image"])
    meant = [finder.find(name) for name in names]
    if strange := [name for name, images in zip(names, meant, strict=True) if not images]:
        raise UserError(f"{file} names {len(strange)} photos that are not in the cache: {tables.listed(strange)}.")
    probabilities = _probabilities(table, schema, file)
    if probabilities is None or any(str(c).strip().casefold() == "ans" for c in table):
        predicted = tables.labels(table, schema, file, blank=True)
    else:
        blank = np.isnan(probabilities).any(1)
        predicted = np.where(blank, -1, np.where(np.isnan(probabilities), -1.0, probabilities).argmax(1))
    return Submission(file, names, meant, predicted.astype(np.int64), probabilities)


def evaluate(
    file: Path,
    cache: Path,
    *,
    split: str | None = None,
    answers: Path | None = None,
    against: Path | None = None,
    baselines: bool = False,
    by: Sequence[str] | None = None,
) -> Report:
    """Score a file of predictions. Every image that is asked about needs an answer in it.

    Args:
        file: see :func:`read`.
        cache: says which images, people and classes there are; it needs no crops.
        split: ``train``, ``eval`` or ``val`` (the people that the file answers for). By default, with answers, all of
            these; without, the labelled images of the split ``eval`` if there are any, otherwise ``val``.
        answers: CSV with the true answers; otherwise the cache's labels count.
        against: another such file, on the same images.
        baselines: compare with the most frequent class and with chance among the other people's training labels.
        by: what to slice by, see :func:`masktrain.answer.evaluate.evaluate`.

    Returns:
        The report; it is written beside the file, too, see :func:`masktrain.score.questions.report_name`.

    Raises:
        UserError: files that cannot be read or matched, or nothing to score.
    """
    schema = Schema.from_dict(Cache(cache).read()["schema"])
    images = image_table(cache, schema)
    given = read(file, cache, schema)
    person = dict(zip(images["image"], images["person"], strict=True))
    people = sorted({person[image] for meant in given.meant for image in meant})
    asked = questions.of_cache(cache, schema, images, people, answers, split)
    if asked.split == "val":
        asked = dataclasses.replace(asked, what=f"of the people in {file.name}")
    told = given.answer(asked)
    rivals = []
    if against is not None:
        if not is_one(against):
            raise UsageError(
                f"{against} is no CSV file of predictions.",
                f"To compare: masktrain evaluate RUN CACHE --against {file}",
            )
        rivals.append(rival(str(against), asked, told.predicted, read(against, cache, schema).answer(asked).predicted))
    if baselines:
        rivals += [rival(n, asked, told.predicted, guess) for n, guess in _guesses(images, asked, schema, cache)]
    columns = {name: values for name, values in asked.columns(cache).items() if name not in schema.names}
    unused = len(given.names) - len(asked)
    known = origins.gather(cache, asked.images, schema, asked.truth, None)
    report = Report(
        run=str(file),
        cache=str(cache),
        view="",
        what=f"{len(asked)} images {asked.what}",
        scores=metrics.score(asked.truth, told.predicted, schema),
        interval=metrics.interval(asked.truth, told.predicted, asked.people, schema.num_classes),
        ece=_ece(told, asked.truth),
        slices=slices.score(
            asked.truth,
            told.predicted,
            asked.people,
            schema,
            columns,
            slices.default(schema, list(columns)) if by is None else by,
        ),
        rivals=rivals,
        without_crop=[],
        warnings=[f"{unused} of the {len(given.names)} rows of {file.name} were not asked about."] if unused else [],
        file=file.with_name(f"{file.stem}-{questions.report_name(cache, asked, answers, split)}"),
        origins=origins.rank(asked.truth, told.predicted, asked.people, schema, known),
    )
    write_json(report.file, report.to_dict())
    return report


def _ece(told: Told, truth: NDArray[np.int64]) -> float | None:
    """Expected calibration error of the answers that come with probabilities; None where none do."""
    if told.probabilities is None:
        return None
    known = ~np.isnan(told.probabilities).any(1)
    return calibration.ece(told.probabilities[known], truth[known]) if known.any() else None


def _probabilities(table: pd.DataFrame, schema: Schema, file: Path) -> NDArray[np.float64] | None:
    """Probabilities [n, C], NaN in rows without any; None where the table has no such columns.

    Raises:
        UserError: columns for some classes only, or values that are no probabilities.
    """
    known = {fold(str(c)): str(c) for c in table.columns}
    forms = ([f"p_{k}" for k in range(schema.num_classes)], [f"p_{name}" for name in schema.class_names])
    form = next((f for f in forms if any(fold(c) in known for c in f)), None)
    if form is None:
        return None
    if absent := [c for c in form if fold(c) not in known]:
        raise UserError(f"{file} has no column '{absent[0]}', but others of probabilities.")
    texts = table[[known[fold(c)] for c in form]].apply(lambda column: column.str.strip())
    values: NDArray[np.float64] = texts.apply(pd.to_numeric, errors="coerce").to_numpy(dtype=np.float64)
    empty = (texts == "").to_numpy().all(1)
    wrong = ~empty & ~((values >= 0).all(1) & (np.abs(values.sum(1) - 1) <= OFF))
    if wrong.any():
        rows = [f"row {i + 2}" for i in np.flatnonzero(wrong)]
        raise UserError(f"{file} has probabilities that are none, or do not add up to 1: {tables.listed(rows)}.")
    return values


def _guesses(
    images: pd.DataFrame, asked: Questions, schema: Schema, cache: Path
) -> list[tuple[str, NDArray[np.int64]]]:
    """The most frequent class and chance, by the training labels of people who are not asked about.

    Raises:
        UserError: there are no such labels.
    """
    others = images[(images["split"] == "train") & images["label"].notna() & images["excluded"].isna()]
    others = others[~others["person"].isin(set(asked.images["person"]))]
    if not len(others):
        raise UserError(
            f"{cache} has no labelled people besides those that are asked about, so nobody says what is frequent.",
            "Leave --baselines away, or score fewer people, such as --split eval.",
        )
    counts = np.bincount(others["label"].to_numpy(dtype=np.int64), minlength=schema.num_classes)
    return guesses.rows(counts.astype(np.float64), len(asked))
