"""Two processes with BatchNorm: killed in mid-epoch, they go on to the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from masktrain.runs import folder as runs
from masktrain.train import checkpoint

GIVEN = {
    "model.name": "test_resnet", "optim.epochs": 3, "optim.batch_size": 8, "optim.lr": 5e-3, "optim.ema": 0.9,
    "run.snapshot_seconds": 0.0, "augment.cutmix": 0.3,
}  # fmt: skip


def start(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "masktrain"]
    paths = {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*command, "fit", *args], env=os.environ | paths, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip


def finished(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-2000:]


def children(process: int) -> Sequence[int]:
    listed = subprocess.run(["pgrep", "-P", str(process)], capture_output=True, text=True, check=False).stdout
    return [int(p) for p in listed.split()]


def test_killed_in_mid_epoch_they_end_with_the_same_bytes(cache: Path, tmp_path: Path) -> None:
    given = ["--no-pretrained", *(f"--set={k}={v}" for k, v in GIVEN.items())]
    finished(start(str(cache), "--out", str(tmp_path / "whole"), *given))
    part = start(str(cache), "--out", str(tmp_path / "part"), *given)
    file = tmp_path / "part" / runs.METRICS
    while not file.is_file() and part.poll() is None:
        time.sleep(0.02)
    time.sleep(0.2)  # some steps of the second epoch
    for process in (*children(part.pid), part.pid):
        os.kill(process, signal.SIGKILL)
    part.communicate()
    stopped = checkpoint.load_last(tmp_path / "part")["learner"]
    assert stopped["epoch"] < 3
    finished(start("--resume", str(tmp_path / "part")))
    one, two = (checkpoint.load_last(tmp_path / name)["learner"] for name in ("whole", "part"))
    for name in ("model", "average"):
        assert checkpoint.weights_hash(one[name]) == checkpoint.weights_hash(two[name])
    assert one["scores"] == two["scores"]
    losses = [[r["train_loss"] for r in runs.read_metrics(tmp_path / name)] for name in ("whole", "part")]
    assert losses[0] == losses[1]
    best = [(tmp_path / name / "best.safetensors").read_bytes() for name in ("whole", "part")]
    assert best[0] == best[1]
