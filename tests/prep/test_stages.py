"""What holds for every stage of the plan: which settings are in whose recipe, the same bytes for any number of workers
and after a kill at any step of writing, and that a row that fails costs that row."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from maskprep.crops.crop import Crop
from maskprep.crops.geometry import ViewSettings
from maskprep.faces.choice import ChooseSettings
from maskprep.faces.detect import DetectSettings
from maskprep.labels.images import IndexSettings
from maskprep.labels.layouts import Described
from maskprep.labels.schema import MASK_SCHEMA, Schema
from maskprep.mattes.matte import MatteSettings
from maskprep.photos.decode import PhotoFile
from maskprep.photos.folder import Walk
from maskprep.pipeline.config import Config
from maskprep.pipeline.plan import Photos, plan
from maskprep.pipeline.session import Session
from maskprep.store.stage import MapStage, Report, Stage, TableStage

Work = tuple[Path, Path]

EVERYTHING = Config(choose=ChooseSettings(matte=True), matte=MatteSettings(model="selfie"))


def stages(config: Config, schema: Schema = MASK_SCHEMA) -> dict[str, Stage]:
    described = Described("flat", pd.DataFrame({"person": [], "split": []}), schema)
    made = plan(Photos(Walk(), described), config, Path("decisions.csv"), audit=True)
    return {stage.name: stage for stage in made}


def recipes(config: Config, schema: Schema = MASK_SCHEMA) -> dict[str, Any]:
    return {name: stage.recipe.to_dict() for name, stage in stages(config, schema).items()}


def changed(**sections: Any) -> set[str]:
    """Names of the stages that other settings give another recipe."""
    before, now = recipes(EVERYTHING), recipes(dataclasses.replace(EVERYTHING, **sections))
    return {name for name in before.keys() | now.keys() if before.get(name) != now.get(name)}


OTHER: dict[type, dict[str, Any]] = {
    IndexSettings: {"max_megapixels": 50.0},
    DetectSettings: {"detectors": ("yunet",), "thresholds": {"yunet": 0.5}, "low": 0.2},
    ViewSettings: {"size": (32, 32), "margin": 0.1, "align": "eyes", "crop": "none", "border": "blur", "zoom": None},
    MatteSettings: {
        "model": "u2netp",
        "on": "photo",
        "refine": "guided",
        "runtime": "openvino",
        "providers": None,
        "views": None,
    },
}


@pytest.mark.parametrize(
    ("section", "kind", "stage"),
    [("index", IndexSettings, "index"), ("detect", DetectSettings, "detect"), ("choose", ChooseSettings, "choose")],
)
def test_every_setting_is_in_one_recipe(section: str, kind: type, stage: str) -> None:
    settings = getattr(EVERYTHING, section)
    for field in dataclasses.fields(kind):
        now = getattr(settings, field.name)
        other = OTHER.get(kind, {}).get(field.name)
        if other is None:
            other = {bool: not now, float: now / 2 if isinstance(now, float) else None, str: "whole"}[type(now)]
        expected = {stage, "overlap"} if field.name == "matte" else {stage}  # without it there is no such stage
        assert changed(**{section: dataclasses.replace(settings, **{field.name: other})}) == expected, field.name


def test_every_setting_of_a_view_is_in_the_recipe_of_its_crops() -> None:
    for field in dataclasses.fields(ViewSettings):
        other = OTHER[ViewSettings][field.name]
        views = {
            "face": ViewSettings(crop="centre", zoom=2.0) if other is None else ViewSettings(**{field.name: other})
        }
        assert "crop:face" in changed(views=views), field.name
        if field.name not in ("crop", "zoom"):  # without a view of faces none are looked for
            assert changed(views=views) == {"crop:face"}, field.name


def test_every_setting_of_mattes_is_in_their_recipe() -> None:
    assert EVERYTHING.matte is not None
    for field in dataclasses.fields(MatteSettings):
        if (other := OTHER[MatteSettings][field.name]) is not None:
            matte = dataclasses.replace(EVERYTHING.matte, **{field.name: other})
            expected = {"matte:face"} if field.name in ("on", "refine") else {"matte:face", "overlap"}
            assert changed(matte=matte) == expected, field.name
    hardware = dataclasses.replace(EVERYTHING.matte, model="u2netp", providers=("cuda",))
    plain = dataclasses.replace(EVERYTHING.matte, model="u2netp")
    assert recipes(dataclasses.replace(EVERYTHING, matte=hardware)) != recipes(
        dataclasses.replace(EVERYTHING, matte=plain)
    )


def test_the_schema_is_in_the_recipe_of_the_labels() -> None:
    pets = Schema.from_dict({"attributes": {"pet": {"classes": ["cat", "dog"]}}})
    before, now = recipes(EVERYTHING), recipes(EVERYTHING, pets)
    assert {name for name in before if before[name] != now[name]} == {"labels"}


def test_stages_come_after_those_they_need() -> None:
    names: list[str] = []
    for name, stage in stages(EVERYTHING).items():
        assert {need for need in stage.needs if need in stages(EVERYTHING)} <= set(names), name
        names.append(name)
    assert len(names) == len(set(names)) > 10


def test_keys_hold_the_recipe(work: Work) -> None:
    """Every row has another key when the version, a setting or a weight of its stage is another."""
    session = Session(*work)
    tables = session.tables(audit=True)
    seen = 0
    for stage in tables.stages.values():
        if isinstance(stage, MapStage):
            before = [source.key for source in stage.inputs(tables)]
            recipe = stage.recipe
            for other in (
                dataclasses.replace(recipe, version=recipe.version + 1),
                dataclasses.replace(recipe, settings={**recipe.settings, "x": 1}),
                dataclasses.replace(recipe, weights={**recipe.weights, "x": "y"}),
            ):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(type(stage), "recipe", property(lambda _, other=other: other))
                    after = [source.key for source in dataclasses.replace(stage).inputs(tables)]
                assert len(after) == len(before) > 0
                assert not {*before} & {*after}, stage.name
            seen += 1
    assert seen >= 4


# ---------------------------------------------------------------- what is written


def contents(cache: Path) -> dict[str, str]:
    """Hashes of all that a cache holds, less logs and the hidden files that hold times."""
    files = [path for path in cache.rglob("*") if path.is_file() and not path.name.startswith(".")]
    return {
        path.relative_to(cache).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != "log.jsonl"
    }


@pytest.fixture
def photos(tmp_path: Path, make_photos: Callable[..., list[Path]], yunet: None) -> Path:
    make_photos(tmp_path / "photos", 20)
    (tmp_path / "photos/broken.jpg").write_bytes(b"no photo")
    return tmp_path / "photos"


def everything(photos: Path, cache: Path, settings: Path, **options: Any) -> Session:
    """All stages: two views, mattes of the photos, the measurements of an audit."""
    session = Session(photos, cache, settings, **options)
    session.audit()
    return session


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    path = tmp_path / "settings.yaml"
    views = "views: {face: {size: 32}, wide: {size: 24, margin: 0.6}}\n"
    path.write_text(f"detect: {{detectors: [yunet]}}\n{views}matte: {{model: selfie, on: photo}}\n")
    return path


def test_the_same_bytes_for_any_number_of_workers(photos: Path, settings: Path, tmp_path: Path) -> None:
    everything(photos, tmp_path / "one", settings, engine="serial")
    everything(photos, tmp_path / "two", settings, workers=2)
    one = contents(tmp_path / "one")
    assert one == contents(tmp_path / "two") and len(one) > 20
    again = everything(photos, tmp_path / "one", settings, engine="serial")
    assert not again.computed


class Killed(BaseException):
    """As if the machine went off."""


@pytest.mark.parametrize("first", [1, 9])
def test_killed_at_every_step_of_writing(
    photos: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: int
) -> None:
    """Stopped before each file gets its name, and gone on each time: as without a stop, byte for byte."""
    everything(photos, tmp_path / "calm", settings, engine="serial")
    replace, steps = Path.replace, 0

    def stop(path: Path, target: Path) -> Path:
        nonlocal steps
        steps += 1
        if steps == first:
            raise Killed
        return replace(path, target)

    kills = 0
    while True:
        steps = 0
        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", stop)
            try:
                everything(photos, tmp_path / "rough", settings, engine="serial")
                break
            except Killed:
                kills += 1
        first = 9 if first == 1 else first  # the same step for ever would get nowhere
        assert kills < 60
    assert kills > 3
    assert contents(tmp_path / "rough") == contents(tmp_path / "calm")


def test_a_photo_that_fails_costs_its_rows(
    photos: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    everything(photos, tmp_path / "calm", settings, engine="serial")
    session = Session(photos, tmp_path / "rough", settings, engine="serial")
    session.detect()
    pixels = PhotoFile.pixels

    def fails(photo: PhotoFile, reduction: int = 1) -> np.ndarray:
        if photo.path.name == "003.jpg":
            raise ValueError("out of order")
        return pixels(photo, reduction)

    with monkeypatch.context() as patch:
        patch.setattr(PhotoFile, "pixels", fails)
        session = everything(photos, tmp_path / "rough", settings, engine="serial")
    assert session.failed == {"003.jpg": "ValueError: out of order"}
    tables = session.tables(audit=True)
    for stage in tables.stages.values():
        if isinstance(stage, MapStage) and stage.name not in ("index", "detect"):
            assert len(tables.live(stage.name)) == 19, stage.name
        elif (
            isinstance(stage, TableStage)
            and stage.file.endswith("parquet")
            and stage.name not in ("faces", "duplicates")
        ):
            assert len(tables.table(stage.name)) == 21, stage.name
    everything(photos, tmp_path / "rough", settings, engine="serial")
    for name, value in contents(tmp_path / "calm").items():
        if name.endswith(".parquet") and "/" not in name:
            assert contents(tmp_path / "rough")[name] == value, name


def test_a_photo_that_kills_a_worker_costs_itself(
    photos: Path, settings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the message names it; what is decoded is not what is told to be deadly, but a file that stops the worker."""
    import maskprep.pipeline.session as module

    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    from toy_stage import DeadlyFolder

    monkeypatch.setattr(module, "PhotoFolder", DeadlyFolder)
    session = Session(photos, tmp_path / "cache", settings, workers=2)
    session.run()
    assert list(session.failed) == ["007.jpg"] and "worker process died" in session.failed["007.jpg"]
    images = pd.read_parquet(tmp_path / "cache/images.parquet").set_index("image")
    assert images.loc["007.jpg", "error"] == "not_read" and "worker process died" in images.loc["007.jpg", "detail"]
    subjects = pd.read_parquet(tmp_path / "cache/subjects.parquet").set_index("image")
    assert subjects.loc["007.jpg", "status"] == "unreadable" and (subjects["status"] == "ok").sum() == 19
    monkeypatch.undo()
    session = Session(photos, tmp_path / "cache", settings, engine="serial").run()
    assert not session.failed and session.computed["crop:face"] == 1


def test_dead_shards_go_only_after_the_new_index(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the new index is there, readers use the old shards."""
    _, cache = work
    before = pd.read_parquet(cache / "views/face/index.parquet")

    def stop(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Crop, "index", stop)
        Session(*work, engine="serial").crop(margin=0.1)
    for shard in set(before["shard"]):
        assert (cache / f"views/face/{shard:05d}.npy").is_file() and (
            cache / f"views/face/{shard:05d}.parquet"
        ).is_file()
    Session(*work, engine="serial").run()
    assert not set(pd.read_parquet(cache / "views/face/index.parquet")["shard"]) & set(before["shard"])


def test_the_key_of_a_matte_tells_whether_a_face_was_seen(work: Work) -> None:
    """A rescued box is a guess: its matte is not held to the face."""
    session = Session(*work)
    session.config = dataclasses.replace(session.config, matte=MatteSettings(model="selfie"))
    tables = session.tables()
    before = {source.image: source.key for source in tables.inputs("matte:face")}
    guessed = tables.table("choose").assign(status="rescued")
    table = tables.table
    tables.table = lambda name: guessed if name == "choose" else table(name)  # type: ignore[method-assign]
    tables.forget("matte:face")
    after = {source.image: source.key for source in tables.inputs("matte:face")}
    assert len(before) == len(after) == 8 and not {*before.values()} & {*after.values()}
    assert not any(source.row.force for source in tables.inputs("matte:face"))


def test_the_heic_plugin_is_in_the_key_of_the_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photos that could not be opened without it are looked at again with it."""
    before = stages(EVERYTHING)["index"].recipe
    monkeypatch.setattr("maskprep.labels.images.heic_available", lambda: not before.settings["heic"])
    assert stages(EVERYTHING)["index"].recipe != before


def test_statistics_are_of_each_split(work: Work) -> None:
    _, cache = work
    tables = Session(*work).tables()
    images = tables.table("images").assign(split=["train"] * 5 + ["eval"] * 3)
    table = tables.table
    tables.table = lambda name: images if name == "images" else table(name)  # type: ignore[method-assign]
    (cache / "stats.json").unlink()
    stage = tables.stages["stats"]
    assert isinstance(stage, TableStage)
    stage.refresh(tables, Report())
    entry = json.loads((cache / "stats.json").read_text())["face"]
    assert [entry[split]["whole"]["images"] for split in ("train", "eval", "all")] == [5, 3, 8]
