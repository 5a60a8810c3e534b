"""Files are there whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from maskprep.base.files import keep_out, keep_whole, lock, write_atomic, write_with
from maskprep.errors import UsageError, UserError
from maskprep.photos.pictures import write_png
from maskprep.store.cache import Cache
from maskprep.store.tables import read_table, write_table


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def fail(part: Path) -> None:
        part.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_with(tmp_path / "a", fail)
    assert (tmp_path / "a").read_text() == "old"
    assert [f.name for f in tmp_path.iterdir()] == ["a"]


def test_a_table_of_another_version_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    write_table(tmp_path / "faces.parquet", pd.DataFrame({"image": ["a"], "face": [0]}))
    assert list(read_table(tmp_path / "faces.parquet", needs=["face"])) == ["image", "face"]
    with pytest.raises(UserError, match=r"faces\.parquet' is of another version or program: it has no column matte"):
        read_table(tmp_path / "faces.parquet", needs=["face", "matte"])


def test_nothing_is_written_among_the_photos(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    keep_out(tmp_path / "sheet.png", photos)
    for path in (photos / "a.png", photos / "new" / "a.png", tmp_path / "photos" / ".." / "photos" / "b.png"):
        with pytest.raises(UserError, match="among the photos"):
            keep_out(path, photos)


def test_only_files_of_our_own_are_written_over(tmp_path: Path) -> None:
    out = tmp_path / "a.png"
    keep_whole(out)  # nothing is there
    out.touch()
    keep_whole(out)  # nothing is lost
    picture = Image.new("RGB", (4, 4))
    picture.save(out)
    with pytest.raises(UserError, match=r"a\.png' exists") as caught:
        keep_whole(out, option="--sheet")
    assert "--force" in caught.value.hint and "--sheet" in caught.value.hint
    keep_whole(out, force=True)
    write_png(out, picture)
    keep_whole(out)
    Image.open(out).save(out)  # another program leaves our mark out
    with pytest.raises(UserError, match="exists"):
        keep_whole(out)
    with pytest.raises(UserError, match="is a folder"):
        keep_whole(tmp_path, force=True)


def test_a_file_system_that_cannot_make_folders_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, number = os.fsync, errno.EINVAL

    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(number, os.strerror(number))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    write_atomic(tmp_path / "a", b"kept")
    assert (tmp_path / "a").read_bytes() == b"kept"
    number = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_atomic(tmp_path / "b", b"lost")


def test_a_lock_that_is_taken_names_its_process(tmp_path: Path) -> None:
    """And its file, which stays, keeps nobody out."""
    for _ in range(2):
        with lock(tmp_path / "new/.lock") as held:
            assert held
            with pytest.raises(UsageError, match=f"taken by {os.getpid()}"), lock(tmp_path / "new/.lock", taken_by):
                pytest.fail("two have it")
    with lock(tmp_path / "new/.lock", taken_by) as held:
        assert held


def taken_by(process: str) -> UserError:
    return UsageError(f"taken by {process}")


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS])
def test_a_file_system_without_locks(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fcntl = pytest.importorskip("fcntl", reason="needs flock")

    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)
    with Cache(tmp_path / "cache").lock() as held, Cache(tmp_path / "cache").lock(), lock(tmp_path / "cache/.lock"):
        assert not held
    number = errno.EIO
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), lock(tmp_path / "other"):
        pytest.fail("a damaged disk is not a missing feature")
