"""A synthetic cache, and one short run on it that the tests share."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

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
def run(cache: Path, config: Callable[..., FitConfig], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run that no test changes."""
    from masktrain.study.fit import fit

    return fit(cache, config(), out=tmp_path_factory.mktemp("runs") / "first").run
