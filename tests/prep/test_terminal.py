"""Tables and lines of the terminal: numbers are whole and nothing is wider than the terminal, whatever the names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
from rich.cells import cell_len

from maskprep.audit import CHECKS, Audit, DecisionState, Score
from maskprep.audit.findings import Finding, Outcome
from maskprep.base import Column, counted, print_table, shorten, wrapped
from maskprep.base.terminal import NO_TERMINAL, width
from maskprep.cli import console as show
from maskprep.labels import Changes, DuplicateReport
from maskprep.labels.changes import Outcome as FixOutcome
from maskprep.labels.fixes import FILE, Fix
from maskprep.pipeline import Status
from maskprep.store.decisions import Decision
from maskprep.store.stage import StageStatus
from maskprep.weights import fetch

LONG = "train/images/000001_여성_아주긴이름_" + "x" * 90
KOREAN = "마스크를올바르게착용하지않은사람의얼굴사진" * 3


def statuses() -> None:
    stages = [StageStatus(f"crop:{KOREAN}", 1234567, 7654321, 3 << 30, f"settings changed: {LONG}")]
    show.status("cache", Status([*stages, StageStatus("detect", 18900, 0, 5)], {"split": {"train": 18900}}, 1))


def changes() -> None:
    fix = Fix(image=f"{LONG}.jpg", field=KOREAN, expected=KOREAN, new=KOREAN, origin=f"{LONG}.csv", line=1234567)
    show.changes(Changes(outcomes=[FixOutcome(fix, "refused", 7654321, f"the label is {KOREAN}")]), dry=True)
    assert fix.level == FILE


def duplicates() -> None:
    columns = ("split_a", "split_b", "same_person", "kind", "crossing", "allowed")
    row = ("train", "train", True, "exact", False, False)
    show.duplicates(DuplicateReport(pd.DataFrame([row] * 12345, columns=list(columns)), [], {}, cast(Any, None)))


def statistics() -> None:
    parts = {"whole": {"mean": [0.1234] * 3, "std": [0.5678] * 3, "images": 7654321}}
    show.statistics({KOREAN: {"train": parts, "eval": parts}})


def weights() -> None:
    show.weights([fetch.status(name) for name in fetch.REGISTRY])


def findings() -> None:
    names = [f"{LONG}/{i}.jpg" for i in range(1234)]
    made = [Finding(name, check, 0.87, f"twin of {KOREAN}") for name in names for check in list(CHECKS)[:2]]
    outcome = Outcome(tuple(made), {"file_broken": "no reason"})
    show.findings(cast(Audit, SimpleNamespace(open=outcome, context=SimpleNamespace(images=names), decided=set())), 20)


def decisions() -> None:
    decision = Decision("c0ffee", f"{LONG}.jpg", "box", "1234 5678 9123 4567", reason=KOREAN, by=KOREAN, line=1234567)
    show.decisions([DecisionState(decision, (LONG,), "stale", "another box")])


def scores() -> None:
    show.scores([Score("face_doubtful", 1234, 0.11, 0.22, 0.33, 0.44, 0.55, "face_doubtful 1234, face_several 567")])


TABLES = {
    statuses: "1234567 7654321 3.0 18900",
    changes: "7654321",
    duplicates: "12345 0",
    statistics: "0.1234 0.5678 7654321",
    weights: "224 661",
    findings: "1234 0.87 20",
    decisions: "1234567 1234 5678 9123 4567",
    scores: "1234 0.11 0.22 0.33 0.44 0.55",
}
"""What prints a table, and numbers that it must show."""


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.__name__)
def test_numbers_are_whole_and_lines_fit(
    table: Callable[[], None], columns: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    table()
    text = capsys.readouterr().out
    assert "───" in text and max(map(cell_len, text.splitlines())) <= columns, text
    lost = set(TABLES[table].split()) - set(re.findall(r"[\d.]*\d", text))
    assert not lost, text


def test_columns_that_do_not_fit_follow_below(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    columns = (Column("run", "name"), *(Column(f"score of {i}", "number") for i in range(6)))
    row = ["run-" + "x" * 50 + "-end", *(f"0.1234{i}" for i in range(6))]
    print_table(columns, [row], total=["all", *row[1:]])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert sum(line.startswith("run-xxx") for line in lines) == sum(line.startswith("all") for line in lines) > 1
    assert all(sum(cell in line for line in lines) == 2 for cell in row[1:])


def test_a_name_is_shortened_by_what_all_share(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "20")
    print_table(
        [Column("image", "name"), Column("n", "number")], [[f"train/images/photos/{i}/a.jpg", "1"] for i in (1, 2)]
    )
    text = capsys.readouterr().out
    assert "…/1/a.jpg" in text and "…/2/a.jpg" in text
    print_table([Column("image", "name")], [["train/a.jpg"], ["train/b.jpg"]])
    assert "train/a.jpg" in capsys.readouterr().out, "there is room"


@pytest.mark.parametrize("name", ["x" * 50, KOREAN, unicodedata.normalize("NFD", KOREAN), "a" * 30 + KOREAN])
def test_shorten_keeps_both_ends(name: str) -> None:
    whole = unicodedata.normalize("NFC", name)
    for room in range(5, 50):
        short = shorten(name, room)
        assert room - 2 <= cell_len(short) <= room and "…" in short
        head, tail = short.split("…")
        assert whole.startswith(head) and whole.endswith(tail) and head and tail
    assert shorten("short", 5) == "short"


def test_control_characters_of_a_name_are_shown(capsys: pytest.CaptureFixture[str]) -> None:
    print_table([Column("image", "name"), Column("why", "text")], [["a\x1b[2J\n.jpg", "one\ntwo"]])
    text = capsys.readouterr().out
    assert "\x1b" not in text and "a\\x1b[2J\\n.jpg" in text and "two" in text.splitlines()[3]


def test_long_lines_are_wrapped_below_their_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "30")
    path = "/a/" + "b" * 40
    assert wrapped(f"cache     one two three four five {path} six", 10).splitlines() == [
        "cache     one two three four",
        "          five",
        f"          {path}",
        "          six",
    ]
    assert wrapped("cache     one two", 10) == "cache     one two"


def test_without_a_terminal_lines_stay_whole(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda stream: (_ for _ in ()).throw(OSError))
    assert width() is None
    assert wrapped("x " * 200, 10) == "x " * 200
    print_table([Column("name", "name")], [["x" * 500]])
    assert max(map(len, capfd.readouterr().out.splitlines())) == NO_TERMINAL


def test_a_stage_has_a_line_every_half_minute_and_a_last_one(capsys: pytest.CaptureFixture[str]) -> None:
    now = 0.0
    bars = show.Bars(clock=lambda: now)
    bars.start("detect", 100)
    for _ in range(100):
        now += 1
        bars.advance()
    bars.start("crop:face", 3)
    bars.advance(3)
    bars.close()
    lines = [line.split() for line in capsys.readouterr().err.splitlines()]
    assert lines[:4] == [["detect", f"{n}/100", "1.0/s"] for n in (30, 60, 90, 100)]
    assert [line[:2] for line in lines[4:]] == [["crop:face", "3/3"]]


def test_plurals() -> None:
    assert (counted(1, "photo"), counted(0, "photo"), counted(2, "photo")) == ("1 photo", "0 photos", "2 photos")
    assert (counted(1, "person", "people"), counted(3, "person", "people")) == ("1 person", "3 people")
