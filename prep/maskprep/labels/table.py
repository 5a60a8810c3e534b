"""The table of final labels: what the source says, in the terms of the schema."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa

from maskprep.labels.schema import Attribute, Schema

VERSION = 1


def assemble(images: pd.DataFrame, subjects: pd.DataFrame, schema: Schema) -> pa.Table:
    """labels.parquet: image, person, one column per attribute, label (joint class), excluded, source.

    Args:
        images: images.parquet.
        subjects: subjects.parquet, in the same order.
        schema: what is classified. A value that is no class of its attribute leaves the label empty.

    ``excluded`` says why an image is not to be trained on; ``source`` holds, as JSON, where each changed value came
    from (null: everything is as the source says).
    """
    columns: dict[str, pa.Array] = {
        "image": pa.array(list(images["image"]), pa.string()),
        "person": pa.array(_plain(images["person"]), pa.string()),
    }
    for attribute in schema.attributes:
        values = _plain(images[attribute.name]) if attribute.name in images else [None] * len(images)
        columns[attribute.name] = _column(attribute, values)
    lists = {name: columns[name].to_pylist() for name in schema.joint}
    labels = [schema.label({name: lists[name][i] for name in schema.joint}) for i in range(len(images))]
    columns["label"] = pa.array(labels, pa.int64())
    excluded = [
        f"{status}: {reason}" if status in ("unreadable", "dropped") else None
        for status, reason in zip(subjects["status"], _plain(subjects["reason"]), strict=True)
    ]
    columns["excluded"] = pa.array(excluded, pa.string())
    columns["source"] = pa.array([None] * len(images), pa.string())
    return pa.table(columns)


def unknown_values(images: pd.DataFrame, schema: Schema) -> list[str]:
    """Sentences about values that are no class of their attribute."""
    notes = []
    for attribute in schema.attributes:
        if attribute.name in images:
            strange = sorted({str(v) for v in images[attribute.name].dropna() if attribute.index(v) is None})
            if strange:
                known = ", ".join(attribute.classes[:8])
                notes.append(f"{attribute.name} has values that are none of {known}: {', '.join(strange[:5])}.")
    return notes


def _plain(column: pd.Series[Any]) -> list[Any]:
    return [None if pd.isna(value) else value for value in column]


def _column(attribute: Attribute, values: list[Any]) -> pa.Array:
    """Binned attributes as numbers (whole where all are), the others as the schema spells them."""
    if not attribute.bins:
        indices = [attribute.index(v) for v in values]
        names = [
            None if v is None else attribute.classes[i] if i is not None else str(v)
            for v, i in zip(values, indices, strict=True)
        ]
        return pa.array(names, pa.string())
    numbers = [None if attribute.index(v) is None else float(v) for v in values]
    whole = all(n is None or n.is_integer() for n in numbers)
    return (
        pa.array([None if n is None else int(n) for n in numbers], pa.int64())
        if whole
        else pa.array(numbers, pa.float64())
    )
