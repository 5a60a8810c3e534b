"""Plugins: the examples of the documentation as they stand, and code that nobody asked for."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from maskprep.base import UsageError, UserError
from masktrain.config import plugins, recipes, sections
from masktrain.config.config import FitConfig
from masktrain.config.images import SampleConfig
from masktrain.config.sections import LossConfig, ScheduleConfig
from masktrain.pages import compare
from masktrain.runs import folder as runs
from masktrain.train import augment, losses, optim, sampling

DOCS = Path(__file__).parents[2] / "docs/plugins.md"
REGISTRIES = (losses.loss, augment.recipe, optim.schedule, sampling.sample)
Call = Callable[..., int]
TINY = ["fit", "--model", "test_resnet", "--no-pretrained", "--epochs", "1", "--batch-size", "8"]
OWN = ["--loss", "poly", "--augment", "gentle", "--schedule", "sawtooth", "--sample", "half"]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Whatever a test adds is gone after it."""
    forget()
    yield
    forget()


def forget() -> None:
    """As in a new process."""
    for registry in REGISTRIES:
        for name in registry:
            registry.choices.remove(name)
        registry.clear()
    plugins._loaded.clear()


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The examples of the documentation, in one file."""
    blocks = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == len(REGISTRIES)
    file = tmp_path / "mine.py"
    file.write_text("\n\n".join(blocks), encoding="utf-8")
    return file


def test_the_examples_train_and_nothing_loads_them_unasked(
    mine: Path, cache: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert call(*TINY, cache, "--plugin", mine, *OWN, "--out", run) == 0
    kept = yaml.safe_load((run / "config.yaml").read_text())
    assert kept["loss"]["name"] == "poly" and re.fullmatch(r"mine\.py@[0-9a-f]{16}", kept["run"]["plugins"][0])
    assert runs.read_metrics(run)[0]["train_loss"] > 0 and "RandomBrightness" in (run / "augment.json").read_text()
    forget()
    capsys.readouterr()
    for command in (["fit", "--resume", run], [*TINY, cache, "--config", run / "config.yaml"]):
        assert call(*command) == 2
        said = capsys.readouterr().err
        assert "plugin mine.py" in said and "Add: --plugin mine.py" in said and not losses.loss
    # what is trained needs none of it
    assert call("predict", run, cache, "--out", tmp_path / "p.csv") == 0
    assert call("evaluate", run, cache) == 0
    assert call("report", run) == 0
    assert "gentle, of a plugin that is not loaded" in (run / "report.html").read_text()
    assert compare.compare([run]).rows[0].settings["loss.name"] == "poly"
    assert not losses.loss and not augment.recipe
    assert call("fit", "--resume", run, "--plugin", mine) == 0
    forget()
    mine.write_text(mine.read_text() + "# changed\n")
    capsys.readouterr()
    assert call("fit", "--resume", run, "--plugin", mine) == 2
    assert "has changed: its hash is" in capsys.readouterr().err


def test_a_sweep_over_them_goes_on(
    mine: Path, cache: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("optuna")
    fixed = {"model.name": "test_resnet", "model.pretrained": False, "optim.epochs": 1, "optim.batch_size": 32}
    space = {"fixed": fixed | {"augment.recipe": "none"}, "space": {"loss.name": ["poly"]}}
    (tmp_path / "space.yaml").write_text(yaml.safe_dump(space))
    command = ["sweep", cache, tmp_path / "space.yaml", "--kind", "grid", "--out", tmp_path / "sweep"]
    assert call(*command) == 2
    assert "must be one of ce" in capsys.readouterr().err
    for _ in range(2):  # a second time there is nothing left to do
        assert call(*command, "--plugin", mine) == 0
        assert "trial  macro-F1  loss.name" in " ".join(capsys.readouterr().out.split("\n"))
        forget()
    with pytest.raises(UsageError, match=r"use the plugin mine\.py"):
        recipes.read(tmp_path / "sweep/best.yaml")


def test_the_examples_by_hand(mine: Path) -> None:
    plugins.load([str(mine)])
    truth = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    logits = torch.tensor([[math.log(3.0), 0.0], [math.log(3.0), 0.0]])  # probabilities 3/4 and 1/4
    found = losses.loss["poly"](logits, truth, LossConfig())
    expected = [-math.log(0.75) + 0.5 * 0.25, -math.log(0.25) + 0.5 * 0.75]
    assert found.tolist() == pytest.approx(expected, abs=1e-6)
    rates = [optim.learning_rate(k, 12, 1.0, ScheduleConfig(kind="sawtooth", warmup=0.0)) for k in range(12)]
    assert rates == pytest.approx([1, 0.75, 0.5, 0.25] * 3)
    drawn = sampling.quota(SampleConfig(kind="half"), np.arange(3), np.array([9, 1, 4]))
    assert drawn.tolist() == [4, 1, 2]
    pixels = np.random.default_rng(0).integers(0, 255, (4, 16, 16, 3), dtype=np.uint8)
    before = pixels.copy()
    augment.shown("gentle", 0, pixels, np.arange(4))
    assert pixels.shape == before.shape and (pixels != before).any()


@pytest.mark.parametrize(
    "code, said",
    [
        ("x = 1", "adds nothing"),
        ("import no_such_module_at_all", "ModuleNotFoundError: No module named 'no_such_module_at_all'"),
        ("def (:", "SyntaxError"),
        ("from masktrain.train.losses import loss\nloss('focal')(len)", "There is a loss 'focal' already"),
    ],
)
def test_plugins_that_cannot_be_used(tmp_path: Path, code: str, said: str) -> None:
    (tmp_path / "bad.py").write_text(code)
    with pytest.raises(UserError, match=re.escape(said)) as error:
        plugins.load([str(tmp_path / "bad.py")])
    assert "bad.py" in error.value.message


def test_plugins_that_are_not_there_or_called_alike(mine: Path, tmp_path: Path) -> None:
    for name in ("nowhere.py", "no_such_module_at_all", "no.such.module"):
        with pytest.raises(UsageError, match=f"no plugin {name}"):
            plugins.load([name])
    first = plugins.load([str(mine), str(mine)])
    assert plugins.load([str(mine)]) == first and len(first) == 1
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.py").write_text("pass")
    with pytest.raises(UsageError, match=r"Two plugins are called mine\.py"):
        plugins.load([str(tmp_path / "other/mine.py")])


def test_a_module_that_can_be_imported(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mine.rename(tmp_path / "plugged_module.py")
    monkeypatch.syspath_prepend(tmp_path)
    (name,) = plugins.load(["plugged_module"])
    assert name.startswith("plugged_module@") and "poly" in sections.LOSSES
    assert FitConfig.from_keys({"loss.name": "poly", "run.plugins": [name]}).loss.name == "poly"
    monkeypatch.delitem(sys.modules, "plugged_module")


def test_names_are_checked_like_the_built_in_ones(mine: Path) -> None:
    with pytest.raises(UsageError, match="must be one of ce"):
        FitConfig.from_keys({"loss.name": "poly"})
    plugins.load([str(mine)])
    with pytest.raises(UsageError, match="'poli'") as error:
        FitConfig.from_keys({"loss.name": "poli"})
    assert error.value.hint == "Did you mean 'poly'?"
    assert FitConfig.from_keys({"target.kind": "heads", "target.losses": ["ce", "poly"]}).target.losses[1] == "poly"


def test_answers_of_the_wrong_shape_are_refused() -> None:
    losses.loss("mean")(lambda logits, truth, config: logits.mean())
    with pytest.raises(UsageError, match=r"'mean' of a plugin gives shape \(\)"):
        losses._of_plugin("mean", torch.zeros(4, 2), torch.zeros(4, 2), LossConfig())
    sampling.sample("shares")(lambda names, counts, config: counts / 2)
    with pytest.raises(UsageError, match="'shares' of a plugin must give a whole number of draws for each of the 2"):
        sampling.quota(SampleConfig(kind="shares"), np.arange(2), np.array([3, 4]))
