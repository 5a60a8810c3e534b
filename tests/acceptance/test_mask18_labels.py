"""The planted label errors of mask18, fixed by a file of fixes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

import maskprep as api


@pytest.fixture(scope="module")
def cache(mask18: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """mask18 with the cheapest settings: one detector, no large crops."""
    root = tmp_path_factory.mktemp("mask18-labels")
    for part in ("train", "eval"):
        shutil.copytree(mask18 / part, root / "photos" / part)
    (root / "photos/maskprep.yaml").write_text("detect: {detectors: [yunet]}\nviews: {face: {size: 32}}\n")
    api.run(root / "photos", root / "cache")
    return root / "cache"


def write_fixes(mask18: Path, path: Path, wrong: int | None = None) -> int:
    """A row per line of label_errors.csv; in row ``wrong`` the expected value is altered. Returns how many rows."""
    errors = pd.read_csv(mask18 / "truth/label_errors.csv", dtype=str).fillna("")
    fixes = errors.rename(columns={"file": "image", "said": "expected", "true": "new"})
    if wrong is not None:
        fixes.loc[wrong, "expected"] = {"mask": "wear", "gender": "male"}[str(fixes.loc[wrong, "field"])]
    fixes.to_csv(path, index=False)
    return len(fixes)


def differing(mask18: Path, cache: Path) -> list[str]:
    """Images whose labels are not as the truth has them; every row is compared, in classes."""
    truth = pd.read_csv(mask18 / "truth/labels.csv", dtype=str)
    truth.index = "train/images/" + truth["file"]
    labels = pd.read_parquet(cache / "labels.parquet").set_index("image")
    labels = labels[labels.index.str.startswith("train/")]
    assert set(labels.index) == set(truth.index)
    truth = truth.loc[labels.index]
    age = pd.cut(pd.to_numeric(truth["age"]), [-1, 29, 59, 200], labels=False)
    joint = 6 * truth["mask"].map({"wear": 0, "incorrect": 1, "normal": 2}) + 3 * (truth["gender"] == "female") + age
    same = (labels["mask"] == truth["mask"]) & (labels["gender"] == truth["gender"]) & (labels["label"] == joint)
    return sorted(labels.index[~same])


def test_the_fixes_make_the_labels_true_and_twice_is_once(mask18: Path, cache: Path, tmp_path: Path) -> None:
    assert len(differing(mask18, cache)) == 7 * 7 + 10
    count = write_fixes(mask18, tmp_path / "fixes.csv")
    job = api.relabel(cache, fixes=[tmp_path / "fixes.csv"])
    assert [o.status for o in job.changes.outcomes] == ["applied"] * count
    assert differing(mask18, cache) == []
    before = (cache / "labels.parquet").read_bytes()
    again = api.relabel(cache, fixes=[tmp_path / "fixes.csv"])
    twice = api.relabel(cache, fixes=[tmp_path / "fixes.csv", tmp_path / "fixes.csv"])
    assert not +again.computed and differing(mask18, cache) == []
    assert twice.changes.values.keys() == again.changes.values.keys()
    api.relabel(cache, fixes=[tmp_path / "fixes.csv"])
    assert (cache / "labels.parquet").read_bytes() == before


@pytest.mark.parametrize("wrong", [0, 3])
def test_a_wrong_expectation_refuses_exactly_its_row(mask18: Path, cache: Path, tmp_path: Path, wrong: int) -> None:
    count = write_fixes(mask18, tmp_path / "fixes.csv", wrong)
    job = api.relabel(cache, fixes=[tmp_path / "fixes.csv"])
    statuses = [o.status for o in job.changes.outcomes]
    assert statuses == ["refused" if i == wrong else "applied" for i in range(count)]
    (note,) = job.notes
    assert f"fixes.csv, line {wrong + 2}: not applied, expected" in note
    assert len(differing(mask18, cache)) == job.changes.outcomes[wrong].images
