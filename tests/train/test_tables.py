"""What the commands print fits 80 columns with every number whole, and a log has a line while a fit runs."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from rich.cells import cell_len

from masktrain.cli import show, tables
from masktrain.data.units import of_people, units
from masktrain.score.metrics import Interval
from masktrain.score.paired import Paired

LONG = Path("runs/efficientnet_b0-마스크실험마스크실험마스크실험-" + "x" * 60)
INTERVAL = Interval(0.1234, 0.5678, 0.95, 24)
PAIRED = Paired(-0.1234, -0.2345, -0.0123, 24)


def scores() -> Any:
    classes = [SimpleNamespace(name=f"{LONG.name}/{k}", support=7654321, predicted=12345) for k in range(3)]
    for each in classes:
        each.precision, each.recall, each.f1 = 0.111, 0.222, 0.333
    attributes = {name: {"macro_f1": 0.4444, "accuracy": 0.5555} for name in ("mask", "gender", "age")}
    beside = [("balanced accuracy", "0.6666"), ("log-loss", "0.7777")]
    return SimpleNamespace(
        macro_f1=0.8888, accuracy=0.9999, attributes=attributes, beside=beside, classes=classes, n=99
    )


def evaluated() -> None:
    cut = SimpleNamespace(by="mask*age", value=LONG.name, images=4321, people=321, accuracy=0.321)
    cut.interval, cut.macro_f1 = INTERVAL.text(".3f"), 0.432
    origin = SimpleNamespace(what=f"photos of {LONG.name}", images=4321, wrong=432, people=43)
    origin.gain, origin.low, origin.high = 0.1357, 0.1246, 0.1468
    rival = SimpleNamespace(name=LONG.name, macro_f1=0.2468, interval=INTERVAL, accuracy=0.8642, against=PAIRED)
    report = SimpleNamespace(scores=scores(), interval=INTERVAL, run="run", what="val", ece=0.0123, slices=[cut])
    report.origins, report.rivals, report.without_crop, report.warnings, report.file = [origin], [rival], [], [], "f"
    tables.evaluated(cast(Any, report))


def comparison() -> None:
    row = SimpleNamespace(table=range(148), interval=INTERVAL, scores=scores(), latest="0.2345, 0.3456", against=PAIRED)
    row.name, row.note = LONG.name, "the same settings as another run, which is elsewhere"
    made = SimpleNamespace(attributes=("mask", "gender", "age"), groups=[[row, row]], rows=[row], unfinished=[])
    made.differs, made.changed, made.warnings = {"optim.lr": [0.001, 0.002]}, {}, []
    tables.comparison(cast(Any, made))


def ensemble() -> None:
    entry = SimpleNamespace(name=LONG.name, score=0.4321, interval=INTERVAL, weight=0.125, parameters=4.7e6, macs=0.39)
    made = SimpleNamespace(images=28, interval=INTERVAL, run=Path("e"), kind="weighted", entries=[entry] * 12, best=1)
    made.correlation, made.score, made.against, made.notes = np.full((12, 12), 0.87), 0.5432, PAIRED, ["a note " * 20]
    tables.ensemble(cast(Any, made))


def composed() -> None:
    parts = [(name, str(LONG), "tf_efficientnet_lite0", "face 224x224", 0.7654) for name in ("mask", "gender", "age")]
    made = SimpleNamespace(images=28, interval=INTERVAL, run=Path("c"), scores=scores(), parts=parts, notes=[])
    tables.composed(cast(Any, made))


def calibrated() -> None:
    done = SimpleNamespace(images=28, thresholds=PAIRED, ece=(0.2063, 0.1624), nll=(1.3647, 1.0203), before=0.3961)
    done.after, done.calibration, done.warnings, done.run = 0.7889, SimpleNamespace(temperature=0.263), [], Path("r")
    tables.calibrated(cast(Any, done))


def swept() -> None:
    trial = SimpleNamespace(number=12, state="done", score=0.4321, seconds=1.0)
    trial.values = {f"section.name_of_a_setting_{k}": 0.00123 + k for k in range(6)}
    done = SimpleNamespace(trials=[trial] * 3, importance={"optim.lr": 0.75}, out_of_time=True, best=trial)
    done.out = Path("sweep")
    tables.swept(cast(Any, done))


TABLES = {
    evaluated: "0.8888 0.9999 0.111 0.222 0.333 7654321 12345 0.321 0.432 +0.1357 0.2468 -0.1234 -0.2345 0.5678",
    comparison: "0.8888 0.1234 0.5678 0.2345 0.3456 -0.1234 -0.0123 0.9999 0.4444",
    ensemble: "0.4321 0.125 0.87 4.7 0.39 0.5432 -0.1234",
    composed: "0.8888 0.7654 0.111",
    calibrated: "0.2063 0.1624 1.3647 1.0203 0.3961 0.7889 0.263",
    swept: "12 0.4321 0.00123 5.00123 75",
}
"""What prints tables, and numbers that it must show."""


@pytest.mark.parametrize("columns", [80, 200])
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_numbers_are_whole_and_lines_fit(
    table: Callable[[], None], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table()
    text = capsys.readouterr().out
    assert "───" in text and max(map(cell_len, text.splitlines())) <= columns, text
    assert not set(TABLES[table].split()) - set(re.findall(r"[-+]?[\d.]*\d", text)), text


def test_an_epoch_has_a_line_every_half_minute_in_a_log(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    printed = show.PrintedFit(clock=lambda: now)
    printed.bar, printed.task, printed.images, printed.epochs, printed.loss = None, None, 6400, 2, float("nan")
    printed.epoch_started = printed.printed = now
    for step in range(1, 101):
        now += 1.0
        printed.step(1, 64 * step, 1.5 if step > 10 else None, 0.0)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[2] for line in lines] == ["1920/6400", "3840/6400", "5760/6400"]
    assert all("64 img/s" in line and "loss 1.500" in line and line.endswith(" left") for line in lines)


def test_plurals() -> None:
    assert (units(1, 5), units(1, 1), units(7, 30)) == ("1 person", "1 image", "7 people")
    assert of_people(1, 1) == "1 image" and of_people(9, 2, "held-out image") == "9 held-out images of 2 people"
