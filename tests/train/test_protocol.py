"""Ground rules: what is written before the first fit, and what holds a fit to it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from maskprep.labels.schema import MASK_SCHEMA
from masktrain.config.config import FitConfig
from masktrain.data import folds
from masktrain.data.folds import read_file
from masktrain.pages import compare
from masktrain.runs import folder as runs
from masktrain.study import protocol, samples, space
from masktrain.study.fit import fit, resume

FIT = ["--model", "test_resnet", "--no-pretrained", "--epochs", "1", "--batch-size", "8"]


@pytest.fixture
def ruled(cache: Path, tmp_path: Path) -> Path:
    """A cache with a protocol of three folds and two seeds."""
    copy = Path(shutil.copytree(cache, tmp_path / "people"))
    protocol.init(copy, count=3, seeds=(4, 7), view="face")
    return copy


def test_what_is_there_before_the_first_fit(ruled: Path, cache: Path) -> None:
    """30 people, one of whom has two photos without a crop; 60 % worn masks, half of them of women."""
    kept = yaml.safe_load((ruled / "protocol.yaml").read_text())
    found = kept["found"]
    assert kept["rules"] == {
        "data.view": "face",
        "data.folds_file": "protocol.folds.csv",
        "select.by": "macro_f1",
    }
    assert kept["seeds"] == [4, 7] and kept["folds"]["count"] == 3
    digest = hashlib.sha256((ruled / "protocol.folds.csv").read_bytes()).hexdigest()
    assert kept["folds"]["sha256"] == digest
    assert (found["data"]["images"], found["data"]["people"]) == (148, 30)
    assert found["data"]["left out"] == {"eval split": 20, "no crop": 2}
    assert found["eval"]["images"] == 20 and found["eval"]["labelled"] == 0
    worn = found["classes"]["wear/male"]
    assert (worn["people"], worn["images"], sum(worn["folds"]), len(worn["folds"])) == (15, 43, 43, 3)
    number = read_file(ruled / "protocol.folds.csv", [])
    assert sorted(pd.Series(number).value_counts()) == [10, 10, 10]


def test_baselines_by_hand(ruled: Path) -> None:
    """Each fold gets the class that is most frequent in the others: worn by a woman, 45 of 148 against 43."""
    view = open_view(ruled)
    table = view.table[view.table["label"].notna()]
    number = table["person"].map(read_file(ruled / "protocol.folds.csv", table["person"]))
    told, truth = [], []
    for k in range(3):
        told += [table["label"][number != k].value_counts().sort_index().idxmax()] * int((number == k).sum())
        truth += table["label"][number == k].tolist()
    hits = np.mean(np.array(told) == np.array(truth))
    known = protocol.read(ruled / "protocol.yaml").found["baselines"]["most frequent class"]
    assert known["accuracy"] == pytest.approx(hits, abs=1e-4)
    f1 = [
        2 * sum(t == p == c for t, p in zip(truth, told, strict=True)) / (truth.count(c) + told.count(c))
        for c in range(6)
    ]
    assert known["macro_f1"] == pytest.approx(np.mean(f1), abs=1e-4)


def test_a_fit_takes_what_is_ruled(ruled: Path) -> None:
    made = protocol.settings(ruled, {"optim.lr": 0.5, "data.fold": "2/3"})
    assert made.optim.lr == 0.5 and made.data.view == "face" and made.data.fold == "2/3"
    assert made.data.folds_file == str(ruled / "protocol.folds.csv") and made.run.seed == 4
    assert made.run.protocol == protocol.read(ruled / "protocol.yaml").hash() and made.run.deviates == ()
    assert protocol.settings(ruled, {"run.seed": 7}).run.seed == 7
    # what a run has written down contradicts nothing, wherever the folds lie
    moved = ruled.parent / "mine.csv"
    shutil.copy(ruled / "protocol.folds.csv", moved)
    again = {f"{s}.{k}": v for s, values in made.to_dict().items() for k, v in values.items()}
    assert protocol.settings(ruled, again | {"data.folds_file": str(moved)}) == made
    assert protocol.settings(ruled.parent, {"optim.lr": 0.5}) == FitConfig.from_keys({"optim.lr": 0.5})


def test_what_is_not_ruled_is_free(ruled: Path) -> None:
    """Without --view and --seed any may be used; --select last chooses nothing, so it contradicts no criterion."""
    free = protocol.init(ruled, ruled.parent / "free.yaml", folds_file=ruled / "protocol.folds.csv")
    made = protocol.settings(ruled, {"data.view": "wide", "run.seed": 9, "select.by": "last"}, free.file)
    assert (made.data.view, made.run.seed, made.select.by, made.select.epoch) == ("wide", 9, "macro_f1", "last")
    assert made.run.protocol == free.hash() and made.run.deviates == ()
    assert protocol.settings(ruled, {}, free.file).data.view is None
    assert protocol.lines(free)[-2] == "rules   3 folds of people, best epoch by macro_f1, any view, any seed"


@pytest.mark.parametrize(
    "key, value",
    [
        ("data.view", "wide"),
        ("data.val_ratio", 0.3),
        ("data.split_seed", 1),
        ("data.fold", "1/5"),
        ("data.folds_file", "other.csv"),
        ("select.by", "accuracy"),
        ("run.seed", 0),
    ],
)
def test_what_contradicts_is_an_error_or_kept(ruled: Path, key: str, value: object) -> None:
    shutil.copytree(ruled / "views/face", ruled / "views/wide")
    with pytest.raises(UsageError, match=f"contradicts the protocol .*: {key}={value}, not"):
        protocol.settings(ruled, {key: value})
    made = protocol.settings(ruled, {key: value}, deviate="to see")
    section, _, name = key.partition(".")
    assert getattr(getattr(made, section), name) == value
    assert len(made.run.deviates) == 1 and made.run.deviates[0].startswith(f"{key}={value}, not ")
    assert made.run.deviates[0].endswith(": to see")
    if section == "data" and name != "view":  # other folds than those of the file
        assert made.data.folds_file == (value if name == "folds_file" else None)
    with pytest.raises(UsageError, match="Nothing deviates"):
        protocol.settings(ruled, {}, deviate="to see")


def test_what_does_not_exist_is_named_before_what_contradicts(ruled: Path) -> None:
    with pytest.raises(UsageError, match="no view 'wide'"):
        protocol.settings(ruled, {"data.view": "wide"})
    with pytest.raises(UsageError, match="no score 'f1'"):
        protocol.settings(ruled, {"select.by": "f1"})


def test_labels_that_change_after_the_rules_were_written_are_noted(ruled: Path) -> None:
    made = protocol.settings(ruled, {})
    assert protocol.notes(ruled, made) == [] and protocol.notes(ruled.parent, made) == []
    table = pd.read_parquet(ruled / "labels.parquet")
    table.loc[3, "label"] = 5
    table.to_parquet(ruled / "labels.parquet")
    (note,) = protocol.notes(ruled, made)
    assert note.startswith(f"note    labels, crops or people have changed since {ruled / 'protocol.yaml'} was written")


def test_any_setting_may_be_ruled_and_what_is_none_is_refused(ruled: Path) -> None:
    file = ruled / "protocol.yaml"
    kept = yaml.safe_load(file.read_text())
    before = protocol.read(file).hash()

    def write(**rules: object) -> None:
        file.write_text(yaml.safe_dump(kept | {"rules": kept["rules"] | rules}))

    write(**{"run.tta": "mirror", "optim.epochs": 3})
    assert protocol.settings(ruled, {}).run.tta == "mirror" and protocol.read(file).hash() != before
    with pytest.raises(UsageError, match=r"run\.tta=none, not mirror"):
        protocol.settings(ruled, {"run.tta": "none"})
    write(**{"run.tat": "mirror"})
    with pytest.raises(UsageError, match=r"Unknown setting 'run\.tat'"):
        protocol.read(file)
    write(**{"run.seed": 3})
    with pytest.raises(UsageError, match=r"'run\.seed' is no rule"):
        protocol.read(file)
    write(**{"optim.epochs": "many"})
    with pytest.raises(UsageError, match=r"protocol\.yaml: 'epochs' must be int"):
        protocol.read(file)
    file.write_text("rules: [1]")
    with pytest.raises(UserError, match="is no protocol"):
        protocol.read(file)


def test_rules_are_not_written_over_and_folds_do_not_change(ruled: Path) -> None:
    with pytest.raises(UsageError, match="already exists"):
        protocol.init(ruled)
    with pytest.raises(UsageError, match="no score 'f2'"):
        protocol.init(ruled, ruled.parent / "other.yaml", select="f2")
    own = protocol.init(ruled, ruled.parent / "rules" / "other.yaml", folds_file=ruled / "protocol.folds.csv")
    assert own.count == 3 and own.hash() != protocol.read(ruled / "protocol.yaml").hash()  # other seeds
    assert protocol.settings(ruled, {}, own.file).run.seed == 0
    with (ruled / "protocol.folds.csv").open("a") as file:
        file.write("somebody,1\n")
    with pytest.raises(UserError, match="has changed since"):
        protocol.settings(ruled, {})
    (ruled / "protocol.folds.csv").unlink()
    with pytest.raises(UserError, match="are gone"):
        protocol.settings(ruled, {})


def test_from_the_command_line(
    ruled: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    (ruled / "protocol.yaml").unlink()
    (ruled / "protocol.folds.csv").unlink()
    assert call("init", ruled, "--folds", 3, "--select", "mask.macro_f1", "--seed", 0) == 0
    said = capsys.readouterr().out
    assert "148 images of 30 people" in said and "baseline most frequent class: macro-F1 0." in said
    assert call("fit", ruled, *FIT, "--select", "accuracy") == 2
    assert "select.by=accuracy, not mask.macro_f1" in capsys.readouterr().err
    assert call("fit", ruled, *FIT, "--set", "run.deviates=x") == 2
    assert call("fit", ruled, *FIT, "--out", tmp_path / "a") == 0
    assert call("fit", ruled, *FIT, "--seed", 9, "--deviate", "a look", "--out", tmp_path / "b") == 0
    said = capsys.readouterr().out
    assert "rules   follows protocol" in said and "differs from the protocol: run.seed=9, not 0: a look" in said
    assert runs.read_config(tmp_path / "a").select.by == "mask.macro_f1"
    made = compare.compare([tmp_path / "a", tmp_path / "b"])
    assert made.warnings == ["b deviates from its protocol: run.seed=9, not 0: a look"]
    held = set(runs.read_data(tmp_path / "a")["people"]["val"])
    number = read_file(ruled / "protocol.folds.csv", held)
    assert {number[person] for person in held} == {0} and len(held) == 10
    assert call("fit", "--resume", tmp_path / "a", "--deviate", "x") == 2


def test_folds_alone_are_a_part_of_init(
    ruled: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("folds", ruled, "--out", "folds.csv") == 2
    assert "masktrain init CACHE --folds 5" in capsys.readouterr().err


def test_a_sweep_keeps_to_it(ruled: Path, tmp_path: Path) -> None:
    file = tmp_path / "space.yaml"
    file.write_text("fixed: {optim.epochs: 1}\nspace: {optim.lr: [0.001, 0.01]}")
    base = protocol.of_sweep(ruled, {"model.name": "test_resnet"}, space.read(file), None)
    assert base["data.folds_file"] == str(ruled / "protocol.folds.csv") and base["run.seed"] == 4
    assert base["run.protocol"] and "optim.lr" not in base and "optim.epochs" not in base
    file.write_text("space: {select.by: [accuracy, macro_f1]}")
    with pytest.raises(UsageError, match=r"contradicts.*select\.by=several values"):
        protocol.of_sweep(ruled, {}, space.read(file), None)


def test_folds_move_with_the_cache(ruled: Path, tmp_path: Path) -> None:
    config = protocol.settings(
        ruled, {"model.name": "test_resnet", "model.pretrained": False, "optim.epochs": 1, "optim.batch_size": 8}
    )
    done = fit(ruled, config, out=tmp_path / "run")
    moved = ruled.rename(tmp_path / "moved")
    assert resume(done.run, moved).epochs == 1
    assert folds.count(open_view(moved), config.data) == 3


def test_a_sheet_of_what_is_trained_on(
    cache: Path, tmp_path: Path, call: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """Without augmentation both pictures of a pair are the crop; mixed, the right one and the caption tell it."""
    plain, page = tmp_path / "plain.png", tmp_path / "sheets" / "mixed.html"
    assert call("fit", cache, *FIT, "--augment", "none", "--dry-run", "--sheet", plain) == 0
    assert f"look    {plain}" in capsys.readouterr().out
    sheet = np.asarray(Image.open(plain))
    wide = samples.SIDE + samples.GAP
    left = sheet[56 : 56 + samples.SIDE, 8 : 8 + samples.SIDE]
    assert (left == sheet[56 : 56 + samples.SIDE, 8 + wide : 8 + wide + samples.SIDE]).all() and left.std() > 10
    assert call("fit", cache, *FIT, "--cutmix", "1", "--dry-run", "--sheet", page) == 0
    text = page.read_text()
    assert text.count("<img") == 2 * samples.MOST and "cutmix 100%" in text and "% + " in text and "http" not in text
    assert call("fit", cache, *FIT, "--dry-run", "--sheet", tmp_path / "x.gif") == 2
    assert call("fit", cache, *FIT, "--sheet", plain) == 2


def test_crops_lie_beside_what_is_trained_on(fed: Callable[..., Any], cache: Path) -> None:
    _, feed, _ = fed(cache, augment__recipe="strong")
    batch, rows = next(feed.epoch(1)), feed.rows[feed.order(1)[0]]
    made = samples.of_batch(batch, rows, feed)
    assert (made.crops == feed.view.gather(rows)).all()
    assert (made.shown == batch.pixels.numpy()).all() and (made.shown != made.crops).any()
    assert made.captions == tuple(feed.view.schema.class_names[k] for k in batch.labels.tolist())


def test_labels_in_words(synthetic: ModuleType) -> None:
    shares = np.zeros(18)
    shares[[3, 7]] = 0.3, 0.7
    names = MASK_SCHEMA.class_names
    assert samples.caption(shares, MASK_SCHEMA) == f"{names[7]} 70% + {names[3]} 30%"
    assert samples.caption(np.eye(18)[5], MASK_SCHEMA) == names[5]
