"""The command audit: findings, formats, exit codes, what it reads, and what hostile names do to it."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from audit_rows import context, photo

from maskprep.audit.examine import Audit
from maskprep.audit.findings import Finding, Outcome, run_checks
from maskprep.audit.page import render, write_report
from maskprep.audit.predictions import read_predictions
from maskprep.audit.selftest import FAULTS, run_self_test, score
from maskprep.base.progress import Silent
from maskprep.cli.console import printable
from maskprep.crops.geometry import ViewSettings
from maskprep.errors import UserError
from maskprep.labels.schema import Schema
from maskprep.photos.decode import PhotoFile
from maskprep.photos.folder import PhotoFolder
from maskprep.pipeline.session import Session
from maskprep.store.cache import Cache
from maskprep.store.decisions import Decision, change

Work = tuple[Path, Path]
TWO = Schema.from_dict({"attributes": {"kind": {"classes": ["cat", "dog"]}}})


def test_a_broken_photo_is_found_decided_and_not_found_again(work: Work) -> None:
    photos, cache = work
    (photos / "broken.jpg").write_bytes((photos / "000.jpg").read_bytes()[:2000])
    first = Session(cache, workers=1).audit()
    table = pd.read_parquet(cache / "audit" / "findings.parquet")
    assert list(table.columns) == ["image", "check", "severity", "detail"]
    assert table["image"][0] == "broken.jpg" and table["severity"].is_monotonic_decreasing
    assert set(table["check"]) <= {f.check for f in first.outcome.findings}
    images = pd.read_parquet(cache / "images.parquet").set_index("image")
    change(cache / "decisions.csv", [Decision(images.at["broken.jpg", "content"], "broken.jpg", "drop")])
    again = Session(cache, workers=1).audit()
    assert again.decided == {"broken.jpg"}
    assert "broken.jpg" not in set(pd.read_parquet(cache / "audit" / "findings.parquet")["image"])


def test_a_second_audit_reads_no_pixels(work: Work, monkeypatch: pytest.MonkeyPatch) -> None:
    photos, cache = work
    job = Session(cache, workers=1)
    first = job.audit()
    assert job.computed["measure"] == 8
    monkeypatch.setattr(PhotoFile, "pixels", lambda *_: pytest.fail("a photo was read"))
    job = Session(cache, workers=1)
    assert job.audit().outcome == first.outcome
    assert job.computed["measure"] == 0
    monkeypatch.undo()
    shutil.copy(photos / "000.jpg", photos / "new.jpg")
    job = Session(cache, workers=1)
    job.audit()
    assert job.computed["measure"] == 1


def test_a_decision_recuts_and_measures_only_what_it_concerns(work: Work) -> None:
    _, cache = work
    Session(cache, workers=1).audit()
    images = pd.read_parquet(cache / "images.parquet")
    change(cache / "decisions.csv", [Decision(images["content"][3], images["image"][3], "box", "5 5 100 120")])
    job = Session(cache, workers=1)
    job.audit()
    assert {k: v for k, v in job.computed.items() if v and k in ("detect", "index", "crop:face", "measure")} == {
        "crop:face": 1,
        "measure": 1,
    }


def test_mattes_and_duplicates_are_taken_from_their_tables(work: Work) -> None:
    _, cache = work
    images = pd.read_parquet(cache / "images.parquet")
    matte = {
        "key": "",
        "model": "m",
        "status": "ok",
        "coverage": 0.5,
        "face_coverage": 1.0,
        "components": 1,
        "border_share": 0.2,
    }
    table = pd.DataFrame([{"image": image, **matte} for image in images["image"]])
    table.loc[2, ["status", "coverage"]] = ["empty", 0.0]
    table.to_parquet(cache / "views" / "face" / "mattes.parquet")
    found = {(f.image, f.check) for f in Session(cache, workers=1).audit().outcome.findings}
    assert {(images["image"][2], "matte_empty"), ("000.jpg", "duplicate"), ("b/000.jpg", "duplicate")} <= found
    content = images.set_index("image")["content"]
    waiver = Decision(content["000.jpg"], "000.jpg", "keep", f"duplicate:{content['b/000.jpg']}")
    change(cache / "decisions.csv", [waiver])
    left = {f.image for f in Session(cache, workers=1).audit().outcome.findings if f.check == "duplicate"}
    assert "001.jpg" in left and not left & {"000.jpg", "b/000.jpg"}


def test_formats_and_exit_codes(work: Work, cli) -> None:  # type: ignore[no-untyped-def]
    photos, cache = work
    (photos / "broken.jpg").write_bytes(b"")
    plain = cli("audit", cache, "--top", "1", "-q")
    assert plain.returncode == 0 and "broken.jpg" in plain.stdout and "file_broken" in plain.stdout
    assert (cache / "audit" / "report.html").is_file()
    rows = list(csv.DictReader(io.StringIO(cli("audit", cache, "--format", "csv", "-q").stdout)))
    data = json.loads(cli("audit", cache, "--format", "json", "-q").stdout)
    assert [r["image"] for r in rows] == [f["image"] for f in data["findings"]] and rows[0]["check"] == "file_broken"
    assert "label_pattern" in data["not_run"] and "file_broken" not in data["not_run"]
    assert cli("audit", cache, "--fail-on", "file_broken", "-q").returncode == 3
    assert cli("audit", cache, "--fail-on", "face_tiny", "--fail-on", "mattes:0.2", "-q").returncode == 0
    wrong = cli("audit", cache, "--fail-on", "file_brokn", "-q")
    assert wrong.returncode == 2 and "Did you mean 'file_broken'" in wrong.stderr
    assert cli("audit", cache, "--format", "xml").returncode == 2
    assert cli("audit", cache, "--predictions", cache / "none.parquet", "-q").returncode == 1


def test_the_audit_of_photos_makes_its_cache_first(make_photos, quick: Path, yunet: None, tmp_path: Path, cli) -> None:  # type: ignore[no-untyped-def]
    make_photos(tmp_path / "photos", 2)
    found = cli("audit", tmp_path / "photos", "--cache", tmp_path / "c", "--config", quick, "-q")
    assert found.returncode == 0 and (tmp_path / "c" / "audit" / "findings.parquet").is_file()


# ---------------------------------------------------------------- predictions


def oof(path: Path, **columns: Any) -> Path:
    pd.DataFrame({"image": ["a", "b"], "label": [0, 1], "p_0": [0.9, 0.2], "p_1": [0.1, 0.8], **columns}).to_parquet(
        path
    )
    return path


def test_predictions_are_read_from_a_file_or_a_run(tmp_path: Path) -> None:
    oof(tmp_path / "oof.parquet")
    for path in (tmp_path, tmp_path / "oof.parquet"):
        found = read_predictions(path, TWO, {"a", "b", "c"})
        assert found.images == ("a", "b") and found.probabilities.shape == (2, 2)
    assert read_predictions(tmp_path, TWO, {"b"}).images == ("b",)


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"p_2": [0.0, 0.0]}, "more classes"),
        ({"p_1": [5.0, 5.0]}, "add up"),
        ({"p_1": [np.nan, 0.1]}, "none"),
        ({"label": [0, 7]}, "none"),
        ({"image": ["x", "y"]}, "no image in common"),
    ],
)
def test_wrong_predictions_are_named(tmp_path: Path, columns: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        read_predictions(oof(tmp_path / "oof.parquet", **columns), TWO, {"a", "b"})
    (tmp_path / "bad.parquet").write_text("no table")
    with pytest.raises(UserError, match="cannot be read"):
        read_predictions(tmp_path / "bad.parquet", TWO, {"a"})


# ---------------------------------------------------------------- hostile names

EVIL = [
    "</script><script>alert(1)</script>.jpg",
    '=cmd|"x"!A0.jpg',
    "line\nbreak.jpg",
    "../../up.jpg",
    '"><img src=x onerror=y>.jpg',
    "\u2028.jpg",
    "\ud800.jpg",
]


def test_hostile_text_stays_text_in_the_page() -> None:
    page = render({"path": EVIL})
    body = page.partition('<script id="data" type="application/json">')[2].partition("</script>")[0]
    assert json.loads(body)["path"] == EVIL
    assert page.count("<script") == 2 and page.count("</script>") == 2
    assert "<img" not in page
    page.encode()


def test_hostile_text_in_csv_json_and_terminal() -> None:
    outcome = Outcome(tuple(Finding(name, "dark", 0.5, "=1+1") for name in EVIL[:-1]), {})
    rows = list(csv.reader(io.StringIO(outcome.csv())))
    assert len(rows) == len(EVIL)
    assert not [cell for row in rows for cell in row if cell.startswith(("=", "+", "@"))]
    assert [f["image"] for f in json.loads(outcome.json())["findings"]] == EVIL[:-1]
    assert printable("a\nb\x1b[31m") == "a\\nb\\x1b[31m"


def test_photos_with_hostile_names_are_audited_and_shown(work: Work) -> None:
    photos, cache = work
    names = ["<script>alert(1)<&>.jpg", "=1+1.jpg", "a\nb.jpg", "100% #1?.jpg"]
    for name in names:
        shutil.copy(photos / "000.jpg", photos / name)
    job = Session(cache, workers=1)
    page = write_report(job.audit(), Silent()).read_text()
    data = json.loads(re.search(r'application/json">(.*?)</script>', page, re.DOTALL).group(1))  # type: ignore[union-attr]
    assert set(names) <= set(data["path"])
    assert "<script>alert" not in page
    assert all((cache / "audit" / "thumbs" / f"{name}.jpg").is_file() for name in data["thumb"] if name)


def test_thumbs_are_made_once(work: Work) -> None:
    photos, cache = work
    job = Session(cache, workers=1)
    write_report(job.audit(), Silent())
    before = {p: p.stat().st_mtime_ns for p in (cache / "audit" / "thumbs").rglob("*.jpg")}
    (photos / "001.jpg").unlink()
    job = Session(cache, workers=1)
    write_report(job.audit(), Silent())
    after = {p: p.stat().st_mtime_ns for p in (cache / "audit" / "thumbs").rglob("*.jpg")}
    assert 0 < len(after) <= len(before) and after.items() <= before.items()


# ---------------------------------------------------------------- the self-test


def test_scores_worked_by_hand() -> None:
    rows = [("a", "x", 0.9), ("b", "x", 0.8), ("c", "y", 0.6), ("d", "x", 0.3)]
    found = Outcome(tuple(Finding(*row, "") for row in rows), {})
    result = score("f", found, {"a", "c", "d", "e"}, set())
    assert (result.recall, result.precision, result.precision_at_k) == (2 / 4, 2 / 3, 3 / 4)
    assert result.average_precision == pytest.approx((1 / 1 + 2 / 3 + 3 / 4) / 4)
    assert result.recall_at_80 == 1 / 4  # after c it would be two in three
    assert result.found_by == "x 1, y 1"
    assert score("f", found, {"a"}, {"b", "c"}).precision == 1


def test_planted_faults_are_found_in_made_up_tables() -> None:
    rows = [
        photo(f"{p:03d}/{k}.jpg", person=f"{p:03d}", mask=["wear", "wear", "normal"][k], gender="male", age=20)
        for p in range(40)
        for k in range(3)
    ]
    crops = pd.DataFrame({"image": [row["image"] for row in rows], "invented": 0.0, "margin": 0.35})
    c = context(rows, views={"face": ViewSettings()}, crops={"face": crops})
    found = run_checks(c, [])
    scores = {
        s.fault: s for s in run_self_test(Audit(Cache(Path()), PhotoFolder(Path("none"), 1.0), c, found, []), Silent())
    }
    assert set(scores) == set(FAULTS)
    assert scores["one photo under two people"].recall == 1
    beyond = scores["crop beyond the photo"]
    assert (beyond.recall, beyond.precision) == (1, 1) and beyond.found_by == f"crop_invented {beyond.planted}"
    assert "mattes" in scores["matte blanked"].not_run
    assert c.duplicates is None and (c.subjects["x0"] == 30).all(), "the tables themselves are not changed"
