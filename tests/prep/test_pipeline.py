"""The pipeline on generated photos: what is made, what is made again, and what is never touched."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import maskprep as api
from maskprep.base import files
from maskprep.crops.crop import Crop
from maskprep.errors import UsageError, UserError
from maskprep.faces.detect import Detect
from maskprep.labels.images import Images, Index
from maskprep.pipeline.damage import check_accounts
from maskprep.pipeline.session import Session
from maskprep.store.cache import Cache

Work = tuple[Path, Path]

IMAGES = ["image", "content", "bytes", "format", "width", "height", "orientation", "error", "person", "split"]
FACES = ["image", "face", "detector", "rung", "score", "x0", "y0", "x1", "y1", "keypoints"]
SUBJECTS = ["image", "status", "face", "x0", "y0", "x1", "y1", "reason"]
LABELS = ["image", "person", "label", "excluded", "source"]


def run(work: Work, **settings: Any) -> dict[str, int]:
    """Bring everything up to date in this process; rows computed per stage."""
    return dict(api.run(work[0], work[1], engine="serial", **settings).computed)


def snapshot(folder: Path) -> dict[str, tuple[str, int]]:
    return {
        p.relative_to(folder).as_posix(): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns)
        for p in folder.rglob("*")
        if p.is_file()
    }


def contents(cache: Path) -> dict[str, str]:
    """Hashes of everything a cache holds, less what tells of the run itself."""
    left_out = ("log.jsonl", "dataset.json")
    hidden = {name for name in snapshot(cache) if Path(name).name.startswith(".")}
    return {name: h for name, (h, _) in snapshot(cache).items() if name not in left_out and name not in hidden}


def table(cache: Path, name: str) -> pd.DataFrame:
    return pd.read_parquet(cache / f"{name}.parquet")


def crops(cache: Path, view: str = "face") -> dict[str, np.ndarray]:
    index = pd.read_parquet(cache / "views" / view / "index.parquet")
    return {r.image: np.load(cache / "views" / view / f"{r.shard:05d}.npy")[r.row] for r in index.itertuples()}


def test_the_contract(work: Work) -> None:
    photos, cache = work
    images = table(cache, "images")
    expected = sorted(p.relative_to(photos).as_posix() for p in photos.rglob("*.jpg"))
    assert images["image"].tolist() == expected
    for name, columns in (("images", IMAGES), ("faces", FACES), ("subjects", SUBJECTS), ("labels", LABELS)):
        assert [c for c in columns if c not in table(cache, name).columns] == [], name
    for name in ("subjects", "labels"):
        assert table(cache, name)["image"].tolist() == expected
    assert (table(cache, "subjects")["status"] == "ok").all()
    faces = table(cache, "faces")
    assert set(faces["image"]) == set(expected)
    for _, own in faces.groupby("image"):
        assert own["face"].tolist() == list(range(len(own)))
    chosen = table(cache, "subjects").merge(faces, on=["image", "face"], suffixes=("", "_seen"))
    assert len(chosen) == len(expected)
    view = json.loads((cache / "views/face/view.json").read_text())
    assert (view["size"], view["margin"], view["align"]) == ([32, 32], 0.35, "none")
    assert {"colour_space", "pixel_format", "fingerprint"} <= view.keys()
    shard = pd.read_parquet(cache / "views/face/00000.parquet")
    assert {"image", "key", "row", "transform", "sum_r", "sumsq_b", "count"} <= set(shard.columns)
    pixels = np.load(cache / "views/face/00000.npy")
    assert (pixels.dtype, pixels.shape) == (np.uint8, (len(expected), 32, 32, 3))
    dataset = json.loads((cache / "dataset.json").read_text())
    assert {"format", "source", "schema", "settings", "stages"} <= dataset.keys()
    assert dataset["stages"]["detect"]["weights"].keys() == {"yunet"}
    stats = json.loads((cache / "stats.json").read_text())["face"]
    flat = pixels.reshape(-1, 3) / 255.0
    assert np.abs(flat.mean(axis=0) - stats["all"]["whole"]["mean"]).max() < 1e-12
    assert np.abs(flat.std(axis=0) - stats["train"]["whole"]["std"]).max() < 1e-12
    assert stats["eval"]["whole"] is None


def test_the_face_is_in_the_crop(work: Work, portrait: Image.Image) -> None:
    """The crop is the middle of the box: skin-coloured, and the same whichever folder the photo is in."""
    _, cache = work
    found = crops(cache)
    assert (found["000.jpg"] == found["b/000.jpg"]).all()
    row = table(cache, "subjects").set_index("image").loc["000.jpg"]
    random = np.random.default_rng(0)
    random.integers(60, 200, 3)
    side = int(random.integers(130, 190))
    left, top = int(random.integers(0, 240 - side)), int(random.integers(0, 200 - side))
    # the astronaut's face lies around (145, 117) of the 300 pixels of the portrait
    assert (row.x0 + row.x1) / 2 == pytest.approx(left + side * 145 / 300, abs=8)
    assert (row.y0 + row.y1) / 2 == pytest.approx(top + side * 117 / 300, abs=10)


def test_nothing_changed_computes_nothing(work: Work) -> None:
    before = contents(work[1])
    assert run(work) == {}
    assert contents(work[1]) == before


def test_a_touched_photo_is_only_looked_at(work: Work) -> None:
    photos, cache = work
    os.utime(photos / "001.jpg", ns=(1, 1))
    before = contents(cache)
    assert run(work) == {"index": 1}
    after = contents(cache)
    assert {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)} == {
        *(
            "stages/index/00001.parquet",
            "stages/index/index.parquet",
            "images.parquet",
        )  # of which only the marks differ
    }
    assert run(work) == {}


def test_a_changed_photo_is_one_row_per_stage(work: Work) -> None:
    photos, cache = work
    old = crops(cache)
    shutil.copyfile(photos / "003.jpg", photos / "001.jpg")
    computed = run(work)
    assert {k: computed[k] for k in ("index", "detect", "crop:face")} == {"index": 1, "detect": 1, "crop:face": 1}
    new = crops(cache)
    assert (new["001.jpg"] == old["003.jpg"]).all()
    assert all((new[name] == old[name]).all() for name in old if name != "001.jpg")
    assert run(work) == {}


def test_added_and_removed_photos(work: Work) -> None:
    photos, cache = work
    shutil.copyfile(photos / "003.jpg", photos / "new.jpg")
    (photos / "000.jpg").unlink()
    shutil.rmtree(photos / "b")
    computed = run(work)
    assert {k: computed[k] for k in ("index", "detect", "crop:face")} == {"index": 1, "detect": 1, "crop:face": 1}
    expected = ["001.jpg", "002.jpg", "003.jpg", "new.jpg"]
    for name in ("images", "subjects", "labels"):
        assert table(cache, name)["image"].tolist() == expected
    assert sorted(set(table(cache, "faces")["image"])) == expected
    assert sorted(crops(cache)) == expected
    assert json.loads((cache / "stats.json").read_text())["face"]["all"]["whole"]["images"] == 4
    assert run(work) == {}


def test_only_dead_shards_are_deleted(work: Work) -> None:
    photos, cache = work
    shutil.copyfile(photos / "003.jpg", photos / "new.jpg")
    run(work)
    for path in [*photos.glob("00*.jpg"), *photos.glob("b/*.jpg")]:
        path.unlink()
    run(work)
    assert sorted(p.name for p in (cache / "views/face").glob("0*")) == ["00001.npy", "00001.parquet"]
    assert list(crops(cache)) == ["new.jpg"]


def test_another_margin_detects_nothing(work: Work) -> None:
    before = crops(work[1])
    computed = dict(api.crop(*work, margin=0.1, engine="serial").computed)
    assert computed == {"crop:face": 8, "stats": 1}
    assert (crops(work[1])["000.jpg"] != before["000.jpg"]).any()
    assert run(work) == {}, "the new margin is remembered"
    assert dict(api.crop(*work, margin=0.35, engine="serial").computed) == {"crop:face": 8, "stats": 1}
    assert all((crops(work[1])[name] == before[name]).all() for name in before)


def test_a_settings_file_wins_over_what_options_said_before(work: Work, quick: Path) -> None:
    api.crop(*work, margin=0.1, engine="serial")
    assert run(work, config=quick) == {"crop:face": 8, "stats": 1}


def test_another_subject_is_another_crop(work: Work) -> None:
    """The key of a crop tells the box, and the keypoints where they turn it."""
    images, subjects = table(work[1], "images"), table(work[1], "subjects")
    moved, turned = subjects.copy(), subjects.copy()
    moved.loc[2, "x1"] += 1.0
    turned.at[3, "keypoints"] = turned.at[3, "keypoints"] + 1.0

    def changed(other: pd.DataFrame, align: str) -> list[int]:
        session = Session(*work)
        session.config.views["face"] = dataclasses.replace(session.config.views["face"], align=align)
        keys = []
        for chosen in (subjects, other):
            tables = session.tables()
            made = {"images": images, "choose": chosen}
            tables.table = made.__getitem__  # type: ignore[method-assign]
            keys.append([source.key for source in tables.inputs("crop:face")])
        return [i for i, (a, b) in enumerate(zip(*keys, strict=True)) if a != b]

    assert changed(moved, "none") == [2]
    assert changed(turned, "none") == []
    assert changed(turned, "eyes") == [3]


def test_two_views_share_one_detection(work: Work) -> None:
    computed = dict(api.crop(*work, view="wide", size=(16, 40), align="eyes", engine="serial").computed)
    assert computed == {"crop:wide": 8, "stats": 2}
    assert crops(work[1], "wide")["000.jpg"].shape == (16, 40, 3)
    assert Cache(work[1]).views() == ["face", "wide"]
    assert run(work) == {}


def test_another_detector_detects_again(work: Work, all_detectors: None) -> None:
    computed = dict(api.crop(*work, detectors=("yunet", "blazeface_short"), engine="serial").computed)
    assert computed["detect"] == 8
    assert "index" not in computed
    assert set(table(work[1], "faces")["detector"]) == {"yunet", "blazeface_short"}


def test_photos_are_never_written_to(work: Work) -> None:
    photos, cache = work
    before = snapshot(photos)
    api.crop(photos, cache, view="other", size=(16, 16), engine="serial")
    shutil.rmtree(cache)
    api.index(photos, cache, engine="serial")
    assert snapshot(photos) == before
    assert {p.name for p in photos.iterdir()} == {"000.jpg", "001.jpg", "002.jpg", "003.jpg", "b"}


def test_engines_and_workers_give_the_same_bytes(
    work: Work, quick: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Index, "rows_per_shard", 2)
    monkeypatch.setattr(Detect, "rows_per_shard", 3)
    monkeypatch.setattr(Crop, "rows_per_shard", 3)
    for name, engine, workers in (("one", "serial", 1), ("two", "processes", 2)):
        api.run(work[0], tmp_path / name, quick, engine=engine, workers=workers)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert len(list((tmp_path / "two/views/face").glob("*.npy"))) == 3


def broken_photos(folder: Path) -> None:
    folder.mkdir()
    (folder / "empty.jpg").touch()
    (folder / "text.png").write_text("not a photo at all, whatever its name says")
    Image.new("RGB", (90, 90)).save(folder / "cut.bmp")
    (folder / "cut.bmp").write_bytes((folder / "cut.bmp").read_bytes()[:500])
    (folder / "link.jpg").symlink_to("gone")


def test_broken_photos_are_rows(work: Work) -> None:
    photos, cache = work
    broken_photos(photos / "z")
    run(work)
    images, subjects = table(cache, "images").set_index("image"), table(cache, "subjects").set_index("image")
    expected = {"empty.jpg": "empty", "text.png": "not_an_image", "cut.bmp": "truncated", "link.jpg": "unreadable"}
    for name, error in expected.items():
        assert images.loc[f"z/{name}", "error"] == error
        assert subjects.loc[f"z/{name}", "status"] == "unreadable"
        assert table(cache, "labels").set_index("image").loc[f"z/{name}", "excluded"].startswith("unreadable")
    assert images["error"].notna().sum() == 4
    assert len(crops(cache)) == 8
    assert len(subjects) == len(images) == 12


def test_all_photos_broken(tmp_path: Path, quick: Path, yunet: None) -> None:
    broken_photos(tmp_path / "photos")
    work = (tmp_path / "photos", tmp_path / "cache")
    run(work, config=quick)
    assert len(table(work[1], "images")) == len(table(work[1], "subjects")) == len(table(work[1], "labels")) == 4
    assert len(table(work[1], "faces")) == 0
    assert crops(work[1]) == {}
    assert json.loads((work[1] / "stats.json").read_text())["face"]["all"]["whole"] is None
    assert run(work) == {}


def test_no_face_anywhere(tmp_path: Path, quick: Path, yunet: None) -> None:
    (tmp_path / "photos").mkdir()
    for i in range(3):
        Image.new("RGB", (60, 40), (40 * i, 0, 0)).save(tmp_path / f"photos/{i}.png")
    work = (tmp_path / "photos", tmp_path / "cache")
    run(work, config=quick)
    assert set(table(work[1], "subjects")["status"]) == {"no_face"}
    assert crops(work[1]) == {}
    assert run(work) == {}
    api.crop(*work, view="middle", crop="centre", size=(16, 16), engine="serial")
    assert crops(work[1], "middle")["1.png"][8, 8].tolist() == [40, 0, 0]
    api.crop(*work, view="middle", crop="centre", zoom=1.5, engine="serial")
    assert json.loads((work[1] / "views/middle/view.json").read_text())["zoom"] == 1.5
    api.crop(*work, view="middle", zoom=1.0, engine="serial")
    assert "zoom" not in json.loads((work[1] / "views/middle/view.json").read_text())
    assert crops(work[1], "middle").keys() == {"0.png", "1.png", "2.png"}
    api.crop(*work, view="middle", zoom=2.0, engine="serial")
    api.crop(*work, view="middle", crop="none", engine="serial")  # which has no zoom, and says nothing of it


def test_a_photo_without_a_face_is_rescued_or_left_out(work: Work) -> None:
    photos, cache = work
    Image.new("RGB", (240, 200), "gray").save(photos / "wall.png")
    run(work)
    row = table(cache, "subjects").set_index("image").loc["wall.png"]
    assert row.status == "rescued"
    assert "wall.png" in crops(cache)
    api.crop(*work, no_face="drop", engine="serial")
    assert table(cache, "subjects").set_index("image").loc["wall.png", "status"] == "no_face"
    assert "wall.png" not in crops(cache)
    assert len(table(cache, "labels")) == 9


def test_an_interrupted_run_goes_on(work: Work, quick: Path, tmp_path: Path) -> None:
    """Ctrl-C at every step of the progress in turn: the end is as if it had run through."""
    photos = work[0]
    api.run(photos, tmp_path / "calm", quick, engine="serial")

    class Pressing:
        left = 0

        def start(self, name: str, total: int) -> None:
            self.advance()

        def advance(self, steps: int = 1) -> None:
            self.left -= 1
            if self.left == 0:
                raise KeyboardInterrupt

    stops = 0
    for after in range(3, 60, 7):
        pressing = Pressing()
        pressing.left = after
        try:
            api.run(photos, tmp_path / "rough", quick, engine="serial", progress=pressing)
            break
        except KeyboardInterrupt:
            stops += 1
    assert stops >= 2
    api.run(photos, tmp_path / "rough", quick, engine="serial")
    assert contents(tmp_path / "rough") == contents(tmp_path / "calm")


def test_a_photo_that_vanishes_on_the_way_is_said_and_tried_again(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, cache = work
    shutil.copyfile(photos / "003.jpg", photos / "new.jpg")
    original = Images.build

    def vanish(stage: Images, *about: Any) -> Any:
        (photos / "new.jpg").rename(photos.parent / "away.jpg")
        return original(stage, *about)

    monkeypatch.setattr(Images, "build", vanish)
    monkeypatch.setattr(Detect, "may_follow", lambda *_: False)  # else its faces are known by then
    job = api.run(photos, cache, engine="serial")
    assert job.failed == {"new.jpg": "it can no longer be read"}
    assert any("can no longer be read" in note for note in job.notes)
    assert "new.jpg" not in crops(cache)
    assert len(table(cache, "subjects")) == 9
    monkeypatch.undo()
    (photos.parent / "away.jpg").rename(photos / "new.jpg")
    assert run(work)["detect"] == 1
    assert "new.jpg" in crops(cache)


# ---------------------------------------------------------------- caches and folders


def test_a_cache_inside_the_photos_is_refused(work: Work) -> None:
    for cache in (work[0] / "cache", work[0], work[0] / "b" / ".." / "c"):
        with pytest.raises(UsageError, match="inside the photos"):
            api.run(work[0], cache)
    assert not (work[0] / "cache").exists()


def test_two_folders_of_one_name_are_not_mixed(work: Work, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("x", "y"):
        shutil.copytree(work[0], tmp_path / name / "photos")
    api.index(Path("x/photos"), engine="serial")
    assert (tmp_path / "cache/photos/images.parquet").is_file()
    with pytest.raises(UsageError, match="is the cache of"):
        api.index(Path("y/photos"), engine="serial")


def test_moved_photos(work: Work) -> None:
    photos, cache = work
    moved = photos.rename(photos.parent / "moved")
    with pytest.raises(UserError, match="which is not there") as caught:
        run((cache, cache))
    assert f"--cache {cache}" in caught.value.hint
    assert run((moved, cache)) == {}
    assert json.loads((cache / "dataset.json").read_text())["source"]["root"] == str(moved.resolve())


def test_a_cache_may_be_named_instead_of_the_photos(work: Work) -> None:
    assert dict(api.run(work[1], engine="serial").computed) == {}
    with pytest.raises(UsageError, match="is a cache already"):
        api.run(work[1], work[0].parent / "other")


def test_places_that_are_no_cache(work: Work, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "diary.txt").touch()
    (tmp_path / "file").touch()
    for name in ("full", "file"):
        with pytest.raises(UsageError, match="exists and is not a cache"):
            api.run(work[0], tmp_path / name)
    with pytest.raises(UsageError, match="neither a photo folder nor a cache"):
        api.run(tmp_path / "nowhere")
    with pytest.raises(UsageError, match="neither a photo folder nor a cache"):
        api.run(tmp_path / "file")


def test_a_dataset_json_of_someone_else_is_no_cache(work: Work) -> None:
    photos, _ = work
    (photos / "dataset.json").write_text('{"images": []}')
    job = api.index(photos, photos.parent / "new", engine="serial")
    assert job.computed["index"] == 8
    assert job.ignored["not a photo (.json)"] == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is damaged"),
        ("{", "is damaged"),
        ('{"format": 99}', "cache format 99"),
        ('{"format": 1}', "'source' is not whole"),
        ('{"format": 1, "source": {"root": "/"}}', "'source' is not whole"),
    ],
)
def test_a_damaged_dataset_json(work: Work, text: str, says: str) -> None:
    (work[1] / "dataset.json").write_text(text)
    for source in work:
        with pytest.raises(UserError, match=says):
            api.run(source, work[1], engine="serial")


def test_a_dataset_json_of_another_cache_is_not_obeyed(work: Work) -> None:
    other = work[0].parent / "other"
    shutil.copytree(work[0], other / "photos")
    api.index(other / "photos", other / "cache", engine="serial")
    run(work)  # which keeps the sum
    mine = (work[1] / "dataset.json").read_bytes()
    shutil.copy(other / "cache/dataset.json", work[1])
    before = contents(work[1])
    for source in (work[0], work[1]):
        with pytest.raises(UserError, match="may be of another cache") as caught:
            api.run(source, work[1], engine="serial")
        assert "maskprep run PHOTOS --cache" in caught.value.hint and contents(work[1]) == before
    (work[1] / "dataset.json").write_bytes(mine)
    assert run(work) == {}


@pytest.mark.parametrize("name", ["images", "faces", "subjects", "labels"])
def test_a_damaged_table_is_made_anew(work: Work, name: str) -> None:
    before = contents(work[1])
    (work[1] / f"{name}.parquet").write_bytes(b"rubbish")
    run(work)
    assert contents(work[1]) == before
    (work[1] / f"{name}.parquet").unlink()
    run(work)
    assert contents(work[1]) == before


def test_lost_pixels_are_cut_again(work: Work) -> None:
    before = crops(work[1])
    (work[1] / "views/face/00000.npy").unlink()
    job = api.run(*work, engine="serial")
    assert job.computed["crop:face"] == 8
    assert "detect" not in job.computed
    assert any("lost pixels" in note for note in job.notes)
    after = crops(work[1])
    assert all((before[name] == after[name]).all() for name in before)


def _hold(cache: Path, ready: Any, done: Any) -> None:
    with Cache(cache).lock():
        ready.set()
        done.wait(60)


def test_a_cache_in_use_is_refused(work: Work) -> None:
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(work[1], ready, done))
    other.start()
    try:
        assert ready.wait(30)
        with pytest.raises(UserError, match=f"process {other.pid}"):
            run(work)
    finally:
        done.set()
        other.join()
    assert run(work) == {}, "the lock ends with its process"


def test_an_empty_folder(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.txt").touch()
    with pytest.raises(UserError, match=r"no photos .*1 not a photo \(.txt\)"):
        api.run(tmp_path / "photos", tmp_path / "cache")
    assert not (tmp_path / "cache" / "dataset.json").exists()


def test_a_settings_file_in_the_photo_folder_is_used(work: Work, tmp_path: Path) -> None:
    photos, _ = work
    (photos / "maskprep.yaml").write_text(
        "detect: {detectors: [yunet]}\nviews: {tiny: {size: 16}, small: {size: 24}}\n"
    )
    job = api.run(photos, tmp_path / "new", engine="serial")
    assert Cache(tmp_path / "new").views() == ["small", "tiny"]
    assert job.config_path == (photos / "maskprep.yaml").resolve()
    (photos / "maskprep.yaml").unlink()
    assert run((photos, tmp_path / "new")) == {}, "what the cache was made with is remembered"


def test_the_log_has_a_line_per_command(work: Work) -> None:
    job = api.run(*work, engine="serial")
    job.log("run", 1.23)
    lines = [json.loads(line) for line in (work[1] / "log.jsonl").read_text().splitlines()]
    assert lines[-1]["command"] == "run"
    assert lines[-1]["counts"] == {"ok": 8}
    assert {"when", "versions", "seconds"} <= lines[-1].keys()


@pytest.mark.skipif(os.name != "posix", reason="needs byte file names")
def test_two_names_that_look_alike_once_escaped(work: Work) -> None:
    photos, cache = work
    shutil.copyfile(photos / "003.jpg", photos / "caf\\xe9.jpg")
    shutil.copyfile(photos / "003.jpg", photos / os.fsdecode(b"caf\xe9.jpg"))
    run(work)
    subjects = table(cache, "subjects").set_index("image")["status"]
    assert (subjects["caf\\xe9.jpg"], subjects["caf\\xe9-2.jpg"]) == ("ok", "unreadable")
    assert run(work) == {}


def test_a_table_with_an_image_twice_is_an_error(work: Work) -> None:
    cache = Cache(work[1])
    for path in (cache.images, cache.subjects, cache.labels):
        rows = pd.read_parquet(path)
        pd.concat([rows, rows.tail(1)]).to_parquet(path)
    with pytest.raises(UserError, match=r"same name.*b/003.jpg"):
        check_accounts(cache, "rescue")


def test_a_table_that_appears_does_not_replace_the_labels(
    tmp_path: Path, make_photos: Callable[..., list[Path]], yunet: None
) -> None:
    photos, cache = tmp_path / "photos", tmp_path / "cache"
    for name in ("cat", "dog"):
        make_photos(photos / name, 2)
    api.index(photos, cache, engine="serial")
    names = sorted(path.relative_to(photos).as_posix() for path in photos.rglob("*.jpg"))
    (photos / "predictions.csv").write_text("ImageID,ans\n" + "".join(f"{name},3\n" for name in names))
    with pytest.raises(UserError, match="layout 'folders', and look like 'csv' now") as caught:
        api.index(photos, cache, engine="serial")
    assert "predictions.csv" in caught.value.message and "--layout csv" in caught.value.hint
    api.index(photos, cache, engine="serial", layout="folders")
    assert set(pd.read_parquet(cache / "images.parquet")["class"]) == {"cat", "dog"}
    api.index(photos, cache, engine="serial")  # what was said is remembered
    api.index(photos, cache, engine="serial", layout="csv")
    assert set(pd.read_parquet(cache / "images.parquet")["class"]) == {"3"}


def test_what_was_understood_is_printed(
    tmp_path: Path,
    make_photos: Callable[..., list[Path]],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from maskprep.cli import console as show

    photos, cache = tmp_path / "photos", tmp_path / "cache"
    names = [path.name for path in make_photos(photos, 4)]
    cells = ["M,31,e1", "F,64,e1", "unknown,-3,e2", "F,,e2"]
    lines = [f"{name},{cell},x" for name, cell in zip(names, cells, strict=True)]
    (photos / "people.csv").write_text("file,sex,years,employee_id,camera\n" + "\n".join(lines) + "\n")
    job = api.index(photos, cache, engine="serial")
    assert ".csv" not in str(job.ignored)
    monkeypatch.setattr(show.out, "_width", 80)
    show.understood(job, "maskprep run photos")
    said = " ".join(capsys.readouterr().out.split())
    assert "gender: 1 male, 2 female, 1 without (1 'unknown'), from column sex" in said
    assert "age: 0 <30, 1 30-59, 1 >=60, 2 without (1 '-3'), from column years" in said
    assert "complete 2 of 4 photos have every label" in said
    assert "people 2, from column employee_id" in said and "camera (no label; kept as a column)" in said
    assert "read people.csv" in said and said.endswith("next maskprep run photos")


def test_a_view_taken_out_of_the_settings_file_goes(work: Work, tmp_path: Path) -> None:
    photos, cache = work
    file = photos / "maskprep.yaml"
    quick = "detect: {detectors: [yunet]}\n"
    file.write_text(f"{quick}views: {{face: {{size: 32}}, small: {{size: 16}}}}\n")
    api.run(photos, cache, engine="serial")
    api.crop(photos, cache, view="mine", size=(24, 24), engine="serial")
    assert Cache(cache).views() == ["face", "mine", "small"]
    file.write_text(f"{quick}views: {{face: {{size: 32}}}}\n")
    session = api.run(photos, cache, engine="serial")
    assert Cache(cache).views() == ["face", "mine"], "what an option added stays"
    assert any("View 'small' is no longer in" in note for note in session.notes)
    assert set(json.loads((cache / "dataset.json").read_text())["settings"]["views"]) == {"face", "mine"}
    assert set(json.loads((cache / "stats.json").read_text())) == {"face", "mine"}
    assert not api.run(photos, cache, engine="serial").notes


def test_a_run_with_nothing_to_do_reads_each_table_once(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """And no shard, whatever the number of photos."""
    run(work)
    read: Counter[str] = Counter()
    read_bytes = Path.read_bytes

    def counted(path: Path) -> bytes:
        read[path.relative_to(work[1]).as_posix() if path.is_relative_to(work[1]) else "elsewhere"] += 1
        return read_bytes(path)

    files._read.cache_clear()
    monkeypatch.setattr(Path, "read_bytes", counted)
    assert run(work) == {}
    tables = {name: times for name, times in read.items() if name.endswith(".parquet")}
    assert {"images.parquet", "views/face/index.parquet", "stages/index/index.parquet"} <= tables.keys()
    assert set(tables.values()) == {1} and not [name for name in tables if name[-9].isdigit()]
