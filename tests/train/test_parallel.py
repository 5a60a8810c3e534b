"""Several processes, compiled steps, deterministic ones, and fits on a GPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from maskprep.base import UserError
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study.fit import fit, resume
from masktrain.train import checkpoint, device, loop

Make = Callable[..., FitConfig]


def test_two_processes_compute_what_one_does(cache: Path, config: Make, tmp_path: Path) -> None:
    """The same batches, each in two halves: the same losses, scores and weights, up to rounding."""
    settings = {"model.name": "test_convnext", "model.dropout": 0.0, "optim.epochs": 2, "augment.mixup": 0.3}
    values = config().to_dict()
    flat = {f"{s}.{k}": v for s, held in values.items() for k, v in held.items()} | settings
    one = fit(cache, FitConfig.from_keys(flat), out=tmp_path / "one").run
    given = [f"--set={k}={v}" for k, v in {**settings, "optim.batch_size": 8, "optim.lr": 5e-3}.items()]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    done = subprocess.run(
        [*command, "masktrain", "fit", str(cache), "--no-pretrained", "--out", str(tmp_path / "two"), *given],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("score   macro-F1") == 1  # one of them speaks
    both = [runs.read_metrics(tmp_path / r) for r in ("one", "two")]
    assert len(both[0]) == len(both[1]) == 2
    for a, b in zip(*both, strict=True):
        assert a["step"] == b["step"] and b["train_loss"] == pytest.approx(a["train_loss"], rel=1e-3)
        assert b["val_loss"] == pytest.approx(a["val_loss"], rel=1e-2)
    states = [checkpoint.load_last(tmp_path / r)["learner"]["model"] for r in ("one", "two")]
    moved = max(float((states[0][k] - states[1][k]).abs().max()) for k in states[0])
    assert moved < 5e-3 < max(float(states[0][k].abs().max()) for k in states[0])
    assert json.loads((tmp_path / "two/result.json").read_text())["epochs"] == 2
    assert one.is_dir()


def test_a_compiled_network_learns_the_same(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The step is one graph, made once for a whole fit, and the weights have the same names."""
    graphs: list[Any] = []

    def backend(graph: Any, inputs: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(loop, "BACKEND", backend)
    states = []
    for name, on in (("plain", False), ("compiled", True)):
        done = fit(cache, config(optim__epochs=2, run__compile=on), out=tmp_path / name).run
        states.append(checkpoint.load_last(done)["learner"]["model"])
        assert len(graphs) == on
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=1e-3, atol=1e-4, msg=key)


def test_where_nothing_can_be_compiled(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise RuntimeError("no compiler\nat all")

    monkeypatch.setattr(loop, "BACKEND", broken)
    with pytest.raises(UserError, match=r"cannot be compiled here: .*no compiler") as error:
        fit(cache, config(run__compile=True), out=tmp_path / "run")
    assert "run.compile=false" in error.value.hint


def test_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a GPU is set to; nothing else of it is asked for here."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    try:
        device.choose_device("cuda", deterministic=True)
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
        assert not torch.backends.cudnn.benchmark
    finally:
        torch.use_deterministic_algorithms(False)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("recipe", ["light", "strong"])
def test_on_a_gpu_a_stopped_fit_goes_on_bit_by_bit(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    settings = config(
        run__device="cuda", run__deterministic=True, run__snapshot_seconds=0.0, augment__recipe=recipe, optim__ema=0.9
    )
    fit(cache, settings, out=tmp_path / "whole")
    step, count = loop.train_step, iter(range(99))

    def stops(*args: Any) -> Any:
        if next(count) == 22:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        fit(cache, settings, out=tmp_path / "part")
    monkeypatch.setattr(loop, "train_step", step)
    resume(tmp_path / "part")
    states = [checkpoint.load_last(tmp_path / r)["learner"] for r in ("whole", "part")]
    for key in ("model", "average"):
        assert checkpoint.weights_hash(states[0][key]) == checkpoint.weights_hash(states[1][key])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu_a_compiled_network_learns(cache: Path, config: Make, tmp_path: Path) -> None:
    done = fit(cache, config(run__device="cuda", run__compile=True), out=tmp_path / "run")
    assert done.best["macro_f1"] > 0.5
