"""Tables of photos by name: the answers to score against, the order to predict in. Matched strictly."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UserError, counted, fold
from maskprep.labels import Schema

NAME_COLUMNS = ("imageid", "image", "file", "filename", "path")
LABEL_COLUMNS = ("ans", "label")
VALUE = "_value"
"""End of the name of a column of numbers: ``age_value`` has the ages, in years."""


class Names:
    """Finds images by their path or by the end of it.

    Args:
        images: paths relative to the source, as in images.parquet.
    """

    def __init__(self, images: Iterable[str]) -> None:
        self._exact: set[str] = set()
        self._by_name: dict[str, list[str]] = defaultdict(list)
        for image in images:
            self._exact.add(image)
            self._by_name[PurePosixPath(image).name].append(image)

    def find(self, name: str) -> list[str]:
        """The images a name may mean: the path itself, otherwise those whose path ends in it."""
        wanted = name.strip().replace("\\", "/").removeprefix("./")
        if wanted in self._exact:
            return [wanted]
        ends = self._by_name.get(PurePosixPath(wanted).name, [])
        return [image for image in ends if image.endswith("/" + wanted)] if "/" in wanted else list(ends)


def read_csv(file: Path) -> pd.DataFrame:
    """A CSV file with every value as text.

    Raises:
        UserError: it is not there, or not a table.
    """
    try:
        return pd.read_csv(file, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except FileNotFoundError:
        raise UserError(f"{file} does not exist.", code=2) from None
    except (OSError, ValueError) as error:  # pandas' parser errors are ValueErrors
        raise UserError(f"{file} cannot be read as CSV: {str(error).strip()}") from error


def name_column(table: pd.DataFrame, file: Path) -> str:
    """The column with the names of the photos."""
    known = {str(c).strip().casefold(): str(c) for c in table.columns}
    for name in NAME_COLUMNS:
        if name in known:
            return known[name]
    raise UserError(f"{file} has no column with file names; it needs ImageID, image or file.", _has(table))


def labels(table: pd.DataFrame, schema: Schema, file: Path, *, blank: bool = False) -> NDArray[np.int64]:
    """Joint labels [n] of a table: from ``ans`` or ``label`` (index or class name), or from one column per attribute.

    Args:
        blank: whether an answer may be empty, which is then -1.

    Raises:
        UserError: no such columns, or values that are no class (with examples).
    """
    known = {str(c).strip().casefold(): str(c) for c in table.columns}
    if column := next((known[c] for c in LABEL_COLUMNS if c in known), None):
        index = {fold(name): k for k, name in enumerate(schema.class_names)}
        found = [_joint(value, index, schema.num_classes) for value in table[column]]
        texts = table[column].tolist()
    elif all(fold(name) in known for name in schema.joint):
        columns = {name: table[known[fold(name)]] for name in schema.joint}
        indices = {name: [_class(schema, name, value) for value in given] for name, given in columns.items()}
        rows = zip(*(indices[name] for name in schema.joint), strict=True)
        found = [None if None in row else int(np.ravel_multi_index(row, schema.sizes)) for row in rows]
        texts = ["/".join(str(v.iloc[i]) for v in columns.values()) for i in range(len(table))]
    else:
        raise UserError(
            f"{file} has no answers; it needs ans, label or the columns {', '.join(schema.joint)}.", _has(table)
        )
    if blank:
        found = [-1 if not text.strip(" /") else label for text, label in zip(texts, found, strict=True)]
    if wrong := [f"'{text}' in row {i + 2}" for i, text in enumerate(texts) if found[i] is None]:
        raise UserError(f"{file} has {counted(len(wrong), 'answer')} outside the classes: {listed(wrong)}.")
    return np.array(found, dtype=np.int64)


def _class(schema: Schema, name: str, value: object) -> int | None:
    """Index of a class of an attribute, by its name or by a number that is binned; None for no class."""
    own = [fold(each) for each in schema[name].classes]
    text = fold(str(value))
    return own.index(text) if text in own else schema[name].index(value)


def match(names: Sequence[str], images: Iterable[str], file: Path) -> list[str]:
    """The image that each name of a table means.

    Raises:
        UserError: names that mean no image, several images, or an image that another row means too (with examples).
    """
    finder = Names(images)
    found = [finder.find(name) for name in names]
    if missing := [n for n, f in zip(names, found, strict=True) if not f]:
        raise UserError(
            f"{file} names {counted(len(missing), 'photo')} that the cache does not have: {listed(missing)}."
        )
    if unclear := [(n, f) for n, f in zip(names, found, strict=True) if len(f) > 1]:
        examples = [f"{n} ({', '.join(f[:2])}{', ...' if len(f) > 2 else ''})" for n, f in unclear]
        raise UserError(
            f"{file} has {counted(len(unclear), 'name')} matching several images: {listed(examples)}.",
            "Write their paths in the file, or choose --split.",
        )
    chosen = [f[0] for f in found]
    if (
        twice := sorted({n for n, image in zip(names, chosen, strict=True) if chosen.count(image) > 1})
        if len(set(chosen)) < len(chosen)
        else []
    ):
        raise UserError(f"{file} names photos twice: {listed(twice)}.")
    return chosen


def listed(examples: Sequence[str], most: int = 3) -> str:
    """The first few of many."""
    return ", ".join(examples[:most]) + (f" and {len(examples) - most} more" if len(examples) > most else "")


def _joint(value: Any, index: dict[str, int], num_classes: int) -> int | None:
    text = str(value).strip()
    if text.removesuffix(".0").isdecimal() and text.isascii():
        number = int(text.removesuffix(".0"))
        return number if number < num_classes else None
    return index.get(fold(text))


def _has(table: pd.DataFrame) -> str:
    return f"It has: {', '.join(map(str, table.columns))}."
