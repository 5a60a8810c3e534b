"""The predictions table: what a run, an ensemble or anybody's file answers about images; every command that scores,
compares, combines, calibrates or explains answers reads this one form."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.audit import OOF, predictions
from maskprep.base import UsageError, UserError, counted, fold
from maskprep.dataset import View
from maskprep.labels import Schema
from masktrain.data import names as tables
from masktrain.data.names import VALUE
from masktrain.runs import files
from masktrain.runs import folder as runs

AGAIN = "Train the run again: masktrain fit CACHE"
OFF = 0.02
"""How far the probabilities of a row of a CSV file may be from adding up to 1; files round them."""

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Predictions:
    """Answers about images, one row each.

    Args:
        images: names [n].
        people: who is in them [n].
        labels: true joint classes int64 [n], -1 where nobody says.
        probabilities: of the joint classes, float64 [n, C]; 1 for the answer of a file without probabilities.
        schema: the joint classes.
        decided: the answers int64 [n], or of a guess shares of the classes float64 [n, C]; None where they are the
            likeliest classes.
        scored: whether the probabilities are the answerer's own [n]; None for all.
        linked: groups of people who are one person, as far as the run knows.
        numbers: attribute -> the numbers that are answered float64 [n], NaN where there is none.
    """

    images: NDArray[np.object_]
    people: NDArray[np.object_]
    labels: Ints
    probabilities: NDArray[np.float64]
    schema: Schema
    decided: NDArray[Any] | None = None
    scored: NDArray[np.bool_] | None = None
    linked: tuple[tuple[str, ...], ...] = ()
    numbers: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.images)

    @property
    def answers(self) -> NDArray[Any]:
        """The class decided on for each image [n], or the shares [n, C] of a guess."""
        return self.probabilities.argmax(1) if self.decided is None else self.decided

    def take(self, chosen: NDArray[Any]) -> Predictions:
        """Some of the rows, by number or by mask."""
        names = ("images", "people", "labels", "probabilities", "decided", "scored")
        taken = {n: v[chosen] for n in names if (v := getattr(self, n)) is not None}
        return replace(self, **taken, numbers={name: values[chosen] for name, values in self.numbers.items()})

    def saying(self, probabilities: NDArray[Any], decided: NDArray[Any] | None = None) -> Predictions:
        """The same images with other answers."""
        return replace(self, probabilities=probabilities.astype(np.float64), decided=decided, scored=None, numbers={})

    def frame(self) -> pd.DataFrame:
        """The table as it is kept in Parquet: image, person, label, (ans,) (age_value, ...) p_0, p_1, ..."""
        about = {"image": self.images, "person": self.people, "label": self.labels}
        about |= {} if self.decided is None else {"ans": self.decided}
        about |= {f"{name}{VALUE}": values for name, values in self.numbers.items()}
        columns = [f"p_{k}" for k in range(self.probabilities.shape[1])]
        table = pd.DataFrame(self.probabilities.astype(np.float32), columns=columns)
        return pd.concat([pd.DataFrame(about), table], axis=1)

    def write(self, file: Path) -> None:
        """Write the table, whole or not at all."""
        frame = self.frame()
        files.write_file(file, lambda part: frame.to_parquet(part, compression="zstd", index=False))


def epoch_file(epoch: int) -> str:
    """Where a fold keeps what an epoch answers about the people it held out, as long as no epoch is chosen."""
    return f"oof/{epoch:05d}.parquet"


def write_oof(run: Path, view: View, rows: Ints, probabilities: NDArray[np.float32], file: str = OOF) -> None:
    """oof.parquet: the held-out images, rows of a view's table, with their people, labels and probabilities."""
    (run / file).parent.mkdir(exist_ok=True)
    table = view.table.iloc[rows]
    labels = table["label"].to_numpy(dtype=np.int64)
    image, person = (table[c].to_numpy(dtype=object) for c in ("image", "person"))
    Predictions(image, person, labels, probabilities.astype(np.float64), view.schema).write(run / file)


def read(run: Path, file: str = OOF) -> Predictions:
    """The out-of-fold predictions of a run or an ensemble, or another table in its folder, sorted by image.

    Raises:
        UsageError: it has none.
        UserError: they cannot be read, hold what is no probability, or do not say who is in the pictures and the cache
            is gone; with the file and the row.
    """
    path = run / file
    if not path.is_file():
        raise UsageError(f"{run} has no {file}: it has no predictions on held-out people.")
    try:
        table = pd.read_parquet(path)
        columns = sorted((c for c in table if str(c).startswith("p_")), key=lambda c: int(str(c)[2:]))
        if "person" not in table:
            table = table.assign(person=_people(table["image"], run))
        decided = table["ans"].to_numpy(dtype=np.int64) if "ans" in table else None
        labels, values = table["label"].to_numpy(dtype=np.int64), table[columns].to_numpy(dtype=np.float64)
        images, people = table["image"].to_numpy(dtype=object), table["person"].astype(str).to_numpy(dtype=object)
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"it has no column {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path} cannot be used: {what}.", AGAIN) from error
    predictions.check(path, labels, values)
    if not len(table) or table["image"].duplicated().any():
        raise UserError(f"{path} {'names an image twice' if len(table) else 'has no rows'}.", AGAIN)
    schema = runs.schema_of(run)
    if schema.num_classes != len(columns):
        raise UserError(f"{path} has {len(columns)} classes, its run {schema.num_classes}.", AGAIN)
    linked = runs.read_data(run).get("linked", []) if (run / runs.DATA).is_file() else []
    numbers = {n: table[f"{n}{VALUE}"].to_numpy(np.float64) for n in schema.joint if f"{n}{VALUE}" in table}
    held = Predictions(images, people, labels, values, schema, decided, None, tuple(map(tuple, linked)), numbers)
    return held.take(np.argsort(images.astype(str), kind="stable"))


def _people(images: pd.Series[str], run: Path) -> NDArray[np.object_]:
    """Early runs did not write who is in the pictures: the cache knows."""
    from maskprep.dataset import open_view

    data = runs.read_data(run)
    if not (Path(data["cache"]) / "dataset.json").is_file():
        raise UserError(f"{run / OOF} does not name people, and the cache {data['cache']} is gone.")
    person = open_view(Path(data["cache"]), data["view"]).table.set_index("image")["person"]
    return person.loc[images].to_numpy(dtype=object)


def is_csv(path: Path) -> bool:
    """Whether a path names a CSV file of predictions, and not a run."""
    return path.suffix.lower() == ".csv"


@dataclass(frozen=True)
class Named:
    """Answers of a CSV file by the names written there.

    Args:
        names: of the photos [n], as written.
        meant: the images that each of them may mean [n], at least one.
        answers: joint classes [n], -1 where there is none.
        probabilities: [n, C], NaN where there are none.
        given: whether the file has columns of probabilities.
    """

    file: Path
    names: list[str]
    meant: list[list[str]]
    answers: Ints
    probabilities: NDArray[np.float64]
    given: bool
    schema: Schema

    def of(self, images: Iterable[str], people: Iterable[str], labels: Ints, what: str = "of the cache") -> Predictions:
        """Its answers about some images, in their order.

        Args:
            what: which images, in words.

        Raises:
            UserError: images without a row, with several rows, or with a row that has no answer (with examples).
        """
        wanted = {image: k for k, image in enumerate(images)}
        row = np.full(len(wanted), -1, dtype=np.int64)
        unclear, twice = [], []
        for i, (name, meant) in enumerate(zip(self.names, self.meant, strict=True)):
            found = [image for image in meant if image in wanted]
            if len(found) > 1:
                unclear.append(f"{name} ({', '.join(found[:2])}{', ...' if len(found) > 2 else ''})")
            elif found:
                if row[wanted[found[0]]] >= 0:
                    twice.append(name)
                row[wanted[found[0]]] = i
        if unclear:
            raise UserError(
                f"{self.file} has {counted(len(unclear), 'name')} matching several images: {tables.listed(unclear)}.",
                "Write their paths in the file, or choose --split.",
            )
        if twice:
            raise UserError(f"{self.file} names photos twice: {tables.listed(sorted(set(twice)))}.")
        if missing := [image for image, k in wanted.items() if row[k] < 0]:
            raise UserError(
                f"{self.file} lacks {len(missing)} of the {len(wanted)} images {what}: {tables.listed(missing)}.",
                "Every image that is scored needs an answer; --split or --answers say which ones are.",
            )
        if empty := [self.names[i] for i in row if self.answers[i] < 0]:
            raise UserError(
                f"{self.file} has no answer for {counted(len(empty), 'photo')}: {tables.listed(empty)}.",
                "Fill them in; masktrain predict --without-crop likeliest does.",
            )
        answers, table = self.answers[row], self.probabilities[row]
        own: NDArray[np.bool_] = np.asarray(~np.isnan(table).any(1), dtype=bool)
        table = np.where(own[:, None], table, np.eye(self.schema.num_classes)[answers])
        names, who = (np.array(list(v), dtype=object) for v in (images, people))
        return Predictions(names, who, labels, table, self.schema, answers, own)


def read_csv(file: Path, images: Iterable[str], schema: Schema) -> Named:
    """Read predictions for images of a cache.

    The columns are ImageID (or image, file, ...) and ans (or label, or one per attribute), or a probability of each
    class (``p_0`` ..., or ``p_<class>`` as ``masktrain predict`` writes them). ``ans`` counts before probabilities,
    these before anything else, as tables with both keep the true label beside them.

    Raises:
        UserError: no such columns, answers that are no class, or photos that are not among the images.
    """
    table = tables.read_csv(file)
    if not len(table):
        raise UserError(f"{file} has no rows.")
    names = table[tables.name_column(table, file)].tolist()
    finder = tables.Names(images)
    meant = [finder.find(name) for name in names]
    if strange := [name for name, found in zip(names, meant, strict=True) if not found]:
        raise UserError(
            f"{file} names {counted(len(strange), 'photo')} that the cache does not have: {tables.listed(strange)}."
        )
    values = _probabilities(table, schema, file)
    if values is None or any(str(c).strip().casefold() == "ans" for c in table):
        answers = tables.labels(table, schema, file, blank=True)
    else:
        answers = np.where(np.isnan(values).any(1), -1, np.nan_to_num(values, nan=-1.0).argmax(1))
    given = values is not None
    values = np.full((len(table), schema.num_classes), np.nan) if values is None else values
    return Named(file, names, meant, answers.astype(np.int64), values, given, schema)


def _probabilities(table: pd.DataFrame, schema: Schema, file: Path) -> NDArray[np.float64] | None:
    """Probabilities [n, C], NaN in rows whose cells are all empty; None where the table has no such columns.

    Raises:
        UserError: columns for some classes only, or values that are no probabilities, with their rows.
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
