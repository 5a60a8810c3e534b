"""The table of final labels: what the source says, with the fixes applied, in the terms of the schema."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from maskprep.base import UsageError
from maskprep.labels.changes import Changes, apply
from maskprep.labels.columns import cells
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
            raise UsageError(f"labels.min_agree must be at least 1, not {self.min_agree}.")


@dataclass(frozen=True)
class Labels(TableStage):
    """labels.parquet: the labels as found with the fixes applied. ``fixes`` reads those in force; it is called when
    labels are looked at, so that a broken file of fixes stops no other command.
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
        return self.changes(tables).notes() if self.fixes() else []


def assemble(images: pd.DataFrame, subjects: pd.DataFrame, schema: Schema, changes: Changes | None = None) -> pa.Table:
    """labels.parquet: image, person, one column per attribute, label (joint class), excluded, source.

    Images and subjects are in the same order. A value that is no class of its attribute leaves the label empty.
    ``excluded`` says why an image is not to be trained on; ``source`` holds, as JSON, what each changed value was and
    which fix changed it (null: everything is as the source says).
    """
    changes = changes or Changes()
    names = [str(image) for image in images["image"]]

    def final(name: str) -> list[Any]:
        found = cells(images[name]) if name in images else [None] * len(images)
        changed = [changes.values.get(image, {}).get(name) for image in names]
        return [value if change is None else change.new for value, change in zip(found, changed, strict=True)]

    people = [None if person is None else str(person) for person in final(PERSON)]
    columns = {"image": pa.array(names, pa.string()), "person": pa.array(people, pa.string())}
    for attribute in schema.attributes:
        columns[attribute.name] = _column(attribute, final(attribute.name))
    lists = {name: columns[name].to_pylist() for name in schema.joint}
    labels = [schema.label({name: lists[name][i] for name in schema.joint}) for i in range(len(images))]
    columns["label"] = pa.array(labels, pa.int64())
    excluded: list[str | None] = []
    for image, status, reason in zip(names, subjects["status"], cells(subjects["reason"]), strict=True):
        fix = changes.dropped.get(image)
        dropped = None if fix is None else f"fix: {fix.reason or fix.place}"
        excluded.append(f"{status}: {reason}" if status in ("unreadable", "dropped") else dropped)
    columns["excluded"] = pa.array(excluded, pa.string())
    columns["source"] = pa.array([_source(changes, image) for image in names], pa.string())
    return pa.table(columns)


def _source(changes: Changes, image: str) -> str | None:
    """JSON: field -> what it was, and the place, reason and source of the fix that changed it."""
    record = {}
    for name, change in sorted(changes.values.get(image, {}).items()):
        was, fix = change.old, change.fix
        if not isinstance(was, str | None):
            was = int(was) if float(was).is_integer() else float(was)
        given = {key: text for key in ("reason", "source") if (text := getattr(fix, key))}
        record[name] = {"was": was, "by": fix.place} | given
    return json.dumps(record, ensure_ascii=False) if record else None


def unknown_values(images: pd.DataFrame, schema: Schema) -> list[str]:
    """Sentences about values that are no class of their attribute."""
    notes = []
    for attribute in schema.attributes:
        values = images[attribute.name].dropna() if attribute.name in images else ()
        if strange := sorted({str(value) for value in values if attribute.index(value) is None}):
            known = ", ".join(attribute.classes[:8])
            notes.append(f"{attribute.name} has values that are none of {known}: {', '.join(strange[:5])}.")
    return notes


def _column(attribute: Attribute, values: list[Any]) -> pa.Array:
    """Binned attributes as numbers (whole where all are), the others as the schema spells them."""
    indices = [attribute.index(value) for value in values]
    pairs = list(zip(values, indices, strict=True))
    if not attribute.bins:
        spelt = [None if v is None else str(v) if i is None else attribute.classes[i] for v, i in pairs]
        return pa.array(spelt, pa.string())
    numbers = [None if i is None else float(v) for v, i in pairs]
    if all(n is None or n.is_integer() for n in numbers):
        return pa.array([None if n is None else int(n) for n in numbers], pa.int64())
    return pa.array(numbers, pa.float64())
