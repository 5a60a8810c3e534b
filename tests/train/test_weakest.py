"""F1 of each class, epoch by epoch, with the weakest ones in sight."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from masktrain.cli import app as cli
from masktrain.pages import report, weakest
from masktrain.runs import folder as runs

EPOCHS = [
    {"epoch": 1, "best_epoch": 1, "class_f1": {"a": 0.5, "b": 0.1, "c": 0.0, "d": 0.9, "e": 0.1}},
    {"epoch": 2, "best_epoch": 2, "class_f1": {"a": 0.2, "b": 0.6, "c": 0.0, "d": 0.9, "e": 0.3}},
    {"epoch": 3, "best_epoch": 2, "class_f1": {"a": 0.9, "b": 0.0, "c": 0.0, "d": 0.9, "e": 0.9}},
]


def test_the_weakest_by_hand() -> None:
    """c is in nobody's photos; no more than half of the others stand out, of equals the first."""
    assert weakest.weakest(EPOCHS[0]["class_f1"], "abde") == [("b", 0.1), ("e", 0.1)]
    assert weakest.weakest(EPOCHS[0]["class_f1"], "abcde", 1) == [("c", 0.0)]
    assert weakest.line(EPOCHS[1], "abde") == "weakest a 0.20, e 0.30"
    assert weakest.line({"class_f1": {"a": 0.1}}, "a") == ""


def test_curves_of_all_classes() -> None:
    (chart,) = report.class_charts(EPOCHS, "abde")
    assert chart.lines == {"F1 of a: 0.20 in epoch 2": [0.5, 0.2, 0.9], "F1 of e: 0.30 in epoch 2": [0.1, 0.3, 0.9]}
    assert chart.others == [[0.1, 0.6, 0.0], [0.9, 0.9, 0.9]] and chart.range == (0, 1)
    many = {str(k): k / 100 for k in range(100)}
    (chart,) = report.class_charts([{"epoch": e, "best_epoch": 1, "class_f1": many} for e in (1, 2)], many)
    assert len(chart.lines) == weakest.MOST and chart.others == [[0.51, 0.51]]  # the median of 97
    assert report.class_charts([{"epoch": 1, "best_epoch": 1, "class_f1": {"<": 0.1}}], "<") == []


def test_every_epoch_says_it(
    cache: Path, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--model", "test_resnet", "--no-pretrained", "--epochs", "2", "--batch-size", "8"]
    monkeypatch.setattr(sys, "argv", ["masktrain", "fit", str(cache), *options, "--out", str(tmp_path / "run")])
    with pytest.raises(SystemExit):
        cli.main()
    said = re.findall(r"epoch \d/2 .*\n +weakest (\S+) (\d\.\d\d), ", capsys.readouterr().out)
    records = runs.read_metrics(tmp_path / "run")
    assert [(n, float(f)) for n, f in said] == [
        (min(r["class_f1"], key=r["class_f1"].get), pytest.approx(min(r["class_f1"].values()), abs=0.005))
        for r in records
    ]
    assert "<text class=key x=66 y=12>F1 of " in (tmp_path / "run" / "report.html").read_text()
