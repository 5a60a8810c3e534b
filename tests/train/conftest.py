"""A synthetic cache, and one short run on it that the tests share."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd
import pytest

from maskprep.labels import Attribute, Schema
from masktrain.config.config import FitConfig

TINY = {
    "model.name": "test_resnet",
    "model.pretrained": False,
    "optim.epochs": 3,
    "optim.batch_size": 8,
    "optim.lr": 5e-3,
}


def _load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, Path(__file__).with_name(f"{name}.py"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Exit status of ``masktrain ARGS``, run in this process."""
    from masktrain.cli import app as cli

    def run(*args: object) -> int:
        monkeypatch.setattr(sys, "argv", ["masktrain", *map(str, args)])
        try:
            cli.main()
        except SystemExit as stop:
            return int(stop.code or 0)
        return 0

    return run


@pytest.fixture(scope="session")
def synthetic() -> ModuleType:
    """The writer of synthetic caches."""
    return _load("synthetic")


@pytest.fixture(scope="session")
def config() -> Callable[..., FitConfig]:
    """Settings of a fit of seconds; others by dotted name."""
    return lambda **changes: FitConfig.from_keys(TINY | {k.replace("__", "."): v for k, v in changes.items()})


@pytest.fixture(scope="session")
def cache(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that no test changes."""
    return synthetic.write_cache(tmp_path_factory.mktemp("cache") / "people")


@pytest.fixture(scope="session")
def aged(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that no test changes, of classes gender x age: people of 20, 21, ... 69 years, one of unknown age."""
    schema = Schema((Attribute("gender", ("male", "female")), Attribute("age", bins=(30, 60))))
    cache: Path = synthetic.write_cache(tmp_path_factory.mktemp("aged") / "cache", people=50, eval_people=2)
    labels = pd.read_parquet(cache / "labels.parquet")
    known = labels["person"].notna()
    labels["age"] = pd.to_numeric(labels["person"]) + 20.0
    joint = [schema.label({"gender": g, "age": a}) for g, a in zip(labels["gender"], labels["age"], strict=True)]
    labels["label"] = pd.Series(joint, dtype="Int64").where(known)
    labels["age"] = labels["age"].where(labels["age"] != 25)
    labels.to_parquet(cache / "labels.parquet")
    dataset = json.loads((cache / "dataset.json").read_text())
    (cache / "dataset.json").write_text(json.dumps({**dataset, "schema": schema.to_dict()}))
    return cache


@pytest.fixture(scope="session")
def fed(config: Callable[..., FitConfig]) -> Callable[..., Any]:
    """``fed(cache, **settings)``: the training set of a fit, its batches, and the crops that are scored."""
    import torch

    from masktrain.data.trainset import TrainSet, open_view_of
    from masktrain.study import fit

    def made(cache: Path, **changes: object) -> Any:
        cpu, settings = torch.device("cpu"), config(**changes)
        data = TrainSet.open(open_view_of(cache, settings), settings)
        settings = fit.settled(data, settings, cpu)
        return data, *fit.feeds(data, settings, fit.colour(data, settings), cpu)

    return made


@pytest.fixture(scope="session")
def run(cache: Path, config: Callable[..., FitConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test changes."""
    from masktrain.study.fit import fit

    return fit(cache, config(), out=tmp_path_factory.mktemp("runs") / "first").run
