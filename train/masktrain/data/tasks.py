"""A run may learn some of a cache's attributes, or from some of its classes: a part of what is asked.

The people are split by everything that the cache knows, whatever is learnt, so that all parts hold out the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from maskprep.base import UsageError, UserError, fold
from maskprep.dataset import View
from maskprep.labels import Schema
from masktrain.config.settings import nearest
from masktrain.config.where import Where

WHOLE = "whole label"
"""Column of a view's table that keeps the joint label of all attributes."""


def of(view: View, task: str) -> View:
    """A view that asks for some attributes only.

    Args:
        task: their names, with commas; nothing for all.

    Raises:
        UsageError: a name that is no attribute of the joint label, or twice the same.
    """
    names = [name.strip() for name in task.split(",")] if task else []
    for name in names:
        if name not in view.schema.joint:
            near = nearest(name, view.schema.joint)
            raise UsageError(
                f"data.task: there is no attribute '{name}'; there is {', '.join(view.schema.joint)}.",
                f"Did you mean '{near[0]}'?" if near else "",
            )
    if len(set(names)) < len(names):
        raise UsageError(f"data.task names an attribute twice: {task}.")
    kept = tuple(view.schema[name] for name in view.schema.joint if name in names)
    return like(view, Schema(kept)) if names else view


def like(view: View, schema: Schema) -> View:
    """A view by the attributes of a schema, if they are among its own; otherwise as it is."""
    mine = view.schema
    if schema == mine or not schema.joint or any(n not in mine.joint or schema[n] != mine[n] for n in schema.joint):
        return view

    def narrowed(table: pd.DataFrame) -> pd.DataFrame:
        return table.assign(label=project(table["label"], mine, schema), **{WHOLE: table["label"]})

    return dataclasses.replace(view, schema=schema, table=narrowed(view.table), missing=narrowed(view.missing))


def project(labels: pd.Series[Any], mine: Schema, schema: Schema) -> pd.Series[Any]:
    """Joint labels of one schema as those of another whose attributes it has; unknown ones stay so."""
    places = [mine.joint.index(name) for name in schema.joint]
    table = {k: schema.encode([mine.decode(k)[p] for p in places]) for k in range(mine.num_classes)}
    return pd.Series([pd.NA if pd.isna(v) else table[int(v)] for v in labels], index=labels.index, dtype="Int64")


def whole(view: View) -> tuple[pd.DataFrame, Schema]:
    """The table of a view and the schema, by all attributes of the cache."""
    if WHOLE not in view.table:
        return view.table, view.schema
    return view.table.assign(label=view.table[WHOLE]), Schema.from_dict(view.dataset["schema"])


def parse(text: str, schema: Schema, key: str = "data.where") -> Where | None:
    """What ``data.where`` or another setting of its form says; None for nothing.

    Raises:
        UsageError: no such form, attribute or class; or all classes of the attribute.
    """
    if not text:
        return None
    name, equals, values = (piece.strip() for piece in text.partition("="))
    if not (equals and values):
        raise UsageError(f"{key} must be ATTRIBUTE=CLASS, not '{text}'.", "Such as mask=incorrect|normal")
    if name not in schema.joint:
        near = nearest(name, schema.joint)
        raise UsageError(
            f"{key}: there is no attribute '{name}'; there is {', '.join(schema.joint)}.",
            f"Did you mean '{near[0]}'?" if near else "",
        )
    known = {fold(c): c for c in schema[name].classes}
    for value in (given := [fold(v) for v in values.split("|")]):
        if value not in known:
            near = nearest(value, list(known))
            said = f"{key}: '{value}' is no class of {name}; there is {', '.join(schema[name].classes)}."
            raise UsageError(said, f"Did you mean '{known[near[0]]}'?" if near else "")
    if len(set(given)) == len(known):
        raise UsageError(f"{key}: these are all classes of {name}.", "Leave it out to learn from all images.")
    return Where(name, tuple(c for f, c in known.items() if f in given))


def rows_where(view: View, rows: NDArray[np.int64], where: Where | None, key: str = "data.where") -> NDArray[np.int64]:
    """Those of some table rows whose images are meant.

    Raises:
        UserError: none is.
    """
    if where is None:
        return rows
    table, schema = whole(view)
    place = schema.joint.index(where.attribute)
    wanted = {schema[where.attribute].classes.index(c) for c in where.classes}
    meant = [schema.decode(int(label))[place] in wanted for label in table["label"].iloc[rows]]
    kept: NDArray[np.int64] = rows[np.array(meant, dtype=bool)]
    if not len(kept):
        raise UserError(f"{key}: no training image has {where}.")
    return kept
