"""Contact sheets."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import maskprep as api
from maskprep.dataset.sheet import CAPTION, GAP, THUMB, draw_sheet, groups
from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from maskprep.faces.drawing import draw_faces
from maskprep.pipeline.session import Session

Work = tuple[Path, Path]


def test_every_crop_is_drawn(work: Work) -> None:
    path = draw_sheet(work[1])
    assert path == work[1] / "sheet-face.png"
    sheet = np.asarray(Image.open(path).convert("RGB"))
    view = open_view(work[1])
    pixels = view.gather(list(range(8)))
    for i in range(8):
        x, y = CAPTION + i * (THUMB + GAP), sheet.shape[0] - THUMB - 2 * GAP
        shown = Image.fromarray(sheet[y : y + THUMB, x : x + THUMB]).resize((8, 8), Image.Resampling.BOX)
        expected = Image.fromarray(pixels[i]).resize((8, 8), Image.Resampling.BOX)
        assert np.abs(np.asarray(shown, float) - np.asarray(expected, float)).mean() < 12
    assert not list(work[1].glob(".tmp*"))


def test_the_seed_decides(work: Work, tmp_path: Path) -> None:
    a, b, c = (
        draw_sheet(work[1], None, tmp_path / f"{n}.png", count=3, seed=s).read_bytes()
        for n, s in (("a", 0), ("b", 0), ("c", 1))
    )
    assert a == b != c


def test_rows_by_class_and_status(tmp_path: Path, work: Work, quick: Path) -> None:
    photos, _ = work
    for name in ("cat", "dog"):
        (photos / name).mkdir()
    for name, folder in (("000.jpg", "cat"), ("001.jpg", "cat"), ("002.jpg", "dog")):
        (photos / name).rename(photos / folder / name)
    (photos / "b").rename(photos / "dog" / "b")
    (photos / "003.jpg").unlink()
    Image.new("RGB", (240, 200), "gray").save(photos / "cat" / "wall.png")
    (photos / "cat" / "empty.jpg").touch()
    api.run(photos, tmp_path / "new", quick, engine="serial")
    found = {caption: len(members) for caption, members in groups(open_view(tmp_path / "new"))}
    assert found == {"status: rescued": 1, "cat": 3, "dog": 5}
    assert draw_sheet(tmp_path / "new").is_file()


def test_an_empty_view_is_a_sheet_too(tmp_path: Path, quick: Path, yunet: None) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.jpg").touch()
    api.run(tmp_path / "photos", tmp_path / "cache", quick, engine="serial")
    assert Image.open(draw_sheet(tmp_path / "cache")).width > 0


def test_no_view(work: Work, tmp_path: Path, quick: Path) -> None:
    with pytest.raises((UserError, UsageError), match="no view 'nope'"):
        draw_sheet(work[1], "nope")
    api.index(work[0], tmp_path / "new", quick, engine="serial")
    with pytest.raises((UserError, UsageError), match="no crops yet"):
        draw_sheet(tmp_path / "new")


def drawn(work: Work, out: Path, force: bool) -> None:
    draw_sheet(work[1], out=out, force=force)


def faces(work: Work, out: Path, force: bool) -> None:
    session = Session(work[1], engine="serial")
    draw_faces(session.cache, session.folder, session.subjects(), out=out, force=force)


@pytest.mark.parametrize("draw", [drawn, faces])
def test_no_picture_of_others_is_written_over(work: Work, tmp_path: Path, draw: Callable[..., None]) -> None:
    photos, _ = work
    mine = shutil.copyfile(photos / "000.jpg", tmp_path / "mine.png")
    with pytest.raises(UsageError, match=r"mine\.png' exists"):
        draw(work, mine, False)
    for among in (photos / "000.jpg", photos / "new" / "a.png", tmp_path / "photos" / "b" / ".." / "a.png"):
        with pytest.raises(UsageError, match="among the photos"):
            draw(work, among, True)
    assert mine.read_bytes() == (photos / "000.jpg").read_bytes() and len(list(photos.rglob("*.*"))) == 8
    draw(work, mine, True)
    first = mine.read_bytes()
    mine.write_bytes(first + b"\0")
    draw(work, mine, False)  # it is ours now
    assert mine.read_bytes() == first
