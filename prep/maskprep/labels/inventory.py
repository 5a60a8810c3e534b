"""What was understood of the labels that came with the photos: where each is from, and how many photos have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maskprep.labels import persons
from maskprep.labels.columns import cells
from maskprep.labels.schema import Schema


@dataclass(frozen=True)
class AttributeCount:
    """One attribute of the schema.

    Args:
        origin: where its values are from, in words; empty where nothing tells.
        counts: class -> photos.
        missing: photos without a value, or with one that is no class.
        refused: values that are no class, as found -> photos.
    """

    name: str
    origin: str
    counts: dict[str, int]
    missing: int
    refused: dict[str, int]


@dataclass(frozen=True)
class Inventory:
    """The labels of a photo folder.

    Args:
        photos: how many there are.
        complete: how many have a class of every attribute.
        attributes: of the schema, in order.
        persons: how many people are known, and where from.
        doubts: what follows where they are not known, and how to say who is who; see :mod:`maskprep.labels.persons`.
        unused: columns that became no label -> why.
        lists: files besides photos that were read.
    """

    photos: int
    complete: int
    attributes: tuple[AttributeCount, ...]
    persons: tuple[int, str]
    doubts: tuple[str, ...]
    unused: dict[str, str]
    lists: tuple[str, ...]


def take(images: pd.DataFrame, schema: Schema, source: Mapping[str, Any]) -> Inventory:
    """Count the labels as found.

    Args:
        images: images.parquet.
        schema: what is classified.
        source: that of dataset.json; its ``labels`` are parts of :class:`~maskprep.labels.layouts.Described`, absent in
            caches of earlier versions.
    """
    record = source.get("labels", {})
    origins, refused = record.get("origins", {}), record.get("refused", {})
    attributes: list[AttributeCount] = []
    indices: list[list[int | None]] = []
    for attribute in schema.attributes:
        name = attribute.name
        values = cells(images[name]) if name in images else [None] * len(images)
        found = [attribute.index(value) for value in values]
        counts = {each: found.count(i) for i, each in enumerate(attribute.classes)}
        strange = dict(refused.get(name, {}))
        attributes.append(AttributeCount(name, origins.get(name, ""), counts, found.count(None), strange))
        indices.append(found)
    return Inventory(
        photos=len(images),
        complete=sum(None not in row for row in zip(*indices, strict=True)),
        attributes=tuple(attributes),
        persons=(int(images["person"].nunique()), origins.get("person", "")),
        doubts=persons.doubts(images, source, schema),
        unused=dict(record.get("unused", {})),
        lists=tuple(record.get("lists", ())),
    )
