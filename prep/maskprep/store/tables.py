"""Parquet tables: explicit columns, atomic writes, a checksum, and a mark of what each table was made from.

The checksum is over the whole file. Parquet's own are of its pages only: they would miss damage to the footer (names,
types, marks), and rows that another program left out.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from maskprep.base import UserError, read_once, write_atomic
from maskprep.store.cache import DATASET

INPUTS_KEY, VALUES_KEY = b"maskprep.inputs", b"maskprep.values"

CHECKSUM = b"maskprep crc32 "
"""In the footer of a table, before 8 hexadecimal digits: the CRC-32 of the file with zeros in their place."""

BLANK = b"00000000"


def fingerprint(*parts: Any) -> str:
    """BLAKE2b-128 of the canonical JSON of some values: equal settings give equal text, whatever their order."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=True, separators=(",", ":"), default=list)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def write_table(path: Path, table: pd.DataFrame | pa.Table, schema: pa.Schema | None = None, inputs: str = "") -> None:
    """Write a Parquet table (zstd) atomically; ``inputs`` says what it was made from (see :func:`inputs_of`)."""
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, schema=schema, preserve_index=False)
    marks = {INPUTS_KEY: inputs.encode(), VALUES_KEY: values_of(table).encode()} if inputs else {}
    buffer = pa.BufferOutputStream()
    table = table.replace_schema_metadata({**marks, b"maskprep.checksum": CHECKSUM + BLANK})
    pq.write_table(table, buffer, compression="zstd")
    data = bytearray(buffer.getvalue())
    start = data.rindex(CHECKSUM) + len(CHECKSUM)
    data[start : start + len(BLANK)] = b"%08x" % zlib.crc32(data)
    write_atomic(path, bytes(data))


def read_arrow(path: Path, columns: Iterable[str] | None = None, *, needs: Iterable[str] = ()) -> pa.Table:
    """Read a Parquet table. See :func:`read_table`."""
    try:
        file = _open(path)
        have = file.schema_arrow.names
        asked = have if columns is None else list(columns)
        if absent := [name for name in (*asked, *needs) if name not in have]:
            raise UserError(
                f"'{path}' is of another version or program: it has no column {', '.join(dict.fromkeys(absent))}.",
                cure(path),
            )
        return file.read(asked)
    except FileNotFoundError as error:
        raise UserError(f"There is no table '{path}'.", cure(path)) from error
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        raise UserError(f"'{path}' is damaged: {error}.", cure(path)) from error


def read_table(path: Path, columns: Iterable[str] | None = None, *, needs: Iterable[str] = ()) -> pd.DataFrame:
    """Read a Parquet table.

    Args:
        path: the file.
        columns: to read; all by default.
        needs: further columns that it must have.

    Raises:
        UserError: it does not exist, is damaged, or lacks a column.
    """
    table = read_arrow(path, columns, needs=needs)
    try:
        return pd.DataFrame(table.to_pandas())
    except (pa.ArrowException, ValueError, OverflowError) as error:  # a table of an earlier version, without a checksum
        raise UserError(f"'{path}' is damaged: {error}.", cure(path)) from error


def _open(path: Path) -> pq.ParquetFile:
    """Open a table whose checksum is right, or that has none, as those of earlier versions.

    Raises:
        OSError, ArrowInvalid: it cannot be read.
        ValueError: another checksum.
    """
    data = read_once(path)
    start = data.rfind(CHECKSUM) + len(CHECKSUM)
    if start >= len(CHECKSUM):
        view, end = memoryview(data), start + len(BLANK)
        if data[start:end] != b"%08x" % zlib.crc32(view[end:], zlib.crc32(BLANK, zlib.crc32(view[:start]))):
            raise ValueError("its checksum differs")
    return pq.ParquetFile(pa.BufferReader(data))


def cure(path: Path) -> str:
    """What to do about a file of a cache that is missing or damaged."""
    cache = next((folder for folder in path.parents if (folder / DATASET).is_file()), None)
    if cache is None:
        return "Delete it and run the command again."
    return f"Make it again: maskprep verify {cache}, then maskprep run {cache}"


def values_of(table: pa.Table) -> str:
    """BLAKE2b-128 of names, types and values."""
    sink = pa.BufferOutputStream()
    plain = table.replace_schema_metadata(None).combine_chunks()
    with pa.ipc.new_stream(sink, plain.schema) as stream:
        stream.write_table(plain)
    return hashlib.blake2b(sink.getvalue(), digest_size=16).hexdigest()


def _marks(path: Path) -> dict[bytes, bytes]:
    """The marks of a table; none where it is missing or damaged, so that it is made anew."""
    try:
        return dict(_open(path).schema_arrow.metadata or {})
    except (pa.ArrowException, OSError, ValueError):
        return {}


def inputs_of(path: Path) -> str:
    """What :func:`write_table` was told the table was made from; empty where there is none, or it is damaged."""
    return _marks(path).get(INPUTS_KEY, b"").decode()


def values_mark(path: Path) -> str:
    """A hash of the values of a table as it was written; empty where there is none, or it is damaged."""
    return _marks(path).get(VALUES_KEY, b"").decode()


def schema_of(fields: Iterable[tuple[str, pa.DataType]], *labels: pa.Field) -> pa.Schema:
    """A table's columns, in order."""
    return pa.schema([*(pa.field(name, kind) for name, kind in fields), *labels])
