"""Several processes, whole batches on a device, compiled networks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from masktrain.study.snapshots import Snapshots
from masktrain.train.batches import Batches
from torch import Tensor, nn

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from masktrain.config.config import FitConfig
from masktrain.config.images import AugmentConfig
from masktrain.runs import folder as runs
from masktrain.study.fit import fit
from masktrain.train import batched, checkpoint, host, loop

Make = Callable[..., FitConfig]
CPU = torch.device("cpu")


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
    assert done.stdout.count("best    epoch") == 1  # one of them speaks
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


def test_processes_share_every_batch(cache: Path) -> None:
    view = open_view(cache)
    rows = np.arange(10, 75)
    whole = list(Batches(view, rows, 16, CPU, seed=3).epoch(2))
    shared = [list(Batches(view, rows, 16, CPU, seed=3, part=(r, 3)).epoch(2)) for r in range(3)]
    for i, batch in enumerate(whole):
        parts = [own[i] for own in shared]
        assert np.concatenate([p.rows for p in parts]).tolist() == batch.rows.tolist()
        assert torch.equal(torch.cat([p.pixels for p in parts]), batch.pixels)
        assert {len(p) for p in parts} == {len(batch)} == {len(batch.rows)}
    held_out = list(Batches(view, rows, 16, CPU, part=(1, 3)).epoch(None))
    assert sum(len(b.rows) for b in held_out) == len(rows)  # what is not trained on is not shared
    with pytest.raises(UsageError, match="cannot be shared by 9 processes"):
        Batches(view, rows, 8, CPU, part=(0, 9))


def test_processes_stop_together() -> None:
    """A signal that another process heard stops this one at a common chance."""
    heard = [0] * 9 + [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 15]
    asked: list[int] = []

    def agree(mine: int) -> int:
        asked.append(mine)
        return heard[10 * len(asked) - 1] if len(asked) < 2 else 15

    saved: list[int] = []
    snapshots = Snapshots(lambda: saved.append(1), 1e9, lambda code: UserError("stopped", code=code), agree)
    with snapshots.listening():
        for _ in range(19):
            snapshots.pause()
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(UserError) as error:
            snapshots.pause()
    assert error.value.code == 128 + 15 and asked == [0, 15] and saved == [1]


def test_batched_augmentation_by_hand() -> None:
    """Draws of one half change nothing; the first below a half mirrors; the others move, turn and light."""
    pixels = torch.randint(0, 256, (5, 3, 24, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    still = torch.full((5, batched.DRAWS), 0.5)
    assert torch.equal(batched.apply(pixels, still), pixels)
    mirrored = still.clone()
    mirrored[:, 0] = 0.2
    assert torch.equal(batched.apply(pixels, mirrored), pixels.flip(3))
    bright = still.clone()
    bright[:, 5] = 1.0
    wanted = (pixels.float() * 1.2).round().clamp(max=255)
    assert torch.equal(batched.apply(pixels, bright).float(), wanted)
    dot = torch.zeros(1, 3, 101, 51, dtype=torch.uint8)
    dot[:, :, 49:52, 24:27] = 255
    moved = still[:1].clone()
    moved[:, 3] = 1.0  # to the left by 6 % of the width
    across = batched.apply(dot, moved)[0, 0].float()
    assert float((across.sum(0) * torch.arange(51)).sum() / across.sum()) == pytest.approx(25 - 0.06 * 51, abs=0.3)


def test_batched_turns_keep_shapes_in_oblong_crops() -> None:
    """A square turned by ten degrees is a square still: as wide as it is high."""
    picture = torch.zeros(1, 3, 120, 60, dtype=torch.uint8)
    picture[:, :, 48:72, 18:42] = 255
    draws = torch.full((1, batched.DRAWS), 0.5)
    draws[:, 2] = 1.0
    turned = batched.apply(picture, draws)[0, 0] > 127
    high, wide = int(turned.any(1).sum()), int(turned.any(0).sum())
    assert abs(high - wide) <= 1 and wide == pytest.approx(24 * (np.cos(np.pi / 18) + np.sin(np.pi / 18)), abs=2)


def test_batched_epochs_repeat_and_differ(cache: Path) -> None:
    view = open_view(cache)
    rows = np.arange(20, 60)
    augment = AugmentConfig(recipe="batched", mixup=0.3)
    made = [
        torch.cat([b.pixels for b in Batches(view, rows, size, CPU, augment=augment, seed=1).epoch(e)])
        for e, size in ((1, 8), (1, 8), (2, 8), (1, 5))
    ]
    order = Batches(view, rows, 8, CPU, seed=1).order(1)
    assert torch.equal(made[0], made[1]) and not torch.equal(made[0], made[2])
    assert (made[0].float() - made[3].float()).abs().max() <= 1 and len(order) == 40  # whatever the batch
    plain = torch.cat([b.pixels for b in Batches(view, rows, 8, CPU, augment=augment, seed=1).epoch(None)])
    assert torch.equal(plain, torch.from_numpy(view.gather(rows)).permute(0, 3, 1, 2))


def test_a_fit_with_batched_augmentation(cache: Path, config: Make, tmp_path: Path) -> None:
    done = fit(cache, config(augment__recipe="batched", optim__epochs=1), out=tmp_path / "run").run
    assert json.loads((done / "augment.json").read_text())["degrees"] == batched.DEGREES
    assert "recipe batched" in (done / "report.html").read_text()


def test_a_compiled_network_learns_the_same(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def compile_(model: nn.Module) -> Callable[[Tensor], Tensor]:
        def forward(pixels: Tensor) -> Tensor:
            calls.append(len(pixels))
            return model(pixels)  # type: ignore[no-any-return]

        return forward

    monkeypatch.setattr(torch, "compile", compile_)
    states = []
    for name, on in (("plain", False), ("compiled", True)):
        done = fit(cache, config(optim__epochs=1, run__compile=on), out=tmp_path / name).run
        states.append(checkpoint.weights_hash(checkpoint.load_last(done)["learner"]["model"]))
        assert bool(calls) == on
    assert states[0] == states[1]  # and the weights have the same names


def test_where_nothing_can_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: Any) -> Any:
        def forward(pixels: Tensor) -> Tensor:
            raise torch._dynamo.exc.TorchDynamoException("no compiler\nat all")

        return forward

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.raises(UserError, match="cannot be compiled here: no compiler"):
        host.compiled(nn.Identity())(torch.zeros(1))


def test_deterministic_algorithms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    try:
        host.make_deterministic()
        assert torch.are_deterministic_algorithms_enabled() and os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("recipe", ["light", "batched"])
def test_on_a_gpu_a_stopped_fit_goes_on_bit_by_bit(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: str
) -> None:
    from masktrain.study.fit import resume

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
