"""Cross-validation, recipes and files of settings, what a fit would do, and runs beside each other."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from masktrain.answer import baselines, model
from masktrain.answer.evaluate import evaluate
from masktrain.config import recipes
from masktrain.config.config import FitConfig
from masktrain.data import folds
from masktrain.data.trainset import TrainSet
from masktrain.pages import compare, report
from masktrain.runs import folder as runs
from masktrain.score import metrics
from masktrain.study import crossfit, preflight
from masktrain.study import fit as fitting
from masktrain.study.fit import fit
from masktrain.study.progress import Progress
from masktrain.train import loop
from masktrain.train.model import build

Make = Callable[..., FitConfig]
Call = Callable[..., int]


@pytest.fixture(scope="module")
def crossed(cache: Path, config: Make, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three folds, stopped in the second and gone on with."""
    out = tmp_path_factory.mktemp("runs") / "crossed"
    settings = config(data__val_ratio=0.34, optim__epochs=2)
    step, count = loop.train_step, iter(range(999))

    def interrupted(*args: object) -> object:
        if next(count) == 30:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(*args)  # type: ignore[arg-type]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", interrupted)
        with pytest.raises(UserError, match="Stopped in epoch 1 of 2"):
            crossfit.crossfit(cache, settings, out=out, note="does it add up?")
    with pytest.raises(UsageError, match="Not all folds"):
        model.load(out)
    (out / "fold-3").mkdir()  # as a kill before its first checkpoint leaves it
    for name in ("config.yaml", "data.json", ".tmp-7-env.json"):
        (out / "fold-3" / name).write_text("half")
    (out / "fold-3" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match=r"notes\.txt is no part of a run"):
        crossfit.resume(out)
    (out / "fold-3" / "notes.txt").unlink()
    crossfit.resume(out)
    return out


def test_the_baselines_of_all_folds(crossed: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fold's people are answered by a probe on the others."""
    monkeypatch.setattr(baselines, "build", lambda *args, **kwargs: build(*args, **kwargs | {"pretrained": False}))
    asked: list[tuple[int, int]] = []
    regress = baselines.regress

    def counted(x: Any, labels: Any, unknown: Any) -> Any:
        asked.append((len(labels), len(unknown)))
        return regress(x, labels, unknown)

    monkeypatch.setattr(baselines, "regress", counted)
    made = evaluate(crossed, cache, probe="test_resnet")
    sizes = [runs.read_data(crossed / f"fold-{k}")["images"]["val"] for k in (1, 2, 3)]
    assert asked == [(148 - n, n) for n in sizes] and made.rivals[2].name.startswith("linear probe")
    assert made.rivals[2].macro_f1 > made.rivals[1].macro_f1


def test_a_student_learns_from_the_answers_of_all_folds(crossed: Path, cache: Path, config: Make) -> None:
    """Of each training image the answer of the network that did not know its person."""
    settings = config(target__kind="joint", data__teacher=str(crossed), data__teacher_share=1.0)
    data = TrainSet.open(open_view(cache), settings)
    oof = pd.read_parquet(crossed / "oof.parquet").set_index("image").filter(regex=r"^p_")
    names = data.view.table["image"].iloc[data.split.train]
    np.testing.assert_allclose(data.truth, oof.loc[names].to_numpy(), atol=1e-6)
    assert data.record["taught"] == len(names)


def test_a_cache_that_has_moved(crossed: Path, run: Path, cache: Path, tmp_path: Path) -> None:
    """Every command that goes on names the way to say where it is now."""
    for folder, again in ((run, fitting.resume), (crossed, crossfit.resume)):
        copy = Path(shutil.copytree(folder, tmp_path / folder.name))
        for file in [*copy.rglob("data.json"), *copy.rglob("folds.json")]:
            file.write_text(file.read_text().replace(str(cache), str(tmp_path / "gone")))
        with pytest.raises(UsageError, match=f"The cache of {copy} was .*gone, which is not there") as error:
            again(copy)
        assert error.value.hint == f"If it has moved: masktrain fit NEW_CACHE --resume {copy}"
    with pytest.raises(UsageError) as error:
        report.report(tmp_path / run.name)
    assert error.value.hint == f"If it has moved: masktrain report {tmp_path / run.name} NEW_CACHE"


def test_everyone_is_held_out_once(crossed: Path, cache: Path) -> None:
    view = open_view(cache)
    oof = pd.read_parquet(crossed / "oof.parquet")
    usable, _ = folds.usable_rows(view)
    assert sorted(oof["image"]) == view.table["image"].iloc[usable].tolist()
    people = view.table.set_index("image")["person"].loc[oof["image"]].to_numpy()
    assert (pd.Series(oof["fold"].to_numpy()).groupby(people).nunique() == 1).all()
    for k in (1, 2, 3):
        data = runs.read_data(crossed / f"fold-{k}")
        assert set(data["people"]["val"]) == set(people[(oof["fold"] == k).to_numpy()])


def test_the_score_is_that_of_all_held_out_answers(crossed: Path) -> None:
    oof = pd.read_parquet(crossed / "oof.parquet")
    about = json.loads((crossed / "folds.json").read_text())
    predicted = oof.filter(regex=r"^p_\d+$").to_numpy().argmax(1)
    expected = metrics.macro_f1(metrics.confusion(oof["label"].to_numpy(), predicted, 6))
    assert about["out_of_fold"]["macro_f1"] == pytest.approx(expected, abs=1e-12)
    assert about["note"] == "does it add up?" and len(about["each"]) == 3
    assert about["interval"]["low"] <= expected <= about["interval"]["high"] and about["interval"]["people"] == 30


def test_the_other_folds_choose_the_epoch(crossed: Path) -> None:
    curves = [[0.1, 0.2, 0.9], [0.3, 0.2, 0.1], [0.5, 0.4], [0.3, 0.7, 0.5]]
    # without fold 1: .37, .43, .33 (the third stays at .4); without 2: .30, .43, .60; without 3: .23, .37, .50, but it
    # has two epochs; without 4: .30, .27, .47
    assert crossfit.best_elsewhere(curves) == [2, 3, 2, 3]
    oof, about = pd.read_parquet(crossed / "oof.parquet"), json.loads((crossed / "folds.json").read_text())
    records = [runs.read_metrics(crossed / f"fold-{k}") for k in (1, 2, 3)]
    epochs = crossfit.best_elsewhere([[r["macro_f1"] for r in each] for each in records])
    for k, (epoch, score) in enumerate(zip(epochs, about["each"], strict=True), 1):
        own = oof[oof["fold"] == k]
        predicted = own.filter(regex=r"^p_\d+$").to_numpy().argmax(1)
        assert metrics.macro_f1(metrics.confusion(own["label"].to_numpy(), predicted, 6)) == pytest.approx(score)
        assert score == pytest.approx(records[k - 1][epoch - 1]["macro_f1"])
    assert f"not chosen on these people: epochs {', '.join(map(str, epochs))}," in about["chosen"]


def test_folds_of_an_earlier_version_say_that_they_chose(crossed: Path, cache: Path, tmp_path: Path) -> None:
    old = Path(shutil.copytree(crossed, tmp_path / "old"))
    for folder in old.glob("fold-*"):
        shutil.rmtree(folder / "oof")
    done = crossfit.resume(old, cache)
    assert done.chosen.startswith("chosen on these people: the best epoch of each fold")
    assert done.folds == [runs.read_result(old / f"fold-{k}")["best"]["macro_f1"] for k in (1, 2, 3)]


def test_the_folds_answer_together(crossed: Path, cache: Path, call: Call, tmp_path: Path) -> None:
    view, rows = open_view(cache), np.arange(9)
    together = model.load(crossed)(view, rows)
    each = [model.load(crossed / f"fold-{k}")(view, rows) for k in (1, 2, 3)]
    np.testing.assert_allclose(together, np.mean(each, axis=0), atol=1e-6)
    assert call("predict", crossed, cache, "--out", tmp_path / "p.csv") == 0
    answers = tmp_path / "answers.csv"
    pd.read_csv(cache / "truth.csv").rename(columns={"truth": "ans"}).tail(20).to_csv(answers, index=False)
    assert call("evaluate", crossed, cache, "--answers", answers) == 0
    assert json.loads((crossed / "eval-people-by-answers.json").read_text())["scores"]["n"] == 20


def test_all_folds_from_the_command_line(
    cache: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    fast = ["--model", "test_resnet", "--no-pretrained", "--epochs", "1", "--batch-size", "32", "--augment", "none"]
    assert call("init", cache, "--out", tmp_path / "rules.yaml", "--folds", "2") == 0
    assert "2 folds of people" in capsys.readouterr().out
    file = ["--folds-file", tmp_path / "rules.folds.csv"]
    assert call("fit", cache, *fast, *file, "--folds", "all", "--out", tmp_path / "run") == 0
    said = capsys.readouterr().out
    assert "30 people, each scored by the model that was not trained on them" in " ".join(said.split())
    assert said.count("of 15 held out") == 2
    sides = pd.read_csv(tmp_path / "rules.folds.csv", dtype=str)
    held_out = runs.read_data(tmp_path / "run" / "fold-2")["people"]["val"]
    assert held_out == sorted(sides["person"][sides["fold"] == "2"])
    assert call("fit", "--resume", tmp_path / "run") == 0
    (tmp_path / "rules.yaml").unlink()
    assert call("init", cache, "--out", tmp_path / "rules.yaml", "--folds", "2") == 2  # nor are folds written over


def test_one_fold_of_several(cache: Path) -> None:
    view = open_view(cache)
    splits = [folds.split(view, 0.2, 0, fold=f"{k}/3") for k in (1, 2, 3)]
    held_out = np.concatenate([s.val for s in splits])
    assert sorted(held_out.tolist()) == folds.usable_rows(view)[0].tolist()
    assert len({s.hash for s in splits}) == 3
    np.testing.assert_array_equal(folds.split(view, 0.2, 0).val, folds.split(view, 0.5, 0, fold="1/5").val)


@pytest.mark.parametrize("fold", ["0/5", "6/5", "1", "1/1", "a/b", "1/5/5"])
def test_what_is_no_fold(cache: Path, fold: str) -> None:
    with pytest.raises(UsageError, match=f"'{fold}' is no fold"):
        folds.split(open_view(cache), 0.2, 0, fold=fold)


@pytest.mark.parametrize(
    "text, said",
    [
        ("who,fold\n0000,1\n", "needs the columns person and fold"),
        ("person,fold\n0000,1\n0000,2\n", "into two folds: 0000"),
        ("person,fold\n0000,1\n0001,2\n", "no fold for 28 people"),
    ],
)
def test_folds_files_that_do_not_fit(cache: Path, tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(UserError, match=said):
        folds.split(open_view(cache), 0.2, 0, file=str(tmp_path / "f.csv"))


def test_settings_of_a_recipe_a_file_and_the_command_line(cache: Path, tmp_path: Path, call: Call) -> None:
    """Each goes over the one before; what is not given anywhere keeps its default."""
    file = tmp_path / "mine.yaml"
    file.write_text("model: {name: test_resnet, pretrained: false}\noptim: {lr: 1e-3, epochs: 7, batch_size: 64}\n")
    sources = [
        "--recipe",
        "t2-ldam-cyclic",
        "--config",
        file,
        "--set",
        "optim.epochs=1",
        "--loss",
        "focal",
        "--view",
        "face",
    ]
    assert call("fit", cache, *sources, "--note", "hm", "--out", tmp_path / "run") == 0
    written = runs.read_config(tmp_path / "run")
    assert (written.loss.name, written.schedule.kind, written.run.tta) == ("focal", "cyclic", "mirror")
    assert (written.optim.lr, written.optim.epochs, written.optim.batch_size) == (1e-3, 1, 64)
    assert written.augment.recipe == "base" and written.optim.clip == FitConfig().optim.clip
    assert json.loads((tmp_path / "run" / "env.json").read_text())["note"] == "hm"


@pytest.mark.parametrize(
    "text, said",
    [
        ("optim: {lrr: 1}", "'optim.lr'"),
        ("optim: {lr: fast}", "must be float, not 'fast'"),
        ("optim: 3", "must hold settings"),
        ("[1, 2]", "must hold settings"),
        ("{", "is not valid YAML"),
        ("optim:\n  lr: 1\n  lr: 2", 'line 3: found duplicate key "lr"'),
        ("optim: {lr: 1}\noptim.lr: 2", "has optim.lr twice"),
        ("optim.lrr: 1", "'optim.lr'"),
        ("lr: 1", "'optim.lr'"),
        ("optim.lr: 2024-13-45", "must be float, not '2024-13-45'"),
        ("1: {2: 3}", "Unknown setting '1.2'"),
    ],
)
def test_files_of_settings_that_are_wrong(
    tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    (tmp_path / "c.yaml").write_text(text)
    assert call("fit", "nowhere", "--config", tmp_path / "c.yaml") in (1, 2)
    assert said in capsys.readouterr().err


def test_a_file_of_settings_takes_dotted_names_and_words(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("optim.lr: 1e-3\nrun: {amp: off}\nmodel.pretrained: no\nmodel: {dropout: 0.1}\n")
    expected = {"optim.lr": 1e-3, "run.amp": "off", "model.pretrained": False, "model.dropout": 0.1}
    assert recipes.read(tmp_path / "c.yaml") == expected
    (tmp_path / "c.yaml").write_bytes(b"optim.lr: 1\nmodel.name: caf\xe9\n")
    with pytest.raises(UsageError, match=r"c\.yaml': line 2 is not UTF-8"):
        recipes.read(tmp_path / "c.yaml")


def test_what_a_fit_would_do(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ["--model", "test_resnet", "--no-pretrained", "--batch-size", "8", "--sample", "balanced", "--dry-run"]
    assert call("fit", cache, *options) == 0
    said = capsys.readouterr().out
    assert "120 images of 24 people to train on" in said and "wear/male" in said and "3 steps: loss" in said
    assert "class weights of joint: " in said and "MiB weights" in said and "time    about" in said and "█" in said
    assert not list(tmp_path.iterdir())


def test_one_fold_and_all_folds_do_not_go_together(
    cache: Path, config: Make, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    for further in (["--fold", "1/3"], ["--set", "data.fold=1/3", "--dry-run"]):
        assert call("fit", cache, "--folds", "all", *further, "--out", tmp_path / "run") == 2
        assert "fold 1/3 alone is asked for" in capsys.readouterr().err
    with pytest.raises(UsageError, match="alone is asked for"):
        crossfit.crossfit(cache, config(data__fold="2/3"), out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_plan_of_a_fit_that_never_ends(cache: Path, config: Make) -> None:
    """As many rates as tell how they go, the first and the last one among them."""
    settings = config(optim__epochs=10_000_000, schedule__warmup=0.5)
    made = preflight.plan(cache, settings)
    assert len(made.rates) == preflight.MANY_RATES and made.seconds > 1e6
    assert made.rates[0] < 1e-9 and made.rates[-1] < 1e-9
    assert max(made.rates) == pytest.approx(settings.optim.lr, rel=1e-3)


def test_the_memory_of_a_step_by_hand(cache: Path, config: Make) -> None:
    """AdamW keeps two moments, gradients are as large as the weights, and activations grow with the batch."""
    small, large = (preflight.plan(cache, config(optim__batch_size=n)) for n in (8, 32))
    weights = 4 * small.about["parameters"]
    assert 4 * weights <= small.memory["weights"] < 4.01 * weights + 1000
    assert 3.5 < large.memory["activations"] / small.memory["activations"] < 4.5
    frugal = preflight.plan(cache, config(optim__batch_size=32, model__checkpointing=True))
    assert frugal.memory["activations"] < 0.8 * large.memory["activations"]
    assert len(small.rates) == 3 * 15 and small.about["drawn"].sum() == 120


def test_runs_beside_each_other(
    run: Path, crossed: Path, cache: Path, config: Make, tmp_path: Path, call: Call,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    other = fit(cache, config(loss__name="focal", optim__epochs=1), out=tmp_path / "other", note="focal?").run
    env = json.loads((other / "env.json").read_text())
    env["defaults"]["optim"]["lr"] = 0.5  # as if an older version had had it
    (other / "env.json").write_text(json.dumps(env))
    made = compare.compare([other, run])
    assert [r.scores.macro_f1 for r in made.rows] == sorted((r.scores.macro_f1 for r in made.rows), reverse=True)
    assert set(made.differs) == {"loss.name", "optim.epochs"} and list(made.changed) == ["optim.lr"]
    assert not made.warnings
    assert call("compare", other, run, crossed) == 0
    printed = capsys.readouterr()
    assert "focal?" in printed.out and "settings that differ: loss.name" in printed.out
    assert "defaults that changed: optim.lr" in printed.out and "not all scored on the same images" in printed.err
    (tmp_path / "empty").mkdir()
    assert call("compare", tmp_path / "empty") == 2


def test_the_same_fit_twice_is_noticed(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config(target__kind="joint", optim__epochs=1, augment__recipe="none", optim__batch_size=64)
    first = fit(cache, settings).run
    data = runs.read_data(first)
    near = runs.beside(None)
    settings = runs.read_config(first)  # with what was left to data and device decided
    assert runs.twin(settings, data, *near) == first
    assert all(runs.twin(settings, data | {k: "other"}, *near) is None for k in ("fingerprint", "folds", "extra"))
    changed = dataclasses.replace(settings, run=dataclasses.replace(settings.run, seed=1))
    assert runs.twin(changed, data, *near) is None
    assert yaml.safe_load((first / "config.yaml").read_text())["optim"]["batch_size"] == 64
    # whatever it is called, wherever the other one is to be written
    moved = first.rename(tmp_path / "mine")
    assert runs.twin(settings, data, *near) is None
    assert runs.twin(settings, data, *runs.beside(tmp_path / "another")) == moved
    (moved / "result.json").unlink()
    assert runs.twin(settings, data, *runs.beside(tmp_path / "another")) is None  # not finished


def test_all_folds_done_before_are_noticed(
    crossed: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings, first = runs.read_config(crossed), runs.read_data(crossed / "fold-1")
    near = runs.beside(crossed.parent / "new")
    assert runs.twin(settings, first, *near, whole=True) == crossed
    assert runs.twin(settings, first, *near) is None  # a fit of one split is something else
    one = runs.read_config(crossed / "fold-2")
    assert runs.twin(one, runs.read_data(crossed / "fold-2"), *near) == crossed / "fold-2"

    class Said(Progress):
        def say(self, text: str) -> None:
            raise RuntimeError(text)

    with pytest.raises(RuntimeError, match="crossed is a finished fit of all folds"):
        crossfit.crossfit(cache, settings, out=crossed.parent / "new", progress=Said())
