"""Training before other backgrounds: what a run keeps of it, and what prediction makes of that."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from masktrain.train.batches import Batches

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from masktrain.answer import model
from masktrain.study.fit import background, check, colour, fit, resume, statistics

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def matted(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache: Path = synthetic.write_cache(tmp_path_factory.mktemp("matted") / "people", people=16)
    synthetic.give_mattes(cache)
    return cache


def outside(pixels: torch.Tensor) -> np.ndarray:
    """The pixels [n, m, 3] of a batch that are no subject's."""
    mask = np.ones(pixels.shape[2:], bool)
    mask[4:-4, 6:-6] = False
    return pixels.permute(0, 2, 3, 1).numpy()[:, mask]


def test_a_run_keeps_its_background_and_prediction_uses_it(
    matted: Path, tmp_path: Path, config: Callable[..., Any]
) -> None:
    settings = config(data__background="mean", optim__epochs=1)
    fitted = fit(matted, settings, out=tmp_path / "run")
    sidecar = json.loads((fitted.run / "best.json").read_text())
    view = open_view(matted)
    assert sidecar["background"] == "mean"
    assert sidecar["colour"] == [round(v * 255) for v in sidecar["mean"]]
    predictor = model.load(fitted.run, "cpu")
    rows = np.arange(6)
    dressed = view.before(predictor.graph.networks[0].sidecar.behind())
    (batch,) = Batches(dressed, rows, 8, CPU).epoch(None)
    assert (outside(batch.pixels) == sidecar["colour"]).all()
    oof = pd.read_parquet(fitted.run / "oof.parquet").set_index("image")
    where = view.table.index[view.table["image"].isin(oof.index)].to_numpy()
    probabilities = predictor(view, where)
    kept = oof.loc[view.table["image"].iloc[where]].filter(regex=r"^p_\d+$").to_numpy()
    np.testing.assert_allclose(probabilities, kept, atol=1e-5)  # as in validation
    bare = predictor.of_crops({"face": view.gather_original(where)})
    assert np.abs(bare - probabilities).max() > 1e-4  # and it matters


def test_random_backgrounds_are_drawn_in_training_alone(
    matted: Path, tmp_path: Path, config: Callable[..., Any]
) -> None:
    settings = config(data__background="random", optim__epochs=1)
    fitted = fit(matted, settings, out=tmp_path / "run")
    rows, view = np.arange(20), open_view(matted)
    predictor = model.load(fitted.run, "cpu")
    np.testing.assert_array_equal(predictor(view, rows), predictor.of_crops({"face": view.gather_original(rows)}))
    view = view.before(background(settings, (128, 128, 128), rows))
    (plain,) = Batches(view, rows, 32, CPU).epoch(None)
    np.testing.assert_array_equal(plain.pixels.permute(0, 2, 3, 1).numpy(), view.gather_original(rows))
    batches = Batches(view, rows, 32, CPU)
    (first,), (again,), (later,) = (list(batches.epoch(e)) for e in (0, 0, 1))
    assert torch.equal(first.pixels, again.pixels) and not torch.equal(first.pixels, later.pixels)
    original = view.gather_original(first.rows)
    different = (outside(first.pixels) != outside(torch.from_numpy(original).permute(0, 3, 1, 2))).any(axis=(1, 2))
    assert 8 <= different.sum() < 20


def test_without_mattes_it_is_an_error_that_says_what_to_do(
    cache: Path, synthetic: ModuleType, tmp_path: Path, config: Callable[..., Any]
) -> None:
    for settings in ({"data__background": "blur"}, {"data__statistics": "foreground"}):
        with pytest.raises(UserError, match="has no mattes") as caught:
            fit(cache, config(**settings), out=tmp_path / "run")
        assert "maskprep rembg" in caught.value.hint
    assert not (tmp_path / "run").exists()
    partly = synthetic.write_cache(tmp_path / "partly", people=8)
    synthetic.give_mattes(partly, missing=3)
    with pytest.raises(UserError, match=r"of \d+ crops without mattes"):
        fit(partly, config(data__background="mean"), out=tmp_path / "run")
    with pytest.raises(UsageError, match="must be one of"):
        config(data__background="blurry")
    with pytest.raises(UsageError, match="no colour"):
        config(data__colour="blurry")


def test_statistics_of_the_foreground(matted: Path, tmp_path: Path, config: Callable[..., Any]) -> None:
    fitted = fit(matted, config(data__statistics="foreground", optim__epochs=1), out=tmp_path / "run")
    sidecar = json.loads((fitted.run / "best.json").read_text())
    view = open_view(matted)
    people = json.loads((fitted.run / "data.json").read_text())["people"]["train"]
    train = view.table.index[view.table["person"].isin(people) & (view.table["split"] == "train")].to_numpy()
    inside = view.gather(train)[:, 4:-4, 6:-6].reshape(-1, 3) / 255
    np.testing.assert_allclose(sidecar["mean"], inside.mean(axis=0), atol=1e-12)
    np.testing.assert_allclose(sidecar["std"], inside.std(axis=0), atol=1e-12)


def test_a_run_does_not_go_on_with_other_mattes(
    synthetic: ModuleType, tmp_path: Path, config: Callable[..., Any]
) -> None:
    from maskprep.store.tables import read_table, write_table

    cache = synthetic.write_cache(tmp_path / "people", people=10)
    synthetic.give_mattes(cache)
    file = cache / "views/face/mattes.parquet"
    write_table(file, read_table(file), inputs="one")
    run = fit(cache, config(data__background="mean", optim__epochs=1), out=tmp_path / "run").run
    resume(run)  # finished: nothing to do, and nothing wrong
    write_table(file, read_table(file), inputs="another")
    with pytest.raises(UserError, match="mattes"):
        resume(run)


def test_normalised_as_the_weights_of_the_model_were(matted: Path, tmp_path: Path, config: Callable[..., Any]) -> None:
    """resnet18 expects ImageNet's mean and std, tf_efficientnet_lite0 0.5 and 0.5; the mean colour is the data's."""
    view = open_view(matted)
    settings = config(data__statistics="model", data__background="mean", model__name="resnet18", optim__epochs=1)
    training = check(view, settings)
    mean, std = statistics(training, settings)
    assert mean.tolist() == [0.485, 0.456, 0.406] and std.tolist() == [0.229, 0.224, 0.225]
    lite = config(data__statistics="model", model__name="tf_efficientnet_lite0")
    assert [v.tolist() for v in statistics(training, lite)] == [[0.5] * 3] * 2
    own, _ = view.mean_std(training.split.train)
    assert colour(training, settings) == np.rint(own * 255).astype(int).tolist()
    with pytest.raises(UsageError, match="no_such"):
        statistics(training, config(data__statistics="model", model__name="no_such"))
