"""What a fit is taught: more caches, other limits and gaps for numbers, shared labels and a teacher's answers."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from maskprep.base import UsageError, UserError
from maskprep.dataset import View, open_view
from maskprep.labels import Attribute, Schema
from masktrain.cli import show
from masktrain.config.config import FitConfig
from masktrain.config.images import DataConfig
from masktrain.data import folds, labels
from masktrain.data.trainset import TrainSet
from masktrain.runs import folder as runs
from masktrain.study.fit import fit, resume, settled, target_of
from masktrain.train import checkpoint

Make = Callable[..., FitConfig]
CPU = torch.device("cpu")
SCHEMA = Schema((Attribute("gender", ("male", "female")), Attribute("age", bins=(30, 60))))


@pytest.fixture(scope="module")
def more(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve other people and twelve photos, none of whom are in the first cache."""
    cache: Path = synthetic.write_cache(tmp_path_factory.mktemp("more") / "cache", people=12, eval_people=1, seed=9)
    for file in ("images.parquet", "labels.parquet"):
        table = pd.read_parquet(cache / file)
        table["person"] = "other-" + table["person"]
        if "content" in table:
            table["content"] = "other-" + table["content"]
        table.to_parquet(cache / file)
    return cache


def trained(view: View, **data: Any) -> TrainSet:
    return TrainSet.open(view, FitConfig.from_keys({f"data.{k}": v for k, v in data.items()}))


def split_of(view: View) -> folds.Split:
    return folds.split(view, 0.2, 0)


def ages(view: View, rows: np.ndarray) -> np.ndarray:
    return view.table["age"].iloc[rows].to_numpy(dtype=float)


@pytest.mark.parametrize("weight, sample", [(0.5, "all"), (1.0, "all"), (3.0, "all"), (0.5, "balanced")])
def test_another_cache_comes_as_often_as_its_weight(
    cache: Path, more: Path, fed: Callable[..., Any], weight: float, sample: str
) -> None:
    settings = {"target__kind": "joint", "sample__kind": sample, "augment__recipe": "none"}
    data, train, _ = fed(cache, data__extra=[f"{more}={weight}"], **settings)
    plain, own = trained(open_view(cache)), len(open_view(cache))

    def drawn(epoch: int) -> np.ndarray:
        return data.split.train[train.sampler.order(epoch)]

    first = drawn(1)
    assert (first < own).sum() == len(plain) and (first >= own).sum() == round(58 * weight)
    others = [set(drawn(e)[drawn(e) >= own]) for e in range(1, 5)]
    if weight < 1:
        assert others[0] != others[1]  # another half in another epoch
    elif sample == "all":
        assert all(len(o) == 58 for o in others)
    assert data.split.val.tolist() == plain.split.val.tolist() and (data.split.val < own).all()
    theirs, seen = open_view(more), 0
    for where, batch in zip(train.order(1), train.epoch(1), strict=True):
        extra = data.split.train[where] >= own
        rows = data.split.train[where][extra] - own
        assert (batch.pixels.numpy()[extra] == theirs.gather(rows)).all()
        assert batch.labels.numpy()[extra].tolist() == theirs.table["label"].iloc[rows].tolist()
        seen += len(rows)
    assert seen >= round(58 * weight)


def test_what_is_learnt_is_not_of_one_class_alone(cache: Path) -> None:
    with pytest.raises(UsageError, match="all images have one class of mask, which is to be learnt") as error:
        trained(open_view(cache), where="mask=wear")
    assert error.value.hint.endswith("--task gender")


def test_of_another_cache_only_some_classes(cache: Path, more: Path) -> None:
    data = trained(open_view(cache), extra=[str(more)], extra_where="mask=incorrect|normal")
    own = data.view.table.iloc[data.split.train]
    mask = (own["label"] // 2).to_numpy()
    assert set(mask[data.source == 1]) == {1, 2} and set(mask[data.source == 0]) == {0, 1, 2}
    (record,) = data.extra
    assert (
        record["images"] == (data.source == 1).sum()
        and record["images"] + record["left out"]["not mask=incorrect|normal"] == 58
    )
    with pytest.raises(UsageError, match=r"data.extra_where: 'norml' is no class of mask"):
        trained(open_view(cache), extra=[str(more)], extra_where="mask=norml")


def test_nobody_who_is_held_out_comes_back_by_another_cache(cache: Path, more: Path, tmp_path: Path) -> None:
    view = open_view(cache)
    held = view.table.iloc[split_of(view).val]
    judged = view.table[view.table["split"] == "eval"]
    leaking = Path(shutil.copytree(more, tmp_path / "leaking"))
    images = pd.read_parquet(leaking / "images.parquet")
    table = pd.read_parquet(leaking / "labels.parquet")
    theirs = sorted(set(images["person"].dropna()))
    images.loc[images["person"] == theirs[3], "content"] = held["content"].tolist()[:5]
    images.loc[images["person"] == theirs[4], "content"] = judged["content"].tolist()[:5]
    names = {theirs[5]: held["person"].iloc[0], theirs[6]: held["person"].iloc[-1] + "-1"}
    images["person"], table["person"] = (t["person"].replace(names) for t in (images, table))
    images.to_parquet(leaking / "images.parquet")
    table.to_parquet(leaking / "labels.parquet")
    data = trained(view, extra=[str(leaking)])
    (record,) = data.extra
    assert record["left out"] == {"eval split": 5, "held-out photo": 10, "held-out person": 10}
    assert record["images"] == 58 - 20
    used = data.view.table.iloc[data.split.train]
    assert not set(used["person"]) & set(held["person"]) and not set(used["content"]) & set(held["content"])
    alike = Path(shutil.copytree(leaking, tmp_path / "alike"))
    images.assign(content=held["content"].iloc[0]).to_parquet(alike / "images.parquet")
    with pytest.raises(UserError, match=r"no image of .* may be trained on"):
        trained(view, extra=[str(alike)])


def test_a_run_with_another_cache_says_so_and_notices_its_changes(
    cache: Path, more: Path, config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(more, tmp_path / "copy"))
    settings = config(optim__epochs=1, data__extra=[f"{copy}=2"])
    done = fit(cache, settings, out=tmp_path / "run", progress=show.PrintedFit()).run
    assert f"58 of them from {copy}, weight 2, 5 eval split left out" in capsys.readouterr().out
    assert runs.read_data(done)["images"]["train"] == 58 + len(split_of(open_view(cache)).train)
    assert resume(done).epochs == 1
    table = pd.read_parquet(copy / "labels.parquet")
    table.loc[3, "label"] = 5
    table.to_parquet(copy / "labels.parquet")
    with pytest.raises(UserError, match="has changed since"):
        resume(done)


def test_caches_that_do_not_go_together(cache: Path, more: Path, synthetic: ModuleType, tmp_path: Path) -> None:
    view = open_view(cache)
    small = synthetic.write_cache(tmp_path / "small", size=(16, 16), people=3)
    with pytest.raises(UsageError, match=r"the crops of .*small are 16x16, those of .* 32x32"):
        trained(view, extra=[str(small)])
    other = Path(shutil.copytree(more, tmp_path / "other"))
    dataset = json.loads((other / "dataset.json").read_text())
    dataset["schema"] = Schema((view.schema["mask"], Attribute("gender", ("m", "f")))).to_dict()
    (other / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(UsageError, match="not the classes of"):
        trained(view, extra=[str(other)])
    for text in (f"{more}=0", f"{more}=much", f"{more}=nan"):
        with pytest.raises(UsageError, match="no weight above 0"):
            trained(view, extra=[text])


def test_without_settings_labels_are_those_of_the_cache(aged: Path) -> None:
    view = open_view(aged)
    data, split = trained(view), split_of(view)
    assert data.view is view and data.split.train.tolist() == split.train.tolist() and data.record == {}
    assert data.labels.tolist() == view.table["label"].iloc[split.train].tolist()
    assert set(data.truth.ravel()) == {0.0, 1.0} and (data.truth.sum(1) == 1).all()


def test_training_bins_move_training_labels_only(aged: Path) -> None:
    view = open_view(aged)
    data, split = trained(view, train_bins="age=30,58"), split_of(view)
    age, gender = ages(view, split.train), view.table["gender"].iloc[split.train]
    cut = np.where(np.isnan(age), 0, np.digitize(age, [30, 58]))  # the one of unknown age keeps the label
    assert data.labels.tolist() == (3 * (gender == "female").to_numpy() + cut).tolist()
    moved = np.isin(age, [58, 59]).sum()
    assert data.record == {"bins": {"age": [30.0, 58.0]}, "dropped": {}, "relabelled": moved} and moved > 0
    assert data.view.table["label"].equals(view.table["label"])
    assert data.split.val.tolist() == split.val.tolist() and data.split.hash == split.hash


def test_a_number_is_answered_by_the_limits_of_training(aged: Path, config: Make, tmp_path: Path) -> None:
    """What is 45 belongs to the middle class of 40 and 50, and to another one at 55; the run keeps these limits."""
    settings = config(data__train_bins="age=40,50", optim__epochs=1)
    data = TrainSet.open(open_view(aged), settings)
    target = target_of(data, settled(data, settings, CPU))
    assert target.kind == "number" and target.numbers == ["age"]
    (head,) = (h for h in target.heads if h.limits)
    outputs = torch.zeros(3, target.outputs)
    outputs[:, -2] = (torch.tensor([20.0, 45.0, 55.0]) - head.centre) / head.unit
    outputs[:, -1] = -9.0  # as sure as can be
    assert head.number(outputs[:, -2:]).tolist() == pytest.approx([20, 45, 55])
    assert (target.probabilities(outputs).argmax(1) % 3).tolist() == [0, 1, 2]
    sidecar = checkpoint.load_sidecar(fit(aged, settings, out=tmp_path / "run").run)
    assert sidecar.answers() == target and sidecar.limits == {"age": [40.0, 50.0]}


def test_intervals_are_dropped_from_training_and_counted(aged: Path) -> None:
    view = open_view(aged)
    data, split = trained(view, drop_intervals="age=28-29, 57..59"), split_of(view)
    age = ages(view, split.train)
    gone = {
        "age 28-29, in training only": int(np.isin(age, [28, 29]).sum()),
        "age 57-59, in training only": int(np.isin(age, [57, 58, 59]).sum()),
    }
    assert data.record["dropped"] == {k: n for k, n in gone.items() if n} and sum(gone.values()) > 0
    left = age[~np.isin(age, [28, 29, 57, 58, 59])]
    np.testing.assert_array_equal(ages(view, data.split.train), left)
    assert data.split.left_out == {**split.left_out, **data.record["dropped"]}
    assert data.split.val.tolist() == split.val.tolist() and len(data) == len(data.truth) == len(left)


@pytest.mark.parametrize(
    "settings, near",
    [({}, (28, 29, 30, 31, 58, 59, 60, 61)), ({"train_bins": "age=40,50"}, (38, 39, 40, 41, 48, 49, 50, 51))],
)
def test_a_margin_is_around_the_limits_that_training_has(
    aged: Path, settings: dict[str, str], near: tuple[int, ...]
) -> None:
    view = open_view(aged)
    data, age = trained(view, label_margin="age=2", **settings), ages(view, split_of(view).train)
    np.testing.assert_array_equal(ages(view, data.split.train), age[~np.isin(age, near)])
    assert sum(data.record["dropped"].values()) == np.isin(age, near).sum()


def test_a_class_without_images_is_an_error(aged: Path) -> None:
    with pytest.raises(UserError, match="No training image of age >=60 is left"):
        trained(open_view(aged), drop_intervals="age=60-99")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"train_bins": "30,58"}, "must be attribute=values, not '30,58'"),
        (
            {"train_bins": "ago=30,58"},
            "'ago' is not an attribute with bins of a number; there is age.\nDid you mean 'age'",
        ),
        ({"train_bins": "gender=1,2"}, "'gender' is not an attribute with bins"),
        ({"train_bins": "age=30"}, "takes 2 limits, not 1"),
        ({"train_bins": "age=60,30"}, "must increase"),
        ({"train_bins": "age=30,x"}, "'x' is no number"),
        ({"train_bins": "age=30,58; age=30,57"}, "names age twice"),
        ({"drop_intervals": "age=29"}, "'29' is no interval"),
        ({"drop_intervals": "age=30-28"}, "'30-28' is no interval"),
        ({"label_margin": "age=0"}, "above 0, not 0"),
        ({"label_margin": "age=nan"}, "'nan' is no number"),
        ({"label_margin": ""}, "must be attribute=values"),
        ({"soft_labels": "age=0"}, "soft_labels must be above 0"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, str], message: str) -> None:
    with pytest.raises(UsageError) as error:
        labels.parse(DataConfig(**settings), SCHEMA)
    assert message in str(error.value)


def test_a_run_is_scored_by_the_schema_and_keeps_what_it_did(
    aged: Path, config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {"train_bins": "age=40,50", "drop_intervals": "age=28-29,61-62"}
    settings = config(optim__epochs=1, **{f"data__{k}": v for k, v in given.items()})
    run = fit(aged, settings, out=tmp_path / "run", progress=show.PrintedFit()).run
    view = open_view(aged)
    data, kept = trained(view, **given), runs.read_data(run)
    oof = pd.read_parquet(run / runs.OOF)
    assert oof["label"].tolist() == view.table["label"].iloc[data.split.val].tolist()
    assert kept["training"] == data.record and kept["images"]["train"] == len(data)
    assert kept["fingerprint"] == view.fingerprint()
    said = capsys.readouterr().out
    assert f"training labels cut age at 40, 50, which changes {data.record['relabelled']} labels" in said
    assert "age 28-29, in training only" in said
    assert resume(run).run == run


def test_labels_near_a_limit_are_shared(aged: Path) -> None:
    """Sixty, read as 60.5 with an error of 2: above 60 with the probability that a normal draw is above -0.25."""
    view = open_view(aged)
    data = trained(view, soft_labels="age=2")
    np.testing.assert_allclose(data.truth.sum(1), 1, rtol=1e-6)
    table = view.table.iloc[data.split.train]
    above = 0.5 * (1 + math.erf(0.25 / math.sqrt(2)))
    seen = 0
    for age, share in ((60, above), (59, 1 - above), (61, 0.5 * (1 + math.erf(0.75 / math.sqrt(2)))), (20, 0.0)):
        rows = np.flatnonzero((table["age"] == age).to_numpy())
        seen += len(rows) > 0
        for row in rows.tolist():
            place = 3 * (table["gender"].iloc[row] == "female")
            assert data.truth[row, place + 2] == pytest.approx(share, abs=1e-6)
            assert data.truth[row, 3 - place : 6 - place].sum() == 0  # the gender is not shared
    assert seen >= 3
    unknown = table["age"].isna().to_numpy()
    assert unknown.any() and set(data.truth[unknown].ravel()) == {0.0, 1.0}
    assert data.record["shared"] == int((data.truth.max(1) < 0.99).sum()) > 0
    nameless = dataclasses.replace(view, table=view.table.assign(age=None))
    with pytest.raises(UserError, match="No training image's age is known as a number"):
        trained(nameless, soft_labels="age=2")


def test_a_teacher_is_mixed_into_the_labels(cache: Path, tmp_path: Path) -> None:
    view = open_view(cache)
    plain = trained(view)
    names = view.table["image"].iloc[plain.split.train].to_numpy()
    answers = np.random.default_rng(0).dirichlet(np.ones(6), len(names)).astype(np.float32)
    table = pd.DataFrame({"image": names, "label": 0, **{f"p_{k}": answers[:, k] for k in range(6)}})
    table.iloc[5:].sample(frac=1, random_state=0).to_parquet(tmp_path / "oof.parquet")
    data = trained(view, teacher=str(tmp_path), teacher_share=0.75)
    np.testing.assert_array_equal(data.truth[:5], plain.truth[:5])  # whom the teacher has not answered
    np.testing.assert_allclose(data.truth[5:], 0.25 * plain.truth[5:] + 0.75 * answers[5:], atol=1e-6)
    assert data.record == {"teacher": str(tmp_path), "taught": len(names) - 5}
    with pytest.raises(UsageError, match=r"nowhere/oof\.parquet cannot be read"):
        trained(view, teacher=str(tmp_path / "nowhere"))
    for wrong, said in ((table.drop(columns="p_5"), "has 5 classes, the view 6"), (table[:0], "has no answer")):
        wrong.to_parquet(tmp_path / "oof.parquet")
        with pytest.raises(UsageError, match=said):
            trained(view, teacher=str(tmp_path))


def test_the_data_decides_the_target(aged: Path, cache: Path, config: Make) -> None:
    def decided(view: View, **settings: str) -> str:
        chosen = config(**settings)
        return settled(TrainSet.open(view, chosen), chosen, CPU).target.kind

    view = open_view(aged)
    table = view.table
    assert decided(view) == "number" and decided(view, target__kind="heads") == "heads"
    assert decided(view, model__head="cosine") == "joint" and decided(open_view(cache)) == "joint"

    capped = dataclasses.replace(view, table=table.assign(age=table["age"].clip(upper=60)))
    assert decided(capped) == "number"
    known = np.flatnonzero(table["age"].notna())
    numbers = labels.numbers_of(capped, known, ["age"])
    age = table["age"].to_numpy(dtype=float)[known]
    assert numbers is not None and np.isnan(numbers[age >= 60]).all()  # 60 means 60 or more
    assert (numbers[age < 60, 0] == age[age < 60]).all() and (age >= 60).any()

    classes = pd.cut(pd.to_numeric(table["age"]), [0, 29, 59, 99], labels=[25, 45, 60])
    coded = dataclasses.replace(view, table=table.assign(age=classes))
    assert decided(coded) == "joint"  # a number for each class tells no more than the class
