"""Tables of answers: CSV, Parquet or JSON lines, written row by row and put in place when they are whole."""

from __future__ import annotations

import contextlib
import csv
import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UsageError, fsync_replace, temporary_name
from maskprep.labels import Schema
from masktrain.config.settings import nearest
from masktrain.data.names import VALUE

FORMS = (".csv", ".parquet", ".jsonl")
STDOUT = Path("-")
ANSWER, CLASS = "ans", "class"
BOX = ("x0", "y0", "x1", "y1")
ROWS_PER_GROUP = 1024
"""Rows kept in memory before they are written."""

Row = Mapping[str, Any]


class TableWriter:
    """A table that is being written; nothing is left of it unless the block ends well.

    Args:
        out: file to write; its name says which form: ``.csv``, ``.parquet`` or ``.jsonl``. ``-`` is standard output,
            JSON lines, each written as soon as it is known.
        columns: name of each column with its type: str, int or float. None is an empty value.

    Raises:
        UsageError: another form, or a folder.
    """

    def __init__(self, out: Path, columns: Mapping[str, type]) -> None:
        check_table(out)
        self.out, self.columns, self.form = out, dict(columns), out.suffix.lower()
        self._rows: list[Row] = []
        self._part = temporary_name(out)
        self._text: IO[str] = sys.stdout
        self._parquet: Any = None

    def __enter__(self) -> TableWriter:
        if self.out == STDOUT:
            return self
        self.out.parent.mkdir(parents=True, exist_ok=True)
        if self.form == ".parquet":
            import pyarrow as pa
            import pyarrow.parquet as pq

            kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
            schema = pa.schema([(name, kinds[kind]) for name, kind in self.columns.items()])
            self._parquet = pq.ParquetWriter(self._part, schema, compression="zstd")
        else:
            self._text = self._part.open("w", newline="", encoding="utf-8", errors="backslashreplace")
            if self.form == ".csv":
                csv.writer(self._text, lineterminator="\n").writerow(self.columns)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.out == STDOUT:
            return
        try:
            with contextlib.closing(self._parquet or self._text):
                if kind is None:
                    self._flush()
            if kind is None:
                fsync_replace(self._part, self.out)
        finally:
            self._part.unlink(missing_ok=True)

    def add(self, rows: Iterable[Row]) -> None:
        """Write some rows."""
        self._rows.extend(rows)
        if len(self._rows) >= ROWS_PER_GROUP or self.out == STDOUT:
            self._flush()

    def _flush(self) -> None:
        rows = [{name: _plain(row.get(name)) for name in self.columns} for row in self._rows]
        self._rows = []
        if self._parquet is not None:
            import pyarrow as pa

            if rows:
                kept = [{name: _encodable(value) for name, value in row.items()} for row in rows]
                self._parquet.write_table(pa.Table.from_pylist(kept, schema=self._parquet.schema))
        elif self.form == ".csv":
            lines = [[f"{v:.6g}" if isinstance(v, float) else v for v in row.values()] for row in rows]
            csv.writer(self._text, lineterminator="\n").writerows(lines)
        else:
            self._text.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            self._text.flush()


def check_table(out: Path) -> None:
    """Refuse what cannot be written.

    Raises:
        UsageError: a folder, or a form that is not known.
    """
    if out == STDOUT:
        return
    if out.is_dir():
        raise UsageError(f"{out} is a folder.", "Name the file to write with --out.")
    if out.suffix.lower() not in FORMS:
        near = nearest(out.suffix.lower(), FORMS)
        raise UsageError(
            f"{out} is no CSV, Parquet or JSON lines file.", f"End its name in {' or '.join(near or FORMS)}."
        )


def detailed(out: Path) -> bool:
    """Whether a file is of a form that is not the competition's, so that it holds all there is to know."""
    return out.suffix.lower() != ".csv"


def answer_columns(schema: Schema, numbers: Iterable[str], proba: bool, details: bool) -> dict[str, type]:
    """The columns that :func:`answer_row` fills; ``numbers`` are the attributes that are answered with one."""
    columns: dict[str, type] = {ANSWER: int, CLASS: str}
    if details:
        for name in schema.joint:
            columns |= {name: str, f"{name}_p": float}
            columns |= {f"{name}{VALUE}": float} if name in numbers else {}
    if proba:
        columns |= {f"p_{name}": float for name in schema.class_names}
    return columns


def answer_row(
    schema: Schema, answer: int, probabilities: NDArray[np.float32], numbers: Mapping[str, float]
) -> dict[str, Any]:
    """One answer: the joint class, the class of each attribute in it with its probability, the numbers by attribute,
    and all probabilities."""
    row = fallback_row(schema, answer) | {f"{name}{VALUE}": value for name, value in numbers.items()}
    for name, index in zip(schema.joint, schema.decode(answer), strict=True):
        share = attribute_probabilities(schema, probabilities, name)[index]
        row |= {name: schema[name].classes[index], f"{name}_p": float(share)}
    return row | {f"p_{name}": float(p) for name, p in zip(schema.class_names, probabilities, strict=True)}


def fallback_row(schema: Schema, answer: int) -> dict[str, Any]:
    """The answer for a photo without a crop."""
    return {ANSWER: answer, CLASS: schema.class_names[answer]}


def attribute_probabilities(schema: Schema, probabilities: NDArray[np.float32], name: str) -> NDArray[np.float32]:
    """Those of the classes of one attribute [K], summed over the joint classes [C]."""
    axis = schema.joint.index(name)
    others = tuple(a for a in range(len(schema.joint)) if a != axis)
    return np.asarray(probabilities.reshape(schema.sizes).sum(axis=others))


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value


def _encodable(value: Any) -> Any:
    """A name as a file system may have it, in a form that any reader takes."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
