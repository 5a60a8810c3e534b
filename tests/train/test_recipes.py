"""Recipes: what each sets, that each trains, the crops it asks for, and how they are listed."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from maskprep.base import UserError
from maskprep.cli import main as maskprep
from maskprep.dataset import open_view
from maskprep.labels import MASK_SCHEMA
from maskprep.pipeline import Session
from masktrain import api
from masktrain.answer import members
from masktrain.config import recipes
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study import space, views
from masktrain.study.progress import Progress
from masktrain.train.model import import_timm, known_name, native_size_of

Call = Callable[..., int]

B0, B4, EFFNET = "efficientnet_b0", "tf_efficientnet_b4.ns_jft_in1k", "tf_efficientnetv2_l"
SWIN, SWIN_L = "swin_base_patch4_window7_224", "swin_large_patch4_window7_224"
SWIN384, HYBRID, CONVNEXT = "swin_base_patch4_window12_384", "vit_base_r50_s16_384", "convnext_tiny"
EVA = "eva02_large_patch14_448.mim_m38m_ft_in22k_in1k"
TABLE = {
    # target, loss, smoothing, augmentation, sampler, optimiser, rate, batch, epochs, schedule, size of the crop, model
    "cv19-convnext": ("joint focal", 0.2, "base", "balanced", "adamp", 1e-4, 64, 20, "cosine", (320, 256), CONVNEXT),
    "cv19-effnet": ("joint focal", 0.2, "base", "balanced", "adam", 1e-3, 64, 20, "cosine", (320, 256), EFFNET),
    "cv19-swin": ("joint focal", 0.2, "base", "balanced", "adamp", 5e-5, 64, 20, "cosine", (224, 224), SWIN),
    "personal-b4": ("joint ce", 0, "base", "balanced", "adamw", 3e-4, 16, 10, "cosine", (380, 380), B4),
    "personal-hybrid": ("joint ce", 0, "base", "balanced", "adamw", 2e-5, 16, 10, "cosine", (384, 384), HYBRID),
    "personal-swin384": ("joint ce", 0, "base", "balanced", "adamw", 2e-5, 16, 10, "cosine", (384, 384), SWIN384),
    "sketch-stacking": ("joint ce", 0, "base", "all", "adamw", 3e-5, 16, 10, "cosine", (448, 448), EVA),
    "t1-swin-f1": ("joint f1", 0, "light", "all", "adamw", 2e-5, 32, 15, "cosine", (224, 224), SWIN_L),
    "t2-ldam-cyclic": ("joint ldam", 0, "base", "all", "adam", 5e-5, 32, 10, "cyclic", (224, 224), SWIN),
    "t3-heads": ("heads ce", 0.1, "light", "all", "adamw", 5e-5, 32, 15, "cosine", (224, 224), SWIN),
    "t4-centre380-b0": ("joint ce", 0.1, "light", "all", "adam", 1e-5, 64, 15, "constant", (224, 224), B0),
    "team5-cascade": ("heads soft_margin", 0, "none", "all", "adam", 1e-3, 64, 10, "constant", (300, 200), "resnet18"),
    "team5-single": ("joint focal", 0, "none", "all", "adam", 1e-3, 64, 10, "constant", (512, 384), "resnet18"),
    "team5-three": ("heads soft_margin", 0, "none", "all", "adam", 1e-3, 64, 10, "constant", (300, 200), "resnet18"),
}  # fmt: skip
"""What every recipe sets."""
BESIDE: dict[str, dict[str, Any]] = {
    **{f"cv19-{n}": {"select.stop_by": "val_loss"} for n in ("convnext", "effnet", "swin")},
    **{f"personal-{n}": {"augment.cutmix": 0.5} for n in ("b4", "hybrid", "swin384")},
    "sketch-stacking": {
        "model.second": "convnextv2_large.fcmae_ft_in22k_in1k_384",
        "augment.mixup": 0.25,
        "augment.cutmix": 0.25,
        "optim.clip": 2.0,
        "data.val_ratio": 0.2,
    },
    "t1-swin-f1": {
        "data.train_bins": "age=30,58",
        "data.val_ratio": 0.1,
        "data.background": "colour",
        "data.statistics": "foreground",
        "sample.photos": 1,
    },
    "t2-ldam-cyclic": {"loss.margin": 0.5, "loss.scale": 30.0, "run.tta": "mirror"},
    "t3-heads": {
        "target.losses": ["ce", "ce", "focal"],
        "target.smoothing": [0.0, 0.0, 0.1],
        "data.train_bins": "age=30,58",
    },
    "team5-single": {"model.freeze": 3, "data.drop_intervals": "age=30-40,50-59"},
}
"""Settings beside those of the table."""
OTHERS = ["mask=wear", "mask=incorrect|normal"]
PARTS = {
    "team5-three": ["mask ", "gender ", "age "],
    "team5-cascade": ["mask ", *(f"{name} {where}" for name in ("gender", "age") for where in OTHERS)],
}
MIDDLE = {"cv19": (320, 256), "cv19-swin": (320, 320), "t4": (380, 380), "team5": (300, 200)}
"""Height and width of what centred crops show of a photo of 512 x 384 pixels."""
SMALL = ("--model", "test_efficientnet", "--no-pretrained", "--no-probe", "--epochs", "1", "--view", "face")


@pytest.fixture(scope="module")
def people(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the 18 classes with mattes, that no test changes."""
    cache: Path = synthetic.write_cache(tmp_path_factory.mktemp("recipes") / "people", people=12, eval_people=0)
    labels = pd.read_parquet(cache / "labels.parquet")
    labels["age"] = [(20, 45, 60)[int(p) // 2 % 3] for p in labels["person"]]
    rows = labels[["mask", "gender", "age"]].to_dict("records")
    labels["label"] = pd.array([MASK_SCHEMA.label(row) for row in rows], dtype="Int64")
    labels.to_parquet(cache / "labels.parquet")
    dataset = json.loads((cache / "dataset.json").read_text())
    (cache / "dataset.json").write_text(json.dumps({**dataset, "schema": MASK_SCHEMA.to_dict()}))
    synthetic.give_mattes(cache)
    return cache


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_sets_what_the_write_up_did(name: str) -> None:
    made = recipes.recipe(name)
    own = FitConfig.from_keys(made.settings)
    assert made.view is not None
    assert TABLE[name] == (
        *(f"{own.target.kind} {own.loss.name}", own.loss.label_smoothing, own.augment.recipe, own.sample.kind),
        *(own.optim.optimizer, own.optim.lr, own.optim.batch_size, own.optim.epochs, own.schedule.kind),
        *(made.view.at(native_size_of(own.model.name)).size, own.model.name),
    )
    values = {f"{section}.{key}": value for section, part in own.to_dict().items() for key, value in part.items()}
    assert values | BESIDE.get(name, {}) == values
    assert own.loss.class_weights == "none"
    assert [f"{','.join(p.task)} {p.where}" for p in made.parts] == PARTS.get(name, [])
    assert made.route == ("hard" if name == "team5-cascade" else "soft")


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_says_where_it_is_from(name: str) -> None:
    made = recipes.recipe(name)
    assert list(made.about) == ["Source", "Command", "Weights", "Time", "Write-up", "Here"] and made.title
    assert f"masktrain fit CACHE --recipe {name}" in made.about["Command"]
    timm = import_timm()
    for model in filter(None, (made.settings["model.name"], made.settings.get("model.second"))):
        assert timm.models.get_pretrained_cfg(known_name(model)).hf_hub_id in made.about["Weights"]
    assert all(len(line) <= 120 for line in recipes.text(name).splitlines())


@pytest.mark.parametrize("name", [n for n in recipes.names() if recipes.recipe(n).view.geometry.crop == "centre"])  # type: ignore[union-attr]
def test_the_middle_is_that_of_the_write_up(name: str) -> None:
    view = recipes.recipe(name).view
    assert view is not None
    height, width = view.at(native_size_of(TABLE[name][-1])).size
    scale = min(512 / height, 384 / width) / view.geometry.zoom
    wanted = MIDDLE[name if name in MIDDLE else name.partition("-")[0]]
    assert (height * scale, width * scale) == pytest.approx(wanted, abs=0.1)


@pytest.mark.parametrize("name", recipes.names())
def test_a_recipe_trains(name: str, people: Path, tmp_path: Path, call: Call) -> None:
    """Two steps, with a small network and the crops that there are."""
    second = ("--second", "test_resnet") if name == "sketch-stacking" else ()
    steps = ("--batch-size", "8" if name == "t1-swin-f1" else "30")
    out = tmp_path / "run"
    assert call("fit", people, "--recipe", name, *SMALL, *second, *steps, "--out", out) == 0
    made = recipes.recipe(name)
    if made.parts:
        trained = [out.with_name("run-parts") / part.name for part in made.parts]
        assert members.read(out)["kind"] == ("routed" if made.route == "hard" else "product")
    else:
        trained = [out]
    for run in trained:
        own = runs.read_config(run)
        assert runs.finished(run) and own.loss.name == made.settings.get("loss.name", "ce")
        assert own.optim.optimizer == made.settings["optim.optimizer"] and own.data.view == "face"


class Said(Progress):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


@pytest.fixture
def photographed(tmp_path: Path) -> Path:
    """A cache whose photos, 96 x 72 pixels of two classes, are there."""
    for number in range(4):
        folder = tmp_path / "photos" / ("a", "b")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 255, (96, 72, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    session = Session(tmp_path / "photos", tmp_path / "cache", engine="serial")
    session.crop("small", size=(16, 16), crop="none")
    return tmp_path / "cache"


def test_the_view_is_made_and_found_again(photographed: Path) -> None:
    """Its size is that of the model, unless the recipe has one; one of equal geometry is used whatever its name."""
    said = Said()
    small = {"model.name": "test_resnet"}
    made = views.recipe(photographed, "t4-centre380-b0", small, progress=said)
    assert made == {**recipes.recipe("t4-centre380-b0").settings, **small, "data.view": "t4-160x160"}
    view = open_view(photographed, "t4-160x160")
    assert view.size == (160, 160) and len(view) == 4 and view.info["zoom"] == 1.0105
    assert said.lines == [
        f"view    maskprep crop {photographed} --view t4-160x160 --size 160x160 --crop centre --zoom 1.0105"
    ]
    views.recipe(photographed, "t4-centre380-b0", small, progress=said)
    assert len(said.lines) == 2 and said.lines[1].startswith("view    t4-160x160 is the one of recipe t4-centre380-b0")
    Session(photographed, engine="serial").crop("mine", size=(300, 200), crop="centre", zoom=1.7067)
    assert api.recipe(photographed, "team5-three")["data.view"] == "mine"
    assert api.recipe(photographed, "team5-three", {"data.view": "small"})["data.view"] == "small"


def test_a_view_that_cannot_be_made(photographed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error has the command that makes it, and that command does."""
    aside = photographed.with_name("aside")
    photographed.with_name("photos").rename(aside)
    with pytest.raises(UserError, match=r"needs the view 'team5-300x200' .* and its photos are not in") as problem:
        api.recipe(photographed, "team5-three")
    aside.rename(photographed.with_name("photos"))
    command = problem.value.hint.splitlines()[0].removeprefix("Make it with: ")
    monkeypatch.setattr(sys, "argv", [*shlex.split(command), "--engine", "serial", "-q"])
    with pytest.raises(SystemExit) as ended:
        maskprep()
    assert not ended.value.code and open_view(photographed, "team5-300x200").size == (300, 200)
    assert api.recipe(photographed, "team5-three")["data.view"] == "team5-300x200"
    Session(photographed, engine="serial").crop("t4-160x160", size=(160, 160), crop="none")
    with pytest.raises(UserError, match="another geometry than those of view 't4-160x160'"):
        api.recipe(photographed, "t4-centre380-b0", {"model.name": "test_resnet"})
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="with several processes it must be there before"):
        api.recipe(photographed, "team5-single")


def test_backgrounds_are_removed_where_a_recipe_asks(people: Path, photographed: Path) -> None:
    dataset = json.loads((people / "dataset.json").read_text())
    assert dataset["settings"]["views"] == {"face": {"margin": 0.25}}
    photographed.with_name("photos").rename(photographed.with_name("aside"))
    with pytest.raises(UserError) as problem:
        api.recipe(photographed, "t1-swin-f1", {"model.name": "test_resnet"})
    crop, matte = problem.value.hint.splitlines()[0].split(" && ")
    assert crop.endswith("--view whole-160x160 --size 160x160 --crop none")
    assert matte == f"maskprep rembg {photographed} --view whole-160x160"


def test_they_are_listed_within_80_columns(call: Call, capsys: pytest.CaptureFixture[str]) -> None:
    assert call("recipes") == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split() == ["recipe", "write-up", "target", "view"] and max(map(len, [head, *rows])) <= 80
    assert [row.split()[0] for row in rows] == sorted(TABLE)
    assert re.split(r"\s{2,}", rows[-2]) == ["team5-single", "team 5 report", "joint", "whole photo, 512x384"]
    assert call("recipes", "t2-ldam-cyclic") == 0
    shown = capsys.readouterr().out
    assert shown.startswith("# Swin with LDAM") and "space:\n  optim.lr: {low: 1.0e-5" in shown
    assert call("recipes", "t3-head") == 2
    assert "Did you mean 't3-heads'?" in capsys.readouterr().err


def test_the_space_of_a_recipe_is_swept(
    people: Path, tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    file = recipes.recipe("t2-ldam-cyclic").space
    assert file is not None
    assert [v.key for v in space.read(file).varied] == ["optim.lr", "optim.epochs", "optim.batch_size"]
    small = ("model.name=test_resnet", "model.pretrained=false", "run.probe=false", "data.view=face")
    given = [part for setting in small for part in ("--set", setting)]
    (tmp_path / "short.yaml").write_text("space:\n  optim.lr: [1e-3]\n  optim.epochs: [1]\n")
    sweep = ("sweep", people, "--recipe", "t2-ldam-cyclic", "--trials", "1", "--out", tmp_path / "sweep", *given)
    assert call(*sweep[:2], tmp_path / "short.yaml", *sweep[2:]) == 0
    own = runs.read_config(tmp_path / "sweep/trial-001")
    assert (own.loss.name, own.schedule.kind, own.optim.epochs, own.optim.lr) == ("ldam", "cyclic", 1, 1e-3)
    assert call("sweep", people, "--out", tmp_path / "other") == 2
    assert "Which space?" in capsys.readouterr().err
