"""A person's decisions: read, applied, and reported when they are stale."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import maskprep as api
from maskprep.errors import UsageError, UserError
from maskprep.faces.choice import Choice
from maskprep.faces.drawing import draw_faces
from maskprep.faces.face import Face
from maskprep.faces.subjects import STATUSES, apply_decision, by_image
from maskprep.store.decisions import COLUMNS, Decision, allowed_pairs, change, of_faces, parse_box, read_decisions

BOX = (100.0, 100.0, 200.0, 220.0)
OTHER = (300.0, 50.0, 360.0, 120.0)
POINTS = np.zeros((4, 2))
FACES = [Face((0, 1), BOX, 0.9, True, 0.9, POINTS), Face((2,), OTHER, 0.9, True, 0.9, POINTS)]
AUTOMATIC = Choice("ok", 0, BOX, "", POINTS)


def format_box(box: tuple[float, ...]) -> str:
    return " ".join(str(v) for v in box)


def decision(verdict: str, value: str = "", expected: str = "", **more: str) -> Decision:
    return Decision("c", "a.jpg", verdict, value, expected, **more)


@pytest.mark.parametrize(
    ("given", "status", "face", "box"),
    [
        (decision("keep"), "decided", 0, BOX),
        (decision("keep", expected=format_box(BOX)), "decided", 0, BOX),
        (decision("face", "2"), "decided", 2, OTHER),
        (decision("face", "1"), "decided", 0, BOX),  # any detection of a face means the face
        (decision("face", "9", format_box(OTHER)), "decided", 2, OTHER),  # renumbered: the expected box finds it
        (decision("box", "1 2 30 40"), "decided", None, (1.0, 2.0, 30.0, 40.0)),
        (decision("drop"), "dropped", None, None),
    ],
)
def test_decisions_hold(given: Decision, status: str, face: int | None, box: tuple[float, ...] | None) -> None:
    choice, stale = apply_decision(given, AUTOMATIC, FACES)
    assert (choice.status, choice.face, choice.box, stale) == (status, face, box, "")
    assert choice.status in STATUSES


@pytest.mark.parametrize(
    "given",
    [
        decision("keep", expected=format_box(OTHER)),
        decision("drop", expected=format_box(OTHER)),
        decision("box", "1 2 30 40", format_box(OTHER)),
        decision("face", "9"),
        decision("face", "0", "400 400 450 450"),
    ],
)
def test_stale_decisions_are_reported_and_not_applied(given: Decision) -> None:
    choice, stale = apply_decision(given, AUTOMATIC, FACES)
    assert choice is AUTOMATIC and stale


def test_later_decisions_win_and_copies_are_told_apart() -> None:
    contents = {"a.jpg": "c", "copy/a.jpg": "c", "b.jpg": "d"}
    first, second = decision("drop"), decision("keep")
    found, lost = by_image([first, second], contents)
    assert found == {"a.jpg": second} and not lost
    found, _ = by_image([Decision("c", "renamed.jpg", "drop")], contents)
    assert set(found) == {"a.jpg", "copy/a.jpg"}
    _, lost = by_image([Decision("old", "b.jpg", "drop", line=3), Decision("x", "gone.jpg", "drop", line=4)], contents)
    assert "line 3" in lost[0] and "changed" in lost[0] and "is not there" in lost[1]


@pytest.mark.parametrize(
    ("text", "box"), [("1 2 3 4", (1, 2, 3, 4)), ("1,2,3,4", (1, 2, 3, 4)), ("3 2 1 4", None), ("a", None)]
)
def test_boxes_as_text(text: str, box: tuple[float, ...] | None) -> None:
    assert parse_box(text) == box
    if box:
        assert parse_box(format_box(box)) == box  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"verdict": "nonsense"}, "unknown verdict"),
        ({"verdict": "face", "value": "two"}, "is not the number of a face"),
        ({"verdict": "face", "value": "²"}, "is not the number of a face"),
        ({"verdict": "box", "value": "5 5 5.4 20"}, "no box"),
        ({"verdict": "box", "value": "0 0 inf inf"}, "no box"),
        ({"verdict": "allow_duplicate"}, "does not name the other photo"),
        ({"verdict": "relabel", "value": "mask"}, "no new label"),
        ({"verdict": "box", "value": "1 2 3"}, "no box"),
        ({"verdict": "keep", "expected": "here"}, "no box"),
    ],
)
def test_a_wrong_row_is_an_error_with_its_line(tmp_path: Path, row: dict[str, str], says: str) -> None:
    path = write(tmp_path / "decisions.csv", [{"verdict": "drop"}, row])
    with pytest.raises(UserError, match=says) as error:
        read_decisions(path)
    assert "line 3" in error.value.message


def test_a_quote_that_is_not_closed_loses_no_ruling(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text('content,image,verdict,reason\nc,a.jpg,drop,"blurred\nd,b.jpg,drop,\ne,c.jpg,drop,\n')
    with pytest.raises(UserError, match="line 2: a quote is not closed"):
        read_decisions(path)
    path.write_text('content,image,verdict,reason\nc,a.jpg,drop,"two\nlines"\nd,b.jpg,drop,\n')
    assert [(d.line, d.reason) for d in read_decisions(path)] == [(2, "two\nlines"), (4, "")]
    path.write_text("content;image;verdict\nc;a.jpg;drop\nd;b.jpg;drop;more\n")
    with pytest.raises(UserError, match="line 3: more cells than columns"):
        read_decisions(path)


def test_a_table_of_something_else_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "decisions.csv").write_text("a,b\n1,2\n")
    with pytest.raises(UserError, match="no column 'content'"):
        read_decisions(tmp_path / "decisions.csv")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('d,b.jpg,drop,,,"never closed,,\ne,c.jpg,drop,,,,,\n', "line 3: "),
        ('d,b.jpg,drop,,,"a" b,,\n', "line 3: "),
        ("d,b.jpg,drop,,,one, two,ann,2026-01-01\n", "line 3: more cells"),
    ],
)
def test_a_damaged_line_is_named_and_nothing_is_lost(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "decisions.csv"
    path.write_text(f"{','.join(COLUMNS)}\nc,a.jpg,drop,,,,,\n{text}", encoding="utf-8")
    before = path.read_bytes()
    for work in (lambda: read_decisions(path), lambda: change(path, [Decision("n", "new.jpg", "drop")])):
        with pytest.raises(UserError, match=says):
            work()
    assert path.read_bytes() == before and not (tmp_path / "decisions.history.jsonl").exists()


def test_older_files_allow_copies_as_before(tmp_path: Path) -> None:
    path = write(tmp_path / "decisions.csv", [{"content": "c", "verdict": "keep", "value": "duplicate: d"}])
    [old] = read_decisions(path)
    assert (old.verdict, old.value, old.line) == ("allow_duplicate", "d", 2)
    assert allowed_pairs([old]) == {frozenset("cd")} and not of_faces([old])
    change(path, [Decision("e", "e.jpg", "drop")])
    assert path.read_text().splitlines()[1] == "c,,allow_duplicate,d,,,,"
    assert change(path, remove=[Decision("c", "", "allow_duplicate", "d")])[0].content == "e"


def write(path: Path, rows: list[dict[str, str]]) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, restval="")
        writer.writeheader()
        writer.writerows(rows)
    return path


def test_the_pipeline_obeys(make_photos, yunet: None, quick: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    make_photos(photos, 4)
    api.run(photos, cache, quick, workers=1)
    images = pd.read_parquet(cache / "images.parquet").set_index("image")
    before = pd.read_parquet(cache / "subjects.parquet").set_index("image")
    rows = [
        {"content": images["content"].iloc[0], "image": images.index[0], "verdict": "drop"},
        {"content": images["content"].iloc[1], "image": images.index[1], "verdict": "box", "value": "5 5 100 120"},
        {"content": images["content"].iloc[2], "image": images.index[2], "verdict": "keep", "expected": "0 0 4 4"},
        {"content": "0" * 32, "image": "gone.jpg", "verdict": "drop"},
    ]
    write(cache / "decisions.csv", rows)
    job = api.run(photos, cache, quick, workers=1)
    assert job.computed["detect"] == 0 and job.computed["crop:face"] == 1  # only the box is cut anew
    after = pd.read_parquet(cache / "subjects.parquet").set_index("image")
    assert list(after["status"]) == ["dropped", "decided", *before["status"].iloc[2:]]
    assert after.loc[images.index[1], ["x0", "y0", "x1", "y1"]].tolist() == [5, 5, 100, 120]
    assert after.loc[images.index[2], "x0"] == before.loc[images.index[2], "x0"]
    assert set(pd.read_parquet(cache / "views/face/index.parquet")["image"]) == set(images.index[1:])
    excluded = pd.read_parquet(cache / "labels.parquet").set_index("image")["excluded"]
    assert excluded.iloc[0].startswith("dropped") and excluded.iloc[1:].isna().all()
    assert len([note for note in job.notes if "stale" in note]) == 2
    again = api.run(photos, cache, quick, workers=1)
    assert not +again.computed and len([note for note in again.notes if "stale" in note]) == 2
    (cache / "decisions.csv").unlink()
    api.run(photos, cache, quick, workers=1)
    pd.testing.assert_frame_equal(pd.read_parquet(cache / "subjects.parquet").set_index("image"), before)


def test_faces_are_drawn(make_photos, yunet: None, quick: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    make_photos(photos, 3)
    (photos / "broken.jpg").write_bytes(b"no photo")
    job = api.detect(photos, cache, quick, workers=1)
    opened = (job.cache, job.folder, job.subjects())
    one = draw_faces(*opened, "001.jpg")
    assert one == cache / "faces-001.png"
    drawn = np.asarray(Image.open(one))
    assert (drawn == (20, 200, 60)).all(axis=2).sum() > 200  # the green box of the subject
    assert Image.open(draw_faces(*opened, out=tmp_path / "sheet.png")).width > Image.open(one).width / 2
    with pytest.raises(UsageError, match="cannot be drawn: not_an_image"):
        draw_faces(*opened, "broken.jpg")
    with pytest.raises(UsageError, match="no image"):
        draw_faces(*opened, "nobody.jpg")
    assert not list((cache / "views").glob("*")) if (cache / "views").exists() else True
