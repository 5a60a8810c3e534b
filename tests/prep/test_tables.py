"""Tables on disk: no damage to a file gives other values than were written."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from maskprep.errors import UserError
from maskprep.store.tables import inputs_of, read_table, values_mark, write_table

FRAME = pd.DataFrame(
    {
        "image": [f"a/{i}.jpg" for i in range(40)],
        "x0": [i / 7 for i in range(40)],
        "label": pd.array([None if i % 7 == 0 else i for i in range(40)], dtype="Int64"),
        "points": [[float(i)] * 8 for i in range(40)],
    }
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_table(tmp_path / "t.parquet", FRAME, inputs="made from this")
    return tmp_path / "t.parquet"


@pytest.mark.parametrize("start", range(3))
def test_a_flipped_bit_is_an_error_or_changes_nothing(file: Path, start: int) -> None:
    whole, data = read_table(file), file.read_bytes()
    errors = 0
    for at in range(start, len(data), 3):
        flipped = bytearray(data)
        flipped[at] ^= 1 << at % 8
        file.write_bytes(flipped)
        try:
            pd.testing.assert_frame_equal(read_table(file), whole)
            assert inputs_of(file) in ("made from this", "")
        except UserError as error:
            assert str(file) in error.message and error.hint
            assert inputs_of(file) == values_mark(file) == ""
            errors += 1
    assert errors > len(data) / 3 * 0.95


@pytest.mark.parametrize("change", ["a row less", "another value", "another name"])
def test_a_table_that_another_program_wrote_with_our_marks_is_noticed(file: Path, change: str) -> None:
    table = pq.read_table(file)
    if change == "a row less":
        table = table.slice(0, len(table) - 1)
    elif change == "another value":
        table = table.set_column(1, "x0", pa.array([0.5] * len(table)))
    else:
        marks = table.schema.metadata
        table = table.rename_columns(["image", "x1", "label", "points"]).replace_schema_metadata(marks)
    pq.write_table(table, file)
    assert pq.read_schema(file).metadata[b"maskprep.inputs"] == b"made from this"
    with pytest.raises(UserError, match="is damaged: its checksum differs"):
        read_table(file)
    assert inputs_of(file) == ""


def test_a_table_of_an_earlier_version_has_no_checksum(file: Path) -> None:
    table = pa.Table.from_pandas(FRAME, preserve_index=False)
    pq.write_table(table.replace_schema_metadata({"maskprep.inputs": "as ever"}), file, compression="zstd")
    assert inputs_of(file) == "as ever"
    assert read_table(file, ["image"])["image"].tolist() == FRAME["image"].tolist()


def test_equal_tables_are_equal_files(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_table(tmp_path / name, FRAME, inputs="x")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_column_that_is_missing_is_named_with_the_file_and_the_cure(file: Path) -> None:
    with pytest.raises(UserError, match=r"t\.parquet' is of another version or program: it has no column key, row\."):
        read_table(file, ["image", "key"], needs=["row", "key"])
    (file.parent / "dataset.json").touch()
    with pytest.raises(UserError, match="no column key") as caught:
        read_table(file, ["key"])
    assert f"maskprep verify {file.parent}" in caught.value.hint
    assert f"maskprep run {file.parent}" in caught.value.hint
