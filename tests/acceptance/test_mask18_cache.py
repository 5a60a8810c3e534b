"""maskprep on real portraits with planted faults, against the truth about them."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

import maskprep as api
from maskprep.faces.face import iou
from maskprep.pipeline.explain import survey
from maskprep.weights.fetch import locate


@pytest.fixture(scope="module")
def photos(mask18: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy without the truth, so that a photo may be touched and nothing can read the answers."""
    for name in ("yunet", "blazeface_full", "blazeface_short"):
        locate(name)
    folder = tmp_path_factory.mktemp("mask18") / "photos"
    for part in ("train", "eval"):
        shutil.copytree(mask18 / part, folder / part)
    return folder


@pytest.fixture(scope="module")
def cache(photos: Path) -> Path:
    """Made in one go by one worker."""
    folder = photos.parent / "one-worker"
    api.run(photos, folder, workers=1)
    return folder


def image_of(truth: str) -> str:
    return f"eval/images/{truth[5:]}" if truth.startswith("eval/") else f"train/images/{truth}"


def hashes(cache: Path) -> dict[str, str]:
    """Every file of a cache that holds data (not the log, the lock or pictures drawn from it)."""
    files = [p for p in cache.rglob("*") if p.suffix in (".parquet", ".npy", ".json") and p.name[0] != "."]
    return {str(p.relative_to(cache)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def test_every_photo_has_its_row_and_every_fault_its_error(mask18: Path, photos: Path, cache: Path) -> None:
    images = pd.read_parquet(cache / "images.parquet").set_index("image")
    on_disk = {
        p.relative_to(photos).as_posix() for p in photos.rglob("*") if p.suffix.lower() in (".jpg", ".jpeg", ".png")
    }
    hidden = {name for name in on_disk if Path(name).name.startswith("._")}
    assert hidden and set(images.index) == on_disk - hidden
    faults = pd.read_csv(mask18 / "truth" / "file_faults.csv")
    for fault in faults.itertuples():
        row = images.loc[image_of(fault.file)]
        if fault.fault in ("truncated", "empty"):
            assert row["error"] == fault.fault
        else:
            assert pd.isna(row["error"])
        if fault.fault == "rotated":
            assert row["orientation"] != 1 and row["width"] < row["height"]
    assert set(images["error"].dropna()) == {"truncated", "empty"}
    assert (
        len(images)
        == len(pd.read_parquet(cache / "subjects.parquet"))
        == len(pd.read_parquet(cache / "labels.parquet"))
    )


def test_the_subject_is_found(mask18: Path, cache: Path) -> None:
    subjects = pd.read_parquet(cache / "subjects.parquet").set_index("image")
    truth = json.loads((mask18 / "truth" / "faces.json").read_text())
    right = wrong = 0
    for entry in truth:
        row = subjects.loc[image_of(entry["file"])]
        if row["status"] == "unreadable":
            continue
        box = tuple(row[["x0", "y0", "x1", "y1"]])
        hit = iou(box, tuple(entry["main"])) >= 0.3
        right, wrong = right + hit, wrong + (not hit)
    assert right >= 0.999 * (right + wrong)


def test_nothing_changed_computes_nothing_and_a_touched_photo_one(photos: Path, cache: Path) -> None:
    before = hashes(cache)
    assert not +api.run(photos, cache).computed
    assert hashes(cache) == before
    photo = photos / "train/images/000001_male_Asian_32/mask1.jpg"
    photo.touch()
    assert dict(api.run(photos, cache).computed) == {"index": 1}
    other = photos / "train/images/000001_male_Asian_32/mask2.jpg"
    photo.write_bytes(other.read_bytes())
    job = api.run(photos, cache)
    assert {name: job.computed[name] for name in ("index", "detect", "crop:face")} == {
        "index": 1,
        "detect": 1,
        "crop:face": 1,
    }
    assert all(not stage.missing for stage in survey(job).stages)


def test_killed_at_random_moments_gives_the_same_bytes(photos: Path, tmp_path: Path) -> None:
    whole, killed = photos.parent / "one-go", tmp_path / "killed"
    started = time.monotonic()
    api.run(photos, whole, workers=1)
    duration = time.monotonic() - started
    command = [sys.executable, "-c", "from maskprep.cli import main; main()", "run", os.fspath(photos), "-j", "2"]
    draw = random.Random(0)
    kills = 0
    while kills < 10:
        process = subprocess.Popen([*command, "--cache", os.fspath(killed)], stderr=subprocess.DEVNULL)
        try:
            process.wait(draw.uniform(0.3, 0.25 * duration))
            break  # it finished before all ten kills were spent
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            kills += 1
    subprocess.run([*command, "--cache", os.fspath(killed)], check=True, stderr=subprocess.DEVNULL)
    assert kills >= 3
    assert hashes(killed) == hashes(whole)
