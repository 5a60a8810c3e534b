"""Cut-outs of a plain folder: every photo accounted for, nothing flattened, nothing overwritten."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maskprep.errors import UsageError, UserError
from maskprep.mattes import cutouts
from maskprep.photos.naming import result_names
from maskprep.weights.fetch import locate


@pytest.fixture(scope="session", autouse=True)
def selfie() -> None:
    try:
        locate("selfie_segmenter")
    except UserError as error:
        pytest.skip(f"the model cannot be had: {error.message}")


@pytest.fixture
def people(tmp_path: Path, make_photos: Callable[..., list[Path]]) -> Path:
    """The layout in which every person's folder has the same file names."""
    for person in ("p1", "p2", "deep/p1"):
        make_photos(tmp_path / "people" / person, 3)
    return tmp_path / "people"


def cut(source: Path, out: Path, **settings: Any) -> cutouts.Cutouts:
    force = settings.pop("force", False)
    work = {name: settings.pop(name) for name in ("workers", "progress") if name in settings}
    work["engine"] = settings.pop("engine", "serial")
    asked = cutouts.CutoutSettings(**{"model": "selfie", **settings})
    if source.is_file():
        return cutouts.cut_photo(source, out, asked, force)
    return cutouts.cut_folder(source, out, asked, force, **work)


def results(out: Path) -> dict[str, str]:
    return {
        p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in out.rglob("*")
        if p.is_file() and cutouts.WORK not in p.parts
    }


def test_every_photo_has_a_result_in_the_mirrored_tree(people: Path, tmp_path: Path) -> None:
    before = results(people)
    made = cut(people, tmp_path / "out")
    assert (made.photos, made.made, made.failed, sum(made.statuses.values())) == (9, 9, [], 9)
    expected = {p.relative_to(people).with_suffix(".png").as_posix() for p in people.rglob("*.jpg")}
    assert set(results(tmp_path / "out")) == expected | {"rembg.csv"}
    assert results(people) == before
    pixels = np.asarray(Image.open(tmp_path / "out/deep/p1/001.png"))
    source = np.asarray(Image.open(people / "deep/p1/001.jpg"))
    assert pixels.shape == (*source.shape[:2], 4)
    solid = pixels[..., 3] == 255
    assert solid.mean() > 0.05 and (pixels[solid][:, :3] == source[solid]).all()
    assert pixels[pixels[..., 3] == 0][:, :3].max(initial=0) == 0
    report = pd.read_csv(tmp_path / "out/rembg.csv")
    assert report["image"].tolist() == sorted(p.relative_to(people).as_posix() for p in people.rglob("*.jpg"))


def test_a_second_run_does_nothing_and_a_lost_result_is_made_again(people: Path, tmp_path: Path) -> None:
    cut(people, tmp_path / "out")
    before = results(tmp_path / "out")
    assert cut(people, tmp_path / "out").made == 0
    (tmp_path / "out/p2/000.png").unlink()
    assert cut(people, tmp_path / "out").made > 0
    assert results(tmp_path / "out") == before


def test_names_that_would_collide_keep_their_suffix() -> None:
    images = ["a/x.jpg", "a/x.png", "a/y.jpg", "b/x.jpg", "a/x.jpg.png", "A/Y.webp", "c/n.tar.jpg"]
    names = result_names(images)
    assert len({name.casefold() for name in names.values()}) == len(images)
    assert (names["a/x.jpg"], names["a/x.png"], names["b/x.jpg"]) == ("a/x.jpg.png", "a/x.png.png", "b/x.png")
    assert (names["a/y.jpg"], names["A/Y.webp"], names["c/n.tar.jpg"]) == ("a/y.jpg.png", "A/Y.webp.png", "c/n.tar.png")
    assert names["a/x.jpg.png"] == "a/x.jpg.png.png"


def test_no_result_has_the_name_of_a_folder_or_of_another_result() -> None:
    images = ["a.jpg", "a.png/b.jpg", "C.jpg", "c.jpg", "d.jpg", "D.PNG/d.jpg.png/e.jpg"]
    names = result_names(images)
    assert (names["a.jpg"], names["a.png/b.jpg"]) == ("a.jpg.png", "a.png/b.png")
    assert (names["C.jpg"], names["c.jpg"]) == ("C.jpg.png", "c.jpg-1.png")
    assert names["d.jpg"] == "d.jpg.png"
    assert result_names(["a.jpg", "a.png/1.jpg", "a.jpg.png/1.jpg"])["a.jpg"] == "a.jpg-1.png"


def test_a_photo_and_a_folder_with_the_name_of_its_result(
    tmp_path: Path, make_photos: Callable[..., list[Path]]
) -> None:
    make_photos(tmp_path / "people", 1)
    make_photos(tmp_path / "people/000.png", 1)
    made = cut(tmp_path / "people", tmp_path / "out")
    assert made.failed == [] and set(results(tmp_path / "out")) == {"000.jpg.png", "000.png/000.png", "rembg.csv"}
    (tmp_path / "other/000.jpg.png").mkdir(parents=True)  # of the user
    made = cut(tmp_path / "people", tmp_path / "other")
    assert made.failed == [("000.jpg", "'000.jpg.png' is a folder")]


def test_a_list_of_results_of_another_origin_is_not_replaced(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "rembg.csv").write_text("name,price\ntable,3\n")
    for force in (False, True):
        with pytest.raises(UsageError, match="not a list of results that rembg wrote"):
            cut(people, out, force=force)
    assert set(results(out)) == {"rembg.csv"} and "price" in (out / "rembg.csv").read_text()
    (people / "rembg.csv").mkdir()
    (people / "p1/000.jpg").rename(people / "rembg.csv/000.jpg")
    with pytest.raises(UsageError, match="that of a folder"):
        cut(people, tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", [b"{", b"[]", b"{}", b"\xff\xfe", b'{"stage": 1}'])
def test_settings_that_are_damaged_are_told_and_can_be_replaced(people: Path, tmp_path: Path, content: bytes) -> None:
    out = tmp_path / "out"
    (out / cutouts.WORK).mkdir(parents=True)
    (out / cutouts.WORK / "stage.json").write_bytes(content)
    with pytest.raises(UsageError, match="damaged"):
        cut(people, out)
    assert not results(out)
    if content == b"{":
        assert cut(people, out, force=True).failed == [] and cut(people, out).made == 0


@pytest.mark.parametrize(("given", "says"), [({"engine": "ray"}, "Unknown engine 'ray'"), ({"workers": 0}, "at least")])
def test_engine_and_workers_are_checked(people: Path, tmp_path: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        cut(people, tmp_path / "out", **given)
    assert not (tmp_path / "out").exists()


def test_nothing_is_overwritten_unless_asked_for(people: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    (out / "p1").mkdir(parents=True)
    (out / "p1/000.png").write_bytes(b"precious")
    made = cut(people, out)
    assert made.failed == [("p1/000.jpg", "'p1/000.png' exists and differs")]
    assert (out / "p1/000.png").read_bytes() == b"precious" and len(results(out)) == 10
    assert cut(people, out).failed == made.failed  # still there
    with pytest.raises(UsageError, match="other settings"):
        cut(people, out, refine="guided")
    assert cut(people, out, force=True).failed == []
    assert (out / "p1/000.png").read_bytes()[:4] == b"\x89PNG"
    cut(people, out, kind="mask", force=True)
    assert Image.open(out / "p1/000.png").mode == "L"


def test_a_broken_photo_is_named_and_the_rest_is_done(
    people: Path, tmp_path: Path, cli: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    (people / "p1/bad.jpg").write_bytes(b"\xff\xd8\xff nothing")
    (people / "p1/notes.txt").write_text("x")
    done = cli("rembg", people, "--out", tmp_path / "out", "--model", "selfie", "-j", 1)
    assert done.returncode == 1 and "p1/bad.jpg" in done.stderr and "9 of 10" in done.stdout
    assert len(results(tmp_path / "out")) == 10
    again = cli("rembg", people, "--out", tmp_path / "out", "--model", "selfie", "-j", 1)
    assert again.returncode == 1 and "0 made now" in again.stdout  # what is broken stays broken until it changes
    assert cli("rembg", people, "--out", tmp_path / "out", "--model", "selfie", "-j", 1, "--strict").returncode == 3
    (people / "p1/bad.jpg").unlink()
    assert cli("rembg", people, "--out", tmp_path / "out", "--model", "selfie", "-j", 1).returncode == 0


def test_killed_and_run_again_gives_the_same_bytes(
    tmp_path: Path, make_photos: Callable[..., list[Path]], command_line: Callable[..., list[str]]
) -> None:
    for person in range(12):
        make_photos(tmp_path / f"people/{person:02d}", 5)
    people, out = tmp_path / "people", tmp_path / "out"
    process = subprocess.Popen(
        command_line("rembg", people, "--out", out, "--model", "selfie", "-j", 2, "-q"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline and not list(out.glob(".maskprep/0*.parquet")):
            time.sleep(0.005)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    done = len(list(out.glob("*/*.png")))
    assert done >= 8
    (out / "00/.tmp-123-000.png").write_bytes(b"half")  # as a kill in the middle of a write leaves it
    made = cut(people, out)
    assert made.failed == [] and (made.made < 60 or done == 60)
    cut(people, tmp_path / "whole")
    assert results(out) == results(tmp_path / "whole") and len(results(out)) == 61
    assert not [p for p in out.rglob(".tmp-*") if cutouts.WORK not in p.parts]


def test_folders_that_cannot_be_used(people: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    for source, out in (
        (people, people / "out"),
        (tmp_path / "empty", tmp_path / "o"),
        (tmp_path / "nowhere", tmp_path / "o"),
        (people, tmp_path / "file"),
    ):
        with pytest.raises(UserError):
            cut(source, out)
    assert not (tmp_path / "o").exists()


def test_photos_inside_the_results_are_safe(tmp_path: Path) -> None:
    """photos/a.png would be the cut-out of photos/photos/a.png."""
    inner = tmp_path / "photos" / "photos"
    inner.mkdir(parents=True)
    (inner / "a.png").write_bytes(b"mine")
    with pytest.raises(UsageError, match="lie inside"):
        cut(tmp_path / "photos", tmp_path, force=True)


def blank(path: Path) -> None:
    """A photo of one colour, on which nobody can be found."""
    Image.new("RGB", (80, 60), (90, 90, 90)).save(path)


def test_one_photo_and_one_result(people: Path, tmp_path: Path) -> None:
    photo, out = people / "p1/001.jpg", tmp_path / "new/x.png"
    before = results(people)
    made = cut(photo, out)
    assert (made.photos, made.statuses, made.kept) == (1, {"ok": 1}, {})
    cut(people / "p1", tmp_path / "all")
    np.testing.assert_array_equal(Image.open(out), Image.open(tmp_path / "all/001.png"))
    cut(photo, out, kind="mask")  # one of its own is replaced
    assert np.asarray(Image.open(out)).ndim == 2
    cut(photo, people / "p1/x.png")  # the name is its user's choice
    assert {**results(people), "p1/x.png": ""} == {**before, "p1/x.png": ""}


def test_one_result_takes_the_place_of_nothing_else(people: Path, tmp_path: Path) -> None:
    photo, other = people / "p1/001.jpg", tmp_path / "other.png"
    blank(other)
    (tmp_path / "link.png").symlink_to(photo)
    before = results(tmp_path)
    for out, says in (
        (photo, "the photo itself"),
        (tmp_path / "link.png", "the photo itself"),
        (tmp_path / "x.jpg", "is a PNG"),
        (people, "is a folder"),
    ):
        with pytest.raises(UsageError, match=says):
            cut(photo, out, force=True)
    with pytest.raises(UsageError, match="exists"):
        cut(photo, other)
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    with pytest.raises(UserError, match=r"broken\.jpg"):
        cut(tmp_path / "broken.jpg", tmp_path / "x.png")
    (tmp_path / "broken.jpg").unlink()
    assert results(tmp_path) == before
    cut(photo, other, force=True)
    assert results(tmp_path) != before


def test_a_colour_behind_the_person(people: Path, tmp_path: Path) -> None:
    cut(people, tmp_path / "out", background="#ff8000")
    cut(people, tmp_path / "clear")
    pixels, clear = (np.asarray(Image.open(tmp_path / name / "p1/001.png")) for name in ("out", "clear"))
    assert pixels.shape[2] == 3 and (clear[..., 3] == 0).any()
    assert (pixels[clear[..., 3] == 0] == (255, 128, 0)).all()
    assert (pixels[clear[..., 3] == 255] == clear[clear[..., 3] == 255][:, :3]).all()
    with pytest.raises(UsageError, match="other settings"):
        cut(people, tmp_path / "out", background="white")
    for wrong in ({"background": "orange"}, {"background": "white", "kind": "mask"}):
        with pytest.raises(UsageError):
            cut(people, tmp_path / "none", **wrong)
    assert not (tmp_path / "none").exists()


def test_photos_of_nobody_keep_their_background_and_are_named(people: Path, tmp_path: Path) -> None:
    blank(people / "p1/blank.png")
    for background in ("transparent", "white"):
        made = cut(people, tmp_path / background, background=background)
        assert made.kept == {"p1/blank.png": "low_contrast"}
        pixels = np.asarray(Image.open(tmp_path / background / "p1/blank.png"))
        assert (pixels[..., :3] == 90).all() and (pixels.shape[2] == 3 or (pixels[..., 3] == 255).all())
    assert cut(people, tmp_path / "masks", kind="mask").kept == {}
    assert cut(people / "p1/blank.png", tmp_path / "x.png").kept == {"blank.png": "low_contrast"}
