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

from maskprep.base import UsageError, UserError
from maskprep.crops import DRAW
from maskprep.dataset import open_view
from masktrain.answer import model
from masktrain.data.trainset import TrainSet
from masktrain.study.fit import colour, fit, resume, statistics
from masktrain.train import checkpoint
from masktrain.train.draws import BACKGROUND, keys
from masktrain.train.pixels import Backgrounds


@pytest.fixture(scope="module")
def matted(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    cache: Path = synthetic.write_cache(tmp_path_factory.mktemp("matted") / "people", people=16)
    synthetic.give_mattes(cache)
    return cache


def outside(pixels: np.ndarray) -> np.ndarray:
    """The pixels [n, m, 3] of images that are no subject's."""
    mask = np.ones(pixels.shape[1:3], bool)
    mask[4:-4, 6:-6] = False
    return pixels[:, mask]


def test_a_run_keeps_its_background_and_is_scored_before_it(
    matted: Path, tmp_path: Path, config: Callable[..., Any]
) -> None:
    fitted = fit(matted, config(data__background="mean", optim__epochs=1), out=tmp_path / "run")
    sidecar, view = checkpoint.load_sidecar(fitted.run), open_view(matted)
    assert sidecar.background == "mean"
    dressed = view.before(sidecar.behind())
    assert (outside(dressed.gather(np.arange(6))) == sidecar.colour).all()
    oof = pd.read_parquet(fitted.run / "oof.parquet").set_index("image")
    where = view.table.index[view.table["image"].isin(oof.index)].to_numpy()
    kept = oof.loc[view.table["image"].iloc[where]].filter(regex=r"^p_\d+$").to_numpy()
    np.testing.assert_allclose(model.load(fitted.run)(view, where), kept, atol=1e-5)


@pytest.mark.parametrize("kind", ["mean", "blur"])
def test_statistics_are_those_of_the_crops_that_are_trained_on(
    matted: Path, config: Callable[..., Any], fed: Callable[..., Any], kind: str
) -> None:
    settings = {"data__background": kind, "augment__recipe": "none"}
    data, train, _ = fed(matted, **settings)
    mean, std = statistics(data, config(**settings))
    order = train.order(1).ravel()[: len(data)]
    pixels = np.concatenate([b.pixels.numpy() for b in train.epoch(1)])[: len(data)].reshape(-1, 3) / 255
    assert sorted(order) == list(range(len(data)))
    np.testing.assert_allclose(mean, pixels.mean(0), atol=1e-12)
    np.testing.assert_allclose(std, pixels.std(0), atol=1e-12)
    whole = data.view.mean_std(data.split.train)
    assert np.abs(std - whole[1]).max() > 0.01  # and they are others than those of the photos
    if kind == "mean":
        assert colour(data, config(**settings)) == np.rint(whole[0] * 255).tolist()


def test_random_backgrounds_are_drawn_in_training_alone(matted: Path, fed: Callable[..., Any]) -> None:
    data, train, val = fed(matted, data__background="random", augment__recipe="none")
    np.testing.assert_array_equal(torch.cat(list(val)).numpy(), data.view.gather_original(data.split.val))
    first, again, later = (torch.cat([b.pixels for b in train.epoch(e)]).numpy() for e in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, later)
    original = data.view.gather_original(data.split.train[train.order(1).ravel()])
    inside = np.s_[:, 5:-5, 7:-7]
    assert np.abs(first[inside].astype(int) - original[inside]).mean() < 2  # the people stay who they are
    changed = (outside(first) != outside(original)).any(axis=(1, 2)).mean()
    assert changed == pytest.approx(1 - DRAW["original"], abs=0.2)


def test_kinds_of_random_backgrounds_come_as_often_as_they_are_to(matted: Path, config: Callable[..., Any]) -> None:
    settings = config(data__background="random")
    data = TrainSet.open(open_view(matted), settings)
    made = Backgrounds(data.view, data.split.train, 0)
    rows = torch.arange(20_000)
    drawn = keys(0, 1, rows, torch.zeros_like(rows), BACKGROUND)
    ground = made.choices(drawn, torch.ones(len(rows), dtype=torch.bool))
    which = ground.which
    shares = [(which >= 0) & (which < made.photos), which == -1, which >= made.photos, which == -2]
    assert [float(s.double().mean()) for s in shares] == pytest.approx(list(DRAW.values()), abs=0.02)
    assert float(ground.mirrored.double().mean()) == pytest.approx(0.5, abs=0.02)
    assert ground.colour.double().mean(0).tolist() == pytest.approx([127.5] * 3, abs=3)
    nobody = made.choices(drawn, torch.zeros(len(rows), dtype=torch.bool))
    assert (nobody.which == -2).all()  # where nobody was found nothing is laid behind anybody


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
    data = TrainSet.open(view, settings)
    mean, std = statistics(data, settings)
    assert mean.tolist() == [0.485, 0.456, 0.406] and std.tolist() == [0.229, 0.224, 0.225]
    lite = config(data__statistics="model", model__name="tf_efficientnet_lite0")
    assert [v.tolist() for v in statistics(data, lite)] == [[0.5] * 3] * 2
    own, _ = view.mean_std(data.split.train)
    assert colour(data, settings) == np.rint(own * 255).astype(int).tolist()
    with pytest.raises(UsageError, match="no_such"):
        statistics(data, config(data__statistics="model", model__name="no_such"))
