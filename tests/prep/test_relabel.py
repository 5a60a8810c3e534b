"""maskprep relabel: fixes given once are remembered, applied again and again to the same end, and never in silence."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import maskprep as api
from maskprep.errors import UsageError, UserError
from maskprep.pipeline.explain import explain, survey
from maskprep.pipeline.session import Session

Cli = Callable[..., Any]

NAMES = ("mask1", "incorrect_mask", "normal")
PEOPLE = ("000001_male_Asian_20", "000002_female_Asian_59", "000003_female_Asian_60")


@pytest.fixture(scope="module")
def made(
    tmp_path_factory: pytest.TempPathFactory, make_photos: Callable[..., list[Path]], yunet: None, quick: Path
) -> Path:
    """Photos of three people with their cache; not to be touched."""
    root = tmp_path_factory.mktemp("relabel")
    found = make_photos(root / "raw", 9)
    for i, photo in enumerate(found):
        target = root / "photos/train/images" / PEOPLE[i // 3] / f"{NAMES[i % 3]}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        photo.rename(target)
    api.run(root / "photos", root / "cache", quick, engine="serial")
    return root


@pytest.fixture
def work(made: Path, tmp_path: Path) -> Path:
    """A folder with photos and cache, up to date, to be changed."""
    for name in ("photos", "cache"):
        shutil.copytree(made / name, tmp_path / name)
    dataset = json.loads((tmp_path / "cache/dataset.json").read_text())
    dataset["source"] |= {"root": str((tmp_path / "photos").resolve()), "config": None, "views": []}
    (tmp_path / "cache/.dataset.json").unlink()
    (tmp_path / "cache/dataset.json").write_text(json.dumps(dataset, indent=2, ensure_ascii=False) + "\n")
    return tmp_path


def write(path: Path, *rows: str) -> Path:
    path.write_text("\n".join(("person,image,operation,field,expected,new,other,reason", *rows)) + "\n")
    return path


def labels(work: Path) -> pd.DataFrame:
    table = pd.read_parquet(work / "cache/labels.parquet").set_index("image")
    table.index = [f"{i.split('/')[2][:6]}/{i.split('/')[3].split('.')[0]}" for i in table.index]
    return table


def stage(job: Session, name: str) -> Any:
    return next(s for s in survey(job).stages if s.name == name)


def relabel(work: Path, **options: Any) -> Session:
    return api.relabel(work / "cache", engine="serial", **options)


def test_fixes_are_applied_and_remembered_by_every_later_command(work: Path) -> None:
    before = (work / "cache/labels.parquet").read_bytes()
    file = write(
        work / "fixes.csv",
        "1,,,gender,male,female,,looked at her",
        "2,normal.*,swap,mask,normal,incorrect,incorrect_mask.*,",
        "000003,,drop,,,,,twin",
    )
    job = relabel(work, fixes=[file])
    after = labels(work)
    assert dict(job.computed) == {"labels": 9}
    assert after.loc["000001/mask1", ["gender", "label"]].tolist() == ["female", 3]
    assert after.loc["000002/normal", "mask"] == "incorrect" and after.loc["000002/incorrect_mask", "mask"] == "normal"
    assert after.loc["000003/normal", "excluded"] == "fix: twin"
    content = (work / "cache/labels.parquet").read_bytes()
    assert content != before
    assert not +api.run(work / "cache", engine="serial").computed  # remembered, and nothing to do
    assert not +relabel(work, fixes=[file]).computed
    assert (work / "cache/labels.parquet").read_bytes() == content  # twice is once
    relabel(work, fixes=[])
    assert (work / "cache/labels.parquet").read_bytes() == before


def test_a_changed_file_makes_labels_out_of_date(work: Path) -> None:
    file = write(work / "fixes.csv", "1,,,gender,male,female,,")
    relabel(work, fixes=[file])
    assert not stage(Session(work / "cache"), "labels").why
    write(file, "2,,,gender,female,male,,")
    assert stage(Session(work / "cache"), "labels").why == "its schema or fixes changed"
    assert dict(api.run(work / "cache", engine="serial").computed) == {"labels": 9}
    assert labels(work)["gender"].tolist() == ["male"] * 6 + ["female"] * 3
    file.unlink()
    assert "are not there" in stage(Session(work / "cache"), "labels").why
    with pytest.raises(UserError, match="fixes none"):
        api.run(work / "cache", engine="serial")
    assert dict(relabel(work, fixes=[]).computed) == {"labels": 9}


def test_a_dry_run_changes_nothing(work: Path) -> None:
    def state() -> dict[str, bytes]:
        return {str(p): p.read_bytes() for p in (work / "cache").rglob("*") if p.is_file() and p.name[0] != "."}

    before = state()
    job = relabel(work, fixes=[write(work / "fixes.csv", "1,,,gender,male,female,,")], dry_run=True)
    assert [(o.status, o.images) for o in job.changes.outcomes] == [("applied", 3)]
    assert state() == before


def test_what_is_not_applied_is_said_every_time(work: Path) -> None:
    rows = ("1,,,gender,female,male,,", "000002,,,age,58,60,,", "9,,,gender,male,female,,")
    job = relabel(work, fixes=[write(work / "fixes.csv", *rows)])
    wanted = [
        "fixes.csv, line 3: not applied, expected age 58, found 59"
        " (train/images/000002_female_Asian_59/incorrect_mask.jpg).",
        "fixes.csv, line 4: not applied, it selects no image.",
    ]
    assert job.notes == wanted == api.run(work / "cache", engine="serial").notes
    assert labels(work)["source"].isna().all()


def test_settings_name_files_relative_to_themselves(work: Path) -> None:
    (work / "rules").mkdir()
    write(work / "rules/fixes.csv", "1,,,gender,male,female,,")
    (work / "photos/maskprep.yaml").write_text("labels: {fixes: [../rules/fixes.csv], min_agree: 3}\n")
    api.run(work / "cache", engine="serial")
    assert labels(work).loc["000001/normal", "gender"] == "female"
    (work / "photos/maskprep.yaml").write_text("labels: {fixse: []}\n")
    with pytest.raises(UsageError, match=r"Did you mean 'fixes'"):
        Session(work / "cache")
    (work / "photos/maskprep.yaml").write_text("labels: {min_agree: 0}\n")
    with pytest.raises(UsageError, match=r"at least 1, not 0"):
        Session(work / "cache")


def test_a_mistake_is_told_before_any_work(tmp_path: Path, make_photos: Callable[..., list[Path]]) -> None:
    make_photos(tmp_path / "photos", 1)
    with pytest.raises(UserError, match="unknown column"):
        (tmp_path / "f.csv").write_text("persn\n1\n")
        api.relabel(tmp_path / "photos", tmp_path / "cache", fixes=[tmp_path / "f.csv"])
    assert not (tmp_path / "cache").exists()


def ruling(work: Path, *rows: str) -> None:
    images = pd.read_parquet(work / "cache/images.parquet").set_index("image")["content"]
    image = "train/images/000001_male_Asian_20/normal.jpg"
    head = "content,image,verdict,value,expected,reason,by,when\n"
    lines = [f"{images[image]},{image},{row}\n" for row in rows]
    (work / "cache/decisions.csv").write_text(head + "".join(lines))


def test_a_ruling_changes_one_photo_and_not_its_face(work: Path) -> None:
    ruling(work, "relabel,gender=male,,first thought,mk,", "relabel,gender=female,gender=male,she told me,mk,2026")
    job = api.run(work / "cache", engine="serial")
    assert dict(job.computed) == {"labels": 9} and not job.notes
    assert labels(work)["gender"].tolist()[:3] == ["male", "male", "female"]
    (line,) = [x for x in explain(Session(work / "cache"), "000001_male_Asian_20/normal.jpg") if "changed by" in x]
    assert line == "  gender was male; changed by decisions.csv, line 3 (she told me, mk)"


def test_a_stale_ruling_is_said_and_not_applied(work: Path) -> None:
    ruling(work, "relabel,mask=wear,mask=incorrect,,,")
    job = api.run(work / "cache", engine="serial")
    image = "train/images/000001_male_Asian_20/normal.jpg"
    assert job.notes == [f"decisions.csv, line 2: stale, expected mask incorrect, found normal ({image})."]
    assert labels(work)["mask"].tolist()[:3] == ["incorrect", "wear", "normal"]
    (work / "photos" / image).unlink()
    (note,) = api.run(work / "cache", engine="serial").notes
    assert note == f"decisions.csv, line 2: stale, the photo '{image}' has changed or is not there."


@pytest.mark.parametrize(
    "row, message",
    [
        ("relabel,gender,,,,", "'gender' is no new label"),
        ("relabel,gender=,,,,", "is no new label"),
        ("relabel,gender=male,mask=wear,,,", "is no label 'gender'"),
        ("relabel,gendre=male,,,,", "Did you mean 'gender'"),
    ],
)
def test_a_ruling_that_is_wrong(work: Path, row: str, message: str) -> None:
    ruling(work, row)
    with pytest.raises(UserError) as error:
        api.run(work / "cache", engine="serial")
    assert message in str(error.value) and "line 2" in str(error.value)


def test_the_command_line(work: Path, cli: Cli) -> None:
    file = write(work / "fixes.csv", "1,,,gender,male,female,,", "2,,,age,58,60,,")
    run = cli("relabel", work / "cache", "--fixes", file, "--dry-run", env={"COLUMNS": "160"})
    assert run.returncode == 0 and "3 labels of 3 images would change" in run.stdout
    assert "expected age 58, found 59" in " ".join(run.stdout.split())
    run = cli("relabel", work / "cache", "--fixes", file, "--preset", "boostcamp", "--strict")
    assert run.returncode == 3 and "3 labels of 3 images changed" in run.stdout
    assert "fixes of the preset are about people who are not here" in run.stdout
    settings = json.loads((work / "cache/dataset.json").read_text())["settings"]["labels"]
    assert settings == {"fixes": [os.fspath(file.resolve())], "preset": "boostcamp", "min_agree": 2}
    run = cli("relabel", work / "cache", "--fixes", "none", "--preset", "none")
    assert run.returncode == 0 and "0 labels of 0 images changed" in run.stdout
    run = cli("relabel", work / "cache", "--preset", "boot")
    assert run.returncode == 2 and "Did you mean 'boostcamp'" in run.stderr


@pytest.mark.parametrize("rows", [["1,,,foo,,1,,"], ["1,,,gender,,male,,", "1,,,gender,,female,,"]])
def test_fixes_that_cannot_be_applied_are_not_remembered(work: Path, rows: list[str]) -> None:
    """A mistake costs one command, not every one that comes after it."""
    before = (work / "cache/dataset.json").read_text()
    with pytest.raises(UserError):
        relabel(work, fixes=[write(work / "bad.csv", *rows)])
    assert (work / "cache/dataset.json").read_text() == before
    assert not +api.run(work / "cache", engine="serial").computed
