"""Where the errors come from: what would be gained if some kind of error were right."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import f1_score

from maskprep.audit.predictions import mislabelled
from maskprep.labels.schema import Attribute, Schema
from masktrain.cli import app as cli
from masktrain.pages import report, suspects
from masktrain.score import origins
from masktrain.score.origins import Evidence

SCHEMA = Schema((Attribute("mask", ("on", "off")), Attribute("age", ("<30", "30-59", ">=60"), (30.0, 60.0))))


def label(mask: int, age: int) -> int:
    return 3 * mask + age


TRUTH = np.array([label(0, 0), label(0, 1), label(0, 2), label(1, 0), label(1, 1), label(1, 2)])
SAID = np.array([label(0, 1), label(0, 1), label(0, 1), label(0, 0), label(1, 1), label(0, 0)])
AGES = np.array([29.0, 40.0, 62.0, 28.0, 31.0, 61.0])
"""Wrong: 0 in age (at 29), 2 in age (at 62), 3 in mask, 5 in both (at 61)."""
PEOPLE = ["a", "a", "b", "c", "c", "d"]


def gain(**right: list[int]) -> float:
    """What scikit-learn says is gained where some images' attributes are put right by hand."""
    mended = SAID.copy()
    for name, images in right.items():
        for i in images:
            mask, age = (mended[i] // 3, mended[i] % 3)
            mended[i] = label(TRUTH[i] // 3, age) if name == "mask" else label(mask, TRUTH[i] % 3)
    return float(f1_score(TRUTH, mended, average="macro") - f1_score(TRUTH, SAID, average="macro"))


def test_by_hand() -> None:
    evidence = Evidence(
        {"age": AGES},
        doubtful=np.array([0, 0, 0, 1, 1, 0], dtype=bool),
        suspects=np.array([1, 0, 0, 0, 0, 0], dtype=bool),
        suspected="by hand",
    )
    found = {o.what: o for o in origins.rank(TRUTH, SAID, PEOPLE, SCHEMA, evidence)}
    wanted = {
        "every mask": (6, 2, 2, gain(mask=[3, 5])),
        "every age": (6, 3, 3, gain(age=[0, 2, 5])),
        "age within 2 of a limit (30, 60)": (4, 2, 2, gain(age=[0, 5])),  # 28, 29, 31 and 61; not 62
        "photos with a doubtful crop": (2, 1, 1, gain(mask=[3])),
        "likely label errors (by hand)": (1, 1, 1, gain(age=[0])),
        "the 4 people with the most errors (a, b, c, d)": (6, 4, 4, gain(mask=[3, 5], age=[0, 2, 5])),
    }
    assert set(found) == set(wanted)
    for what, (images, wrong, people, value) in wanted.items():
        assert (found[what].images, found[what].wrong, found[what].people) == (images, wrong, people), what
        assert found[what].gain == pytest.approx(value), what
        assert found[what].low <= value + 1e-12 and value <= found[what].high + 1e-12
    gains = [o.gain for o in origins.rank(TRUTH, SAID, PEOPLE, SCHEMA, evidence)]
    assert gains == sorted(gains, reverse=True)
    assert gains[0] == pytest.approx(1 - f1_score(TRUTH, SAID, average="macro"))
    wide = origins.rank(TRUTH, SAID, PEOPLE, SCHEMA, evidence, margin=11)
    assert any(o.what.startswith("age within 11") and (o.images, o.wrong) == (6, 3) for o in wide)


def test_nothing_wrong_and_nothing_known() -> None:
    found = origins.rank(TRUTH, TRUTH, PEOPLE, SCHEMA, Evidence({}))
    assert [(o.what, o.wrong, o.gain) for o in found] == [("every mask", 0, 0.0), ("every age", 0, 0.0)]
    nobody = [f"{k}.jpg" for k in range(6)]  # every image is its own person where nobody is named
    assert not any("people" in o.what for o in origins.rank(TRUTH, SAID, nobody, SCHEMA, Evidence({})))


def planted(accuracy: float, wrong: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[np.ndarray]]:
    """Labels of which a share is wrong, the truth, and the probabilities of two overconfident runs, [1200, 2] each.

    Their evidence is normal; a part of it is the image's own, which both see.
    """
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 2, 1200)
    labels = np.where(rng.random(1200) < wrong, 1 - truth, truth)
    reach = NormalDist().inv_cdf(accuracy)
    own = rng.normal(size=1200)
    runs = []
    for _ in range(2):
        evidence = (2 * truth - 1) * reach + np.sqrt(0.7) * own + np.sqrt(0.3) * rng.normal(size=1200)
        p = 1 / (1 + np.exp(-2.5 * 2 * reach * evidence))  # the log-odds are 2 * reach * evidence
        runs.append(np.stack([1 - p, p], 1))
    return labels, truth, runs


def test_planted_label_errors_are_drafted_and_few_others() -> None:
    """Before: what one run says with a probability of 0.9, whatever it knows."""
    schema = Schema((Attribute("a", ("x", "y")),))
    before, after, expected = [], [], []
    for seed in range(5):
        for accuracy in (0.8, 0.97, 0.995):
            labels, truth, runs = planted(accuracy, 0.03, seed)
            bad = labels != truth
            first = (runs[0].argmax(1) != labels) & (runs[0].max(1) >= 0.9)
            before.append((bad & first).sum() / np.array([first.sum(), bad.sum()]))
            told = np.array([p.argmax(1) for p in runs])
            found, unknown = suspects.doubts(labels, np.mean(runs, 0), told, schema, 0.9)
            assert (unknown == ("a",)) == (accuracy == 0.8)
            if accuracy == 0.8:
                assert not found  # as it errs far more often than people do
                continue
            drafted = [d for d in found if d.agree > 1]
            right = sum(bool(bad[d.row]) for d in drafted)
            after.append((right / len(drafted), right / bad.sum()))
            expected.append(np.mean([d.probability for d in drafted]))
    precision, recall = np.mean(before, 0)
    assert precision < 0.65 and recall > 0.85
    precision, recall = np.mean(after, 0)
    assert precision > 0.95 and recall > 0.75
    assert precision == pytest.approx(np.mean(expected), abs=0.05)


def test_no_label_is_doubted_where_all_are_right() -> None:
    labels, _, runs = planted(0.95, 0.0)
    p = np.mean([p**4 / (p**4).sum(1, keepdims=True) for p in runs], 0)  # far too sure: only a temperature mends that
    assert ((p.argmax(1) != labels) & (p.max(1) >= 0.9)).sum() > 10
    said = mislabelled(labels, p)
    assert said is not None and (said[1] >= 0.9).sum() <= 1


def test_a_share_of_wrong_labels_by_hand() -> None:
    """Of 1000 labels 50 are wrong, where a perfect model is sure: so is the answer, whatever the temperature."""
    labels = np.repeat([0, 1], 500)
    said = np.where(np.arange(1000) % 20 == 0, 1 - labels, labels)
    other, wrong = mislabelled(labels, np.where(np.eye(2)[said] > 0, 0.999, 0.001)) or pytest.fail("gated")
    assert (other == 1 - labels).all() and (wrong[said != labels] > 0.95).all() and (wrong[said == labels] < 0.01).all()
    frequent = np.where(np.arange(1000) < 40, 1, 0)  # a model that says 0 of all is right in 96 %
    assert mislabelled(frequent, np.tile([0.99, 0.01], (1000, 1))) is None


def test_what_a_cache_knows(tmp_path: Path) -> None:
    """The second image was found late, the third by one detector of two, the fourth is rescued."""
    images = pd.DataFrame({"image": list("abcde"), "status": ["ok", "ok", "ok", "rescued", "ok"]})
    images["age"] = ["29", None, 60, 60, 60]  # 60 is all there is of its class: it may mean any age above
    pd.DataFrame({"image": list("abcde"), "face": [0, 0, 0, None, 1.0]}).to_parquet(tmp_path / "subjects.parquet")
    faces = [("a", 0, 0, "p"), ("a", 1, 0, "q"), ("b", 0, 0, "p"), ("b", 1, 0, "q"), ("c", 0, 0, "p")]
    faces += [("e", 0, 0, "p"), ("e", 1, 1, "p"), ("e", 2, 1, "q")]
    table = pd.DataFrame(faces, columns=["image", "face", "group", "detector"])
    table["rung"] = np.where(table["image"] == "b", "padded", "as_is")
    table.to_parquet(tmp_path / "faces.parquet")
    truth = np.zeros(5, dtype=np.int64)
    found = origins.gather(tmp_path, images, SCHEMA, truth, None)
    assert found.doubtful is not None and found.doubtful.tolist() == [False, True, True, True, False]
    np.testing.assert_array_equal(found.numbers["age"], [29, np.nan, np.nan, np.nan, np.nan])
    assert found.suspects is None
    (tmp_path / "audit").mkdir()
    findings = [("a", "label_picture", 0.9), ("b", "label_picture", 0.3), ("c", "blurry", 0.9)]
    pd.DataFrame(findings, columns=["image", "check", "severity"]).to_parquet(tmp_path / "audit/findings.parquet")
    found = origins.gather(tmp_path, images, SCHEMA, truth, np.full((5, 6), 1 / 6))
    assert found.suspects is not None and found.suspects.tolist() == [True, False, False, False, False]
    assert found.suspected == "by maskprep audit"


def test_on_the_page_and_in_the_terminal(
    run: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    oof = pd.read_parquet(copy / "oof.parquet")
    columns = [c for c in oof if c.startswith("p_")]
    oof.loc[:, columns] = np.eye(6)[(oof["label"] + 2) % 6]  # every mask wrong, every gender right
    oof.to_parquet(copy / "oof.parquet")
    page = report.report(copy).read_text()
    assert "Where the errors come from" in page
    assert f"<td class=wide>every mask<td class=n>{len(oof)}<td class=n>{len(oof)}<td class=n>6<td>+1.000" in page
    assert f"<td class=wide>every gender<td class=n>{len(oof)}<td class=n>0<td class=n>0<td>+0.000" in page
    assert "gains do not add up" in page
    advice = page.partition("<h2>What to do next</h2>")[2].partition("<h3>")[0]
    assert advice.index("Errors in mask") < advice.index("masktrain fit") and "Errors in gender" not in advice
    monkeypatch.setattr(sys, "argv", ["masktrain", "evaluate", str(run), str(cache), "--split", "train"])
    with pytest.raises(SystemExit):
        cli.main()
    said = capsys.readouterr().out
    assert "if all of these were right" in said and "every mask" in said and "the gains do not add up" in said
    assert "label errors" not in said  # the run knows these people
