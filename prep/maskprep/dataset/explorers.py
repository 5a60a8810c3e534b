"""What programs for exploring a data set read: FiftyOne's JSON and the Parquet file of Embedding Atlas."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from maskprep.dataset.likeness import appearance, neighbours
from maskprep.dataset.view import View

SAMPLES, METADATA = "samples.json", "metadata.json"
"""Files of a FiftyOne data set, beside the folder ``data``."""

ATLAS = "atlas.parquet"
EXCLUDED = "excluded"
"""Why a fix leaves an image out, a tag of the samples left out, and a column of the atlas."""

TAKEN = frozenset(("id", "filepath", "tags", "metadata", "created_at", "last_modified_at", "label", "image", EXCLUDED))
"""Fields of a FiftyOne sample, and ours, that an attribute cannot have the name of."""

ATLAS_COLUMNS = {
    "image": pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    "file": pa.string(),
    "x": pa.float64(),
    "y": pa.float64(),
    "neighbors": pa.struct([("ids", pa.list_(pa.int64())), ("distances", pa.list_(pa.float64()))]),
    "all_labels": pa.string(),
}
"""Columns of an atlas, besides split, person, status, excluded and the attributes."""

BATCH = 500

Samples = Iterator[tuple[str, dict[str, Any], bytes]]
"""File name, values and encoded picture; values of an attribute of numbers are numbers or None."""


def fiftyone_files(view: View, files: Sequence[str], cells: Iterable[Mapping[str, Any]]) -> dict[str, bytes]:
    """The two JSON files: name -> content.

    Args:
        view: of the crops.
        files: path of each crop in the export.
        cells: values of each crop; those of an attribute of numbers are numbers or None.
    """
    attributes = {a.name: bool(a.bins) for a in view.schema.attributes}
    samples = []
    for file, known in zip(files, cells, strict=True):
        sample: dict[str, Any] = {"filepath": file, "tags": [known["split"]], "image": known["image"]}
        if known[EXCLUDED] is not None:
            sample |= {"tags": [known["split"], EXCLUDED], EXCLUDED: known[EXCLUDED]}
        sample |= {name: known[name] for name in ("person", "status") if known[name] is not None}
        for name, is_number in attributes.items():
            if (value := known[name]) is not None:
                sample[f"{name}_" if name in TAKEN else name] = float(value) if is_number else _classification(value)
        if known["label"] is not None:
            sample["label"] = _classification(view.schema.class_names[known["label"]])
        samples.append(sample)
    info = {"name": view.path.resolve().name, "view": view.name, "classes": list(view.schema.class_names)}
    return {SAMPLES: _json({"samples": samples}), METADATA: _json({"media_type": "image", "info": info})}


def _classification(value: Any) -> dict[str, str]:
    return {"_cls": "Classification", "label": str(value)}


def _json(value: Any) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode("utf-8", "replace")


def write_atlas(view: View, rows: Sequence[int], samples: Samples, path: Path) -> None:
    """Write one row a crop: the picture, its place on the map, its neighbours and its labels.

    Args:
        view: of the crops.
        rows: of its table.
        samples: file name, values and encoded picture of each.
        path: of the new file.
    """
    points = appearance(view.gather_original([row])[0] for row in rows)
    near, far = neighbours(points)
    places = np.zeros((len(points), 2))
    places[:, : points.shape[1]] = points[:, :2].round(6)
    kinds = {name: pa.string() for name in ("split", "person", "status", EXCLUDED)}
    kinds |= {a.name: pa.float64() if a.bins else pa.string() for a in view.schema.attributes}
    columns = {f"{name}_" if name in ATLAS_COLUMNS else name: (name, kind) for name, kind in kinds.items()}
    schema = pa.schema([*ATLAS_COLUMNS.items(), *((column, kind) for column, (_, kind) in columns.items())])
    classes = view.schema.class_names
    with pq.ParquetWriter(path, schema, compression="none") as writer:
        numbered = enumerate(samples)
        while batch := list(itertools.islice(numbered, BATCH)):
            made = []
            for i, (name, cells, data) in batch:
                row: dict[str, Any] = {"image": {"bytes": data, "path": name}, "file": cells["image"]}
                row |= {"x": places[i, 0], "y": places[i, 1]}
                row["neighbors"] = {"ids": near[i].tolist(), "distances": far[i].round(6).tolist()}
                row["all_labels"] = None if cells["label"] is None else classes[cells["label"]]
                made.append(row | {column: _as(kind, cells[name]) for column, (name, kind) in columns.items()})
            writer.write_table(pa.Table.from_pylist(made, schema))


def _as(kind: pa.DataType, value: Any) -> Any:
    return str(value) if value is not None and kind == pa.string() else value
