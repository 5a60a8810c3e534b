"""How much of each face the matte of the whole photo holds: a help in choosing between several."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import maskprep as api
from maskprep.errors import UserError
from maskprep.mattes.models import locate
from maskprep.mattes.overlap import matte_within
from maskprep.mattes.runtime import matte_of, open_model
from maskprep.pipeline.explain import survey
from maskprep.pipeline.session import Session

Work = tuple[Path, Path]


@pytest.fixture
def crowd(portrait: Image.Image, yunet: None, tmp_path: Path) -> Path:
    """A photo of one face, and one of two of different size."""
    try:
        locate("u2netp")
    except UserError as error:
        pytest.skip(f"the model cannot be had: {error.message}")
    photos = tmp_path / "photos"
    photos.mkdir()
    portrait.resize((200, 200)).save(photos / "one.png")
    two = Image.new("RGB", (420, 240), (120, 130, 140))
    two.paste(portrait.resize((220, 220)), (10, 10))
    two.paste(portrait.resize((130, 130)), (270, 60))
    two.save(photos / "two.png")
    return photos


def config(folder: Path, text: str) -> Path:
    file = folder / "settings.yaml"
    file.write_text("detect: {detectors: [yunet]}\nviews: {face: {size: 32}}\n" + text)
    return file


def test_the_mean_within_a_box_by_hand() -> None:
    alpha = np.zeros((10, 20), np.uint8)
    alpha[:, 10:] = 255
    assert matte_within(alpha, (5, 0, 15, 10)) == 0.5
    assert matte_within(alpha, (15, -5, 40, 5)) == 1.0
    assert matte_within(alpha, (9.5, 2, 10.5, 3)) == 0.5  # pixels that a box touches are in it
    assert matte_within(alpha, (30, 0, 40, 10)) is None


def test_only_several_faces_are_measured_and_only_once(crowd: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    job = api.crop(crowd, cache, config(tmp_path, "matte: {model: u2netp}\nchoose: {matte: true}\n"), engine="serial")
    assert job.computed["overlap"] == 1
    faces = pd.read_parquet(cache / "faces.parquet").set_index(["image", "face"])
    assert faces.loc["one.png", "matte"].isna().all() and faces.loc["two.png", "matte"].between(0, 1).all()
    photo = np.array(Image.open(crowd / "two.png"))
    with open_model(locate("u2netp")) as predict:
        alpha, clear = matte_of(predict(photo), photo.shape[:2])
    assert clear
    for _, row in faces.loc["two.png"].iterrows():
        x0, y0, x1, y1 = (round(row[c]) for c in ("x0", "y0", "x1", "y1"))
        assert row["matte"] == pytest.approx(alpha[y0:y1, x0:x1].mean() / 255, abs=0.05)
    assert dict(api.crop(crowd, cache, engine="serial").computed) == {}
    assert [s.why for s in survey(Session(cache)).stages if s.name == "overlap"] == [""]
    two = api.crop(crowd, tmp_path / "two", tmp_path / "settings.yaml", workers=2)
    assert two.computed["overlap"] == 1
    assert (tmp_path / "two/faces.parquet").read_bytes() == (cache / "faces.parquet").read_bytes()


def test_a_photo_that_fails_is_tried_again(crowd: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And is not taken for one of which the matte holds nothing, which would be believed for ever."""
    from maskprep.mattes import overlap as stage

    def fails(*_: object) -> None:
        raise ValueError("out of order")

    cache, settings = tmp_path / "cache", config(tmp_path, "matte: {model: u2netp}\nchoose: {matte: true}\n")
    with monkeypatch.context() as patch:
        patch.setattr(stage, "matte_within", fails)
        for _ in range(2):
            job = api.crop(crowd, cache, settings, engine="serial")
            assert any("failed in 'overlap'" in note for note in job.notes)
            assert [(s.missing, s.why) for s in survey(Session(cache)).stages if s.name == "overlap"] == [(1, "1 new")]
        assert job.computed["choose"] == 0  # nothing new is known
    assert pd.read_parquet(cache / "faces.parquet")["matte"].isna().all()
    job = api.crop(crowd, cache, settings, engine="serial")
    assert job.computed["overlap"] == 1 and job.computed["choose"] == 2
    assert pd.read_parquet(cache / "faces.parquet")["matte"].notna().any()
    assert dict(api.crop(crowd, cache, engine="serial").computed) == {}
    api.crop(crowd, tmp_path / "new", settings, engine="serial")
    assert (tmp_path / "new/faces.parquet").read_bytes() == (cache / "faces.parquet").read_bytes()


def test_nothing_is_measured_unless_the_choice_asks_for_it(crowd: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    for text in ("", "matte: {model: u2netp, on: photo}\n"):
        job = api.crop(crowd, cache, config(tmp_path, text), engine="serial")
        assert job.computed["overlap"] == 0 and pd.read_parquet(cache / "faces.parquet")["matte"].isna().all()
    before = pd.read_parquet(cache / "subjects.parquet")
    api.crop(crowd, cache, config(tmp_path, "matte: {model: u2netp}\nchoose: {matte: true}\n"), engine="serial")
    assert pd.read_parquet(cache / "faces.parquet")["matte"].notna().any()
    api.crop(crowd, cache, config(tmp_path, "matte: {model: u2netp}\nchoose: {matte: false}\n"), engine="serial")
    pd.testing.assert_frame_equal(pd.read_parquet(cache / "subjects.parquet"), before)


def test_prediction_chooses_as_training_did(crowd: Path, tmp_path: Path) -> None:
    """Photos for a run trained on such a cache are measured too, though its crops need no mattes."""
    from maskprep.pipeline import session as pipeline

    cache = tmp_path / "cache"
    job = api.crop(crowd, cache, config(tmp_path, "matte: {model: u2netp}\nchoose: {matte: true}\n"), engine="serial")
    pipeline.prepare(crowd, tmp_path / "new", job.config.settings(), "face", 1)
    known, new = (pd.read_parquet(c / "faces.parquet") for c in (cache, tmp_path / "new"))
    pd.testing.assert_frame_equal(known, new)
    assert not (tmp_path / "new/views/face/mattes.parquet").exists()
