"""Failures that may pass (of the disk, the network, rights, memory): never remembered, always said, tried again."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

import maskprep as api
from maskprep.cli import app
from maskprep.mattes.cutouts import Cutout, CutoutRow, CutoutSettings
from maskprep.photos.decode import PhotoError, PhotoFile, load

Work = tuple[Path, Path]
Break = Callable[..., None]

EIO = OSError(errno.EIO, os.strerror(errno.EIO))


def table(cache: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(cache / f"{name}.parquet").set_index("image")


@pytest.fixture
def fail(monkeypatch: pytest.MonkeyPatch) -> Break:
    """Lets photos of some names fail when they are opened."""
    real = Path.open

    def broken(error: Exception, *names: str) -> None:
        def opened(path: Path, *args: Any, **options: Any) -> Any:
            if path.name in names:
                raise error
            return real(path, *args, **options)

        monkeypatch.setattr(Path, "open", opened)

    return broken


@pytest.mark.parametrize("error", [EIO, PermissionError(errno.EACCES, "Permission denied"), MemoryError()])
def test_a_photo_that_is_not_read_once(work: Work, fail: Break, error: Exception) -> None:
    photos, cache = work
    names = ["x0.jpg", "x1.jpg"]
    for name in names:
        shutil.copyfile(photos / "003.jpg", photos / name)
    fail(error, *names)
    for _ in range(2):  # it is tried each time
        job = api.run(photos, cache, engine="serial")
        why = "out of memory" if isinstance(error, MemoryError) else error.strerror
        assert job.failed == dict.fromkeys(names, why)
        images = table(cache, "images")
        assert len(images) == 10 and images.loc[names, "error"].tolist() == ["not_read"] * 2
        assert table(cache, "subjects").loc[names, "status"].tolist() == ["unreadable"] * 2
        assert images["error"].isna().sum() == 8 and table(cache, "labels").index.tolist() == images.index.tolist()
    fail(error)
    job = api.run(photos, cache, engine="serial")
    assert not job.failed and job.computed["index"] == 2
    assert table(cache, "images")["error"].isna().all()
    assert table(cache, "subjects").loc["x0.jpg", "status"] == "ok"
    assert not api.run(photos, cache, engine="serial").computed


def test_no_photo_at_all_can_be_read(tmp_path: Path, make_photos: Any, quick: Path, fail: Break, yunet: None) -> None:
    make_photos(tmp_path / "photos", 2)
    fail(EIO, "000.jpg", "001.jpg")
    job = api.run(tmp_path / "photos", tmp_path / "cache", quick, engine="serial")
    assert len(job.failed) == 2 and (table(tmp_path / "cache", "images")["error"] == "not_read").all()
    fail(EIO)
    assert api.run(tmp_path / "photos", tmp_path / "cache", engine="serial").computed["index"] == 2
    assert (table(tmp_path / "cache", "subjects")["status"] == "ok").all()


def test_the_command_says_which_and_why_and_its_status_is_1(work: Work, fail: Break) -> None:
    photos, cache = work
    shutil.copyfile(photos / "003.jpg", photos / "x.jpg")
    fail(EIO, "x.jpg")
    said = CliRunner().invoke(app, ["index", str(photos), "--cache", str(cache), "--engine", "serial", "--quiet"])
    assert said.exit_code == 1
    assert "1 not_read" in said.stdout and "1 photo, first x.jpg: Input/output error" in " ".join(said.stdout.split())
    arguments = ["index", str(photos), "--cache", str(cache), "--engine", "serial"]
    assert CliRunner().invoke(app, [*arguments, "--strict"]).exit_code == 3
    fail(EIO)
    assert CliRunner().invoke(app, arguments).exit_code == 0


@pytest.mark.parametrize("command", [["faces"], ["relabel", "--preset", "none"], ["audit", "--no-report"]])
def test_commands_without_a_summary_say_it_too(work: Work, fail: Break, command: list[str]) -> None:
    photos, cache = work
    shutil.copyfile(photos / "003.jpg", photos / "x.jpg")
    fail(EIO, "x.jpg")
    arguments = [command[0], str(photos), *command[1:], "--cache", str(cache), "--engine", "serial", "--quiet"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 1 and "failed: 1 photo, first x.jpg: Input/output error" in " ".join(said.stderr.split())
    fail(EIO)
    assert CliRunner().invoke(app, arguments).exit_code == 0


def test_a_photo_that_fails_after_it_was_indexed(work: Work, fail: Break) -> None:
    photos, cache = work
    arguments = ["crop", str(photos), "--cache", str(cache), "--margin", "0.5", "--engine", "serial"]
    fail(EIO, "001.jpg")
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 1 and "001.jpg" in said.stdout
    assert table(cache, "images")["error"].isna().all()
    fail(EIO)
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert len(pd.read_parquet(cache / "views/face/index.parquet")) == 8


@pytest.mark.parametrize(
    "kept",
    [
        {"content": "", "bytes": 0, "detail": "Input/output error"},
        {"content": "", "bytes": 0, "detail": "Permission denied"},
        {"detail": "MemoryError"},
        {"detail": "Unable to allocate 357. MiB for an array with shape (11000, 11000, 3) and data type uint8"},
    ],
)
def test_what_earlier_versions_remembered_is_forgotten(work: Work, kept: dict[str, Any]) -> None:
    photos, cache = work
    shard = cache / "stages/index/00000.parquet"
    whole = pq.read_table(shard)
    rows = whole.to_pylist()
    rows[1] |= {"error": "unreadable", "width": None, "height": None, "phash": None} | kept
    pq.write_table(whole.from_pylist(rows, schema=whole.schema.remove_metadata()), shard)
    (cache / "stages/index/.stage.json").unlink()  # which these versions did not write
    job = api.run(photos, cache, engine="serial")
    assert table(cache, "images")["error"].isna().all() and not job.failed
    assert not api.run(photos, cache, engine="serial").computed


def test_what_the_decoder_says_stays(work: Work) -> None:
    photos, cache = work
    (photos / "empty.jpg").touch()
    (photos / "link.jpg").symlink_to(photos / "nowhere.jpg")
    (photos / "cut.jpg").write_bytes((photos / "000.jpg").read_bytes()[:900])
    job = api.run(photos, cache, engine="serial")
    assert not job.failed and table(cache, "images")["error"].notna().sum() == 3
    assert not api.run(photos, cache, engine="serial").computed


def test_a_cut_out_that_was_not_read_is_made_later(tmp_path: Path, fail: Break, monkeypatch: Any) -> None:
    """The stage raises, so that no row is kept; a broken photo is a row."""
    import contextlib

    from maskprep.mattes import cutouts

    @contextlib.contextmanager
    def model(*_: Any, **__: Any) -> Any:
        yield [lambda pixels: pytest.fail("nothing is to be cut out")]

    monkeypatch.setattr(cutouts, "open_looks", model)
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "b.jpg").write_bytes(b"\xff\xd8\xff")
    monkeypatch.setattr(cutouts.matte_models, "locate", lambda *_, **__: None)
    with Cutout(CutoutSettings(), False).open() as compute:
        row = CutoutRow("a.png", tmp_path / "a.png")
        fail(EIO, "a.jpg")
        with pytest.raises(PhotoError, match="Input/output error"):
            compute(PhotoFile(tmp_path / "a.jpg"), row)
        output = compute(PhotoFile(tmp_path / "b.jpg"), row)
        assert output is not None and output[0]["error"].startswith("truncated")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file of which no byte can be read")
def test_a_real_error_of_reading() -> None:
    with pytest.raises(PhotoError) as caught:
        load(Path("/proc/self/mem"))
    assert caught.value.kind == "not_read"


def test_a_folder_that_cannot_be_listed_is_said(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, cache = work
    (photos / "lost+found").mkdir()
    real = os.scandir

    def closed(folder: str | Path) -> Any:
        if os.fspath(folder).endswith("lost+found"):
            raise PermissionError(errno.EACCES, "Permission denied", folder)
        return real(folder)

    monkeypatch.setattr(os, "scandir", closed)
    arguments = ["index", str(photos), "--cache", str(cache), "--engine", "serial", "--quiet"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0 and len(table(cache, "images")) == 8
    assert "1 folder that cannot be listed: lost+found/ (Permission denied)" in " ".join(said.stdout.split())
    assert CliRunner().invoke(app, [*arguments, "--strict"]).exit_code == 3
