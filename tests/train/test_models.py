"""models: which to choose, what they cost, and what own runs scored."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import f1_score
from torch import nn

from maskprep.errors import UsageError
from maskprep.weights import fetch as weights
from masktrain.answer import cost
from masktrain.study import models
from masktrain.train.device import Precision

Call = Callable[..., int]
PRECISION = Precision(torch.device("cpu"), None)


def test_what_is_known_of_a_model(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = models.look_up("resnet18", {"resnet18.a1_in1k": [0.5, 0.75], "resnet18.gluon_in1k": [0.9]})
    assert (found.parameters, found.size) == (11_689_512, (224, 224))  # as torchvision documents it
    assert found.licence == "apache-2.0" and found.weights in ("here", "hub") and found.scores == (0.75, 0.5)
    assert models.look_up("resnet18.gluon_in1k", {"resnet18.gluon_in1k": [0.9]}).scores == (0.9,)
    assert models.look_up("tf_efficientnet_b4_ns").size == (380, 380)
    monkeypatch.setenv("MASKPREP_WEIGHTS", str(tmp_path))
    monkeypatch.delenv(weights.find("efficientnet_lite1").env, raising=False)
    assert models.look_up("tf_efficientnet_lite1").weights == "index"
    assert models.look_up("nf_resnet26").weights == "none"


def test_which_are_listed() -> None:
    assert models.choose(["tf_efficientnet_b4_ns", "test_res*", "test_resnet"]) == {
        "": ("tf_efficientnet_b4_ns", "test_resnet")
    }
    assert models.choose(["resnet18.*_in1k"])[""][0].startswith("resnet18.")
    with pytest.raises(UsageError, match="no model like 'rasnet5") as error:
        models.choose(["rasnet5*"])
    assert "resnet50" in error.value.hint
    with pytest.raises(UsageError, match="no model 'resnet181'"):
        models.choose(["test_*", "resnet181"])
    families = models.choose([], ["resnet18.a1_in1k", "test_vit.r160_in1k"])
    assert list(families.values())[-1] == ("test_vit.r160_in1k",)
    for name in (n for names in models.FAMILIES.values() for n in names):
        models.known_name(name)


def test_what_a_step_keeps_by_hand() -> None:
    """A linear layer keeps its input [7, 10], tanh its output [7, 5]; weights are no activations."""
    net = nn.Sequential(nn.Linear(10, 5), nn.Tanh())
    kept: dict[int, int] = {}
    with cost.activations(net, kept):
        outputs = net(torch.randn(7, 10).requires_grad_())
    assert sum(kept.values()) == 4 * 7 * (10 + 5) and outputs.grad_fn is not None


def test_the_time_to_answer_is_for_one_image() -> None:
    seen = []

    class Counting(nn.Module):
        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(pixels.shape))
            assert not torch.is_grad_enabled() and not self.training
            return pixels.mean((1, 2, 3))

    assert cost.seconds_to_answer(Counting(), (6, 8), PRECISION, batch=4) > 0
    assert seen == [(4, 3, 6, 8)] * 2


def test_a_model_is_measured_at_its_own_size() -> None:
    few, many = (models.measure("test_resnet", "cpu", n) for n in (2, 4))
    assert few.trained > 0 and few.answered > 0
    assert many.activations == pytest.approx(few.activations, rel=0.1)  # for each image
    first = 160 * 160 * 3 * 4  # the crop itself is kept for the first layer's gradients
    assert few.activations > first


def test_the_table(run: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("one", "two"):
        shutil.copytree(run, tmp_path / "runs" / name)
    oof = pd.read_parquet(run / "oof.parquet")
    told = oof.filter(regex=r"^p_\d+$").to_numpy().argmax(1)
    score = f1_score(oof["label"], told, average="macro", labels=np.unique(oof["label"]))
    options = ["--runs", tmp_path / "runs", "--measure", "--batch-size", 2, "--device", "cpu"]
    assert call("models", "test_resnet", "test_efficientnet", *options) == 0
    header, _, ours, other = (line.rstrip() for line in capsys.readouterr().out.splitlines())
    assert header.split()[-4:] == ["macro-F1", "of", "your", "runs"] and "MiB/image" in header
    assert ours.startswith("test_resnet ") and ours.endswith(f"  {score:.4f}, best of 2")
    assert "160x160" in ours and other.endswith(" —") and len(ours.split()) == 13
    assert call("models", "--runs", tmp_path / "runs") == 0
    said = capsys.readouterr().out
    assert "tf_efficientnet_lite0" in said and said.rstrip().splitlines()[-1].startswith("test_resnet.")
    assert "Swin: " in said and f"{score:.4f}" in said
