"""How long a fit is: by updates, more of them later, within some minutes; and what is done for several seeds."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from maskprep.base import UsageError
from masktrain.config.config import FitConfig
from masktrain.data.trainset import TrainSet, open_view_of
from masktrain.runs import folder as runs
from masktrain.study import fit as fitting
from masktrain.study import length, preflight
from masktrain.study.fit import fit, resume
from masktrain.study.length import improving
from masktrain.train import checkpoint
from masktrain.train.optim import learning_rate

Make = Callable[..., FitConfig]
Call = Callable[..., int]


@pytest.mark.parametrize(
    "batch, updates, epochs, patience",
    [(8, 600, 40, 10), (1, 600, 8, 5), (8, 10_000, 60, 15), (60, 40, 20, 5)],
)
def test_the_length_is_by_updates_between_limits(
    cache: Path, config: Make, monkeypatch: pytest.MonkeyPatch, batch: int, updates: int, epochs: int, patience: int
) -> None:
    monkeypatch.setattr(length, "UPDATES", updates)
    asked = config(optim__epochs=0, optim__batch_size=batch)
    data = TrainSet.open(open_view_of(cache, asked), asked)  # 120 images
    made = fitting.settled(data, asked, torch.device("cpu"))
    assert (made.optim.epochs, made.select.patience) == (epochs, patience)
    own = fitting.settled(data, config(optim__epochs=0, select__patience=0), torch.device("cpu"))
    assert own.select.patience == 0
    assert not fitting.settled(data, config(optim__epochs=50), torch.device("cpu")).select.patience


def test_what_an_epoch_draws_counts(cache: Path, config: Make) -> None:
    asked = config(optim__epochs=0, sample__photos=1)  # 24 people with one of three worn masks: 72 images, 9 steps
    data = TrainSet.open(open_view_of(cache, asked), asked)
    assert fitting.settled(data, asked, torch.device("cpu")).optim.epochs == 60


def test_a_finished_run_gets_more_epochs(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    done = resume(copy, epochs=5)
    records, before = runs.read_metrics(copy), runs.read_metrics(run)
    assert [r["epoch"] for r in records] == [1, 2, 3, 4, 5] and done.epochs == 5
    assert [r["val_loss"] for r in records[:3]] == [r["val_loss"] for r in before]
    settings = runs.read_config(copy)
    assert settings.optim.epochs == 5 and settings.run.extended == (3,)
    assert records[3]["lr"] == learning_rate(4 * 15 - 1, 5 * 15, settings.optim.lr, settings.schedule)
    best = max(records, key=lambda r: r["macro_f1"])
    assert checkpoint.load_sidecar(copy).epoch == done.best["epoch"] == best["epoch"]
    with pytest.raises(UsageError, match="has had 5 epochs"):
        resume(copy, epochs=5)


def test_more_epochs_can_be_stopped_and_gone_on_with(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Path(shutil.copytree(run, tmp_path / "whole"))
    resume(whole, epochs=4)
    broken = Path(shutil.copytree(run, tmp_path / "broken"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(runs, "write_config", _interrupted)
        resume(broken, epochs=4)
    assert not runs.finished(broken)
    assert resume(broken).epochs == 4 and runs.read_config(broken) == runs.read_config(whole)
    first, second = (checkpoint.load_last(r)["learner"]["model"] for r in (whole, broken))
    assert checkpoint.weights_hash(first) == checkpoint.weights_hash(second)


def _interrupted(*_: object) -> None:
    raise KeyboardInterrupt


def test_an_average_is_not_trained_on(cache: Path, config: Make, tmp_path: Path) -> None:
    made = fit(cache, config(optim__epochs=2, select__last=2, select__soup="uniform"), out=tmp_path / "run").run
    with pytest.raises(UsageError, match="average of its last epochs") as error:
        resume(made, epochs=4)
    assert "--from" in (error.value.hint or "")


def test_patience_begins_anew_with_more_epochs(run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    saved = checkpoint.load_last(copy)
    settings = json.loads(saved["config"])
    settings["select"]["patience"], settings["optim"]["epochs"] = 2, 4
    saved["config"], saved["learner"]["stops"] = json.dumps(settings), [0.9, 0.1, 0.1]
    checkpoint.save_last(copy, saved)
    assert resume(copy).ended == "patience"
    assert resume(copy, epochs=5).epochs == 5


def test_a_fit_ends_within_its_minutes(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter([20.0, 1000.0, 20.0])
    plan = preflight.plan
    monkeypatch.setattr(
        preflight, "plan", lambda *a: dataclasses.replace(plan(*a), seconds=next(seconds) * a[1].optim.epochs)
    )
    done = fit(cache, config(optim__epochs=50, run__minutes=1), out=tmp_path / "run")
    assert runs.read_config(done.run).optim.epochs == done.epochs == 2 and not done.ended
    with pytest.raises(UsageError, match="One epoch takes about 1000 seconds"):
        fit(cache, config(optim__epochs=50, run__minutes=1), out=tmp_path / "other")
    assert not (tmp_path / "other").exists()
    monkeypatch.setattr(length, "END", 59.9)  # epochs that take longer than was thought
    monkeypatch.setattr(length, "shortened", lambda cache, config, started: config)
    late = fit(cache, config(optim__epochs=50, run__minutes=1), out=tmp_path / "late")
    assert 1 <= late.epochs < 50 and late.ended == "minutes"
    again = resume(late.run)
    assert (again.epochs, again.ended) == (late.epochs, "minutes")


def test_still_improving() -> None:
    falling = [{"macro_f1": 0.1 * k, "val_loss": 2 - 0.1 * k} for k in range(8)]
    still = falling + [falling[-1]] * 8
    assert improving(falling) and not improving(still) and not improving(falling[:1])
    assert not improving([{**r, "val_loss": 1.0} for r in falling]) and not improving(
        [{**r, "macro_f1": 0.5} for r in falling]
    )


def test_several_seeds_in_one_folder(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], call: Call
) -> None:
    out = tmp_path / "seeds"
    given = ["--model", "test_resnet", "--no-pretrained", "--epochs", "1", "--batch-size", "8", "--out", out]
    with monkeypatch.context() as patch:
        patch.setattr(fitting, "_finished", _interrupted)  # the first seed is stopped at its end
        assert call("fit", cache, *given, "--seeds", "3,5") == 130
    assert call("fit", cache, *given, "--seeds", "3,5") == 2 and "already exists" in capsys.readouterr().err
    assert call("fit", "--resume", out) == 0
    scores = [runs.read_result(out / f"seed-{s}")["best"]["macro_f1"] for s in (3, 5)]
    assert [runs.read_config(out / f"seed-{s}").run.seed for s in (3, 5)] == [3, 5] and scores[0] != scores[1]
    about = json.loads((out / "seeds.json").read_text())
    assert about["macro_f1"] == {"3": scores[0], "5": scores[1]} and about["mean"] == sum(scores) / 2
    assert about["standard deviation"] == pytest.approx(abs(scores[0] - scores[1]) / 2**0.5)
    said = capsys.readouterr().out
    assert f"mean {about['mean']:.4f}, standard deviation {about['standard deviation']:.4f}" in said
    assert call("fit", "--resume", out) == 0 and "seed    5 is finished" in capsys.readouterr().out
    assert call("fit", "--resume", out, "--epochs", "3") == 2 and "keep their length" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["1", "1,1", "1,x", "1,-2", ""])
def test_what_are_no_seeds(cache: Path, call: Call, capsys: pytest.CaptureFixture[str], text: str) -> None:
    assert call("fit", cache, "--seeds", text) == 2 and "--seeds takes different" in capsys.readouterr().err


def test_what_was_chosen_is_said(cache: Path, call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("fit", cache, "--model", "test_resnet", "--no-pretrained", "--dry-run") == 0
    said = capsys.readouterr().out
    assert (
        "target  joint (the labels have no number), loss ce, label smoothing 0.1, class weights sqrt (joint: " in said
    )
    assert (
        "train   augmentation light; adamw, rate 0.001 (1e-3 x root of 16/16), cosine; batches of 15 (on cpu)" in said
    )
    assert "length  60 epochs x 8 steps = 480 updates (about 600 updates, 8 to 60 epochs); ends early after 15 " in said
    given = ["--target", "heads", "--epochs", "2", "--lr", "0.1", "--batch-size", "20", "--mixup", "0.5"]
    assert call("fit", cache, "--model", "test_resnet", "--no-pretrained", "--dry-run", *given) == 0
    said = capsys.readouterr().out
    assert "target  heads, loss ce" in said and "(mask: wear 0." in said
    assert "augmentation light, mixup 0.5; adamw, rate 0.1, cosine; batches of 20" in said
    assert "length  2 epochs x 6 steps = 12 updates\n" in said
