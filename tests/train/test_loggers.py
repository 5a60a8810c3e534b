"""Other logs: fed from metrics.jsonl, everything once, also when a run goes on."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from maskprep.errors import UserError
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study import loggers
from masktrain.study.fit import fit

Make = Callable[..., FitConfig]


def test_numbers_by_name() -> None:
    record = {"epoch": 2, "loss": 1, "attributes": {"age": {"macro_f1": 0.5}}, "name": "x", "good": True}
    assert loggers.flat(record) == {"loss": 1.0, "attributes/age/macro_f1": 0.5}


class Wandb(ModuleType):
    """A stand-in that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("wandb")
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.finished = 0

    def init(self, **given: Any) -> Any:
        """Begin a run, or go on with the one of an id."""
        self.started.append(given)

        def end() -> None:
            self.finished += 1

        return SimpleNamespace(
            id=given["id"] or "abc", log=lambda values, step: self.logged.append((step, values)), finish=end
        )


class Mlflow(ModuleType):
    """A stand-in that keeps what it is told."""

    def __init__(self) -> None:
        super().__init__("mlflow")
        self.calls: list[tuple[str, Any]] = []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def call(*args: Any, **named: Any) -> Any:
            self.calls.append((name, args[0] if args else named))
            return SimpleNamespace(info=SimpleNamespace(run_id="r1"))

        return call


def test_what_is_logged_is_what_metrics_say_and_nothing_twice(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb, mlflow = Wandb(), Mlflow()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setitem(sys.modules, "mlflow", mlflow)
    monkeypatch.setattr(loggers, "check", lambda kinds: None)
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    lines = (copy / runs.METRICS).read_text().splitlines(keepends=True)
    (copy / runs.METRICS).write_text("".join(lines[:2]))
    with loggers.logging(copy, ("wandb", "mlflow")):
        pass
    (copy / runs.METRICS).write_text("".join(lines))
    with loggers.logging(copy, ("wandb", "mlflow")) as logs:
        logs.update()
    records = [json.loads(line) for line in lines]
    assert [step for step, _ in wandb.logged] == [1, 2, 3] and wandb.finished == 2
    assert [v["macro_f1"] for _, v in wandb.logged] == [r["macro_f1"] for r in records]
    assert [s["id"] for s in wandb.started] == [None, "abc"]  # it goes on with its own run
    assert wandb.started[0]["config"]["optim.epochs"] == 3 and wandb.started[0]["dir"] == str(copy)
    sent = [given["val_loss"] for name, given in mlflow.calls if name == "log_metrics"]
    assert sent == [r["val_loss"] for r in records]
    assert ("start_run", {"run_id": "r1"}) in mlflow.calls and [n for n, _ in mlflow.calls].count("log_params") == 1


def test_tensorboard_reads_what_a_fit_logs(cache: Path, config: Make, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    done = fit(cache, config(optim__epochs=2, run__log=["tensorboard"]), out=tmp_path / "run").run
    events = EventAccumulator(str(done / "tensorboard"))
    events.Reload()
    records = runs.read_metrics(done)
    for name in (
        "macro_f1",
        "train_loss",
        "attributes/mask/accuracy",
        "class_f1/" + next(iter(records[0]["class_f1"])),
    ):
        found = [(e.step, e.value) for e in events.Scalars(name)]
        assert found == [(r["epoch"], pytest.approx(loggers.flat(r)[name], rel=1e-6)) for r in records]
    assert json.loads((done / loggers.SENT).read_text())["tensorboard"]["epoch"] == 2


def test_a_key_for_mlflow_and_none_for_two_classes() -> None:
    names = ["<30", ">=30", "<=30", ">30", "=30", "30", "30-59", "30+", "30,", "wear/male/>=60", "안 씀"]
    keys = [loggers.mlflow_key(name) for name in names]
    assert keys[0] == "lt 30" and keys[9] == "wear/male/ge 60" and len(set(keys)) == len(names)
    assert all(set(key) <= set("_/. -") | {c for c in key if c.isalnum()} for key in keys)


def test_mlflow_reads_what_a_fit_logs(
    run: Path, synthetic: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package itself, with the names of classes that it refuses as they are."""
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    copy = Path(shutil.copytree(run, tmp_path / "run"))
    records = runs.read_metrics(copy)
    for record in records:
        record["class_f1"]["wear/>=60"] = record["macro_f1"]
    (copy / runs.METRICS).write_text("".join(json.dumps(r) + "\n" for r in records))
    with loggers.logging(copy, ("mlflow",)):
        pass
    name = json.loads((copy / loggers.SENT).read_text())["mlflow"]["name"]
    client = mlflow.tracking.MlflowClient()
    sent = client.get_metric_history(name, "class_f1/wear/ge 60")
    assert [(m.step, m.value) for m in sent] == [(r["epoch"], r["macro_f1"]) for r in records]
    assert client.get_run(name).data.params["optim.epochs"] == "3"


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_log_that_is_not_installed_is_named_before_anything_is_written(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *a: None if n == name else find(n, *a))
    with pytest.raises(UserError, match=rf"{name} is not installed.\n.*maskprep\[{name}\]"):
        fit(cache, config(run__log=[name]), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
