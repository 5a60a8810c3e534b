"""What is tried out before a fit: self-checks that can fail, and the range test of the learning rate."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from maskprep.dataset.view import open_view
from masktrain.cli import app as cli
from masktrain.config.config import FitConfig
from masktrain.data.folds import split
from masktrain.study import checkup, ratefinder
from masktrain.study.rehearsal import Rehearsal, prepare
from masktrain.train import feed
from masktrain.train.batches import Batches

Make = Callable[..., FitConfig]


@pytest.fixture
def made(cache: Path, config: Make) -> Rehearsal:
    return prepare(cache, config())


@pytest.mark.parametrize(
    "changes",
    [
        {"augment__cutmix": 0.5, "loss__class_weights": "inverse"},
        {"target__kind": "cascade", "loss__name": "focal", "model__freeze": 1},
        {"target__kind": "heads", "loss__name": "f1", "augment__recipe": "batched"},
    ],
)
def test_a_sound_fit_passes_every_check(cache: Path, config: Make, changes: dict[str, object]) -> None:
    found = list(checkup.check(cache, config(**changes)))
    assert [f.name for f in found] == [
        *("labels", "people", "classes", "crops", "held out", "draws", "gradients", "by heart", "answers")
    ]
    assert all(f.ok for f in found), found


def test_labels_that_are_not_what_the_attributes_make(cache: Path) -> None:
    view = open_view(cache)
    rows = split(view, 0.2, 0).train
    table = view.table.copy()
    table.loc[rows[3], "label"] = 5 - table.loc[rows[3], "label"]
    found = checkup.labels(dataclasses.replace(view, table=table), rows)
    assert not found.ok and "1 of" in found.said and table["image"][rows[3]] in found.said
    table.loc[rows[3], "mask"] = None  # nothing is known to compare with
    found = checkup.labels(dataclasses.replace(view, table=table), rows)
    assert found.ok and "1 have no attributes" in found.said


def test_a_person_or_a_file_on_both_sides(cache: Path) -> None:
    view = open_view(cache)
    both = split(view, 0.2, 0)
    assert checkup.people(view, both).ok
    shared = dataclasses.replace(both, train=np.append(both.train, both.val[0]))
    found = checkup.people(view, shared)
    assert not found.ok and "1 people and 1 files" in found.said
    table = view.table.copy()
    table.loc[both.val[0], "content"] = table.loc[both.train[0], "content"]
    found = checkup.people(dataclasses.replace(view, table=table), both)
    assert not found.ok and "0 people and 1 files" in found.said


def test_classes_that_are_held_out_only(cache: Path) -> None:
    schema = open_view(cache).schema
    assert checkup.classes(schema, np.arange(6), np.arange(3)).ok
    found = checkup.classes(schema, np.arange(5), np.arange(6))
    assert not found.ok and schema.class_names[5] in found.said
    some = checkup.classes(schema, np.arange(5), np.arange(5))
    assert some.ok and f"never: {schema.class_names[5]}" in some.said
    assert not checkup.classes(schema, np.zeros(9, np.int64), np.zeros(2, np.int64)).ok


@pytest.mark.parametrize("value, said", [(7, "of one colour"), (None, "the same picture")])
def test_crops_that_are_no_pictures(cache: Path, value: int | None, said: str) -> None:
    view = open_view(cache)
    rows = np.arange(len(view))
    assert checkup.crops(view, rows).ok
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    shards = {k: np.broadcast_to(picture if value is None else value, v.shape) for k, v in view.shards.items()}
    found = checkup.crops(dataclasses.replace(view, shards=shards), rows)
    assert not found.ok and said in found.said


def test_held_out_crops_that_are_changed(made: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    val = feed.held_out(made.view, made.training.split, made.config, made.behind, torch.device("cpu"))
    assert checkup.held_out(made.view, made.config, val).ok
    pixels = Batches._pixels
    monkeypatch.setattr(
        Batches, "_pixels", lambda self, part, draws, epoch, out=None: pixels(self, part, draws, 1, out)
    )
    val.recipes = ["light"]
    assert not checkup.held_out(made.view, made.config, val).ok


def test_epochs_that_cannot_be_repeated(made: Rehearsal, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkup.draws(made.train).ok
    rng = np.random.default_rng()
    monkeypatch.setattr(made.train, "order", lambda epoch: rng.permutation(made.train.images))
    assert not checkup.draws(made.train).ok


def test_parameters_that_get_no_gradient(made: Rehearsal) -> None:
    batch = checkup.by_class(made)
    assert checkup.gradients(made, batch).ok
    assert all(p.grad is None for p in made.learner.model.parameters())
    made.learner.model.register_parameter("idle", nn.Parameter(torch.zeros(3)))
    found = checkup.gradients(made, batch)
    assert not found.ok and "idle" in found.said
    made.learner.model.get_parameter("idle").requires_grad_(False)
    first = next(p for p in made.learner.model.parameters() if p.requires_grad)
    first.register_hook(lambda grad: grad * float("nan"))
    found = checkup.gradients(made, batch)
    assert not found.ok and "not finite" in found.said


def test_what_cannot_be_learned_by_heart(cache: Path, config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkup, "STEPS", 4)
    made = prepare(cache, config(optim__lr=1e-9))
    batch = checkup.by_class(made)
    by_heart, answers = checkup.learning(made, batch)
    assert not by_heart.ok and by_heart.said.count("loss") == 3 and answers.name == "answers"
    blind = made.learner
    blind.model.register_forward_pre_hook(lambda net, args: (torch.zeros_like(args[0]),))
    assert not checkup.answers(blind, batch).ok


def test_a_batch_of_every_class(made: Rehearsal) -> None:
    batch = checkup.by_class(made)
    assert len(batch) == checkup.IMAGES and set(batch.labels.tolist()) == set(range(6))
    assert set(batch.rows.tolist()) <= set(made.training.split.train.tolist())


def test_the_command_fails_if_a_check_does(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(checkup, "STEPS", 2)
    tiny = ["--model", "test_resnet", "--no-pretrained", "--batch-size", "8"]
    monkeypatch.setattr("sys.argv", ["masktrain", "fit", str(cache), *tiny, "--lr", "1e-9", "--check"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    out = capsys.readouterr().out
    assert done.value.code == 1 and "FAILED  by heart" in out and "ok      labels" in out
    assert "1 of the checks failed" in out or "2 of the checks failed" in out
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", ["masktrain", "fit", str(cache), "--check", "--dry-run"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 2 and "one at a time" in capsys.readouterr().err


def test_a_range_test_by_hand() -> None:
    rates = [10.0 ** (-6 + i / 10) for i in range(60)]
    # flat, then a fall that is steepest at update 30, the lowest point at 45, then up
    losses = [2 - 1 / (1 + np.exp(-(i - 30) / 2)) + max(0, i - 45) ** 2 / 20 for i in range(60)]
    found = ratefinder.read(rates, losses, losses)
    assert found.lowest == pytest.approx(rates[45], rel=0.3) and found.steepest == pytest.approx(rates[30], rel=0.3)
    assert found.advised == found.lowest / 10
    assert ratefinder.read(rates, losses, [1 + i / 60 for i in range(60)]).advised is None


def test_the_rate_rises_over_the_batches_of_the_run(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = config(augment__mixup=0.3)
    found = ratefinder.find(cache, settings, low=1e-5, high=1e-1, steps=24)
    assert found == ratefinder.find(cache, settings, low=1e-5, high=1e-1, steps=24)
    assert len(found.rates) == 24 and found.rates[0] == pytest.approx(1e-5) and found.rates[-1] == pytest.approx(1e-1)
    steps = np.diff(np.log(found.rates))
    np.testing.assert_allclose(steps, steps[0])
    mean = pd.Series(found.losses).ewm(alpha=0.1, adjust=True).mean()  # the same mean, as pandas has it
    np.testing.assert_allclose(found.smoothed, mean)
    other = ratefinder.find(cache, config(augment__mixup=0.3, run__seed=1), low=1e-5, high=1e-1, steps=3)
    assert other.losses != found.losses[:3]
    assert not list(tmp_path.iterdir())


def test_a_range_test_ends_when_the_loss_explodes(cache: Path, config: Make) -> None:
    found = ratefinder.find(cache, config(optim__optimizer="sgd", optim__clip=0.0), low=1e-3, high=1e5, steps=60)
    assert 10 < len(found.rates) < 60
    told = "\n".join(ratefinder.lines(found, config()))
    assert "smoothed" in told and ("take    --lr" in told or "never fell" in told)
