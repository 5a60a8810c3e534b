"""One page over many runs: ranked, with intervals and differences, from the folders alone."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
from sklearn.metrics import f1_score

from maskprep.errors import UsageError
from masktrain.answer.evaluate import evaluate
from masktrain.combine.ensemble import ensemble
from masktrain.config.config import FitConfig
from masktrain.pages import compare, standings
from masktrain.score import metrics
from masktrain.study.fit import fit
from masktrain.train.checkpoint import load_sidecar

Make = Callable[..., FitConfig]


@pytest.fixture(scope="module")
def team(run: Path, cache: Path, config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two people: a good one, a poor one of the same split, one of another split, an ensemble, one begun."""
    team = tmp_path_factory.mktemp("team") / "t"
    shutil.copytree(run, team / "ann/runs/good")
    poor = fit(cache, config(optim__epochs=1, optim__lr=1e-6), out=team / "bob/poor", note="a | note <b>").run
    fit(cache, config(optim__epochs=1, data__split_seed=3), out=team / "bob/elsewhere")
    ensemble([team / "ann/runs/good", poor], team / "both", kind="soft")
    begun = team / "bob/begun"
    begun.mkdir()
    shutil.copy(run / "config.yaml", begun)
    return team


def test_a_run_that_was_stopped_is_not_ranked(
    team: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    moved = Path(shutil.copytree(team, tmp_path / "moved"))
    (moved / "bob/poor/result.json").unlink()  # as after its first epoch
    found = compare.compare([moved])
    assert {e.name for e in found.groups[0]} == {"ann/runs/good", "both"}
    assert found.unfinished == ["bob/begun", "bob/poor"]
    assert call("report", moved, "--out", moved / "s.md") == 0
    said = "ot finished, so not ranked: bob/begun, bob/poor"
    assert said in capsys.readouterr().out and said in (moved / "s.md").read_text()


def test_what_is_no_run_or_has_no_weights_is_left_out(
    team: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """``compare runs/*`` meets folders of other things."""
    moved = Path(shutil.copytree(team, tmp_path / "moved"))
    (moved / "bob/poor/best.safetensors").unlink()
    (moved / "sweep-space").mkdir()
    assert call("compare", *sorted(moved.iterdir())) == 0
    assert "bob/poor (its weights are gone)" in " ".join(capsys.readouterr().out.split())
    with pytest.raises(UsageError, match=r"weights of .*poor are gone: it has no best\.safetensors"):
        load_sidecar(moved / "bob/poor")
    with pytest.raises(UsageError, match=r"There are no runs in .*sweep-space"):
        compare.compare([moved / "sweep-space"])


def test_an_ensemble_beside_its_members(team: Path, tmp_path: Path) -> None:
    good, poor = team / "ann/runs/good", team / "bob/poor"
    ensemble([good, poor], tmp_path / "soup", kind="soup")
    made = compare.compare([team / "both", good, poor, tmp_path / "soup"])
    rows = {r.folder.name: r for r in made.rows}
    ranked = {e.folder.name: e for e in compare.compare([team, tmp_path / "soup"]).groups[0]}
    for name in ("both", "soup"):
        entry = ranked[name]
        assert rows[name].scores.macro_f1 == pytest.approx(entry.scores.macro_f1, abs=1e-12)
        assert rows[name].interval == entry.interval
    names = [r.folder.name for r in made.rows]
    assert dict(zip(names, made.differs["ensemble.kind"], strict=True)) == {
        "both": "soft", "soup": "soup", "good": "—", "poor": "—"
    }  # fmt: skip
    assert set(made.differs) == {"ensemble.kind", "ensemble.members", "optim.epochs", "optim.lr"}
    assert not made.warnings and not made.changed


def f1_of(run: Path) -> float:
    table = pd.read_parquet(run / "oof.parquet")
    told = table.filter(regex=r"^p_\d+$").to_numpy().argmax(1)
    return float(f1_score(table["label"], told, average="macro", zero_division=0))


def test_ranked_by_what_was_held_out(team: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "FEW", 2)
    found = compare.compare([team])
    assert [[e.name for e in g] for g in found.groups][1] == ["bob/elsewhere"] and found.unfinished == ["bob/begun"]
    group = found.groups[0]
    assert {e.name for e in group} == {"ann/runs/good", "bob/poor", "both"}
    for entry in group:
        assert entry.scores.macro_f1 == pytest.approx(f1_of(team / entry.name), abs=1e-9)
        assert entry.interval.low <= entry.scores.macro_f1 <= entry.interval.high
    scores = [e.scores.macro_f1 for e in group]
    assert scores == sorted(scores, reverse=True) and group[-1].name == "bob/poor"
    assert group[0].against is None and group[-1].against is not None
    assert group[-1].against.difference == pytest.approx(scores[-1] - scores[0], abs=1e-9)
    assert group[-1].against.verdict == "clearly worse" and "not all scored on the same images" in found.warnings[0]
    rows = compare.differing([e.settings for e in group])
    names = [e.name for e in group]
    lr = dict(zip(names, rows["optim.lr"], strict=True))
    assert float(lr["bob/poor"]) == 1e-6 and float(lr["ann/runs/good"]) == 5e-3 and lr["both"] == compare.NONE
    assert "optim.batch_size" not in rows  # the same, and an ensemble has none
    assert dict(zip(names, rows["ensemble.kind"], strict=True))["both"] == "soft"


def test_one_look_says_what_differs_and_whether_it_matters(
    team: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = compare.compare([team])
    assert "Too few people are scored" in compare.verdict(few.groups[0])
    assert "nothing else was scored on these images" in compare.verdict(few.groups[1])
    monkeypatch.setattr(metrics, "FEW", 2)
    found = compare.compare([team / "ann/runs/good", team / "bob/poor"])
    best, poor = found.rows
    assert poor.against is not None
    told = f"{best.name} is the best of 2: macro-F1 {best.scores.macro_f1:.4f}."
    told += f" Clearly worse: {poor.name} ({poor.against.difference:+.4f})."
    assert best.name.endswith("good") and compare.verdict(found.groups[0]) == told
    assert compare.changes(poor, best) == ["optim.epochs 1 (best: 3)", "optim.lr 1e-06 (best: 0.005)"]
    text = standings.write(found, tmp_path / "s.html").read_text()
    assert compare.verdict(found.groups[0]) in text and "optim.epochs 1 (best: 3); optim.lr 1e-06 (best: 0.005)" in text
    assert f"<td class=wide>{poor.against.numbers}<td>clearly worse<td" in text


def test_the_page_moves_with_its_runs(team: Path, tmp_path: Path, call: Callable[..., int]) -> None:
    moved = Path(shutil.copytree(team, tmp_path / "moved"))
    for form in ("html", "md"):
        page = moved / f"s.{form}"
        assert call("report", moved, "--out", page) == 0
        text = page.read_text()
        assert str(tmp_path) not in text and f"{f1_of(team / 'ann/runs/good'):.4f}" in text
    assert 'href="ann/runs/good/report.html"' in (moved / "s.html").read_text()
    assert (
        "a | note &lt;b&gt;" in (moved / "s.html").read_text()
        and "a \\| note &lt;b&gt;" in (moved / "s.md").read_text()
    )


def test_runs_are_compared_on_what_evaluate_has_kept(
    run: Path, cache: Path, config: Make, tmp_path: Path, call: Callable[..., int]
) -> None:
    """Paired on the same images of the split eval, with the scores that evaluate has told."""
    good = Path(shutil.copytree(run, tmp_path / "good"))
    poor = fit(cache, config(optim__epochs=1, optim__lr=1e-6), out=tmp_path / "poor").run
    with pytest.raises(UsageError, match="not all evaluated on the split eval") as error:
        compare.compare([good, poor], "eval")
    assert "--split eval" in error.value.hint
    labels = pd.read_csv(cache / "truth.csv").set_index("image")["truth"].astype("Int64")
    known = Path(shutil.copytree(cache, tmp_path / "odd:name"))
    table = pd.read_parquet(known / "labels.parquet")
    table["label"] = labels.reindex(table["image"]).to_numpy()
    table.to_parquet(known / "labels.parquet")
    reports = {folder.name: evaluate(folder, known) for folder in (good, poor)}
    assert {r.file.name for r in reports.values()} == {"eval-odd_name-eval.json"}  # a name that every system can hold
    made = compare.compare([good, poor], "eval")
    assert {row.name: row.scores for row in made.rows} == {name: r.scores for name, r in reports.items()}
    best, other = made.rows
    assert best.against is None and other.against is not None
    assert evaluate(poor, known, against=best.folder).rivals[0].against == other.against
    assert call("compare", good, poor, "--on", "eval", "--out", tmp_path / "t.html") == 0
    assert (tmp_path / "t.html").is_file() and call("compare", good, "--on", "test") == 2


def test_copies_are_told_and_nothing_is_lost(team: Path, run: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run, tmp_path / "copy"))
    found = compare.compare([run, copy])
    assert len(found.warnings) == 1 and "copies of one run" in found.warnings[0]
    assert len(compare.compare([run, run]).groups[0]) == 1
    (tmp_path / "mine.md").write_text("mine")
    with pytest.raises(UsageError, match="not such a page"):
        standings.write(found, tmp_path / "mine.md")
    assert (tmp_path / "mine.md").read_text() == "mine"
    standings.write(found, standings.write(found, tmp_path / "s.html"))  # its own page it may write again
    with pytest.raises(UsageError, match="neither HTML nor Markdown"):
        standings.write(found, tmp_path / "s.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no runs"):
        compare.compare([tmp_path / "empty"])
    with pytest.raises(UsageError, match="None of these runs is finished"):
        compare.compare([team / "bob/begun"])


def test_the_bar_spans_the_interval(run: Path) -> None:
    found = compare.compare([run])
    entry = found.groups[0][0]
    entry = replace(entry, interval=replace(entry.interval, low=0.4, high=0.8))
    other = replace(entry, interval=replace(entry.interval, low=0.5, high=1.0))
    bars = standings._group([entry, other], found, Path("s.html"))["runs"].bars
    assert bars[0][1:] == pytest.approx((0, 2 / 3)) and bars[1][1:] == pytest.approx((1 / 6, 1))
