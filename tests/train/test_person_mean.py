"""The mean over a person's photos: by hand, and by the commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from maskprep.dataset import open_view
from maskprep.errors import UsageError
from maskprep.labels import Attribute, Schema
from masktrain.answer.evaluate import evaluate
from masktrain.answer.persons import attributes, mean_over_photos
from masktrain.answer.predict import predict

SCHEMA = Schema((Attribute("mask", ("wear", "normal")), Attribute("gender", ("male", "female"))))


def joint(mask: float, gender: float) -> list[float]:
    """Of a mask worn with this probability and of a man with that one: wear male, wear female, normal male, ..."""
    return [m * g for m in (mask, 1 - mask) for g in (gender, 1 - gender)]


def test_by_hand() -> None:
    answers = np.array([joint(0.9, 0.6), joint(0.2, 0.1), joint(0.5, 0.8), joint(0.5, 0.4)])
    ages = {"age": np.array([20.0, 40.0, 70.0, 80.0])}
    made, numbers = mean_over_photos(SCHEMA, ["a", "a", "b", "c"], answers, ages, ["gender"])
    assert made == pytest.approx(
        np.array([joint(0.9, 0.35), joint(0.2, 0.35), joint(0.5, 0.8), joint(0.5, 0.4)]), abs=1e-6
    )
    assert numbers["age"].tolist() == [20.0, 40.0, 70.0, 80.0]  # it was not asked for


def test_attributes_that_depend_on_each_other_keep_what_the_photo_says_of_the_rest() -> None:
    answers = np.array([[0.5, 0.1, 0.1, 0.3], [0.2, 0.2, 0.3, 0.3]])
    made, _ = mean_over_photos(SCHEMA, ["a", "a"], answers, {}, ["gender"])
    male = np.array([0.55 / 0.6, 0.55 / 0.5])
    by_hand = answers * np.stack([male, 0.45 / np.array([0.4, 0.5])] * 2, axis=1)
    assert made == pytest.approx(by_hand / by_hand.sum(1, keepdims=True), abs=1e-6)


def test_numbers_and_certain_answers() -> None:
    schema = Schema((Attribute("age", bins=(30, 60)),))
    made, numbers = mean_over_photos(schema, ["a", "a"], np.eye(3)[[0, 2]], {"age": np.array([20.0, 70.0])}, ["age"])
    assert np.isfinite(made).all() and made.sum(1) == pytest.approx([1, 1])
    assert numbers["age"].tolist() == [45.0, 45.0]


def test_names_of_attributes() -> None:
    assert attributes(None, SCHEMA) == () and attributes("gender, mask", SCHEMA) == ("gender", "mask")
    with pytest.raises(UsageError, match="no attribute 'gendre'") as error:
        attributes("gendre", SCHEMA)
    assert "gender" in error.value.hint


def test_the_commands(run: Path, cache: Path, tmp_path: Path) -> None:
    plain = predict(run, cache, tmp_path / "plain.parquet", split="train")
    predict(run, cache, tmp_path / "mean.parquet", split="train", person_mean="gender")
    one, two = (pd.read_parquet(tmp_path / f"{name}.parquet") for name in ("plain", "mean"))
    assert plain.rows == len(two)
    person = open_view(cache).table.set_index("image")["person"].reindex(two["ImageID"]).to_numpy()
    female = [f"p_{c}" for c in open_view(cache).schema.class_names if "female" in c]
    known = pd.notna(person)  # two photos have no crop
    shares = two.loc[known, female].sum(axis=1).groupby(person[known])
    assert (shares.max() - shares.min()).max() < 1e-5
    expected = one.loc[known, female].sum(axis=1).groupby(person[known]).mean()
    assert shares.mean().to_numpy() == pytest.approx(expected.to_numpy(), abs=1e-5)
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    before = set(copy.iterdir())
    assert evaluate(copy, cache, split="val", person_mean="gender").scores.n
    assert all(file.name.startswith("person-eval-") for file in set(copy.iterdir()) - before)
    with pytest.raises(UsageError, match="who is on these photos"):
        predict(run, cache, tmp_path / "eval.csv", split="eval", person_mean="gender")
    with pytest.raises(UsageError, match="who is on it"):
        predict(run, Path("-"), Path("-"), person_mean="gender")
