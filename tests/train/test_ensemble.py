"""Ensembles: of runs and folders of runs, on views of several kinds, used like a run."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import f1_score

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from masktrain.answer import export, model
from masktrain.answer.evaluate import evaluate
from masktrain.answer.graph import Combination
from masktrain.answer.predict import predict
from masktrain.cli import tables
from masktrain.combine import ensemble
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.runs import predictions as heldout
from masktrain.study.fit import fit

Make = Callable[..., FitConfig]


@pytest.fixture(scope="module")
def cache2(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache with two views of different sizes."""
    folder = synthetic.write_cache(tmp_path_factory.mktemp("cache2") / "people")
    view = open_view(folder)
    crops = view.gather(np.arange(len(view)))
    small = np.ascontiguousarray(crops[:, ::2, ::2])
    rng = np.random.default_rng(1)
    synthetic.write_view(folder, "small", view.table["image"].tolist(), list(small), 1, 0, rng)
    dataset = json.loads((folder / "dataset.json").read_text())
    dataset["settings"]["views"]["small"] = {"margin": 0.25}
    (folder / "dataset.json").write_text(json.dumps(dataset))
    return folder


@pytest.fixture(scope="module")
def fitted(cache2: Path, config: Make, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs of one split: two on one view, one on the other; and one that held out other people."""
    folder = tmp_path_factory.mktemp("fitted")
    made = {}
    for name, changes in {
        "large": {"data__view": "face"},
        "again": {"data__view": "face", "run__seed": 5},
        "small": {"data__view": "small"},
        "other": {"data__view": "face", "data__split_seed": 1},
    }.items():
        made[name] = fit(cache2, config(**changes, optim__epochs=2), out=folder / name).run
    return made


@pytest.mark.parametrize("kind", ["soft", "hard", "stack"])
def test_members_of_different_views(fitted: dict[str, Path], cache2: Path, tmp_path: Path, kind: str) -> None:
    made = ensemble.ensemble([fitted["large"], fitted["small"]], tmp_path / "e", kind=kind)
    assert made.images == 28 and [e.name for e in made.entries] == ["large", "small"]
    assert made.against is not None and made.against.low <= made.against.difference <= made.against.high
    shutil.copytree(tmp_path / "e", tmp_path / "moved")  # it needs nothing but itself
    shutil.rmtree(tmp_path / "e")
    predictor = model.load(tmp_path / "moved")
    assert [(i.view, i.size) for i in predictor.spec.inputs] == [("face", (32, 32)), ("small", (16, 16))]
    face, small = open_view(cache2, "face"), open_view(cache2, "small")
    rows = np.array([5, 3, 60])
    tables = np.stack([model.load(fitted["large"])(face, rows), model.load(fitted["small"])(small, rows)])
    if kind == "soft":
        np.testing.assert_allclose(predictor(face, rows), tables.mean(0), atol=1e-6)
    kept = json.loads((tmp_path / "moved" / "ensemble.json").read_text())
    extra = {"coefficients": kept["coefficients"], "intercepts": kept["intercepts"]} if kind == "stack" else {}
    theirs = Combination(kind, [0, 1], **extra)(torch.from_numpy(tables)).numpy()
    np.testing.assert_allclose(predictor(face, rows), theirs, atol=1e-5)
    predict(tmp_path / "moved", cache2, tmp_path / "p.csv", split="eval")
    assert len(pd.read_csv(tmp_path / "p.csv")) == 20
    if kind == "stack":
        done = export.export(tmp_path / "moved", formats=("onnx",))
        portable = model.load(done.files[0])
        np.testing.assert_allclose(portable(face, rows), predictor(face, rows), atol=1e-4)
    with pytest.raises(UsageError, match="several kinds of crops"):
        evaluate(tmp_path / "moved", cache2, view="face")


def test_an_ensemble_is_evaluated_on_what_it_held_out(fitted: dict[str, Path], cache2: Path, tmp_path: Path) -> None:
    made = ensemble.ensemble([fitted["large"], fitted["small"]], tmp_path / "e", kind="weighted")
    report = evaluate(tmp_path / "e", cache2)
    assert "held-out people" in report.what and report.warnings == []
    held = heldout.read(tmp_path / "e")
    assert report.scores.n == len(held) + len(report.without_crop)
    if not report.without_crop:
        assert report.scores.macro_f1 == pytest.approx(made.score, abs=1e-9)
    seen = evaluate(tmp_path / "e", cache2, split="train")
    assert "trained on" in seen.warnings[0]


def test_folds_of_one_setting_are_a_group(fitted: dict[str, Path], tmp_path: Path) -> None:
    """Two runs whose held-out people are made disjoint: everyone counts once, by whoever had not seen them."""
    runs_made = []
    held = heldout.read(fitted["large"])
    first = set(sorted(set(held.people))[:3])
    for name, keep in (("f0", first), ("f1", set(held.people) - first)):
        folder = Path(shutil.copytree(fitted["large"], tmp_path / "folds" / name))
        table = pd.read_parquet(folder / "oof.parquet")
        table[table["person"].isin(keep)].to_parquet(folder / "oof.parquet")
        runs_made.append(folder)
    made = ensemble.ensemble([tmp_path / "folds"], tmp_path / "e")
    assert len(made.entries) == 1 and made.images == len(held) and made.against is None
    expected = f1_score(held.labels, held.probabilities.argmax(1), average="macro", zero_division=0)
    assert made.score == pytest.approx(expected, abs=1e-12)
    assert "the fold that was not trained on the person" in made.notes[0]


@pytest.mark.parametrize("section, key, value", [("data", "where", "mask=wear"), ("run", "amp", "bf16")])
def test_runs_of_other_settings_are_no_folds_of_one_model(
    fitted: dict[str, Path], tmp_path: Path, section: str, key: str, value: str
) -> None:
    team = [ensemble.read_candidate(fitted[name]) for name in ("large", "other")]
    mine, theirs = team[0].held.take(np.arange(14)), team[0].held.take(np.arange(14, 28))
    folds = [dataclasses.replace(m, held=h) for m, h in zip(team, (mine, theirs), strict=True)]
    assert ensemble.group(folds) == [0, 0]  # they differ in the seed of the split alone
    settings = {**team[1].settings, section: {**team[1].settings[section], key: value}}
    assert ensemble.group([folds[0], dataclasses.replace(folds[1], settings=settings)]) == [0, 1]


def test_a_folder_of_runs(fitted: dict[str, Path], tmp_path: Path) -> None:
    """Runs of all folds count by their folds; what is not finished, or made of runs, is left out by name."""
    folder = tmp_path / "runs"
    for name in ("large", "small"):
        shutil.copytree(fitted[name], folder / name)
    ensemble.ensemble([folder / "large", folder / "small"], folder / "both")
    soup = Path(shutil.copytree(fitted["again"], folder / "soup"))
    (soup / "soup.json").write_text("{}")
    crossed = folder / "crossed"
    for k in (1, 2):
        shutil.copytree(fitted["again"], crossed / f"fold-{k}")
    shutil.copy2(fitted["again"] / "config.yaml", crossed)
    told = {"folds": 2, "cache": "people"}
    scores = {"macro_f1": 0.5, "accuracy": 0.5, "attributes": {}}
    (crossed / "folds.json").write_text(
        json.dumps(told | {"out_of_fold": scores, "interval": {"low": 0.1, "high": 0.9}})
    )
    shutil.copytree(crossed, folder / "half")
    (folder / "half/folds.json").write_text(json.dumps(told))
    (shutil.copytree(fitted["again"], folder / "stopped") / "result.json").unlink()
    (folder / "notes").mkdir()
    found, left_out = ensemble.expand([folder])
    assert [f.relative_to(folder).as_posix() for f in found] == ["crossed/fold-1", "crossed/fold-2", "large", "small"]
    why = {"both": "made of runs itself", "half": "not finished", "soup": "made of runs itself"}
    assert left_out == [f"{folder / n} is left out: it is {w}." for n, w in (why | {"stopped": "not finished"}).items()]
    made = ensemble.ensemble([folder], tmp_path / "e")
    assert set(left_out) <= set(made.notes) and len(made.entries) == 4
    for name in ("large", "small", "crossed"):
        shutil.rmtree(folder / name)
    with pytest.raises(UsageError, match="holds no finished run") as error:
        ensemble.expand([folder])
    assert "stopped is left out: it is not finished" in error.value.hint


def test_soup(fitted: dict[str, Path], cache2: Path, tmp_path: Path) -> None:
    made = ensemble.ensemble([fitted["large"], fitted["again"]], tmp_path / "s", kind="soup")
    states = [load_file(fitted[n] / "best.safetensors") for n in ("large", "again")]
    mixed = load_file(tmp_path / "s" / "best.safetensors")
    for key, value in mixed.items():
        if value.is_floating_point() and "running" not in key:
            torch.testing.assert_close(value, (states[0][key] + states[1][key]) / 2)
    held = heldout.read(tmp_path / "s")
    view = open_view(cache2, "face")
    rows = view.table.reset_index().set_index("image")["index"].loc[held.images].to_numpy()
    np.testing.assert_allclose(model.load(tmp_path / "s")(view, rows), held.probabilities, atol=1e-5)
    assert made.score == pytest.approx(
        f1_score(held.labels, held.probabilities.argmax(1), average="macro", zero_division=0), abs=1e-9
    )
    assert evaluate(tmp_path / "s", cache2).scores.n >= 28


@pytest.mark.parametrize("what", ["crop", "label", "mattes"])
def test_a_soup_of_a_cache_that_changed(
    fitted: dict[str, Path], cache2: Path, synthetic: ModuleType, tmp_path: Path, what: str
) -> None:
    moved = Path(shutil.copytree(cache2, tmp_path / "cache"))
    given = [Path(shutil.copytree(fitted[n], tmp_path / n)) for n in ("large", "again")]
    if what == "mattes":
        for run in given:
            sidecar = json.loads((run / "best.json").read_text())
            (run / "best.json").write_text(json.dumps(sidecar | {"background": "colour"}))
            (run / "data.json").write_text(json.dumps(runs.read_data(run) | {"mattes": "those of then"}))
        synthetic.give_mattes(moved)
    elif what == "label":
        table = pd.read_parquet(moved / "labels.parquet")
        synthetic.rewrite(moved / "labels.parquet", label=(table["label"] + 1) % 6)
    else:
        shard = moved / "views/face/00000.parquet"
        synthetic.rewrite(shard, key=pd.read_parquet(shard)["key"] + "x")
    with pytest.raises(UserError, match=r"has changed since .*large was trained") as error:
        ensemble.ensemble(given, tmp_path / "s", kind="soup", cache=moved)
    assert "--kind soft" in error.value.hint and not (tmp_path / "s").exists()


def test_what_does_not_go_together(fitted: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="at least two") as error:
        ensemble.ensemble([fitted["large"]], tmp_path / "e")
    assert "--set select.last=5" in error.value.hint
    with pytest.raises(UsageError, match="named twice"):
        ensemble.ensemble([fitted["large"], fitted["large"]], tmp_path / "e")
    with pytest.raises(UsageError, match="no kind 'stak'") as error:
        ensemble.ensemble([fitted["large"]], tmp_path / "e", kind="stak")
    assert "stack" in error.value.hint
    with pytest.raises(UsageError, match="the same size"):
        ensemble.ensemble([fitted["large"], fitted["small"]], tmp_path / "e", kind="soup")
    with pytest.raises(UsageError, match="held out different people"):
        ensemble.ensemble([fitted["large"], fitted["other"]], tmp_path / "e", kind="soup")
    other = Path(shutil.copytree(fitted["again"], tmp_path / "other"))
    table = pd.read_parquet(other / "oof.parquet")
    table.assign(label=(table["label"] + 1) % 6).to_parquet(other / "oof.parquet")
    with pytest.raises(UserError, match="different labels"):
        ensemble.ensemble([fitted["large"], other], tmp_path / "e")
    table.assign(image="x" + table["image"]).to_parquet(other / "oof.parquet")
    config = (other / "config.yaml").read_text()
    (other / "config.yaml").write_text(config.replace("epochs: 2", "epochs: 3"))
    with pytest.raises(UserError, match="nobody on whom all of them can be scored"):
        ensemble.ensemble([fitted["large"], other], tmp_path / "e")
    sidecar = json.loads((other / "best.json").read_text())
    (other / "best.json").write_text(json.dumps(sidecar | {"settings": sidecar["settings"] | {"detect": {"low": 1}}}))
    with pytest.raises(UsageError, match=r"other settings \(detect\)"):
        ensemble.ensemble([fitted["large"], other], tmp_path / "e")
    assert not (tmp_path / "e").exists()
    (tmp_path / "e").mkdir()
    (tmp_path / "e" / "file").write_text("mine")
    with pytest.raises(UsageError, match="already exists"):
        ensemble.ensemble([fitted["large"], fitted["small"]], tmp_path / "e")


def test_stacking_needs_two_people_of_every_class(fitted: dict[str, Path], tmp_path: Path) -> None:
    """Scored without the only person of a class, nothing knows the class."""
    alone = Path(shutil.copytree(fitted["large"], tmp_path / "alone"))
    table = pd.read_parquet(alone / "oof.parquet")
    first = table["person"].iloc[0]
    table["label"] = np.where(table["person"] == first, 5, 0)
    both = Path(shutil.copytree(alone, tmp_path / "both"))
    for run in (alone, both):
        table.to_parquet(run / "oof.parquet")
    with pytest.raises(UsageError, match=r"two people of every class .* there is one of: normal/female"):
        ensemble.ensemble([alone, both], tmp_path / "e", kind="stack")


def test_what_is_worse_than_its_best_member_is_not_proposed(
    fitted: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = ensemble.ensemble([fitted["large"], fitted["small"]], tmp_path / "e")
    for difference, proposed in ((-0.1, False), (0.1, True)):
        assert made.against is not None
        against = dataclasses.replace(made.against, difference=difference)
        tables.ensemble(dataclasses.replace(made, against=against))
        said = capsys.readouterr().out
        assert ("next    masktrain" in said) == proposed and ("alone; use that" in said) != proposed


def test_the_command(
    fitted: dict[str, Path], tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("ensemble", fitted["large"], fitted["small"], "--out", tmp_path / "e", "--kind", "weighted") == 0
    said = " ".join(capsys.readouterr().out.split())  # lines are as wide as the path is long
    assert (
        "weighted of 2 runs, scored on 28 held-out images of 6 people" in said
        and "difference to the best member" in said
    )
    assert runs.read_data(tmp_path / "e")["people"]["val"]
