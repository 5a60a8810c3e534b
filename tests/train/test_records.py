"""What runs keep: damaged files are named with what to do, and never taken for whole ones."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from maskprep.errors import UserError
from masktrain.answer import model
from masktrain.pages import compare, report
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.study import crossfit
from masktrain.study.fit import resume

READERS: dict[str, list[Callable[[Path], Any]]] = {
    "data.json": [runs.read_data, lambda run: compare.compare([run]), resume],
    "config.yaml": [runs.read_config, lambda run: compare.compare([run])],
    "metrics.jsonl": [report.report, resume],
    "result.json": [report.report],
    "env.json": [lambda run: compare.compare([run]), report.report],
    "calibration.json": [model.load],
    "oof.parquet": [heldout.read, report.report, lambda run: compare.compare([run]), resume],
    "folds.json": [runs.members, crossfit.resume, lambda run: compare.compare([run])],
    "ensemble.json": [model.load, lambda run: compare.compare([run])],
}

EMPTY = {"config.yaml": "", "oof.parquet": "", "data.json": "", "calibration.json": "", "folds.json": ""}
CUT = dict.fromkeys([*EMPTY, "result.json", "env.json", "ensemble.json", "metrics.jsonl"], '{"a": [1,\n{}\n')
LISTS = dict.fromkeys([n for n in READERS if n != "oof.parquet"], "[1]\n")
BARE = dict.fromkeys([n for n in READERS if n not in ("config.yaml", "env.json", "oof.parquet")], "{}\n")
ODD = {
    "config.yaml": "optim: 3\n",
    "metrics.jsonl": '{"epoch": 1, "best_epoch": 1, "macro_f1": NaN, "accuracy": 0.5, "attributes": {}}\n',
    "calibration.json": '{"temperature": NaN}',
    "folds.json": '{"folds": 2, "cache": "x", "out_of_fold": {"macro_f1": NaN}}',
    "ensemble.json": '{"format": 1, "kind": "soft", "members": ["a"], "fallback": 0, "settings": {}}',
}


@pytest.fixture
def own_run(run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(run, tmp_path / "run"))


@pytest.mark.parametrize("name, content", [(n, c) for case in (EMPTY, CUT, LISTS, BARE, ODD) for n, c in case.items()])
def test_a_damaged_record_is_named(own_run: Path, name: str, content: str) -> None:
    (own_run / name).write_text(content)
    for read in READERS[name]:
        with pytest.raises(UserError, match=name) as error:
            read(own_run)
        assert error.value.hint


def test_held_out_predictions_that_are_none(own_run: Path) -> None:
    file = own_run / "oof.parquet"
    whole = pd.read_parquet(file)
    for odd in (
        whole.assign(p_0=float("nan")),
        whole.assign(p_0=7.0),
        whole.assign(label=6),
        whole.assign(label=None),
        whole.drop(columns="image"),
        whole.filter(regex="^[^p]").assign(person="a"),
        pd.concat([whole, whole.iloc[:1]]),
        whole.iloc[:0],
    ):
        odd.to_parquet(file)
        with pytest.raises(UserError, match=r"oof\.parquet"):
            heldout.read(own_run)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_probability_that_is_none_is_named_by_its_row(own_run: Path, value: float) -> None:
    file = own_run / "oof.parquet"
    table = pd.read_parquet(file)
    table.loc[2, "p_1"] = value
    table.to_parquet(file)
    with pytest.raises(UserError, match=r"oof\.parquet' holds probabilities or a label that are none: row 3 of 28"):
        heldout.read(own_run)


def test_a_best_epoch_that_is_gone(own_run: Path) -> None:
    lines = [json.loads(line) for line in (own_run / "metrics.jsonl").read_text().splitlines()]
    (own_run / "metrics.jsonl").write_text("".join(json.dumps(r | {"best_epoch": 9}) + "\n" for r in lines))
    with pytest.raises(UserError, match=r"metrics\.jsonl lacks its best epoch, 9"):
        resume(own_run)


def test_a_run_does_not_go_on_without_its_epochs(own_run: Path) -> None:
    lines = (own_run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (own_run / "metrics.jsonl").write_text(lines[0] + lines[1][:-20])  # as cut off by a crash
    assert [r["epoch"] for r in runs.read_metrics(own_run)] == [1]
    with pytest.raises(UserError, match=r"metrics\.jsonl holds 1 of the 3 epochs that the checkpoint knows") as error:
        resume(own_run)
    assert "masktrain fit CACHE" in error.value.hint
    assert (own_run / "metrics.jsonl").read_text() == lines[0] + lines[1][:-20]


def test_an_epoch_is_on_disk_when_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    durable: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda handle: durable.append((tmp_path / "metrics.jsonl").read_text()))
    runs.append_metrics(tmp_path, {"epoch": 1})
    assert durable == ['{"epoch": 1}\n']


def test_a_neighbour_that_cannot_be_read_is_no_twin(own_run: Path) -> None:
    data = runs.read_data(own_run)
    near, settings = own_run.parent, runs.read_config(own_run)
    assert runs.twin(settings, data, near) == own_run
    broken = near / "broken"
    (broken / "config.yaml").mkdir(parents=True)
    assert runs.twin(settings, data, near) == own_run
    (broken / "config.yaml").rmdir()
    shutil.copytree(own_run, broken, dirs_exist_ok=True)
    (broken / "data.json").write_text("[]")
    assert runs.twin(settings, data, near) == own_run
    (own_run / "data.json").write_bytes(b"\xff\xfe")
    assert runs.twin(settings, data, near) is None
    whole = Path(shutil.copytree(broken, near / "whole"))
    (whole / "folds.json").write_text("")
    (whole / "data.json").write_text(json.dumps(data))
    assert runs.twin(settings, data, near, whole=True) is None
