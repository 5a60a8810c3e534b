"""Other limits and gaps for numbers, in training and nowhere else."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from maskprep.dataset.view import View, open_view
from maskprep.errors import UsageError, UserError
from maskprep.labels.schema import Attribute, Schema
from masktrain.config.config import FitConfig
from masktrain.config.images import DataConfig
from masktrain.data import bands, folds
from masktrain.runs import folder as runs
from masktrain.train import feed

Make = Callable[..., FitConfig]
SCHEMA = Schema((Attribute("gender", ("male", "female")), Attribute("age", bins=(30, 60))))


@pytest.fixture(scope="module")
def aged(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose people are 20, 21, ... 69 years old: classes gender x age."""
    cache = synthetic.write_cache(tmp_path_factory.mktemp("aged") / "cache", people=50, eval_people=2)
    labels = pd.read_parquet(cache / "labels.parquet")
    known = labels["person"].notna()
    labels["age"] = pd.to_numeric(labels["person"]) + 20.0
    joint = [SCHEMA.label({"gender": g, "age": a}) for g, a in zip(labels["gender"], labels["age"], strict=True)]
    labels["label"] = pd.Series(joint, dtype="Int64").where(known)
    labels.to_parquet(cache / "labels.parquet")
    dataset = json.loads((cache / "dataset.json").read_text())
    (cache / "dataset.json").write_text(json.dumps({**dataset, "schema": SCHEMA.to_dict()}))
    return cache


def prepare(view: View, **settings: str) -> tuple[folds.Split, bands.Training]:
    split = folds.split(view, 0.2, 0)
    return split, bands.prepare(view, split, DataConfig(**settings))


def ages(view: View, rows: np.ndarray) -> np.ndarray:
    return view.table["age"].iloc[rows].to_numpy(dtype=int)


def test_without_settings_nothing_is_touched(aged: Path) -> None:
    view = open_view(aged)
    split, training = prepare(view)
    assert training.view is view and training.split is split and training.record == {}


def test_training_bins_move_training_labels_only(aged: Path) -> None:
    view = open_view(aged)
    split, training = prepare(view, train_bins="age=30,58")
    label = training.view.table["label"]
    age, gender = ages(view, split.train), view.table["gender"].iloc[split.train]
    expected = 3 * (gender == "female").to_numpy() + np.digitize(age, [30, 58])
    assert label.iloc[split.train].tolist() == expected.tolist()
    moved = np.isin(age, [58, 59]).sum()
    assert training.record == {"bins": {"age": [30.0, 58.0]}, "dropped": {}, "relabelled": moved} and moved > 0
    others = np.setdiff1d(np.arange(len(view)), split.train)
    assert label.iloc[others].equals(view.table["label"].iloc[others])
    assert training.split.val is split.val and training.split.hash == split.hash


def test_intervals_are_dropped_from_training_and_counted(aged: Path) -> None:
    view = open_view(aged)
    split, training = prepare(view, drop_intervals="age=28-29, 57..59")
    age = ages(view, split.train)
    gone = {
        "age 28-29, in training only": int(np.isin(age, [28, 29]).sum()),
        "age 57-59, in training only": int(np.isin(age, [57, 58, 59]).sum()),
    }
    assert training.record["dropped"] == {k: n for k, n in gone.items() if n} and sum(gone.values()) > 0
    assert ages(view, training.split.train).tolist() == age[~np.isin(age, [28, 29, 57, 58, 59])].tolist()
    assert training.split.left_out == {**split.left_out, **training.record["dropped"]}
    assert training.split.val.tolist() == split.val.tolist()


@pytest.mark.parametrize(
    "settings, near",
    [({}, (28, 29, 30, 31, 58, 59, 60, 61)), ({"train_bins": "age=40,50"}, (38, 39, 40, 41, 48, 49, 50, 51))],
)
def test_a_margin_is_around_the_limits_that_training_has(
    aged: Path, settings: dict[str, str], near: tuple[int, ...]
) -> None:
    view = open_view(aged)
    split, training = prepare(view, label_margin="age=2", **settings)
    age = ages(view, split.train)
    assert ages(view, training.split.train).tolist() == age[~np.isin(age, near)].tolist()
    assert sum(training.record["dropped"].values()) == np.isin(age, near).sum()


def test_a_class_without_images_is_an_error(aged: Path) -> None:
    with pytest.raises(UserError, match="No training image of age >=60 is left"):
        prepare(open_view(aged), drop_intervals="age=60-99")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"train_bins": "30,58"}, "must be attribute=values, not '30,58'"),
        ({"train_bins": "ago=30,58"}, "'ago' is no number that is classified; there is age.\nDid you mean 'age'"),
        ({"train_bins": "gender=1,2"}, "'gender' is no number"),
        ({"train_bins": "age=30"}, "takes 2 limits, not 1"),
        ({"train_bins": "age=60,30"}, "must increase"),
        ({"train_bins": "age=30,x"}, "'x' is no number"),
        ({"train_bins": "age=30,58; age=30,57"}, "names age twice"),
        ({"drop_intervals": "age=29"}, "'29' is no interval"),
        ({"drop_intervals": "age=30-28"}, "'30-28' is no interval"),
        ({"label_margin": "age=0"}, "above 0, not 0"),
        ({"label_margin": "age=nan"}, "'nan' is no number"),
        ({"label_margin": ""}, "must be attribute=values"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        bands.parse(DataConfig(**settings), SCHEMA)
    assert message in str(error.value)


def test_a_run_is_scored_by_the_schema_and_keeps_what_it_did(
    aged: Path, config: Callable[..., FitConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from masktrain.cli import show
    from masktrain.study.fit import fit, resume

    settings = config(optim__epochs=1, data__train_bins="age=40,50", data__drop_intervals="age=28-29,61-62")
    run = fit(aged, settings, out=tmp_path / "run", progress=show.PrintedFit()).run
    view = open_view(aged)
    split, training = prepare(view, train_bins="age=40,50", drop_intervals="age=28-29,61-62")
    oof = pd.read_parquet(run / runs.OOF)
    assert oof["label"].tolist() == view.table["label"].iloc[split.val].tolist()
    data = json.loads((run / runs.DATA).read_text())
    assert data["training"] == training.record and data["images"]["train"] == len(training.split.train)
    assert data["fingerprint"] == view.fingerprint()
    said = capsys.readouterr().out
    assert f"in training cut age at 40, 50: {training.record['relabelled']} images have another label" in said
    assert "age 28-29, in training only" in said
    assert resume(run).run == run


def test_the_data_decides_the_target(aged: Path, cache: Path, config: Make) -> None:
    def decided(view: View, **settings: str) -> str:
        return feed.settled(view, config(**settings)).target.kind

    view = open_view(aged)
    table = view.table
    assert decided(view) == "number" and decided(view, target__kind="heads") == "heads"
    assert decided(view, model__head="cosine") == "joint" and decided(open_view(cache)) == "joint"

    capped = dataclasses.replace(view, table=table.assign(age=table["age"].clip(upper=60)))
    assert decided(capped) == "number"
    known = np.flatnonzero(table["age"].notna())
    numbers = bands.numbers_of(capped, known, ["age"])
    age = table["age"].to_numpy(dtype=float)[known]
    assert numbers is not None and np.isnan(numbers[age >= 60]).all()  # 60 means 60 or more
    assert (numbers[age < 60, 0] == age[age < 60]).all() and (age >= 60).any()

    classes = pd.cut(pd.to_numeric(table["age"]), [0, 29, 59, 99], labels=[25, 45, 60])
    coded = dataclasses.replace(view, table=table.assign(age=classes))
    assert decided(coded) == "joint"  # a number for each class tells no more than the class
