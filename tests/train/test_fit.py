"""A whole fit: what it learns, what it leaves behind, and going on with it bit by bit."""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from safetensors import safe_open
from safetensors.torch import load_file

from maskprep.base import UsageError, UserError
from maskprep.dataset import open_view
from masktrain.answer import model
from masktrain.config.config import FitConfig
from masktrain.data import folds
from masktrain.runs import folder as runs
from masktrain.score import metrics
from masktrain.study.fit import fit, resume
from masktrain.study.recorder import Recorder
from masktrain.train import checkpoint, criteria, loop

Make = Callable[..., FitConfig]


def best_hash(run: Path) -> str:
    return checkpoint.weights_hash(load_file(run / checkpoint.BEST))


def last_hash(run: Path) -> str:
    return checkpoint.weights_hash(checkpoint.load_last(run)["learner"]["model"])


def test_it_learns_what_can_be_seen(run: Path) -> None:
    records = runs.read_metrics(run)
    assert [r["epoch"] for r in records] == [1, 2, 3]
    # the majority class alone gives a macro-F1 of 0.08
    assert max(r["macro_f1"] for r in records) > 0.6
    assert records[-1]["train_loss"] < records[0]["train_loss"]


def test_every_epoch_keeps_every_metric(run: Path) -> None:
    for record in runs.read_metrics(run):
        assert {"macro_f1", "macro_f1_all", "accuracy", "val_loss", "train_loss", "train_accuracy", "lr"} <= set(record)
        assert set(record["attributes"]) == {"mask", "gender"}
        assert len(record["class_f1"]) == 6
        assert record["images_per_second"] > 0 and 0 <= record["data_wait"] <= 1


def test_the_best_epoch_is_kept_with_all_it_takes_to_use_it(run: Path, cache: Path) -> None:
    records = runs.read_metrics(run)
    sidecar = checkpoint.load_sidecar(run)
    best = max(records, key=lambda r: r["macro_f1"])
    assert (sidecar.epoch, sidecar.score) == (best["epoch"], best["macro_f1"])
    view = open_view(cache)
    assert sidecar.labels() == view.schema and sidecar.classes == list(view.schema.class_names)
    assert sidecar.geometry == view.info and sidecar.settings == view.dataset["settings"]
    mean, std = view.mean_std(folds.split(view, 0.2, 0).train)
    assert (sidecar.mean, sidecar.std) == (mean.tolist(), std.tolist())
    assert sidecar.fallback in (0, 1)  # worn masks are three fifths


def test_a_worse_epoch_does_not_replace_the_best(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, worse = metrics.score, iter([0.0, 0.2, 0.9, 0.9, 0.5])  # the first before anything is written
    monkeypatch.setattr(metrics, "score", lambda *a: dataclasses.replace(score(*a), macro_f1=next(worse, 0.0)))
    done = fit(cache, config(optim__epochs=4), out=tmp_path / "run")
    assert done.best["epoch"] == checkpoint.load_sidecar(done.run).epoch == 2  # of two alike, the earlier one
    assert [r["best_epoch"] for r in runs.read_metrics(done.run)] == [1, 2, 2, 2]


def test_the_held_out_probabilities_give_the_recorded_score(run: Path, cache: Path) -> None:
    oof = pd.read_parquet(run / "oof.parquet")
    assert list(oof.columns) == ["image", "person", "label", *[f"p_{k}" for k in range(6)]]
    p = oof.filter(like="p_").to_numpy()
    np.testing.assert_allclose(p.sum(1), 1, atol=1e-5)
    score = metrics.macro_f1(metrics.confusion(oof["label"].to_numpy(), p.argmax(1), 6))
    assert score == pytest.approx(checkpoint.load_sidecar(run).score, abs=1e-12)
    view = open_view(cache)
    split = folds.split(view, 0.2, 0)
    assert oof["image"].tolist() == view.table["image"].iloc[split.val].tolist()


def test_the_whole_config_is_written_and_read_back(run: Path, config: Make) -> None:
    written = yaml.safe_load((run / "config.yaml").read_text())
    settled = config(target__kind="joint", run__compile=False)  # what the data decides is written as decided
    assert FitConfig.from_dict(written) == settled
    assert FitConfig.from_dict(json.loads(checkpoint.load_last(run)["config"])) == settled


def test_the_weights_know_every_setting(run: Path) -> None:
    with safe_open(run / "best.safetensors", "pt") as weights:
        kept = json.loads(weights.metadata()["run"])["settings"]
    assert kept == yaml.safe_load((run / "config.yaml").read_text())


def test_the_best_epoch_by_every_criterion_is_kept(run: Path) -> None:
    result, records = json.loads((run / "result.json").read_text()), runs.read_metrics(run)
    by = result["best by"]
    assert {"macro_f1", "macro_f1_all", "accuracy", "val_loss", "mask.macro_f1", "gender.accuracy"} <= set(by)
    assert (by["macro_f1"]["epoch"], by["macro_f1"]["value"]) == (result["best"]["epoch"], result["best"]["macro_f1"])
    lowest = min(records, key=lambda r: r["val_loss"])
    assert by["val_loss"] == {"epoch": lowest["epoch"], "value": lowest["val_loss"]}
    told = [
        record(epoch, f1, loss) for epoch, (f1, loss) in enumerate([(0.5, 1.0), (0.9, float("nan")), (0.9, 0.7)], 1)
    ]
    found = criteria.bests(told)
    assert found["macro_f1"] == {"epoch": 2, "value": 0.9}  # the first of two that are alike
    assert found["val_loss"] == {"epoch": 3, "value": 0.7} and found["age.accuracy"] == {"epoch": 1, "value": 1.0}


def record(epoch: int, f1: float, loss: float) -> dict[str, object]:
    """A line of metrics.jsonl."""
    plain = {"epoch": epoch, "macro_f1": f1, "macro_f1_all": f1, "accuracy": f1, "val_loss": loss}
    return plain | {"attributes": {"age": {"accuracy": 1 / epoch}}}


def test_data_and_environment_are_recorded(run: Path, cache: Path) -> None:
    data = runs.read_data(run)
    view = open_view(cache)
    split = folds.split(view, 0.2, 0)
    assert (data["fingerprint"], data["folds"]) == (view.fingerprint(), split.hash)
    assert data["images"] == {"train": 120, "val": 28, "left out": {"eval split": 20}, "without crop": 2}
    assert not set(data["people"]["train"]) & set(data["people"]["val"])
    environment = json.loads((run / "env.json").read_text())
    assert environment["packages"]["torch"] == torch.__version__ and environment["device"] == "cpu"
    named = {"opencv": "cv2", "mediapipe": "mediapipe", "onnxruntime": "onnxruntime", "pillow": "PIL"}
    for package, module in named.items():
        assert environment["packages"][package].startswith(importlib.import_module(module).__version__), package
    assert environment["cpu"]["name"] and environment["cpu"]["cores"] >= 1 and environment["cpu"]["memory"] > 2**28
    assert environment["driver"] is None and environment["device memory"] is None
    assert json.loads((run / "augment.json").read_text())["recipes"]["light"]["flip"] == 0.5


def test_a_seeded_fit_repeats(run: Path, cache: Path, config: Make, tmp_path: Path) -> None:
    again = fit(cache, config(), out=tmp_path / "again").run
    assert (best_hash(again), last_hash(again)) == (best_hash(run), last_hash(run))
    other = fit(cache, config(run__seed=1, optim__epochs=1), out=tmp_path / "other").run
    assert last_hash(other) != last_hash(run)


STEP = loop.train_step
CLOCKS = ("seconds", "images_per_second", "data_wait")


def same_records(one: Path, two: Path) -> bool:
    kept = [[{k: v for k, v in r.items() if k not in CLOCKS} for r in runs.read_metrics(f)] for f in (one, two)]
    return kept[0] == kept[1]


class SignalAt:
    """Sends this process a signal within a step of an epoch."""

    def __init__(self, number: int, epoch: int, step: int) -> None:
        self.number, self.when, self.steps = number, (epoch - 1) * 15 + step, 0

    def __call__(self, *args: object) -> object:
        self.steps += 1
        if self.steps == self.when:
            os.kill(os.getpid(), self.number)
        return STEP(*args)


@pytest.mark.parametrize("epoch, step, number", [(1, 3, signal.SIGHUP), (2, 9, signal.SIGINT), (3, 15, signal.SIGTERM)])
def test_a_stopped_fit_goes_on_bit_by_bit(
    run: Path,
    cache: Path,
    config: Make,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    epoch: int,
    step: int,
    number: int,
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
    monkeypatch.setattr(loop, "train_step", SignalAt(number, epoch, step))
    with pytest.raises(UserError, match=f"Stopped in epoch {epoch} of 3, after {step} of 15 steps") as error:
        fit(cache, config(), out=tmp_path / "run")
    assert error.value.code == 128 + number and f"--resume {tmp_path / 'run'}" in error.value.hint
    assert checkpoint.load_last(tmp_path / "run")["learner"]["step"] == step
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)] == handlers
    monkeypatch.setattr(loop, "train_step", STEP)
    resume(tmp_path / "run")
    assert (best_hash(tmp_path / "run"), last_hash(tmp_path / "run")) == (best_hash(run), last_hash(run))
    assert same_records(run, tmp_path / "run")
    pd.testing.assert_frame_equal(pd.read_parquet(run / "oof.parquet"), pd.read_parquet(tmp_path / "run/oof.parquet"))


def test_a_hangup_that_is_ignored_stops_nothing(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As nohup has it."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        monkeypatch.setattr(loop, "train_step", SignalAt(signal.SIGHUP, 1, 3))
        assert fit(cache, config(optim__epochs=1), out=tmp_path / "run").epochs == 1
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_stop_while_scoring_loses_nothing(
    run: Path, cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict, times = loop.predict, iter(range(9))

    def interrupted(*args: object) -> object:
        if next(times) == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(*args)

    monkeypatch.setattr(loop, "predict", interrupted)
    with pytest.raises(UserError, match="epoch 2 of 3, after 15 of 15"):
        fit(cache, config(), out=tmp_path / "run")
    monkeypatch.setattr(loop, "predict", predict)
    resume(tmp_path / "run")
    assert last_hash(tmp_path / "run") == last_hash(run) and same_records(run, tmp_path / "run")


DIES = """
import os, signal
from pathlib import Path
from masktrain.study import fit
from masktrain.config.config import FitConfig
from masktrain.train import loop

step, done = loop.train_step, 0

def dies(*args):
    global done
    done += 1
    if done == {kill}:
        os.kill(os.getpid(), signal.SIGKILL)
    return step(*args)

loop.train_step = dies
out = Path({out!r})
if (out / "last.ckpt").exists():
    fit.resume(out)
else:
    fit.fit(Path({cache!r}), FitConfig.from_dict({config!r}), out=out)
"""


def test_a_killed_fit_goes_on_bit_by_bit(run: Path, cache: Path, config: Make, tmp_path: Path) -> None:
    """SIGKILL at random steps within epochs, twice over; no snapshot is lost, none changes the result."""
    out, settings = tmp_path / "run", config(run__snapshot_seconds=0.0)
    seed = int(time.time())
    print("seed", seed)  # shown when the test fails
    done = 0
    for kill in sorted(np.random.default_rng(seed).choice(np.arange(1, 46), 2, replace=False).tolist()):
        code = DIES.format(kill=kill - done, out=str(out), cache=str(cache), config=settings.to_dict())
        ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, timeout=100)
        assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()
        done = kill - 1  # killed within the step after it
        state = checkpoint.load_last(out)["learner"]
        assert state["epoch"] * 15 + state["step"] == done
    resume(out)
    assert last_hash(out) == last_hash(run) and best_hash(out) == best_hash(run) and same_records(run, out)


def test_a_fit_killed_at_any_instant_goes_on(run: Path, cache: Path, config: Make, tmp_path: Path) -> None:
    """SIGKILL from outside while it writes a snapshot after every step, at whatever instant that hits."""
    out, settings = tmp_path / "run", config(run__snapshot_seconds=0.0)
    code = DIES.format(kill=0, out=str(out), cache=str(cache), config=settings.to_dict())
    child = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 50
    while len(runs.read_metrics(out)) < 1 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert len(runs.read_metrics(out)) >= 1
    resume(out)
    assert [r["epoch"] for r in runs.read_metrics(out)] == [1, 2, 3]
    assert last_hash(out) == last_hash(run)


def recorder(run: Path, config: FitConfig, saved: Callable[[], object]) -> Recorder:
    """A recorder of no training, which calls a function in place of writing a snapshot."""
    idle = SimpleNamespace(
        config=config, device=torch.device("cpu"), epoch=0, step=0, sums={"skipped": torch.tensor(0)}, to_dict=dict
    )
    made = Recorder(run, idle, None, None, 15)  # type: ignore[arg-type]
    made.save = lambda: made._write(saved)  # type: ignore[method-assign]
    return made


def test_snapshots_take_a_small_share_of_the_time(
    monkeypatch: pytest.MonkeyPatch, config: Make, tmp_path: Path
) -> None:
    clock, saved = [0.0], []

    def save() -> None:
        saved.append(clock[0])
        clock[0] += 3.0

    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    made = recorder(tmp_path, config(run__snapshot_seconds=60.0), save)
    with made.recording():
        for _ in range(1000):
            clock[0] += 1.0
            made.pause()
            made.flush()
    assert saved[0] == 60 and np.diff(saved).min() >= 3 / 0.02


def test_a_disk_that_fills_up_while_training_ends_in_an_error_and_nothing_is_lost(
    run: Path, cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The snapshot is written by a thread: what it raises is raised in the fit, and the one before it is whole."""
    save, times = torch.save, iter(range(99))

    def full(*args: object) -> None:
        if next(times) == 20:
            Path(str(args[1])).write_bytes(b"part")
            raise OSError(28, "No space left on device")
        save(*args)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"last\.ckpt' could not be written .*No space left.* MiB are free") as error:
        fit(cache, config(run__snapshot_seconds=0.0), out=tmp_path / "run")
    assert "--resume" in error.value.hint
    monkeypatch.setattr(torch, "save", save)
    assert not [f for f in (tmp_path / "run").iterdir() if f.name.startswith(".tmp")]
    resume(tmp_path / "run")
    assert last_hash(tmp_path / "run") == last_hash(run) and same_records(run, tmp_path / "run")


def test_a_finished_run_resumes_to_itself(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    assert resume(copy).best["epoch"] == checkpoint.load_sidecar(run).epoch
    assert last_hash(copy) == last_hash(run)


def test_a_run_is_trained_by_one_process(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    with runs.locked(copy), pytest.raises(UsageError, match="by another process"):
        resume(copy)
    assert resume(copy).run == copy


def test_a_moved_cache_can_be_named(run: Path, cache: Path, tmp_path: Path) -> None:
    copy, moved = shutil.copytree(run, tmp_path / "copy"), shutil.copytree(cache, tmp_path / "moved")
    data = json.loads((copy / "data.json").read_text())
    (copy / "data.json").write_text(json.dumps(data | {"cache": str(tmp_path / "gone")}))
    with pytest.raises(UsageError, match="gone, which is not there"):
        resume(copy)
    assert resume(copy, moved).run == copy


def test_a_changed_cache_is_refused(run: Path, cache: Path, tmp_path: Path, synthetic: ModuleType) -> None:
    changed = Path(shutil.copytree(cache, tmp_path / "changed"))
    labels = pd.read_parquet(changed / "labels.parquet")
    labels.loc[50, "label"] = 5
    labels.to_parquet(changed / "labels.parquet")
    with pytest.raises(UserError, match="has changed since"):
        resume(run, changed)


def test_what_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no last\.ckpt"):
        resume(tmp_path)
    (tmp_path / "last.ckpt").write_bytes(b"rubbish")
    with pytest.raises(UserError, match="cannot be read"):
        resume(tmp_path)
    torch.save({"format": 1}, tmp_path / "last.ckpt")
    with pytest.raises(UserError, match="begun by another version"):
        resume(tmp_path)


def test_a_run_is_never_written_over(run: Path, cache: Path, config: Make, tmp_path: Path) -> None:
    before = sorted((f.name, f.stat().st_mtime_ns) for f in run.iterdir())
    with pytest.raises(UsageError, match="already exists") as error:
        fit(cache, config(), out=run)
    assert "--resume" in error.value.hint
    assert sorted((f.name, f.stat().st_mtime_ns) for f in run.iterdir()) == before
    names = [runs.new_run(config(), root=tmp_path / folder).name for folder in ("a", "b")]
    assert names[0] != names[1]  # they may come to lie in one folder
    assert all(re.fullmatch(f"test_resnet-{config().hash()[:8]}-[0-9a-f]{{6}}", name) for name in names)
    runs.new_run(config(), out=tmp_path / "mine")
    with pytest.raises(UsageError, match="already exists"):  # begun at once, before a file is in it
        runs.new_run(config(), out=tmp_path / "mine")


def test_what_ended_processes_have_left_is_removed(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    left, live = tmp_path / f".tmp-{ended.pid}-last.ckpt", tmp_path / f".tmp-{os.getppid()}-last.ckpt"
    for file in (left, live):
        file.write_text("half")
    with runs.locked(tmp_path):
        assert not left.exists() and live.exists()


def test_nothing_is_left_behind_by_wrong_settings(cache: Path, config: Make, tmp_path: Path) -> None:
    for wrong in ({"model__name": "nonesuch"}, {"optim__optimizer": "nonesuch"}, {"run__device": "cuda:7"}):
        with pytest.raises(UsageError):
            fit(cache, config(**wrong), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_a_loss_that_explodes_is_an_error(cache: Path, config: Make, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="The loss is not finite in epoch 1") as error:
        fit(cache, config(optim__lr=1e30, optim__clip=0, optim__optimizer="sgd"), out=tmp_path / "run")
    assert "--lr" in error.value.hint


def test_no_temporary_files_remain(run: Path) -> None:
    assert not [f.name for f in run.iterdir() if f.name.startswith(".") and f.name != ".lock"]
    assert {f.name for f in run.iterdir()} >= {
        "config.yaml", "data.json", "env.json", "metrics.jsonl", "best.safetensors", "best.json", "last.ckpt",
        "oof.parquet",
    }  # fmt: skip


def test_ctrl_c_ends_cleanly_and_soon(cache: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "masktrain.cli.app",
        "fit",
        str(cache),
        "--model",
        "test_resnet",
        "--no-pretrained",
    ]
    command += ["--epochs", "500", "--batch-size", "8", "--out", str(out)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    deadline = time.monotonic() + 50
    while len(runs.read_metrics(out)) < 1 and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGINT)
    _, errors = child.communicate(timeout=20)
    assert child.returncode == 130, errors
    assert "Stopped in epoch " in errors and f"--resume {out}" in errors and "Traceback" not in errors
    checkpoint.load_last(out)


def test_the_average_is_what_is_scored_and_kept(cache: Path, config: Make, tmp_path: Path) -> None:
    made = fit(cache, config(optim__ema=0.95, optim__epochs=2), out=tmp_path / "run").run
    state = checkpoint.load_last(made)["learner"]
    best = checkpoint.load_sidecar(made).epoch
    assert best_hash(made) != checkpoint.weights_hash(state["model"])
    assert best != 2 or best_hash(made) == checkpoint.weights_hash(state["average"])


def test_the_mirror_image_counts_as_much_as_the_crop(run: Path, cache: Path) -> None:
    view, rows = open_view(cache), np.arange(12)
    net, sidecar = checkpoint.load_best(run, torch.device("cpu"))
    pixels = torch.from_numpy(view.gather(rows)[:, :, ::-1].copy()).permute(0, 3, 1, 2).float()
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (sidecar.mean, sidecar.std))
    with torch.inference_mode():
        other = net(((pixels - mean) / std).float()).softmax(1).numpy()
    plain, both = (model.load(run, tta="mirror" if mirror else "none")(view, rows) for mirror in (False, True))
    np.testing.assert_allclose(both, (plain + other) / 2, atol=1e-6)
    assert np.abs(both - plain).max() > 1e-4


@pytest.mark.parametrize(
    "kind, head, tta",
    [("heads", "cosine", "none"), ("heads", "linear", "mirror"), ("joint", "cosine", "none")],
)
def test_what_is_kept_answers_as_what_was_trained(
    cache: Path, config: Make, tmp_path: Path, kind: str, head: str, tta: str
) -> None:
    """The scores of the best epoch come out again from the files alone."""
    settings = config(target__kind=kind, model__head=head, run__tta=tta, optim__epochs=1)
    made = fit(cache, settings, out=tmp_path / "run").run
    view, oof = open_view(cache), pd.read_parquet(made / "oof.parquet").set_index("image")
    rows = np.flatnonzero(view.table["image"].isin(oof.index))
    expected = oof.loc[view.table["image"].iloc[rows]].filter(like="p_").to_numpy()
    np.testing.assert_allclose(model.load(made)(view, rows), expected, atol=1e-5)
    sidecar = checkpoint.load_sidecar(made)
    assert (sidecar.target, sidecar.tta, sidecar.cosine > 0) == (kind, tta, head == "cosine")


def test_a_sidecar_of_before_targets_means_joint(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    old = json.loads((copy / "best.json").read_text())
    for key in ("target", "cosine", "tta", "limits", "second"):
        del old[key]
    (copy / "best.json").write_text(json.dumps(old))
    sidecar = checkpoint.load_best(copy, torch.device("cpu"))[1]
    assert sidecar.answers().kind == "joint" and sidecar.tta == "none"


def test_scores_that_chose_no_epoch_stand_beside_the_best(run: Path) -> None:
    records, result = runs.read_metrics(run), runs.read_result(run)
    f1 = [r["macro_f1"] for r in records]
    assert result["last"]["macro_f1"] == f1[-1]
    assert result["mean of last five"]["macro_f1"] == pytest.approx(sum(f1[-5:]) / len(f1[-5:]))
    sentence = (
        f"chosen on these people: best {max(f1):.4f} (epoch {1 + f1.index(max(f1))}), last {f1[-1]:.4f},"
        f" mean of last five {result['mean of last five']['macro_f1']:.4f}"
    )
    assert runs.chosen(run) == sentence and f"{sentence.capitalize()}." in (run / "report.html").read_text()
    assert runs.latest([{"macro_f1": k / 10, "accuracy": 1.0} for k in range(10)])["mean of last five"] == {
        "macro_f1": pytest.approx(0.7), "accuracy": 1.0
    }  # fmt: skip


def test_select_last_chooses_nothing(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last weights are kept though an earlier epoch is better, and patience does not end the fit."""
    settings = config(select__by="last", select__patience=1)
    assert (settings.select.by, settings.select.epoch) == ("macro_f1", "last")
    worse = iter(np.repeat([0.9, 0.5, 0.1], 2).tolist())
    monkeypatch.setattr(loop, "criterion", lambda scores, by: next(worse) if by == "macro_f1" else 0.0)
    monkeypatch.setattr(loop, "epochs_since_best", lambda stops: 99)
    done = fit(cache, settings, out=tmp_path / "run")
    assert done.best["epoch"] == done.epochs == 3
    assert json.loads((done.run / "best.json").read_text())["epoch"] == 3
    assert runs.chosen(done.run).startswith("nothing was chosen on these people: last epoch (3)")
    with pytest.raises(UsageError, match="soup=greedy chooses epochs"):
        config(select__by="last", select__soup="greedy", select__last=2)
    with pytest.raises(UsageError, match="a plateau is"):
        fit(cache, config(select__by="last", schedule__kind="plateau"), out=tmp_path / "plateau")
