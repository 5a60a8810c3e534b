"""More caches to train on: their weight, and that nobody who is held out comes in by them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from maskprep.labels.schema import Attribute, Schema
from masktrain.cli import show
from masktrain.config.config import FitConfig
from masktrain.data import folds
from masktrain.runs import folder as runs
from masktrain.study.fit import fit, resume
from masktrain.train import feed

Make = Callable[..., FitConfig]
MASK = Attribute("mask", ("wear", "incorrect", "normal"))


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


def drawn(cache: Path, settings: FitConfig, epoch: int) -> tuple[Any, np.ndarray]:
    training = feed.training_of(open_view(cache), settings)
    return training, training.split.train[feed.sampler_of(training, settings).order(epoch)]


@pytest.mark.parametrize("weight, sample", [(0.5, "all"), (1.0, "all"), (3.0, "all"), (0.5, "balanced")])
def test_another_cache_comes_as_often_as_its_weight(
    cache: Path, more: Path, config: Make, weight: float, sample: str
) -> None:
    settings = config(target__kind="joint", data__extra=[f"{more}={weight}"], sample__kind=sample)
    plain = feed.training_of(open_view(cache), config())
    training, first = drawn(cache, settings, 1)
    own = len(open_view(cache))
    assert (first < own).sum() == len(plain.split.train) and (first >= own).sum() == round(58 * weight)
    others = [set(drawn(cache, settings, e)[1][drawn(cache, settings, e)[1] >= own]) for e in range(1, 5)]
    if weight < 1:
        assert others[0] != others[1]  # another half in another epoch
    elif sample == "all":
        assert all(len(o) == 58 for o in others)
    assert training.split.val.tolist() == plain.split.val.tolist() and (training.split.val < own).all()
    batches = feed.batches_of(training, settings, open_view(cache).background, torch.device("cpu"))
    theirs = open_view(more)
    for batch in batches.epoch(None):
        extra = batch.rows >= own
        wanted = theirs.gather(batch.rows[extra] - own)
        assert (batch.pixels.permute(0, 2, 3, 1).numpy()[extra] == wanted).all()
        assert batch.labels.numpy()[extra].tolist() == theirs.table["label"].iloc[batch.rows[extra] - own].tolist()


def test_nobody_who_is_held_out_comes_back_by_another_cache(
    cache: Path, more: Path, config: Make, tmp_path: Path
) -> None:
    view = open_view(cache)
    split = folds.split(view, 0.2, 0)
    held = view.table.iloc[split.val]
    judged = view.table[view.table["split"] == "eval"]
    leaking = Path(shutil.copytree(more, tmp_path / "leaking"))
    images = pd.read_parquet(leaking / "images.parquet")
    labels = pd.read_parquet(leaking / "labels.parquet")
    theirs = sorted(set(images["person"].dropna()))
    images.loc[images["person"] == theirs[3], "content"] = held["content"].tolist()[:5]
    images.loc[images["person"] == theirs[4], "content"] = judged["content"].tolist()[:5]
    names = {theirs[5]: held["person"].iloc[0], theirs[6]: held["person"].iloc[-1] + "-1"}
    images["person"], labels["person"] = (t["person"].replace(names) for t in (images, labels))
    images.to_parquet(leaking / "images.parquet")
    labels.to_parquet(leaking / "labels.parquet")
    training = feed.training_of(view, config(data__extra=[str(leaking)]))
    (record,) = training.extra
    assert record["left out"] == {"eval split": 5, "held-out photo": 10, "held-out person": 10}
    assert record["images"] == 58 - 20
    table = training.view.table.iloc[training.split.train]
    assert not set(table["person"]) & set(held["person"]) and not set(table["content"]) & set(held["content"])
    with pytest.raises(UserError, match=r"no image of .* may be trained on"):
        alike = tmp_path / "alike"
        shutil.copytree(leaking, alike)
        table = pd.read_parquet(alike / "images.parquet")
        table["content"] = held["content"].iloc[0]
        table.to_parquet(alike / "images.parquet")
        feed.training_of(view, config(data__extra=[str(alike)]))


def test_a_run_with_another_cache_says_so_and_notices_its_changes(
    cache: Path, more: Path, config: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(more, tmp_path / "copy"))
    done = fit(
        cache, config(optim__epochs=1, data__extra=[f"{copy}=2"]), out=tmp_path / "run", progress=show.PrintedFit()
    ).run
    said = capsys.readouterr().out
    assert f"58 of them from {copy}, weight 2, 5 eval split left out" in said
    data = json.loads((done / runs.DATA).read_text())
    assert data["images"]["train"] == 58 + len(folds.split(open_view(cache), 0.2, 0).train)
    assert resume(done).epochs == 1
    labels = pd.read_parquet(copy / "labels.parquet")
    labels.loc[3, "label"] = 5
    labels.to_parquet(copy / "labels.parquet")
    with pytest.raises(UserError, match="has changed since"):
        resume(done)


def test_caches_that_do_not_go_together(
    cache: Path, more: Path, synthetic: ModuleType, config: Make, tmp_path: Path
) -> None:
    view = open_view(cache)
    small = synthetic.write_cache(tmp_path / "small", size=(16, 16), people=3)
    with pytest.raises(UsageError, match=r"the crops of .*small are 16x16, those of .* 32x32"):
        feed.training_of(view, config(data__extra=[str(small)]))
    other = Path(shutil.copytree(more, tmp_path / "other"))
    dataset = json.loads((other / "dataset.json").read_text())
    dataset["schema"] = Schema((MASK, Attribute("gender", ("m", "f")))).to_dict()
    (other / "dataset.json").write_text(json.dumps(dataset))
    with pytest.raises(UsageError, match="not the classes of"):
        feed.training_of(view, config(data__extra=[str(other)]))
    for text in (f"{more}=0", f"{more}=much", f"{more}=nan"):
        with pytest.raises(UsageError, match="no weight above 0"):
            feed.training_of(view, config(data__extra=[text]))
