"""The stage of crops: what an earlier cache keeps, what is said of tight photos, and views that need no faces."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

import maskprep as api
from maskprep.crops.crop import read_geometry, remarks
from maskprep.crops.geometry import ViewSettings
from maskprep.dataset.sheet import groups
from maskprep.dataset.view import open_view
from maskprep.errors import UsageError
from maskprep.faces import detect
from maskprep.faces.subjects import NOT_SOUGHT
from maskprep.pipeline.config import Config
from maskprep.pipeline.explain import explain, survey
from maskprep.pipeline.session import Session
from maskprep.store.cache import Cache
from maskprep.store.decisions import Decision, change

Work = tuple[Path, Path]


def keys(cache: Path) -> dict[str, str]:
    table = open_view(cache, "face").table
    return dict(zip(table["image"], table["key"], strict=True))


def found(cache: Path) -> pd.DataFrame:
    return read_geometry(Cache(cache), "face").set_index("image")


def test_rows_say_what_was_invented_and_the_margin(work: Work) -> None:
    assert read_geometry(Cache(work[1]), "face")["margin"].tolist() == pytest.approx([0.35] * 8)
    api.crop(*work, margin=2, engine="serial")
    rows = read_geometry(Cache(work[1]), "face")
    assert (rows["invented"] == 0).all(), "every one of these photos is larger than its face"
    assert ((rows["margin"] > 0) & (rows["margin"] < 1.9)).all()
    assert json.loads((work[1] / "views/face/view.json").read_text())["border"] == "inside"


def test_crops_that_lie_in_the_photo_stay_where_the_border_changes(work: Work) -> None:
    """A cache of an earlier version: border reflect, and shards without the columns. Only what reaches out is cut."""
    _, cache = work
    api.crop(*work, margin=0.6, border="reflect", engine="serial")
    for path in (cache / "views/face").glob("0*.parquet"):
        table = pq.read_table(path).drop_columns(["invented", "margin"])
        pq.write_table(table.replace_schema_metadata(None), path)
    before, pixels, out = keys(cache), open_view(cache, "face").gather(range(8)), found(cache)["invented"]
    assert 0 < (out > 0).sum() < 8, "some reach out and some do not"
    assert not api.run(*work, engine="serial").computed, "its border stays"
    job = api.crop(*work, border="inside", engine="serial")
    assert job.computed["crop:face"] == (out > 0).sum()
    after, now = keys(cache), open_view(cache, "face").gather(range(8))
    for at, image in enumerate(before):
        assert (before[image] == after[image]) == (out[image] == 0)
        assert np.array_equal(pixels[at], now[at]) == (out[image] == 0)
    assert (found(cache)["invented"] == 0).all() and found(cache)["margin"].notna().all()
    assert json.loads((cache / "views/face/view.json").read_text())["border"] == "inside"
    assert not api.run(*work, engine="serial").computed


def test_other_settings_say_what_was_made_anew(work: Work) -> None:
    notes = api.crop(*work, size=(48, 48), engine="serial").notes
    assert "View 'face' has other settings (size 32x32 → 48x48): 8 crops made anew." in notes
    assert not any("lost" in note for note in notes)
    assert not any("anew" in note for note in api.run(*work, engine="serial").notes)
    (work[1] / "views/face/00000.npy").unlink()
    notes = api.run(*work, engine="serial").notes
    assert any("had lost pixels" in note for note in notes) and not any("anew" in note for note in notes)


def test_mattes_of_old_crops_are_said_to_be_gone(work: Work) -> None:
    from maskprep.mattes import models as matte_models

    try:
        matte_models.locate("selfie")
    except Exception as error:
        pytest.skip(f"the model selfie cannot be had: {error}")
    api.rembg(*work, model="selfie", engine="serial")
    assert any(line.startswith("matte  ") for line in explain(Session(work[1]), "000.jpg"))
    notes = api.crop(*work, margin=0.2, engine="serial").notes
    said = next(note for note in notes if "other settings" in note)
    assert "margin 0.35 → 0.2" in said
    assert any("The mattes of 8 old crops were deleted" in note and "maskprep rembg" in note for note in notes)
    assert not any(line.startswith("matte  ") for line in explain(Session(work[1]), "000.jpg"))
    api.run(*work, engine="serial")
    (work[0] / "maskprep.yaml").write_text("views: {face: {size: 32, margin: 0.1}}\n")
    job = api.run(*work, engine="serial")
    assert any("8 crops made anew." in note for note in job.notes)
    assert job.computed["matte:face"] == 8


def tables(faces: list[tuple[float, float, float, float]]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Photos of 100 x 100 with one face each."""
    names = [f"{i}.jpg" for i in range(len(faces))]
    images = pd.DataFrame({"image": names, "width": 100, "height": 100})
    boxes = pd.DataFrame(faces, columns=["x0", "y0", "x1", "y1"])
    return images, boxes.assign(image=names, status="ok")


def crops(margins: list[float], invented: list[float]) -> pd.DataFrame:
    names = [f"{i}.jpg" for i in range(len(margins))]
    return pd.DataFrame({"image": names, "margin": margins, "invented": invented})


def test_one_sentence_where_many_photos_are_tight() -> None:
    small, large = (30.0, 30.0, 60.0, 70.0), (5.0, 5.0, 95.0, 95.0)
    view, where = ViewSettings(), "c --view face"
    few = crops([0.05] * 4 + [0.35] * 30, [0.0] * 34)
    assert remarks(view, few, *tables([small] * 34), where) == [], "four photos are not many"
    rare = crops([0.05] * 9 + [0.35] * 91, [0.0] * 100)
    assert remarks(view, rare, *tables([small] * 100), where) == [], "nor is one in eleven"
    moved = crops([0.34] * 20, [0.0] * 20)
    assert remarks(view, moved, *tables([small] * 20), where) == []
    [said] = remarks(view, crops([0.05] * 5 + [0.35] * 15, [0.0] * 20), *tables([small] * 20), where)
    assert said.startswith("5 of 20 photos are tighter than the margin 0.35: half of these have at most 0.05.")
    assert "maskprep crop c --view face --margin" in said
    [said] = remarks(view, crops([-0.1] * 20, [0.07] * 20), *tables([large] * 20), where)
    assert "forehead" in said and "In 20 photos the face fills most of the photo" in said
    assert "maskprep crop c --view face --crop none, or at the face with --margin 0" in said
    mirrored = ViewSettings(border="reflect")
    [said] = remarks(mirrored, crops([0.35] * 20, [0.4] * 20), *tables([small] * 20), where)
    assert "at least 40% of the crop is invented (border reflect)" in said and "--border inside" in said
    assert remarks(mirrored, crops([0.35] * 20, [0.09] * 20), *tables([small] * 20), where) == []


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Work:
    """Photos and a cache of whole photos, made where nothing may detect."""

    def open_none(*_: Any) -> Any:
        raise AssertionError("faces were looked for")

    monkeypatch.setattr(detect, "open_detectors", open_none)
    (tmp_path / "photos").mkdir()
    for i in range(6):
        noise = np.random.default_rng(i).integers(0, 256, (50, 80, 3)).astype(np.uint8)
        Image.fromarray(noise).save(tmp_path / f"photos/{i}.png")
    (tmp_path / "photos/broken.png").write_bytes(b"")
    work = (tmp_path / "photos", tmp_path / "cache")
    api.crop(*work, crop="none", size=(16, 16), engine="serial")
    return work


def test_whole_photos_need_no_faces(whole: Work) -> None:
    _, cache = whole
    subjects = pd.read_parquet(cache / "subjects.parquet").set_index("image")
    assert subjects["status"].tolist() == ["given"] * 6 + ["unreadable"]
    assert subjects.loc["0.png", ["x0", "y0", "x1", "y1"]].tolist() == [0, 0, 80, 50]
    assert subjects.loc["0.png", "reason"] == NOT_SOUGHT and subjects["face"].isna().all()
    assert len(pd.read_parquet(cache / "faces.parquet")) == 0 and not (cache / "stages/detect").exists()
    rows = read_geometry(Cache(cache), "face")
    assert (rows["invented"] == 0).all() and rows["margin"].isna().all() and len(rows) == 6
    assert not api.run(*whole, engine="serial").computed
    assert [caption for caption, _ in groups(open_view(cache))] == ["photos"], "given is not unusual"
    api.crop(*whole, view="middle", crop="centre", size=(16, 16), engine="serial")
    assert {s.name for s in survey(Session(cache)).stages} == {
        *("index", "images", "faces", "choose", "labels", "duplicates", "crop:face", "crop:middle", "stats")
    }
    assert not any(line.startswith("detect") for line in explain(Session(cache), "0.png"))
    with pytest.raises(UsageError, match="shows faces") as refused:
        api.detect(*whole)
    assert "--crop face" in (refused.value.hint or "")


def test_nothing_is_said_about_faces_that_were_not_looked_for(whole: Work) -> None:
    images = pd.read_parquet(whole[1] / "images.parquet").set_index("image")
    rulings = [
        Decision(images.loc["1.png", "content"], "1.png", "drop", expected="5 5 9 9", reason="not mine"),
        Decision(images.loc["2.png", "content"], "2.png", "face", "3"),
    ]
    change(whole[1] / "decisions.csv", rulings)
    job = api.run(*whole, engine="serial")
    statuses = pd.read_parquet(whole[1] / "subjects.parquet").set_index("image")["status"]
    assert (statuses["1.png"], statuses["2.png"]) == ("dropped", "given") and not job.notes
    audit = Session(whole[1], workers=1).audit()
    assert audit.context.samples and not [f for f in audit.outcome.findings if "face" in f.check + f.detail]
    assert "none were looked for" in audit.outcome.not_run["identity_same"]


def test_a_view_of_faces_looks_for_them(
    whole: Work, monkeypatch: pytest.MonkeyPatch, yunet: None, portrait: Image.Image
) -> None:
    monkeypatch.undo()
    portrait.save(whole[0] / "face.png")
    job = api.crop(*whole, view="faces", size=(16, 16), detectors=("yunet",), no_face="drop", engine="serial")
    assert job.computed["detect"] == 7 and job.computed["crop:faces"] == 1
    statuses = pd.read_parquet(whole[1] / "subjects.parquet").set_index("image")["status"]
    assert statuses["face.png"] == "ok" and statuses["0.png"] == "no_face"
    api.run(*whole, engine="serial")
    assert len(open_view(whole[1], "face")) == 7, "whole photos stay, faces or not"


def test_which_views_need_faces() -> None:
    face, none = ViewSettings(), ViewSettings(crop="none")
    assert Config(views={"a": none, "b": face}).shows_faces and not Config(views={"a": none}).shows_faces
    both = Config(views={"a": none, "b": face})
    assert both.needs_faces("a", True) and both.needs_faces("b", False) and not both.needs_faces("a", False)
    assert not Config(views={"a": none}).needs_faces("a", True)
