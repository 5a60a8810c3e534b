"""What is out of date and why, for a cache and for one image."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

import maskprep as api
from maskprep.errors import UsageError, UserError
from maskprep.pipeline.explain import Status, explain, find_image, survey
from maskprep.pipeline.session import Session
from maskprep.store.tables import read_table

Work = tuple[Path, Path]


def look(work: Work, config: Path | None = None) -> Status:
    return survey(Session(work[0], work[1], config))


def todo(found: Status) -> dict[str, int]:
    return {stage.name: stage.missing for stage in found.stages if stage.missing}


def why(found: Status) -> dict[str, str]:
    return {stage.name: stage.why for stage in found.stages if stage.why}


def test_all_is_current(work: Work) -> None:
    found = look(work)
    assert [stage.name for stage in found.stages] == [
        *("index", "images", "detect", "faces", "choose", "labels", "duplicates", "crop:face", "stats")
    ]
    assert all(stage.rows == 8 and stage.missing == 0 and stage.size > 0 for stage in found.stages)
    assert why(found) == {}
    assert found.counts["status"] == {"ok": 8}
    assert found.counts["split"] == {"train": 8}
    assert found.counts["error"] == {}
    assert found.size == sum(p.stat().st_size for p in work[1].rglob("*") if p.is_file())


def test_it_only_reads(work: Work) -> None:
    def state() -> dict[str, str]:
        return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in work[1].rglob("*") if p.is_file()}

    os.utime(work[0] / "000.jpg", ns=(1, 1))
    before = state()
    look(work)
    explain(Session(*work), "000.jpg")
    assert state() == before


def test_new_changed_and_gone_photos(work: Work) -> None:
    shutil.copyfile(work[0] / "000.jpg", work[0] / "new.jpg")
    os.utime(work[0] / "001.jpg", ns=(1, 1))
    (work[0] / "002.jpg").unlink()
    found = look(work)
    assert found.stages[0].missing == 2
    assert why(found)["index"] == "1 changed, 1 new, 1 photo no longer there"
    assert set(why(found)) == {
        *("index", "images", "detect", "faces", "choose", "labels", "duplicates", "crop:face", "stats")
    }
    api.run(*work, engine="serial")
    assert why(look(work)) == {}


@pytest.mark.parametrize(
    ("settings", "stage", "reason"),
    [
        ("views: {face: {size: 32, margin: 0.1}}", "crop:face", "margin 0.35 → 0.1"),
        ("views: {face: {size: 48x64, margin: 0.35}}", "crop:face", "size 32x32 → 48x64"),
        ("detect: {detectors: [yunet], thresholds: {yunet: 0.5}}", "detect", "yunet 0.3 → 0.5"),
        ("choose: {close: 0.2}", "choose", "its settings changed"),
        ("index: {max_megapixels: 50}", "index", "max_megapixels 120.0 → 50.0"),
        ("schema: {attributes: {pet: {classes: [a, b]}}}", None, ""),
    ],
)
def test_changed_settings_are_named(work: Work, tmp_path: Path, settings: str, stage: str | None, reason: str) -> None:
    path = tmp_path / "new.yaml"
    path.write_text(settings)
    found = look(work, path)
    if stage is None:
        return
    assert why(found)[stage] == reason
    names = [s.name for s in found.stages]
    later = [name for name in names[names.index(stage) + 1 :] if name != "detect"]  # it may still be as it was
    assert all(name in why(found) for name in later), "what comes later is out of date too"
    assert not set(why(found)) & set(names[: names.index(stage)])


def test_only_indexed(work: Work, tmp_path: Path, quick: Path) -> None:
    api.index(work[0], tmp_path / "new", quick, engine="serial")
    found = look((work[0], tmp_path / "new"))
    assert todo(found) == {**dict.fromkeys(("detect", "faces", "stats"), 8)}
    assert why(found)["choose"] == "waits for 'faces'"


def test_no_cache(work: Work, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        look((work[0], tmp_path / "none"))
    assert not (tmp_path / "none").exists()


# ---------------------------------------------------------------- one image


def test_explain(work: Work) -> None:
    lines = "\n".join(explain(Session(*work), "b/001.jpg"))
    assert "JPEG, 240x200" in lines
    assert "subject   ok box" in lines
    assert "the subject" in lines
    assert lines.count("current (shard 00000, row 5") == 3


def test_explain_a_photo_that_is_indexed_but_no_more(work: Work) -> None:
    shutil.copyfile(work[0] / "003.jpg", work[0] / "new.jpg")
    api.index(*work, engine="serial")
    lines = explain(Session(*work), "new.jpg")
    assert "labels    none" in lines
    assert "detect    not made yet" in lines


def test_explain_a_photo_that_took_another_s_place(work: Work) -> None:
    """As many subjects as images, but not of the same ones."""
    (work[0] / "003.jpg").rename(work[0] / "zzz.jpg")
    api.index(*work, engine="serial")
    explain(Session(*work), "zzz.jpg")
    assert {s.name: s.why for s in look(work).stages}["crop:face"] == "waits for 'choose'"


def test_explain_a_broken_photo(work: Work) -> None:
    (work[0] / "z.jpg").touch()
    api.run(*work, engine="serial")
    lines = explain(Session(*work), "z.jpg")
    assert "file      empty" in lines
    assert "subject   unreadable — empty" in lines
    assert "detect    not wanted" in lines


def test_explain_says_what_is_out_of_date(work: Work) -> None:
    shutil.copyfile(work[0] / "003.jpg", work[0] / "001.jpg")
    assert any(line.startswith("index     out of date: the photo") for line in explain(Session(*work), "001.jpg"))


def test_images_by_any_name(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    images, root = read_table(work[1] / "images.parquet")["image"].tolist(), work[0].resolve()
    assert find_image(images, "000.jpg", root) == "000.jpg"
    assert find_image(images, "b/000.jpg", root) == "b/000.jpg"
    assert find_image(images, str(root / "b" / "001.jpg"), root) == "b/001.jpg"
    monkeypatch.chdir(root / "b")
    assert find_image(images, "./001.jpg", root) == "b/001.jpg"
    longer = ["x/" + name for name in images]
    assert find_image(longer, "b/001.jpg", root) == "x/b/001.jpg"
    with pytest.raises(UsageError, match="may mean 2 images"):
        find_image(longer, "001.jpg", root)
    for name in ("nope.jpg", "", "."):
        with pytest.raises(UsageError, match="no image"):
            find_image(images, name, root)


def test_the_status_of_a_cache_whose_log_was_deleted(work: Work) -> None:
    (work[1] / "stages/detect/stage.json").unlink()
    (work[1] / "views/face/view.json").write_text("[]")
    assert todo(look(work)) == {}
    api.run(*work, engine="serial")
    assert json.loads((work[1] / "views/face/view.json").read_text())["size"] == [32, 32]
