"""A linear probe on frozen features: beside a fit, and among the baselines of the ground rules."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from maskprep.base import UserError
from masktrain.answer import baselines
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study import probe, protocol
from masktrain.study.fit import fit, resume
from masktrain.train.model import assemble

Make = Callable[..., FitConfig]
Call = Callable[..., int]
CPU = torch.device("cpu")


def test_beside_a_fit_that_starts_from_weights(
    run: Path, cache: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--model", "test_resnet", "--epochs", "1", "--lr", "1e-9", "--freeze", "-1", "--out", tmp_path / "new"]
    assert call("fit", cache, *given, "--target", "heads", "--from", run) == 0  # a classifier that knows nothing
    said, found = capsys.readouterr().out, runs.read_probe(tmp_path / "new")
    assert found["macro_f1"] > 0.6 > runs.read_result(tmp_path / "new")["best"]["macro_f1"]
    assert (found["crops"], found["all"], found["network"]) == (120, 120, str(run))
    assert said.count(f"probe   macro-F1 {found['macro_f1']:.4f}") == 2 and "scores below this probe" in said


def test_the_weights_are_those_of_a_fit_without_a_probe(run: Path, cache: Path, config: Make, tmp_path: Path) -> None:
    for name, on in (("with", True), ("without", False)):
        fit(cache, config(model__start=str(run), run__probe=on, optim__epochs=1), out=tmp_path / name)
    first, second = (runs.read_metrics(tmp_path / name)[0] for name in ("with", "without"))
    assert first["val_loss"] == second["val_loss"]
    assert runs.read_probe(tmp_path / "without") == {} != runs.read_probe(tmp_path / "with")


def test_none_without_weights_to_start_from(run: Path, tmp_path: Path) -> None:
    found = runs.read_probe(run)
    assert found == {"none": "the network starts from random weights"}
    assert probe.lines(found) == ["probe   none: the network starts from random weights"]
    assert probe.lines(found, 0.5) == probe.lines({}) == []
    old = Path(shutil.copytree(run, tmp_path / "old"))
    (old / runs.PROBE).unlink()
    assert resume(old).epochs == 3  # a run of an earlier version


def test_the_features_are_what_the_classifier_is_given() -> None:
    pixels = torch.rand(2, 3, 64, 64)
    one = assemble("test_resnet", 5, (64, 64))
    two = assemble("test_resnet", 5, (64, 64), second="test_vit")
    for net, last in ((one, "fc"), (two, "classifier")):
        features = probe.headless(net)(pixels)
        assert features.ndim == 2
        torch.testing.assert_close(net.eval().get_submodule(last)(features), net(pixels))


def test_few_crops_on_a_cpu() -> None:
    rows = np.arange(10, 5000)
    few = baselines.few(rows, CPU)
    assert len(few) == len(np.unique(few)) == 400 and np.isin(few, rows).all() and few.max() > 4000
    assert (baselines.few(rows[:400], CPU) == rows[:400]).all()
    one = baselines.regress(np.zeros((3, 2), np.float32), np.full(3, 4), np.zeros((2, 2), np.float32))
    assert one.tolist() == [4, 4]  # a single class


def test_among_the_baselines_of_the_ground_rules(
    cache: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def regress(x: np.ndarray, labels: np.ndarray, unknown: np.ndarray) -> np.ndarray:
        asked.append((len(labels), len(unknown)))
        return np.full(len(unknown), 1)

    monkeypatch.setattr(baselines, "build", lambda *a, **k: torch.nn.Flatten())
    monkeypatch.setattr(baselines, "regress", regress)
    assert call("init", cache, "--out", tmp_path / "a.yaml", "--folds", "3") == 0
    name = f"linear probe on frozen {baselines.PROBE}"
    assert f"baseline {name}: macro-F1 " in capsys.readouterr().out
    assert [sum(pair) for pair in asked] == [148] * 3 and sum(held for _, held in asked) == 148
    found = yaml.safe_load((tmp_path / "a.yaml").read_text())["found"]
    assert found["baselines"][name]["accuracy"] == pytest.approx(0.304, abs=0.01)  # worn, female: 45 of 148
    assert "linear probe" not in str(protocol.init(cache, tmp_path / "b.yaml", probe=False).found)

    def unable(*_: object, **__: object) -> None:
        raise UserError("The weights cannot be had.")

    monkeypatch.setattr(baselines, "build", unable)
    assert call("init", cache, "--out", tmp_path / "c.yaml") == 0
    assert "note    no linear probe: The weights cannot be had." in capsys.readouterr().out
