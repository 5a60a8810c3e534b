"""A file of predictions is scored without a run, without crops and without torch."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from maskprep.errors import UsageError, UserError
from maskprep.labels import MASK_SCHEMA
from masktrain.answer.evaluate import evaluate
from masktrain.answer.predict import predict
from masktrain.combine.ensemble import ensemble
from masktrain.data import names
from masktrain.score import report as submission

Change = Callable[[pd.DataFrame], pd.DataFrame]


@pytest.fixture
def truth(cache: Path) -> pd.DataFrame:
    """The true joint label of every photo of the split eval, by file name."""
    table = pd.read_csv(cache / "truth.csv")
    table = table[table["image"].str.startswith("eval/")]
    return pd.DataFrame({"ImageID": table["image"].str.removeprefix("eval/"), "ans": table["truth"]}).reset_index(
        drop=True
    )


@pytest.fixture
def labelled(cache: Path, tmp_path: Path) -> Path:
    """The cache with its labels alone: no crops, and the split eval labelled."""
    copy = tmp_path / "labelled"
    copy.mkdir()
    for file in ("dataset.json", "images.parquet", "subjects.parquet"):
        shutil.copy(cache / file, copy)
    labels = pd.read_parquet(cache / "labels.parquet")
    known = pd.read_csv(cache / "truth.csv")["truth"].astype("Int64")
    labels["label"] = known.where(labels["image"].str.startswith("eval/"), labels["label"])
    labels.to_parquet(copy / "labels.parquet")
    return copy


def wrong_here_and_there(truth: pd.DataFrame) -> pd.DataFrame:
    """Every third answer is another class."""
    return truth.assign(ans=[(k + (i % 3 == 0)) % 6 for i, k in enumerate(truth["ans"])])


def test_scores_are_those_of_scikit_learn(labelled: Path, truth: pd.DataFrame, tmp_path: Path) -> None:
    given = wrong_here_and_there(truth)
    given.sample(frac=1, random_state=1).to_csv(tmp_path / "p.csv", index=False)
    report = submission.score_file(tmp_path / "p.csv", labelled)
    assert report.scores.n == 20 and report.ece is None and report.warnings == [] and "'eval'" in report.what
    assert report.scores.accuracy == pytest.approx(accuracy_score(truth["ans"], given["ans"]))
    assert report.scores.macro_f1 == pytest.approx(f1_score(truth["ans"], given["ans"], average="macro"))
    assert {s.by for s in report.slices} == {"status"}
    assert report.file == tmp_path / "p-eval-labelled-eval.json"
    assert json.loads(report.file.read_text())["scores"]["macro_f1"] == report.scores.macro_f1


def test_answers_of_a_file_count_where_the_cache_has_none(cache: Path, truth: pd.DataFrame, tmp_path: Path) -> None:
    given = wrong_here_and_there(truth)
    given.to_csv(tmp_path / "p.csv", index=False)
    truth.iloc[:12].to_csv(tmp_path / "a.csv", index=False)
    report = submission.score_file(tmp_path / "p.csv", cache, answers=tmp_path / "a.csv")
    assert report.scores.n == 12 and report.warnings == [
        "8 rows of p.csv ignored: these photos are not among the scored ones."
    ]
    assert report.scores.accuracy == pytest.approx(accuracy_score(truth["ans"][:12], given["ans"][:12]))


def test_columns_of_attributes_hold_names_of_classes_or_numbers(tmp_path: Path) -> None:
    """The names of age groups are what predict --details writes, numbers what lists of people have."""
    table = pd.DataFrame(
        {"mask": ["Wear", "incorrect", "normal"], "gender": ["male", "male", "female"], "age": ["<30", ">=60", "45"]}
    )
    wanted = [
        MASK_SCHEMA.class_names.index(name) for name in ("wear/male/<30", "incorrect/male/>=60", "normal/female/30-59")
    ]
    assert names.labels(table, MASK_SCHEMA, tmp_path / "p.csv").tolist() == wanted
    with pytest.raises(UserError, match="1 answer outside the classes: 'Wear/male/old' in row 2"):
        names.labels(table.replace("<30", "old"), MASK_SCHEMA, tmp_path / "p.csv")


@pytest.mark.parametrize("form", ["p_0", "p_class", "names", "attributes", "beside the truth"])
def test_forms_of_predictions(
    labelled: Path, cache: Path, truth: pd.DataFrame, tmp_path: Path, form: str, synthetic: object
) -> None:
    from maskprep.dataset.view import open_view

    schema, given = open_view(cache).schema, wrong_here_and_there(truth)
    table = given[["ImageID"]].rename(columns={"ImageID": "image"})
    if form in ("p_0", "p_class", "beside the truth"):
        for k, name in enumerate(schema.class_names):
            table[f"p_{name}" if form == "p_class" else f"p_{k}"] = np.where(given["ans"] == k, 0.75, 0.05)
        if form == "beside the truth":
            table["label"] = truth["ans"]
    elif form == "names":
        table["label"] = [schema.class_names[k] for k in given["ans"]]
    else:
        for i, name in enumerate(schema.joint):
            table[name] = [schema[name].classes[schema.decode(int(k))[i]] for k in given["ans"]]
    table.to_csv(tmp_path / "p.csv", index=False)
    report = submission.score_file(tmp_path / "p.csv", labelled)
    accuracy = accuracy_score(truth["ans"], given["ans"])
    assert report.scores.accuracy == pytest.approx(accuracy)
    assert report.ece == (pytest.approx(abs(0.75 - accuracy)) if table.columns.str.startswith("p_").any() else None)


def test_what_a_run_predicted_scores_as_the_run(run: Path, cache: Path, labelled: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    predict(own, cache, tmp_path / "p.csv", split="train", proba=True, without="likeliest")
    whole = evaluate(own, cache, split="train")
    report = submission.score_file(tmp_path / "p.csv", labelled, split="train")
    of_file, of_run = (dataclasses.replace(r.scores, log_loss=None) for r in (report, whole))
    assert of_file == of_run and report.interval == whole.interval
    assert report.scores.log_loss == pytest.approx(whole.scores.log_loss, abs=1e-5)  # a file rounds probabilities
    assert report.ece == pytest.approx(whole.ece, abs=1e-3)  # of the crops; two photos have none
    # the other way round: the run against its own predictions
    twin = evaluate(own, cache, split="train", against=tmp_path / "p.csv")
    assert twin.rivals[0].macro_f1 == whole.scores.macro_f1 and twin.rivals[0].against.difference == 0


def test_out_of_fold_predictions_are_about_their_own_people(
    run: Path, cache: Path, labelled: Path, tmp_path: Path
) -> None:
    kept = pd.read_parquet(run / "oof.parquet")
    if "0000" in set(kept["person"]):  # two of this person's photos have no crop
        none = pd.DataFrame({"image": [f"train/0000_x/wear{k}.jpg" for k in (0, 1)], "person": "0000", "label": 0})
        kept = pd.concat([kept, none.assign(**{f"p_{k}": float(k == 0) for k in range(6)})], ignore_index=True)
    kept.to_csv(tmp_path / "oof.csv", index=False)
    report = submission.score_file(tmp_path / "oof.csv", labelled, split="val", baselines=True)
    assert report.scores.n == len(kept) and "of the people in oof.csv" in report.what
    expected = f1_score(kept["label"], kept.filter(regex=r"^p_\d").to_numpy().argmax(1), average="macro")
    assert report.scores.macro_f1 == pytest.approx(expected)
    labels = pd.read_parquet(cache / "labels.parquet").merge(pd.read_parquet(cache / "images.parquet")[["image"]])
    others = labels[labels["label"].notna() & ~labels["person"].isin(set(kept["person"]))]
    frequent = int(others["label"].mode()[0])
    assert report.rivals[0].accuracy == pytest.approx((kept["label"] == frequent).mean())
    assert report.rivals[1].name.startswith("chance")


def change(**columns: object) -> Change:
    return lambda t: t.assign(**columns)


@pytest.mark.parametrize(
    "made, said",
    [
        (lambda t: t.iloc[1:], r"lacks 1 of the 20 images of the split 'eval': eval/00300\.jpg"),
        (lambda t: pd.concat([t, t.iloc[[2]]]), r"names photos twice: 00302\.jpg"),
        (lambda t: t.replace({"ImageID": {"00301.jpg": "no.jpg"}}), r"1 photo that the cache does not have: no\.jpg"),
        (lambda t: t.assign(ans=["7", *t["ans"][1:]]), "1 answer outside the classes: '7' in row 2"),
        (lambda t: t.assign(ans=["", *t["ans"][1:]]), r"no answer for 1 photo: 00300\.jpg"),
        (lambda t: t.drop(columns="ans"), "no answers; it needs ans, label"),
        (lambda t: t.drop(columns="ImageID"), "no column with file names"),
        (lambda t: t.assign(p_1=0.5), "no column 'p_0', but others"),
        (change(**{f"p_{k}": 0.3 for k in range(6)}), "do not add up to 1: row 2, row 3, row 4 and 17 more"),
        (lambda t: t.iloc[:0], "has no rows"),
    ],
)
def test_predictions_that_cannot_be_scored(
    labelled: Path, truth: pd.DataFrame, tmp_path: Path, made: Change, said: str
) -> None:
    made(truth.astype({"ans": object})).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(UserError, match=said):
        submission.score_file(tmp_path / "p.csv", labelled)
    assert not list(tmp_path.glob("p-eval-*"))


@pytest.mark.parametrize("kind", ["hard", "soft", "stack"])
def test_files_vote(labelled: Path, cache: Path, truth: pd.DataFrame, tmp_path: Path, kind: str) -> None:
    """Three files that are wrong at different photos; two of three are right everywhere."""
    files = [tmp_path / f"{k}.csv" for k in range(3)]
    for k, file in enumerate(files):
        told = [(label + (i % 3 == k)) % 6 for i, label in enumerate(truth["ans"])]
        truth.assign(ans=told).sample(frac=1, random_state=k).to_csv(file, index=False)
    made = ensemble(files, tmp_path / "votes.csv", kind=kind, cache=labelled)
    assert made.images == 20 and [e.name for e in made.entries] == ["0.csv", "1.csv", "2.csv"]
    if kind != "stack":
        assert made.score == 1.0 and made.against is not None and made.against.difference > 0.3
        assert submission.score_file(tmp_path / "votes.csv", labelled).scores.accuracy == 1.0
    with pytest.raises(UsageError, match="exists"):
        ensemble(files, tmp_path / "votes.csv", kind=kind, cache=labelled)
    if kind == "soft":  # the labels of these photos are not known there
        assert ensemble(files, tmp_path / "blind.csv", cache=cache).images == 0
        assert (tmp_path / "blind.csv").read_bytes() == (tmp_path / "votes.csv").read_bytes()
        with pytest.raises(UsageError, match="knows no label"):
            ensemble(files, tmp_path / "x.csv", cache=cache, kind="stack")
        with pytest.raises(UsageError, match="--cache CACHE"):
            ensemble(files, tmp_path / "x.csv")


@pytest.mark.parametrize("value", ["nan", "inf", "-0.1", "x"])
def test_a_probability_that_is_none_is_named_by_its_row(
    labelled: Path, truth: pd.DataFrame, tmp_path: Path, value: str
) -> None:
    table = truth.drop(columns="ans").assign(**{f"p_{k}": "0.5" if k < 2 else "0" for k in range(6)})
    table.loc[4, "p_3"] = value
    table.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(UserError, match=r"p\.csv has probabilities that are none.*: row 6\."):
        submission.score_file(tmp_path / "p.csv", labelled)


def test_names_that_mean_several_images(labelled: Path, truth: pd.DataFrame, tmp_path: Path) -> None:
    images = pd.read_parquet(labelled / "images.parquet")["image"]
    trained = images[images.str.startswith("train/")]
    rows = pd.DataFrame({"image": trained.str.rpartition("/")[2].drop_duplicates(), "ans": 0})
    rows.to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(UserError, match=r"matching several images: wear0\.jpg \(train/") as error:
        submission.score_file(tmp_path / "p.csv", labelled, split="train")
    assert "paths" in error.value.hint


def test_nobody_is_left_to_say_what_is_frequent(labelled: Path, tmp_path: Path) -> None:
    images = pd.read_parquet(labelled / "images.parquet")["image"]
    pd.DataFrame({"image": images, "ans": 1}).to_csv(tmp_path / "p.csv", index=False)
    with pytest.raises(UserError, match="the most frequent class is not known"):
        submission.score_file(tmp_path / "p.csv", labelled, split="train", baselines=True)
    with pytest.raises(UsageError, match="is no CSV file of predictions"):
        submission.score_file(tmp_path / "p.csv", labelled, against=tmp_path)


def test_the_command(labelled: Path, truth: pd.DataFrame, tmp_path: Path) -> None:
    truth.to_csv(tmp_path / "mine.csv", index=False)
    wrong_here_and_there(truth).to_csv(tmp_path / "theirs.csv", index=False)
    code = (
        "import sys\nfrom masktrain.cli.app import main\nsys.argv[0] = 'masktrain'\ntry:\n    main()\n"
        "finally:\n    print('torch' in sys.modules)"
    )

    def call(*args: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "evaluate", *map(str, args)]
        return subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)

    done = call("mine.csv", labelled, "--against", "theirs.csv", "--baselines")
    assert done.returncode == 0, done.stderr
    assert "1.0000" in done.stdout and "theirs.csv" in done.stdout and "most frequent class" in done.stdout
    assert done.stdout.rstrip().endswith("False")
    refused = call("mine.csv", labelled, "--tta", "mirror", "--batch-size", "3")
    assert refused.returncode == 2 and "--batch-size, --tta cannot be given" in refused.stderr
