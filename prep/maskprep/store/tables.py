"""Parquet tables: explicit columns, atomic writes, and a mark of what each table was made from."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from maskprep.base.files import fsync_replace, temporary_name
from maskprep.errors import UserError

INPUTS_KEY, VALUES_KEY = b"maskprep.inputs", b"maskprep.values"


def fingerprint(*parts: Any) -> str:
    """BLAKE2b-128 of the canonical JSON of some values: equal settings give equal text, whatever their order."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=list)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_table(path: Path, table: pd.DataFrame | pa.Table, schema: pa.Schema | None = None, inputs: str = "") -> None:
    """Write a Parquet table (zstd) atomically; ``inputs`` says what it was made from (see :func:`inputs_of`)."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    marks = {INPUTS_KEY: inputs.encode(), VALUES_KEY: _values(table).encode()} if inputs else None
    table = table.replace_schema_metadata(marks)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    pq.write_table(table, temporary, compression="zstd")
    fsync_replace(temporary, path)


def read_table(path: Path, columns: list[str] | None = None, *, needs: Iterable[str] = ()) -> pd.DataFrame:
    """Read a Parquet table.

    Args:
        path: the file.
        columns: to read; all by default.
        needs: columns that a table of an older version may lack.

    Raises:
        UserError: it does not exist, is no Parquet file, or lacks a column.
    """
    try:
        table = pd.DataFrame(pq.read_table(path, columns=columns).to_pandas())
    except FileNotFoundError as error:
        raise UserError(f"There is no table '{path}'.", "Run: maskprep run on the photos.") from error
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"'{path}' is damaged: {error}.", "Delete it and run the command again.") from error
    if absent := [name for name in needs if name not in table]:
        raise UserError(
            f"'{path}' was written by another version: it has no column {', '.join(absent)}.",
            "Bring the cache up to date: maskprep run on the photos.",
        )
    return table


def _values(table: pa.Table) -> str:
    """BLAKE2b-128 of names, types and values."""
    sink = pa.BufferOutputStream()
    plain = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink, plain.schema) as stream:
        stream.write_table(plain)
    return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()


def _marks(path: Path) -> dict[bytes, bytes]:
    try:
        return dict(pq.read_schema(path).metadata or {})
    except (OSError, pa.ArrowInvalid):
        return {}


def inputs_of(path: Path) -> str:
    """What :func:`write_table` was told the table was made from; empty when there is no such table."""
    return _marks(path).get(INPUTS_KEY, b"").decode()


def values_mark(path: Path) -> str:
    """A hash of the values of a table as it was written; empty when there is no such table."""
    return _marks(path).get(VALUES_KEY, b"").decode()


def schema_of(fields: Iterable[tuple[str, pa.DataType]], *labels: pa.Field) -> pa.Schema:
    """A table's columns, in order."""
    return pa.schema([*(pa.field(name, kind) for name, kind in fields), *labels])
