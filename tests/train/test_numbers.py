"""Numbers behind classes, such as an age: answered by runs and ensembles, written beside the classes, and scored."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from maskprep.dataset.view import open_view
from masktrain.answer import graph, model
from masktrain.answer.evaluate import evaluate
from masktrain.answer.export import export
from masktrain.answer.predict import predict
from masktrain.combine.ensemble import ensemble
from masktrain.config.config import FitConfig
from masktrain.pages.report import report
from masktrain.runs import predictions
from masktrain.study.fit import fit


@pytest.fixture(scope="module")
def ages(aged: Path, config: Callable[..., FitConfig], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two runs that answer the age with a number."""
    root = tmp_path_factory.mktemp("ages")
    settings = {"target__kind": "number", "optim__epochs": 1}
    return [fit(aged, config(run__seed=k, **settings), out=root / f"{k}").run for k in (0, 1)]


def test_the_number_is_the_one_that_its_class_was_made_of(ages: list[Path], aged: Path) -> None:
    loaded, view, rows = model.load(ages[0]), open_view(aged), np.arange(9)
    table, numbers = loaded.read(view, rows, batch_size=4)
    np.testing.assert_array_equal(table, loaded(view, rows, batch_size=4))
    network = loaded.graph.networks[0]
    crops = torch.from_numpy(loaded.spec.inputs[0].of(view).gather(rows))
    with torch.inference_mode():
        pixels = graph.normalise(crops, network.get_buffer("mean"), network.get_buffer("std"))
        outputs = network.model(pixels)
    # two outputs for the gender, then the number in units of 15 years from 45
    np.testing.assert_allclose(numbers["age"], 45 + 15 * outputs[:, 2].numpy(), atol=1e-3)
    assert numbers["age"].std() > 0


def test_an_ensemble_answers_their_mean(ages: list[Path], aged: Path, tmp_path: Path) -> None:
    both, view, rows = ensemble(ages, tmp_path / "both").run, open_view(aged), np.arange(5)
    each = [model.load(run).read(view, rows)[1]["age"] for run in ages]
    np.testing.assert_allclose(model.load(both).read(view, rows)[1]["age"], np.mean(each, 0), atol=1e-4)
    held = [predictions.read(run).numbers["age"] for run in (*ages, both)]
    np.testing.assert_allclose(held[2], (held[0] + held[1]) / 2, atol=1e-4)
    assert evaluate(both, aged, split="val").scores.mae["age"] > 0


def test_parts_of_a_composition_count_where_they_are_asked(ages: list[Path], aged: Path) -> None:
    """Men's age by one network, women's by another: the number follows the probability of the gender."""
    first, second = (graph.load_run(run, "cpu") for run in ages)
    whole = open_view(aged).schema
    men, women = (graph.Where("gender", (name,)) for name in ("male", "female"))
    maps = [
        graph.joint_map(whole, whole, ["gender"]),
        graph.joint_map(whole, whole, ["age"], men),
        graph.joint_map(whole, whole, ["age"], women),
    ]
    parts = [graph.load_run(ages[0], "cpu"), first, second]
    crops = open_view(aged).gather(np.arange(6))
    made = graph.Graph(parts, graph.Combination(graph.PRODUCT, range(3)), None, maps)
    table, numbers = made.answer([crops])
    own = [graph.Graph([graph.load_run(run, "cpu")]).answer([crops])[1][:, 0] for run in ages]
    male = table.reshape(6, 2, 3).sum(2)[:, 0]
    np.testing.assert_allclose(numbers[:, 0], male * own[0] + (1 - male) * own[1], rtol=1e-4)


def test_in_predictions_and_scores(ages: list[Path], aged: Path, tmp_path: Path) -> None:
    predict(ages[0], aged, tmp_path / "p.csv", details=True, split="train")
    table = pd.read_csv(tmp_path / "p.csv").set_index("ImageID")
    assert list(table)[:7] == ["ans", "class", "gender", "gender_p", "age", "age_p", "age_value"]
    assert table["age_value"].notna().equals(table["ans"].notna())
    predict(ages[0], aged, tmp_path / "q.csv", split="train")
    short = pd.read_csv(tmp_path / "q.csv")
    assert list(short)[:3] == ["ImageID", "ans", "class"] and "age_value" not in short
    names = open_view(aged).schema.class_names
    assert short["class"].dropna().tolist() == [names[int(k)] for k in short["ans"].dropna()]

    scored = evaluate(ages[0], aged, split="val")
    images = open_view(aged).table.set_index("image")
    held = predictions.read(ages[0])
    truth = pd.to_numeric(images.loc[held.images, "age"]).to_numpy()
    error = np.abs(truth - held.numbers["age"])
    assert np.isfinite(truth).sum() <= len(truth) and len(error)
    assert scored.scores.mae["age"] == pytest.approx(np.nanmean(error), rel=1e-4)
    best = json.loads((ages[0] / "result.json").read_text())["best"]
    assert best["mae"]["age"] == pytest.approx(np.nanmean(error), rel=1e-4)
    assert best["log_loss"] == pytest.approx(best["val_loss"], rel=1e-3)
    assert f"<b>{np.nanmean(error):.2f}</b>mean absolute error of age<" in report(ages[0]).read_text()


def test_exports_keep_their_outputs(ages: list[Path], aged: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx", reason="onnx is not installed")
    export(ages[0], tmp_path / "out", formats=("onnx",))
    made = onnx.load(tmp_path / "out/model.onnx")
    assert len(made.graph.output) == 1
    assert model.load(tmp_path / "out/model.onnx").read(open_view(aged), np.arange(3))[1] == {}
