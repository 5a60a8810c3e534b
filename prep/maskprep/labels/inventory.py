"""What was understood of the labels that came with the photos: where each is from, and how many photos have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from maskprep.labels.schema import Schema


@dataclass(frozen=True)
class AttributeCount:
    """One attribute of the schema.

    Args:
        name: of the attribute.
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
        splits: split -> photos.
        unused: columns that became no label -> why.
        lists: files besides photos that were read.
    """

    photos: int
    complete: int
    attributes: tuple[AttributeCount, ...]
    persons: tuple[int, str]
    splits: dict[str, int]
    unused: dict[str, str]
    lists: tuple[str, ...]


def take(images: pd.DataFrame, schema: Schema, record: Mapping[str, Any]) -> Inventory:
    """Count the labels as found.

    Args:
        images: images.parquet.
        schema: what is classified.
        record: ``source.labels`` of dataset.json, see :func:`record`; empty for caches of earlier versions.
    """
    origins, refused = record.get("origins", {}), record.get("refused", {})
    attributes = []
    whole = pd.Series(bool(schema.attributes), index=images.index)
    for attribute in schema.attributes:
        cells = images[attribute.name] if attribute.name in images else pd.Series([None] * len(images))
        indices = [attribute.index(None if pd.isna(cell) else cell) for cell in cells]
        counts = {name: indices.count(i) for i, name in enumerate(attribute.classes)}
        strange = dict(refused.get(attribute.name, {}))
        missing = indices.count(None)
        attributes.append(AttributeCount(attribute.name, origins.get(attribute.name, ""), counts, missing, strange))
        whole &= pd.Series([i is not None for i in indices], index=images.index)
    return Inventory(
        len(images),
        int(whole.sum()),
        tuple(attributes),
        (int(images["person"].nunique()), origins.get("person", "")),
        {str(name): int(n) for name, n in images["split"].value_counts().items()},
        dict(record.get("unused", {})),
        tuple(record.get("lists", ())),
    )
