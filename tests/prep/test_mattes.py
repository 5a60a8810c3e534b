"""The stage that makes mattes: what lies in the cache, what is made again, and what survives being stopped."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import maskprep as api
from maskprep.base.progress import Silent
from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from maskprep.mattes import matte as mattes
from maskprep.mattes import planes
from maskprep.mattes.models import locate
from maskprep.mattes.runtime import matte_of, open_model
from maskprep.pipeline.damage import discard, verify
from maskprep.pipeline.explain import explain, survey
from maskprep.pipeline.session import Session
from maskprep.store.cache import Cache
from maskprep.store.tables import write_table
from maskprep.weights.fetch import locate as weight

Work = tuple[Path, Path]

MATTES = ["image", "key", "model", "status", "coverage", "face_coverage", "components", "border_share"]


@pytest.fixture(scope="session")
def selfie() -> None:
    """Skip without the quickest model."""
    try:
        weight("selfie_segmenter")
    except UserError as error:
        pytest.skip(f"the model cannot be had: {error.message}")


@pytest.fixture(scope="module")
def finished_mattes(finished: Work, tmp_path_factory: pytest.TempPathFactory, selfie: None) -> Work:
    """Photos and their cache with mattes of the quick model in several pieces; not to be touched."""
    folder = tmp_path_factory.mktemp("mattes")
    photos, cache = (Path(shutil.copytree(path, folder / path.name)) for path in finished)
    move(photos, cache)
    api.rembg(photos, cache, model="selfie", engine="serial")
    return photos, cache


@pytest.fixture
def matted(finished_mattes: Work, tmp_path: Path) -> Work:
    """A copy to be changed."""
    photos, cache = (Path(shutil.copytree(path, tmp_path / "matted" / path.name)) for path in finished_mattes)
    move(photos, cache)
    return photos, cache


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(mattes.MatteStage, "rows_per_shard", 3)
    yield


def move(photos: Path, cache: Path) -> None:
    dataset = json.loads((cache / "dataset.json").read_text())
    dataset["source"] |= {"root": str(photos.resolve()), "config": None}
    (cache / ".dataset.json").unlink()
    (cache / "dataset.json").write_text(json.dumps(dataset, indent=2, ensure_ascii=False) + "\n")


def contents(cache: Path) -> dict[str, str]:
    return {
        p.relative_to(cache).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in cache.rglob("*")
        if p.is_file() and not p.name.startswith(".") and p.name not in ("log.jsonl", "dataset.json")
    }


def rembg(work: Work, **settings: Any) -> dict[str, int]:
    settings = {"engine": "serial", **settings}
    return dict(api.rembg(work[0], work[1], **settings).computed)


def test_the_contract(matted: Work) -> None:
    _, cache = matted
    folder = cache / "views/face"
    shard = pd.read_parquet(folder / "00000.parquet")
    pixels, alpha = np.load(folder / "00000.npy"), np.load(folder / "alpha-00000.npy")
    assert (alpha.dtype, alpha.shape) == (np.uint8, pixels.shape[:3])
    table = pd.read_parquet(folder / "mattes.parquet")
    assert table.columns.tolist() == [*MATTES, *planes.FOREGROUND]
    assert table["image"].tolist() == sorted(shard["image"])
    assert dict(zip(table["image"], table["key"], strict=True)) == dict(zip(shard["image"], shard["key"], strict=True))
    assert set(table["model"]) == {"selfie"} and set(table["status"]) == {"ok"}
    by_image = table.set_index("image")["coverage"]
    for image, plane in zip(shard["image"], alpha, strict=True):
        assert by_image[image] == pytest.approx(plane.mean() / 255)
    about = json.loads((folder / "mattes.json").read_text())
    assert about["licence"] == "Apache-2.0" and about["sha256"] == locate("selfie").sha256
    dataset = json.loads((cache / "dataset.json").read_text())
    assert dataset["settings"]["matte"]["model"] == "selfie"
    assert dataset["stages"]["matte:face"]["weights"] == {"selfie": about["sha256"]}
    assert not (cache / "stages/matte-face").exists()


def test_foreground_statistics_are_those_of_the_pixels(matted: Work) -> None:
    _, cache = matted
    folder = cache / "views/face"
    inside = np.load(folder / "00000.npy")[np.load(folder / "alpha-00000.npy") >= 128] / 255
    stats = json.loads((cache / "stats.json").read_text())["face"]
    for split in ("all", "train"):
        found = stats[split]["foreground"]
        assert np.abs(inside.mean(axis=0) - found["mean"]).max() < 1e-12
        assert np.abs(inside.std(axis=0) - found["std"]).max() < 1e-12
        assert found["pixels"] == len(inside)
    view = open_view(cache)
    mean, std = view.mean_std(range(len(view)), foreground=True)
    assert np.abs(mean - inside.mean(axis=0)).max() < 1e-12 and np.abs(std - inside.std(axis=0)).max() < 1e-12
    part = view.gather([2])[0][view.gather_alpha([2])[0] >= 128] / 255
    assert np.abs(view.mean_std([2], foreground=True)[0] - part.mean(axis=0)).max() < 1e-12


def test_the_face_is_the_subjects(matted: Work) -> None:
    """The middle of every crop is the face: it is foreground; the corners at the top are not."""
    alpha = np.load(matted[1] / "views/face/alpha-00000.npy")
    assert (alpha[:, 13:19, 13:19] == 255).all()
    assert np.median(alpha[:, :3, :3]) < 128


def test_the_same_whatever_the_number_of_workers_and_nothing_is_done_twice(matted: Work, work: Work) -> None:
    before = contents(matted[1])
    assert rembg(matted) == {}
    assert dict(api.run(*matted, engine="serial").computed) == {}
    assert contents(matted[1]) == before
    assert rembg(work, model="selfie", workers=2, engine="processes")["matte:face"] == 8
    assert contents(work[1]) == before


def test_from_the_command_line(matted: Work, tmp_path: Path, cli: Any) -> None:
    done = cli("rembg", matted[1], "--refine", "guided", "-j", 1)
    assert done.returncode == 0 and "mattes    face: 8 ok; selfie (licence: Apache-2.0)\n" in done.stdout
    out = cli("export", matted[1], "--out", tmp_path / "out", "--background", "transparent")
    assert out.returncode == 0 and len(list((tmp_path / "out").rglob("*.png"))) == 8
    assert cli("export", matted[1], "--out", tmp_path / "out").returncode == 2
    stats = cli("stats", matted[1], "-q")
    assert "foreground" in stats.stdout and (matted[1] / "stats.html").is_file()
    assert cli("rembg", matted[1], "--force").returncode == 2


def test_by_default_people_are_looked_for(work: Work, u2netp: Path) -> None:
    assert rembg(work, workers=2, engine="processes")["matte:face"] == 8
    folder = work[1] / "views/face"
    table = pd.read_parquet(folder / "mattes.parquet")
    assert set(table["model"]) == {"person"} and set(table["status"]) == {"ok"}
    weights = {"person": locate("selfie").sha256, "u2netp": locate("u2netp").sha256}
    assert json.loads((folder / "mattes.json").read_text())["stage"]["weights"] == weights
    assert json.loads((work[1] / "dataset.json").read_text())["stages"]["matte:face"]["weights"] == weights
    before = contents(work[1])
    shutil.rmtree(work[1] / "views")
    rembg(work)
    assert contents(work[1]) == before  # with one worker too


def test_a_view_gets_mattes_when_it_is_asked_for_and_not_by_another_command(matted: Work) -> None:
    photos, cache = matted
    api.crop(*matted, view="small", size=(16, 16), engine="serial")
    assert "matte:small" not in api.stats(*matted, engine="serial").computed
    assert [s.name for s in survey(Session(cache)).stages if s.name.startswith("matte")] == ["matte:face"]
    assert rembg(matted)["matte:small"] == 8  # all that there are now
    settings = Session(cache).config.matte
    assert settings is not None and settings.views == ("face", "small")
    api.crop(*matted, view="third", size=(16, 16), engine="serial")
    (cache / "maskprep.yaml").write_text("matte: {model: selfie}\n")  # the file asks for all views, whenever they come
    assert api.run(photos, cache, cache / "maskprep.yaml", engine="serial").computed["matte:third"] == 8


def test_mattes_that_are_current_are_found_beside_their_crops(matted: Work) -> None:
    tables = Session(*matted).tables()
    assert tables.is_current("matte:face")
    places = [tables.live(name)[["image", "shard", "row"]] for name in ("matte:face", "crop:face")]
    pd.testing.assert_frame_equal(*places)


def test_mattes_of_another_cache_are_made_again(matted: Work) -> None:
    file = matted[1] / "views/face/mattes.parquet"
    before = contents(matted[1])
    write_table(file, pd.read_parquet(file).assign(key="another"))
    assert api.run(*matted, engine="serial").computed == {} and contents(matted[1]) == before


def test_a_cache_that_names_no_views_keeps_to_those_with_mattes(matted: Work) -> None:
    dataset = json.loads((matted[1] / "dataset.json").read_text())
    dataset["settings"]["matte"]["views"] = []
    (matted[1] / ".dataset.json").unlink(missing_ok=True)  # its sums
    (matted[1] / "dataset.json").write_text(json.dumps(dataset))
    before = contents(matted[1])
    assert dict(api.run(*matted, engine="serial").computed) == {} and contents(matted[1]) == before
    api.crop(*matted, view="small", size=(16, 16), engine="serial")
    assert "matte:small" not in api.run(*matted, engine="serial").computed
    api.crop(*matted, margin=0.6, engine="serial")
    assert api.run(*matted, engine="serial").computed["matte:face"] == 8


def test_mattes_with_a_pasted_box_are_made_again_and_no_others(matted: Work) -> None:
    """Version 1 put the box of a missed face into the matte; the key is the same, the status is not."""
    path = matted[1] / "views/face/alpha-00000.parquet"
    before = contents(matted[1])
    table = pq.read_table(path)
    old = table.column("status").to_pylist()
    old[2] = "face_forced"
    table = table.set_column(table.column_names.index("status"), "status", pa.array(old))
    pq.write_table(table.replace_schema_metadata(None), path)
    plane = np.load(path.with_suffix(".npy"))
    plane[table.column("row")[2].as_py(), 4:28, 4:28] = 255
    np.save(path.with_suffix(".npy"), plane)
    assert {s.name: s.missing for s in survey(Session(matted[1])).stages}["matte:face"] == 1
    assert api.run(*matted, engine="serial").computed["matte:face"] == 1
    after = contents(matted[1])
    assert after["views/face/alpha-00000.npy"] == before["views/face/alpha-00000.npy"]


class StoppedError(Exception):
    """As if the machine went off."""


def test_it_goes_on_where_it_was_stopped(matted: Work, work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    class Break(Silent):
        left = 5

        def advance(self, steps: int = 1) -> None:
            self.left -= steps
            if self.left < 0:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rembg(work, model="selfie", progress=Break())
    assert not list((work[1] / "views/face").glob("alpha-*"))
    assert {s.name: s.missing for s in survey(Session(work[1])).stages}["matte:face"] == 5
    assert rembg(work)["matte:face"] == 5  # one piece of three was whole; the model is remembered
    assert contents(work[1]) == contents(matted[1])


@pytest.mark.parametrize("when", [1, 2, 3])
def test_stopped_while_planes_are_replaced(
    matted: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """At whichever write it stops, no reader sees an old plane under a new name, and the next run ends the same."""
    expected = Path(shutil.copytree(matted[1], tmp_path / "expected"))
    rembg((matted[0], expected), refine="guided")
    calls = 0
    write_rows, write_plane = planes.write_table, planes.write_with

    def stop_at(work: Any) -> Any:
        def write(*args: Any, **kwargs: Any) -> None:
            nonlocal calls
            calls += 1
            if calls == when:
                raise StoppedError
            work(*args, **kwargs)

        return write

    monkeypatch.setattr(planes, "write_table", stop_at(write_rows))
    monkeypatch.setattr(planes, "write_with", stop_at(write_plane))
    with pytest.raises(StoppedError):
        rembg(matted, refine="guided")
    assert open_view(matted[1]).table["matte"].isna().all()  # none rather than a mixture
    monkeypatch.undo()
    rembg(matted)
    assert contents(matted[1]) == contents(expected)


def test_new_crops_never_get_old_mattes(matted: Work) -> None:
    api.crop(*matted, margin=0.6, engine="serial")
    view = open_view(matted[1])
    assert view.table["matte"].isna().all()
    with pytest.raises(UserError, match="maskprep rembg"):
        view.gather_alpha([0])
    assert not list((matted[1] / "views/face").glob("alpha-*"))  # gone with their crops
    assert rembg(matted)["matte:face"] == 8
    assert open_view(matted[1]).table["matte"].notna().all()


def test_one_ruling_makes_one_matte_anew(matted: Work) -> None:
    photos, cache = matted
    images = pd.read_parquet(cache / "images.parquet").set_index("image")
    content = images.loc["001.jpg", "content"]  # b/001.jpg is the same photo, so the ruling is for both
    (cache / "decisions.csv").write_text(
        "content,image,verdict,value,expected,reason,by,when\n"
        + f"{content},001.jpg,box,20 20 150 160,,,t,2026-01-01\n"
    )
    before = contents(cache)["views/face/alpha-00000.npy"]
    done = dict(api.run(photos, cache, engine="serial").computed)
    assert done["matte:face"] == done["crop:face"] <= 2
    view = open_view(cache)
    assert view.table["matte"].notna().all()
    assert contents(cache)["views/face/alpha-00000.npy"] == before  # the others stay in their shard


def test_settings_are_remembered_and_a_change_is_explained(matted: Work) -> None:
    job = Session(matted[1])
    assert job.config.matte is not None and job.config.matte.model == "selfie"
    lines = explain(job, "000.jpg")
    assert any(re.match(r"matte     face: ok, covers \d+% of the crop", line) for line in lines)
    assert any(line.startswith("matte:face current") for line in lines)
    (matted[0] / "maskprep.yaml").write_text("matte: {model: selfie, refine: guided}\n")
    stage = {s.name: s for s in survey(Session(matted[1])).stages}["matte:face"]
    assert (stage.rows, stage.missing, stage.why) == (0, 8, "refine none → guided")
    assert dict(api.run(*matted, engine="serial").computed)["matte:face"] == 8


def test_a_model_that_cannot_be_run_is_not_remembered(matted: Work, tmp_path: Path) -> None:
    before = (matted[1] / "dataset.json").read_text()
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="onnxruntime"):
        api.rembg(matted[1], model=str(tmp_path / "broken.onnx"), engine="serial")
    assert (matted[1] / "dataset.json").read_text() == before
    assert not +api.run(matted[1], engine="serial").computed


def test_a_matte_with_other_pixels_is_found_by_verify(matted: Work) -> None:
    file = matted[1] / "views/face/alpha-00000.npy"
    assert verify(Cache(matted[1])).mattes == 8
    data, times = bytearray(file.read_bytes()), file.stat()
    data[-1] ^= 1
    file.write_bytes(data)
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    found = verify(Cache(matted[1]))
    assert [path.name for path in found.damaged] == ["alpha-00000.npy"]
    discard(found)
    job = api.run(*matted, engine="serial")
    assert job.computed["matte:face"] == 8 and verify(Cache(matted[1])).damaged == {}


def test_damaged_planes_are_made_again(matted: Work) -> None:
    before = contents(matted[1])
    plane = matted[1] / "views/face/alpha-00000.npy"
    plane.write_bytes(plane.read_bytes()[:-5000])
    with pytest.raises(UserError, match="alpha-00000"):
        open_view(matted[1])
    job = api.rembg(*matted, engine="serial")
    assert job.computed["matte:face"] == 8 and any("damaged" in note for note in job.notes)
    assert contents(matted[1]) == before


def test_on_the_whole_photo(matted: Work) -> None:
    assert rembg(matted, on="photo")["matte:face"] == 8
    alpha = open_view(matted[1]).gather_alpha(range(8))
    assert (alpha[:, 13:19, 13:19] == 255).all() and alpha.mean() < 240


def test_wrong_settings_are_refused_before_any_work(work: Work) -> None:
    for settings in ({"model": "u2nett"}, {"on": "face"}, {"refine": "guded"}, {"view": "nowhere"}):
        with pytest.raises(UsageError):
            rembg(work, **settings)
    assert not list((work[1] / "views/face").glob("alpha-*"))


# ---------------------------------------------------------------- the models


@pytest.fixture(scope="session")
def u2netp() -> Path:
    try:
        return weight("u2netp")
    except UserError as error:
        pytest.skip(f"the model cannot be had: {error.message}")


@pytest.fixture(scope="session")
def faces(finished: Work) -> np.ndarray:
    """Some crops, small ones among larger."""
    return np.load(finished[1] / "views/face/00000.npy")[:2]


def test_ours_equals_rembgs_own(faces: np.ndarray, u2netp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below 1/255 on the same crops before our rules, and on a picture that is not square."""
    pytest.importorskip("rembg", reason="rembg is not installed", exc_type=ImportError)
    from PIL import Image
    from rembg import new_session, remove

    monkeypatch.setenv("U2NET_HOME", str(u2netp.parent))
    session = new_session("u2netp", providers=["CPUExecutionProvider"])
    wide = np.concatenate([faces[0], faces[1]], axis=1)
    with open_model(locate("u2netp")) as predict:
        for pixels in (*faces, wide):
            ours, clear = matte_of(predict(pixels), pixels.shape[:2])
            theirs = np.asarray(remove(Image.fromarray(pixels), session=session, only_mask=True))
            assert clear and ours.shape == theirs.shape
            assert np.abs(ours.astype(int) - theirs).mean() < 1


def test_openvino_gives_the_same_mattes(matted: Work, faces: np.ndarray, u2netp: Path) -> None:
    pytest.importorskip("openvino", reason="openvino is not installed")
    with open_model(locate("u2netp")) as known, open_model(locate("u2netp"), runtime="openvino") as quick:
        for pixels in faces:
            one, other = (matte_of(predict(pixels), (32, 32))[0] for predict in (known, quick))
            assert np.abs(one.astype(int) - other).max() <= 1 and np.abs(one.astype(int) - other).mean() < 0.1
    with pytest.raises(UsageError, match="runtime"):
        rembg(matted, runtime="openvinno")


def test_a_file_of_ones_own_is_run_as_it_is(faces: np.ndarray, u2netp: Path, tmp_path: Path) -> None:
    shutil.copy(u2netp, tmp_path / "mine.onnx")
    mine = locate(str(tmp_path / "mine.onnx"))
    assert (mine.label, mine.sha256) == ("mine.onnx", locate("u2netp").sha256)
    with open_model(mine) as own, open_model(locate("u2netp")) as known:
        np.testing.assert_array_equal(own(faces[0]), known(faces[0]))
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with pytest.raises(UserError, match="onnxruntime"), open_model(locate(str(tmp_path / "broken.onnx"))):
        pass


def test_blank_crops_are_a_finding_and_not_a_person(u2netp: Path) -> None:
    random = np.random.default_rng(0)
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    with open_model(locate("u2netp")) as predict:
        for pixels in (
            np.full((64, 64, 3), 128, np.uint8),
            random.integers(0, 256, (64, 64, 3)).astype(np.uint8),
            np.broadcast_to(ramp[None, :, None], (64, 64, 3)),
        ):
            alpha, clear = matte_of(predict(np.ascontiguousarray(pixels)), (64, 64))
            assert not clear and alpha.max() < 64
