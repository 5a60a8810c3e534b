"""What an evaluation says besides the scores: slices, another run, baselines."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score
from sklearn.preprocessing import StandardScaler

from maskprep.errors import UsageError, UserError
from maskprep.labels import MASK_SCHEMA
from masktrain.answer import baselines, model
from masktrain.answer.evaluate import evaluate
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.score import evalset, metrics, paired, slices
from masktrain.study.fit import fit
from masktrain.train import model as models

Make = Callable[..., FitConfig]


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.fixture(scope="module")
def worse(cache: Path, config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of the same split that has learnt next to nothing."""
    return fit(cache, config(optim__epochs=1, optim__lr=1e-6), out=tmp_path_factory.mktemp("worse") / "worse").run


def test_a_paired_interval_is_that_of_resampling_and_its_verdict_agrees() -> None:
    rng = np.random.default_rng(3)
    person = np.repeat(np.arange(40), 6)
    people, truth = [f"p{k:02d}" for k in person], rng.integers(3, size=240)
    first = np.where(rng.random(240) < 0.85, truth, rng.integers(3, size=240))
    second = np.where(rng.random(240) < 0.6, truth, rng.integers(3, size=240))

    def difference(rows: np.ndarray) -> float:
        scores = (metrics.macro_f1(metrics.confusion(truth[rows], a[rows], 3)) for a in (first, second))
        return float(next(scores) - next(scores))

    found = paired.compare(truth, first, second, people, 3)
    assert found.difference == pytest.approx(difference(np.arange(240)), abs=1e-12)
    drawn = (rng.integers(40, size=40) for _ in range(300))
    draws = [difference(np.concatenate([np.flatnonzero(person == p) for p in each])) for each in drawn]
    assert (found.low, found.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.03)
    assert found.better and found.verdict == "clearly better" and "clearly better" in found.text
    reverse = paired.compare(truth, second, first, people, 3)
    assert (reverse.low, reverse.high) == pytest.approx((-found.high, -found.low))
    assert reverse.verdict == "clearly worse" and not reverse.better
    few = paired.compare(truth, first, second, [f"p{k % 7}" for k in person], 3)
    assert few.verdict == "too few people" and not few.better and few.text == f"{found.difference:+.4f}, too few people"


def test_equal_answers_do_not_differ() -> None:
    truth = np.arange(12) % 3
    found = paired.compare(truth, truth, truth, [str(i) for i in range(12)], 3)
    assert (found.difference, found.low, found.high) == (0, 0, 0) and found.verdict == "within noise"


def test_another_run_is_compared_on_the_same_images(own_run: Path, worse: Path, cache: Path) -> None:
    report = evaluate(own_run, cache, against=worse)
    other = evaluate(worse, cache)
    (rival,) = report.rivals
    assert rival.images == report.scores.n == other.scores.n
    assert rival.macro_f1 == pytest.approx(other.scores.macro_f1, abs=1e-12)
    assert rival.against.difference == pytest.approx(report.scores.macro_f1 - other.scores.macro_f1, abs=1e-12)
    assert rival.against.verdict == "too few people" and report.warnings == []
    data = json.loads((worse / "data.json").read_text())
    moved = Path(shutil.copytree(worse, own_run.parent / "moved"))
    data["people"] = {"train": data["people"]["train"] + data["people"]["val"], "val": []}
    (moved / "data.json").write_text(json.dumps(data))
    warned = evaluate(own_run, cache, against=moved)
    assert f"moved was trained on the people in {report.scores.n}" in warned.warnings[0]


def test_baselines(
    own_run: Path,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
) -> None:
    def from_scratch(*args: Any, **kwargs: Any) -> Any:
        return models.build(*args, **kwargs | {"pretrained": False})

    monkeypatch.setattr(baselines, "build", from_scratch)
    report = evaluate(own_run, cache, probe="test_resnet")
    names = [r.name for r in report.rivals]
    assert names == [
        "most frequent class",
        "chance (as often as in training)",
        "linear probe on frozen test_resnet",
    ]
    counts = runs.read_data(own_run)["classes"]["train"]
    view = model.open_for(model.load(own_run), cache)
    asked = evalset.ask(view, view.schema, runs.read_data(own_run))
    always = np.full(len(asked), np.argmax(counts))
    assert report.rivals[0].accuracy == pytest.approx(accuracy_score(asked.truth, always))
    assert report.rivals[0].macro_f1 == pytest.approx(f1_score(asked.truth, always, average="macro", zero_division=0))
    assert report.rivals[1].macro_f1 < 0.4 < report.rivals[2].macro_f1 < report.scores.macro_f1 + 0.3
    assert call("evaluate", own_run, cache, "--baselines", "--probe", "test_resnet", "--slice", "mask") == 0
    said = capsys.readouterr().out
    assert "most frequent class" in said and "calibration error" in said and "incorrect" in said


def test_the_probe_is_scikit_learns_and_never_sees_whom_it_is_asked_about(
    own_run: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    x, y, new = rng.normal(size=(90, 5)) * [1, 10, 1, 1, 100], rng.integers(3, size=90), rng.normal(size=(20, 5))
    scaler = StandardScaler().fit(x)
    theirs = LogisticRegression(max_iter=300).fit(scaler.transform(x), y).predict(scaler.transform(new))
    np.testing.assert_array_equal(baselines.regress(x, y, new), theirs)
    predictor = model.load(own_run)
    view, data = model.open_for(predictor, cache), runs.read_data(own_run)
    asked = evalset.ask(view, view.schema, data)
    seen: list[set[str]] = []
    features = baselines.features

    def spy(model: Any, view: Any, rows: np.ndarray, *rest: Any) -> np.ndarray:
        seen.append(set(view.table["person"].iloc[rows]))
        return features(model, view, rows, *rest)

    monkeypatch.setattr(baselines, "features", spy)
    baselines.linear_probe("test_resnet", predictor, view, asked, data, pretrained=False)
    assert seen[0] == set(data["people"]["train"]) and not seen[0] & seen[1]


def test_slices(own_run: Path, cache: Path) -> None:
    report = evaluate(own_run, cache, split="train", by=["status", "mask*gender"])
    assert {(s.by, s.value): s.images for s in report.slices} == {
        ("status", "ok"): 148, ("status", "unreadable"): 2,
        ("mask*gender", "wear male"): 45, ("mask*gender", "wear female"): 45,
        ("mask*gender", "incorrect male"): 15, ("mask*gender", "incorrect female"): 15,
        ("mask*gender", "normal male"): 15, ("mask*gender", "normal female"): 15,
    }  # fmt: skip
    recall = {c.name: c.recall for c in report.scores.classes}
    for s in report.slices:
        if s.by == "mask*gender":
            assert s.accuracy == pytest.approx(recall[s.value.replace(" ", "/")]) and s.low <= s.accuracy <= s.high
    states = list(dict.fromkeys(s.value.split()[0] for s in report.slices if s.by == "mask*gender"))
    assert states == ["wear", "incorrect", "normal"], "in the order of the schema"
    truth, told = (
        np.array([0, 0, 1, 1]),
        np.array([0, 2, 1, 1]),
    )  # a class that is only answered counts
    (one,) = slices.score(truth, told, list("abcd"), MASK_SCHEMA, {"part": ["x"] * 4}, ["part"])
    assert one.macro_f1 == pytest.approx(f1_score(truth, told, average="macro", zero_division=0))
    with pytest.raises(UsageError, match="no column 'stats'") as error:
        evaluate(own_run, cache, by=["stats"])
    assert "status" in error.value.hint


def test_the_default_slices() -> None:
    assert slices.default(MASK_SCHEMA, ["image", "status", "source"]) == ["status", "source", "mask*age"]


def test_an_interval_of_shares_by_resampling() -> None:
    rng = np.random.default_rng(1)
    people = np.repeat([f"p{i}" for i in range(60)], 4)
    right = rng.random(240) < np.repeat(rng.random(60), 4)
    made = metrics.share_interval(right, people.tolist())
    per_person = right.reshape(60, 4).mean(1)
    draws = [per_person[rng.integers(60, size=60)].mean() for _ in range(4000)]
    assert (made.low, made.high) == pytest.approx(tuple(np.quantile(draws, [0.025, 0.975])), abs=0.015)


def test_what_cannot_be_compared(own_run: Path, cache: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match="not a run folder"):
        evaluate(tmp_path / "model.onnx", cache)
    data = json.loads((own_run / "data.json").read_text())
    (own_run / "data.json").write_text(json.dumps(data | {"fingerprint": "x", "source": "y"}))
    with pytest.raises(UserError, match="holds others"):
        evaluate(own_run, cache, split="train", baselines=True)


def test_official_classes_always(own_run: Path, cache: Path, tmp_path: Path) -> None:
    """Labels to score against are by the cache's schema; a run that tells other classes is not scored on them."""
    other = Path(shutil.copytree(cache, tmp_path / "other"))
    dataset = json.loads((other / "dataset.json").read_text())
    dataset["schema"]["attributes"]["mask"]["classes"] = ["wear", "incorrect", "none"]
    (other / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(UserError, match="other classes"):
        evaluate(own_run, other)
    assert pd.read_parquet(other / "labels.parquet")["label"].notna().any()
