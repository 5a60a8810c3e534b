"""Files are there whole or not at all."""

from __future__ import annotations

from pathlib import Path

import pytest

from maskprep.store.files import write_with


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_with(tmp_path / "a", fail)
    assert (tmp_path / "a").read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["a"]
