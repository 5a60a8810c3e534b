"""Runs for parts of the label, and what becomes of them together."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from maskprep.labels.schema import MASK_SCHEMA, Attribute, Schema
from masktrain.answer import export, model
from masktrain.answer.evaluate import evaluate
from masktrain.answer.graph import joint_map
from masktrain.cli import app as cli
from masktrain.combine.compose import compose
from masktrain.config.config import FitConfig
from masktrain.config.parts import read_parts
from masktrain.config.where import Where
from masktrain.data import tasks
from masktrain.data.trainset import TrainSet, open_view_of
from masktrain.pages import cam, compare, explain
from masktrain.runs import folder as runs
from masktrain.score import metrics
from masktrain.study.fit import fit, resume
from masktrain.train.checkpoint import load_sidecar

Make = Callable[..., FitConfig]


@pytest.fixture(scope="module")
def cache2(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with two views of different sizes."""
    folder = synthetic.write_cache(tmp_path_factory.mktemp("cache2") / "people")
    view = open_view(folder)
    small = np.ascontiguousarray(view.gather(np.arange(len(view)))[:, ::2, ::2])
    synthetic.write_view(folder, "small", view.table["image"].tolist(), list(small), 1, 0, np.random.default_rng(1))
    dataset = json.loads((folder / "dataset.json").read_text())
    dataset["settings"]["views"]["small"] = {"margin": 0.25}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


PARTS = {
    "mask": {"data__task": "mask"},
    "gender": {"data__task": "gender", "data__view": "small", "optim__lr": 1e-3},
    "worn": {"data__task": "gender", "data__where": "mask=wear"},
    "bare": {"data__task": "gender", "data__where": "mask=incorrect|normal"},
    "joint": {},
    "others": {"data__task": "gender", "data__split_seed": 1},
}


@pytest.fixture(scope="module")
def parts(cache2: Path, config: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("parts")
    settings = {"data__view": "face", "optim__epochs": 1}
    return {n: fit(cache2, config(**settings | changes), out=folder / n).run for n, changes in PARTS.items()}


def test_a_part_of_the_label_by_hand() -> None:
    labels = pd.Series([0, 5, 17, None], dtype="Int64")
    age, mixed = Schema((MASK_SCHEMA["age"],)), Schema((MASK_SCHEMA["mask"], MASK_SCHEMA["age"]))
    assert tasks.project(labels, MASK_SCHEMA, age).tolist() == [0, 2, 2, pd.NA]
    assert tasks.project(labels, MASK_SCHEMA, mixed).tolist() == [0, 2, 8, pd.NA]


def test_what_parts_say_about_joint_classes_by_hand() -> None:
    age = joint_map(MASK_SCHEMA, Schema((MASK_SCHEMA["age"],)), ["age"])
    given = torch.tensor([[0.2, 0.5, 0.3]])
    assert age(given)[0].tolist() == pytest.approx([0.2, 0.5, 0.3] * 6)
    assert age.own.tolist() == [0, 1, 2] * 6
    worn = joint_map(MASK_SCHEMA, Schema((MASK_SCHEMA["age"],)), ["age"], Where("mask", ("wear",)))
    assert worn(given)[0].tolist() == pytest.approx([0.2, 0.5, 0.3] * 2 + [1.0] * 12)
    both = Schema((MASK_SCHEMA["gender"], MASK_SCHEMA["age"]))
    joint = torch.tensor([[0.1, 0.2, 0.1, 0.3, 0.1, 0.2]])
    gender = joint_map(MASK_SCHEMA, both, ["gender"])
    assert gender(joint)[0].tolist() == pytest.approx(([0.4] * 3 + [0.6] * 3) * 3)
    mask = joint_map(MASK_SCHEMA, Schema((MASK_SCHEMA["mask"],)), ["mask"])
    whole = mask(torch.tensor([[0.7, 0.2, 0.1]])) * gender(joint) * age(given)
    assert float(whole.sum()) == pytest.approx(1.0) and float(whole[0, 6 + 3 + 1]) == pytest.approx(0.2 * 0.6 * 0.5)


def test_every_part_holds_out_the_same_people(parts: dict[str, Path], cache2: Path) -> None:
    joint = runs.read_data(parts["joint"])
    for name in ("mask", "gender", "worn", "bare"):
        data = runs.read_data(parts[name])
        assert data["people"]["val"] == joint["people"]["val"] and data["folds"] == joint["folds"]
        assert data["whole"]["schema"] == joint["whole"]["schema"]
    assert load_sidecar(parts["mask"]).classes == ["wear", "incorrect", "normal"]
    oof = pd.read_parquet(parts["mask"] / "oof.parquet").merge(
        pd.read_parquet(parts["joint"] / "oof.parquet"), on="image"
    )
    assert (oof["label_x"] == oof["label_y"] // 2).all() and len(oof) == 28


def test_a_branch_is_trained_on_its_own_state_and_scored_on_all(parts: dict[str, Path], cache2: Path) -> None:
    data = runs.read_data(parts["bare"])
    assert data["images"]["train"] == 48 and data["images"]["val"] == 28  # 24 people, two of five photos each
    assert data["images"]["left out"]["not mask=incorrect|normal, in training only"] == 72
    config = runs.read_config(parts["bare"])
    training = TrainSet.open(open_view_of(cache2, config), config)
    assert set(training.view.table["mask"].iloc[training.split.train]) == {"incorrect", "normal"}
    assert set(training.view.table["mask"].iloc[training.split.val]) == {"wear", "incorrect", "normal"}


def test_a_part_is_scored_and_goes_on_by_its_own_classes(parts: dict[str, Path], cache2: Path, tmp_path: Path) -> None:
    report = evaluate(parts["gender"], cache2, split="val", by=[])
    oof = pd.read_parquet(parts["gender"] / "oof.parquet")
    told = oof[["p_0", "p_1"]].to_numpy().argmax(1)
    truth = pd.read_parquet(cache2 / "labels.parquet").set_index("image")["gender"].loc[oof["image"]]
    accuracy = float(((truth == "female").to_numpy() == told).mean())
    cropped = 28 / (28 + len(report.without_crop))
    assert len(report.without_crop) in (0, 2) and [c.name for c in report.scores.classes] == ["male", "female"]
    assert cropped < 1 or report.scores.accuracy == pytest.approx(accuracy)
    shutil.copytree(parts["gender"], tmp_path / "run")
    resume(tmp_path / "run")
    assert (tmp_path / "run/oof.parquet").read_bytes() == (parts["gender"] / "oof.parquet").read_bytes()


def test_parts_with_views_of_their_own_become_one_run(parts: dict[str, Path], cache2: Path, tmp_path: Path) -> None:
    mine = {n: tmp_path / n for n in ("mask", "gender")}
    for name, folder in mine.items():
        shutil.copytree(parts[name], folder)
    made = compose([f"mask={mine['mask']}", f"gender={mine['gender']}"], tmp_path / "whole")
    face, small = open_view(cache2, "face"), open_view(cache2, "small")
    rows = np.array([7, 2, 90, 33])
    mask, gender = model.load(mine["mask"])(face, rows), model.load(mine["gender"])(small, rows)
    for folder in mine.values():
        shutil.rmtree(folder)  # it needs nothing but itself
    by_hand = (mask[:, :, None] * gender[:, None, :]).reshape(4, 6)
    predictor = model.load(tmp_path / "whole")
    np.testing.assert_allclose(predictor(face, rows), by_hand, atol=1e-6)
    assert [i.size for i in predictor.spec.inputs] == [(32, 32), (16, 16)]
    assert predictor.schema == face.schema and predictor.spec.fallback in (0, 1)
    # out of fold: the product of what the parts said of people they did not know, and its score
    one, two = (pd.read_parquet(parts[n] / "oof.parquet").set_index("image") for n in ("mask", "gender"))
    oof = pd.read_parquet(tmp_path / "whole" / "oof.parquet").set_index("image")
    wanted = one.filter(like="p_").to_numpy()[:, :, None] * two.loc[one.index].filter(like="p_").to_numpy()[:, None]
    np.testing.assert_allclose(oof.loc[one.index].filter(like="p_"), wanted.reshape(28, 6), atol=1e-6)
    label = 2 * one["label"] + two["label"].loc[one.index]
    assert (oof.loc[one.index]["label"] == label).all()
    f1 = metrics.macro_f1(metrics.confusion(label.to_numpy(), wanted.reshape(28, 6).argmax(1), 6))
    assert made.scores.macro_f1 == pytest.approx(f1) and made.interval.low <= f1 <= made.interval.high
    assert evaluate(tmp_path / "whole", cache2, split="val").scores.macro_f1 > 0
    page = compare.compare([tmp_path / "whole", parts["joint"]])
    assert "whole" in str(page) and "joint" in str(page)
    done = export.export(tmp_path / "whole", formats=("onnx",), cache=cache2)
    np.testing.assert_allclose(model.load(done.files[0])(face, rows), by_hand, atol=1e-4)


def test_branches_by_hand(parts: dict[str, Path], cache2: Path, tmp_path: Path) -> None:
    compose([f"mask={parts['joint']}", f"gender={parts['bare']}", f"gender={parts['worn']}"], tmp_path / "c")
    face, rows = open_view(cache2, "face"), np.array([7, 2, 90, 33])
    joint, bare, worn = (model.load(parts[n])(face, rows) for n in ("joint", "bare", "worn"))
    mask = joint.reshape(4, 3, 2).sum(2)
    by_hand = np.concatenate([mask[:, :1] * worn, mask[:, 1:2] * bare, mask[:, 2:] * bare], 1)
    found = model.load(tmp_path / "c")(face, rows)
    np.testing.assert_allclose(found, by_hand, atol=1e-6)
    np.testing.assert_allclose(found.sum(1), 1, atol=1e-5)
    # who looks: the mask network for every class, the others where they are asked
    networks = model.load(tmp_path / "c").graph.networks
    asked = np.array([network.asked for network in networks]).tolist()
    assert asked == [[True] * 6, [False] * 2 + [True] * 4, [True] * 2 + [False] * 4]
    pictures = explain.AttentionMaps(tmp_path / "c", model.load(tmp_path / "c"), "gradcam", face)
    _, seen = pictures(rows, np.array([0, 1, 4, 5]), ["nobody"] * 4)
    wanted = [(networks[0], networks[2])] * 2 + [(networks[0], networks[1])] * 2
    crops = face.gather(rows)
    for i, (pair, label) in enumerate(zip(wanted, (0, 1, 4, 5), strict=True)):
        each = [cam.maps(part, crops[i : i + 1], np.array([label]))[0] for part in pair]
        np.testing.assert_allclose(seen[i], np.mean(each, 0), atol=1e-5)


def test_the_hard_route_by_hand(parts: dict[str, Path], cache2: Path, tmp_path: Path) -> None:
    """The likeliest mask decides which part tells the gender, and nothing else counts."""
    given = [f"mask={parts['joint']}", f"gender={parts['bare']}", f"gender={parts['worn']}"]
    made = compose(given, tmp_path / "c", route="hard")
    face, rows = open_view(cache2, "face"), np.arange(0, 120, 9)
    joint, bare, worn = (model.load(parts[n])(face, rows) for n in ("joint", "bare", "worn"))
    wanted = np.zeros((len(rows), 6), np.float32)
    for i, mask in enumerate(joint.reshape(-1, 3, 2).sum(2).argmax(1)):
        wanted[i, 2 * mask : 2 * mask + 2] = (bare if mask else worn)[i]
    np.testing.assert_allclose(model.load(tmp_path / "c")(face, rows), wanted, atol=1e-6)
    oof = pd.read_parquet(tmp_path / "c" / "oof.parquet")
    f1 = metrics.macro_f1(metrics.confusion(oof["label"].to_numpy(), oof.filter(like="p_").to_numpy().argmax(1), 6))
    assert made.scores.macro_f1 == pytest.approx(f1) and ((oof.filter(like="p_") > 0).sum(1) <= 2).all()
    with pytest.raises(UsageError, match="cannot be 'sharp'"):
        compose(given, tmp_path / "d", route="sharp")


def test_a_parts_file(tmp_path: Path) -> None:
    file = tmp_path / "parts.yaml"
    file.write_text(
        "- {name: mask, task: mask}\n- name: worn\n  task: [gender, age]\n  where: mask=wear\n"
        "  set: {optim.epochs: 3, model.name: test_resnet}\n"
    )
    first, second = read_parts(file)
    assert (first.name, first.task, first.where, first.settings) == ("mask", ("mask",), "", {})
    assert second.task == ("gender", "age") and second.where == "mask=wear"
    assert second.settings == {"optim.epochs": 3, "model.name": "test_resnet"}
    for text, said in (
        ("mask: 1\n", "no list of parts"),
        ("- {name: a, task: a, epochs: 3}\n", "part 1, has a key 'epochs'"),
        ("- {name: a}\n", "part 1, needs a name"),
        ("- {name: a, task: a, set: {data.task: b}}\n", "cannot set 'data.task'"),
        ("- {name: a, task: a}\n- {name: a, task: b}\n", "names two parts 'a'"),
    ):
        file.write_text(text)
        with pytest.raises(UsageError, match=said):
            read_parts(file)


@pytest.mark.parametrize(
    "given, said",
    [
        (["mask=mask"], "No run is named for gender"),
        (["mask=mask", "gender=gender", "gender=joint"], "Several runs are named for gender"),
        (["mask=mask", "gender=worn"], "has no run where mask is incorrect, normal"),
        (["mask=mask", "gender=worn", "gender=worn", "gender=bare"], "several runs where mask is wear"),
        (["mask=mask", "gender=others"], "held out different people"),
        (["mask=gender", "gender=gender"], "does not classify mask"),
        (["mask=mask", "sex=gender"], "no attribute 'sex'"),
        (["mask"], "is not ATTRIBUTE=RUN"),
        (["mask=mask", "gender=nowhere"], "is not a run"),
    ],
)
def test_parts_that_make_no_whole(parts: dict[str, Path], tmp_path: Path, given: list[str], said: str) -> None:
    named = [f"{a}={parts.get(b, tmp_path / b)}" if b else a for a, _, b in (g.partition("=") for g in given)]
    with pytest.raises(UserError, match=said):
        compose(named, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"data__task": "masks"}, "no attribute 'masks'"),
        ({"data__task": "mask,mask"}, "twice"),
        ({"data__where": "mask"}, "ATTRIBUTE=CLASS"),
        ({"data__where": "mask=worn"}, "'worn' is no class of mask"),
        ({"data__where": "gender=male|female"}, "all classes of gender"),
    ],
)
def test_parts_that_are_none(cache2: Path, config: Make, tmp_path: Path, changes: dict[str, str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        fit(cache2, config(data__view="face", **changes), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_cache_of_other_classes_is_left_as_it_is(cache2: Path) -> None:
    view = open_view(cache2, "face")
    other = Schema((Attribute("mask", ("wear", "none")),))
    assert tasks.like(view, other) is view and tasks.like(view, view.schema) is view


def test_the_commands(
    parts: dict[str, Path],
    cache2: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tiny = ["--model", "test_resnet", "--no-pretrained", "--epochs", "1", "--batch-size", "8", "--view", "face"]
    command = ["fit", str(cache2), *tiny, "--task", "gender", "--folds", "all", "--set", "data.val_ratio=0.5"]
    done(monkeypatch, *command, "--out", str(tmp_path / "folds"))
    assert yaml.safe_load((tmp_path / "folds/config.yaml").read_text())["data"]["task"] == "gender"
    both = [f"mask={parts['mask']}", f"gender={parts['gender']}"]
    done(monkeypatch, "compose", *both, "--out", str(tmp_path / "whole"))
    out = capsys.readouterr().out
    assert "28 held-out images of 6 people" in out and re.search(r"^gender +\S", out, re.MULTILINE)
    assert "small 16x16" in out
    with pytest.raises(UserError, match="held out different people"):  # everyone, against a fifth
        compose([f"mask={parts['mask']}", f"gender={tmp_path / 'folds'}"], tmp_path / "more")
    whole = ["fit", str(cache2), *tiny, "--task", "mask", "--folds", "all", "--set", "data.val_ratio=0.5"]
    done(monkeypatch, *whole, "--out", str(tmp_path / "masks"))
    made = compose([f"mask={tmp_path / 'masks'}", f"gender={tmp_path / 'folds'}"], tmp_path / "all")
    assert made.images == 148 and made.interval.people == 30
    kept = json.loads((tmp_path / "all/ensemble.json").read_text())
    assert [m["group"] for m in kept["members"]] == [0, 0, 1, 1]


def done(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    """A command that must succeed."""
    monkeypatch.setattr(sys, "argv", ["masktrain", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
