"""decisions.csv as a living file: added to, taken back, merged, and never lost or made unreadable."""

from __future__ import annotations

import csv
import json
import threading
from pathlib import Path

import pytest

import maskprep as api
from maskprep.audit.decisions import decided_images, decision_states
from maskprep.base.csv_files import guard, unguard
from maskprep.errors import UsageError, UserError
from maskprep.pipeline.session import Session
from maskprep.store.decisions import Decision, change, from_json, merge, read_decisions, replace, to_csv
from maskprep.store.tables import read_table

Work = tuple[Path, Path]


def decision(image: str, verdict: str = "drop", value: str = "", **more: str) -> Decision:
    return Decision(f"c-{image}", image, verdict, value, **more)


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("@sum", "'@sum"),
        ("+cmd|' /C calc'!A0", "'+cmd|' /C calc'!A0"),
        ("-5.0 10 20 30", "-5.0 10 20 30"),
        ("-5", "-5"),
        ("-x", "'-x"),
        ("plain", "plain"),
        ("'quoted", "''quoted"),
        ("", ""),
    ],
)
def test_no_cell_is_a_formula_and_each_is_read_back(text: str, cell: str) -> None:
    assert guard(text) == cell
    assert unguard(cell) == text


def test_decisions_are_added_taken_back_and_remembered(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    a, b = decision("a.jpg"), decision("b.jpg", "box", "-5.0 1 20 30", reason='a "quoted", text\nof two lines')
    assert [d.image for d in change(path, [a, b])] == ["a.jpg", "b.jpg"]
    assert [d.image for d in change(path, [a])] == ["a.jpg", "b.jpg"]  # there already
    back = change(path, remove=[a])
    assert [(d.image, d.value, d.reason) for d in back] == [("b.jpg", b.value, b.reason)]
    assert change(path, remove=[a]) == back  # no longer there: no error
    history = [json.loads(line) for line in (tmp_path / "decisions.history.jsonl").read_text().splitlines()]
    assert [(h["change"], h["image"]) for h in history] == [
        ("added", "a.jpg"),
        ("added", "b.jpg"),
        ("removed", "a.jpg"),
    ]


def test_hostile_names_survive_the_file(tmp_path: Path) -> None:
    names = ["=evil.jpg", "<script>.jpg", 'a"b.jpg', "../../etc/passwd", "line\nbreak.jpg", "'x.jpg", "ü😀.jpg"]
    change(tmp_path / "d.csv", [decision(name) for name in names])
    assert [d.image for d in read_decisions(tmp_path / "d.csv")] == names
    cells = [cell for row in csv.reader((tmp_path / "d.csv").open(newline="")) for cell in row]
    assert not any(cell.startswith(("=", "+", "@")) for cell in cells)


def test_an_unreadable_ruling_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    change(path, [decision("a.jpg")])
    before = path.read_bytes()
    for bad in (decision("b.jpg", "explode"), decision("b.jpg", "box", "1 2"), decision("b.jpg", "relabel", "mask")):
        with pytest.raises(UserError):
            change(path, [bad])
    for rows in ([{"image": "x"}], [{"content": 5}], ["text"]):
        with pytest.raises(UserError):
            from_json(rows)  # type: ignore[arg-type]
    assert path.read_bytes() == before


def test_history_tells_only_what_happened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "decisions.csv"
    change(path, [decision("a.jpg")])
    monkeypatch.setattr("maskprep.store.decisions.write_atomic", lambda *_: (_ for _ in ()).throw(OSError(28, "full")))
    with pytest.raises(OSError, match="full"):
        change(path, [decision("b.jpg")])
    history = (tmp_path / "decisions.history.jsonl").read_text().splitlines()
    assert [json.loads(line)["image"] for line in history] == ["a.jpg"]


def test_writers_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"

    def write(who: int) -> None:
        for i in range(15):
            change(path, [decision(f"{who}-{i}.jpg")])

    threads = [threading.Thread(target=write, args=(who,)) for who in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {d.image for d in read_decisions(path)} == {f"{w}-{i}.jpg" for w in range(4) for i in range(15)}


def test_two_people_are_merged_and_their_conflicts_listed() -> None:
    ours = [decision("a"), decision("b", when="2026-01-02"), decision("c", "relabel", "mask=wear")]
    theirs = [decision("a", by="them"), decision("b", "keep", when="2026-01-03"), decision("d")]
    theirs[2:2] = [decision("c", "relabel", "mask=normal"), decision("c", "relabel", "age=30")]
    found = merge(ours, theirs)
    assert [(o.image, t.verdict, t.value) for o, t in found.conflicts] == [
        ("b", "keep", ""),
        ("c", "relabel", "mask=normal"),
    ]
    assert [(d.image, d.value) for d in found.added] == [("c", "age=30"), ("d", "")]
    assert found.decisions == [*ours, *found.added]
    newer = merge(ours, theirs, "newer")
    assert next(d.verdict for d in newer.decisions if d.image == "b") == "keep"
    assert [d.value for d in newer.decisions if d.image == "c"] == ["mask=wear", "age=30"]
    assert [d.value for d in merge(ours, theirs, "theirs").decisions if d.image == "c"] == ["age=30", "mask=normal"]
    with pytest.raises(UsageError):
        merge(ours, theirs, "mine")


def test_replacing_by_topic(tmp_path: Path) -> None:
    path = tmp_path / "decisions.csv"
    change(path, [decision("a"), decision("a", "relabel", "mask=wear")])
    replace(path, [decision("a", "keep")])
    assert [(d.verdict, d.value) for d in read_decisions(path)] == [("relabel", "mask=wear"), ("keep", "")]


def test_what_became_of_each_decision(work: Work) -> None:
    photos, cache = work
    images = read_table(cache / "images.parquet")
    name, content = images["image"][0], images["content"][0]
    others = images[images["content"] != content]
    rows = [
        Decision(content, name, "keep"),
        Decision(content, name, "drop"),  # replaces the one before
        Decision(others["content"].iloc[0], others["image"].iloc[0], "keep", expected="0 0 4 4"),
        Decision("0" * 32, "gone.jpg", "drop"),
        Decision(others["content"].iloc[1], others["image"].iloc[1], "keep", "duplicate:abc"),
    ]
    change(cache / "decisions.csv", rows)
    job = api.run(photos, cache)
    typo = Decision(others["content"].iloc[1], others["image"].iloc[1], "relabel", "colour=red")
    change(cache / "decisions.csv", [typo])  # which the next run would refuse
    found = decision_states(
        read_decisions(cache / "decisions.csv"), Session(cache).subjects(), read_table(job.cache.labels)
    )
    assert [each.state for each in found] == ["replaced", "applied", "stale", "stale", "applied", "stale"]
    assert (
        "another face is chosen now" in found[2].why
        and "not in the photo folder" in found[3].why
        and "no label" in found[5].why
    )
    assert decided_images(found) == {name}


def test_the_command_lists_merges_and_finds_stale_ones(work: Work, tmp_path: Path, cli) -> None:  # type: ignore[no-untyped-def]
    _, cache = work
    images = read_table(cache / "images.parquet")
    a, b = ((images["content"][i], images["image"][i]) for i in (0, 1))
    change(cache / "decisions.csv", [Decision(*a, "drop", by="ann"), Decision("0" * 32, "gone.jpg", "drop")])
    theirs = tmp_path / "theirs.csv"
    theirs.write_text(to_csv([Decision(*a, "box", "1 1 50 50", by="=bob"), Decision(*b, "drop")]))
    listed = cli("decide", cache)
    assert listed.returncode == 0 and "1 applied" in listed.stdout and "1 stale" in listed.stdout
    assert cli("decide", cache, "--stale").returncode == 3
    before = (cache / "decisions.csv").read_bytes()
    stopped = cli("decide", cache, "--merge", theirs)
    assert stopped.returncode == 1 and "conflict" in stopped.stderr and a[1] in stopped.stderr
    assert (cache / "decisions.csv").read_bytes() == before
    assert cli("decide", cache, "--merge", theirs, "--prefer", "theirs").returncode == 0
    assert {(d.image, d.verdict) for d in read_decisions(cache / "decisions.csv")} == {
        (a[1], "box"),
        (b[1], "drop"),
        ("gone.jpg", "drop"),
    }
    assert cli("decide", cache, "--prefer", "ours").returncode == 2
    assert cli("decide", cache, "--merge", tmp_path / "none.csv").returncode == 2
