"""The table of final labels: what the source says, with the fixes applied, in the terms of the schema."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from maskprep.errors import UsageError
from maskprep.labels.changes import Change, Changes, apply
from maskprep.labels.collect import notes
from maskprep.labels.fixes import PERSON, Fix
from maskprep.labels.schema import Attribute, Schema
from maskprep.store import Recipe, Report, Tables, TableStage

VERSION = 2


@dataclass(frozen=True)
class LabelSettings:
    """The ``labels`` section of maskprep.yaml: fixes that are applied to the labels as found (see
    :mod:`maskprep.labels.fixes`).

    Args:
        fixes: CSV or YAML files; in maskprep.yaml relative to it.
        preset: a list of published label errors, or None.
        min_agree: use those of the preset that at least so many published lists agree on.

    Raises:
        UsageError: out of range.
    """

    fixes: tuple[str, ...] = ()
    preset: str | None = None
    min_agree: int = 2

    def __post_init__(self) -> None:
        if self.min_agree < 1:
            raise UsageError(f"labels.min_agree is at least 1, not {self.min_agree}.")


@dataclass(frozen=True)
class Labels(TableStage):
    """labels.parquet: the labels as found with the fixes applied.

    Args:
        schema: what is classified.
        fixes: reads those in force; called when labels are looked at, so that a broken file of fixes stops no other
            command.
    """

    schema: Schema
    fixes: Callable[[], Sequence[Fix]]
    name: ClassVar[str] = "labels"
    needs: ClassVar[tuple[str, ...]] = ("images", "choose")
    file: ClassVar[str] = "labels.parquet"
    stale: ClassVar[str] = "its schema or fixes changed"

    @property
    def recipe(self) -> Recipe:
        return Recipe(VERSION, {"schema": self.schema.to_dict()})

    def other_inputs(self, tables: Tables) -> Any:
        return [dataclasses.asdict(fix) for fix in self.fixes()]

    def changes(self, tables: Tables) -> Changes:
        """What the fixes make of the labels as found."""
        return apply(tables.table("images"), self.schema, self.fixes())

    def build(self, tables: Tables, report: Report) -> pa.Table:
        return assemble(tables.table("images"), tables.table("choose"), self.schema, self.changes(tables))

    def notes(self, tables: Tables) -> list[str]:
        return notes(self.changes(tables)) if self.fixes() else []


def assemble(images: pd.DataFrame, subjects: pd.DataFrame, schema: Schema, changes: Changes | None = None) -> pa.Table:
    """labels.parquet: image, person, one column per attribute, label (joint class), excluded, source.

    Args:
        images: images.parquet.
        subjects: subjects.parquet, in the same order.
        schema: what is classified. A value that is no class of its attribute leaves the label empty.
        changes: what the fixes make of them.

    ``excluded`` says why an image is not to be trained on; ``source`` holds, as JSON, what each changed value was and
    which fix changed it (null: everything is as the source says).
    """
    changes = changes or Changes()
    names = [str(image) for image in images["image"]]
    people = _changed(names, _plain(images["person"]), PERSON, changes)
    columns: dict[str, pa.Array] = {
        "image": pa.array(names, pa.string()),
        "person": pa.array([None if p is None else str(p) for p in people], pa.string()),
    }
    for attribute in schema.attributes:
        values = _plain(images[attribute.name]) if attribute.name in images else [None] * len(images)
        columns[attribute.name] = _column(attribute, _changed(names, values, attribute.name, changes))
    lists = {name: columns[name].to_pylist() for name in schema.joint}
    labels = [schema.label({name: lists[name][i] for name in schema.joint}) for i in range(len(images))]
    columns["label"] = pa.array(labels, pa.int64())
    excluded = [
        f"{status}: {reason}" if status in ("unreadable", "dropped") else _why_dropped(changes.dropped.get(image))
        for image, status, reason in zip(names, subjects["status"], _plain(subjects["reason"]), strict=True)
    ]
    columns["excluded"] = pa.array(excluded, pa.string())
    columns["source"] = pa.array([_source(changes.values.get(image)) for image in names], pa.string())
    return pa.table(columns)


def _changed(images: list[str], values: list[Any], name: str, changes: Changes) -> list[Any]:
    found = [changes.values.get(image, {}).get(name) for image in images]
    return [value if change is None else change.new for value, change in zip(values, found, strict=True)]


def _why_dropped(fix: Fix | None) -> str | None:
    return None if fix is None else f"fix: {fix.reason or fix.place}"


def _source(changed: Mapping[str, Change] | None) -> str | None:
    """JSON: field -> what it was, and the place, reason and source of the fix that changed it."""
    if not changed:
        return None
    record = {
        name: {"was": _plain_number(change.old), "by": change.fix.place}
        | {key: text for key in ("reason", "source") if (text := getattr(change.fix, key))}
        for name, change in sorted(changed.items())
    }
    return json.dumps(record, ensure_ascii=False)


def _plain_number(value: Any) -> Any:
    if isinstance(value, str | None):
        return value
    return int(value) if float(value).is_integer() else float(value)


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
