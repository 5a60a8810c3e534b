"""What is tried out before a fit: self-checks that can fail, and the range test of the learning rate."""

from __future__ import annotations

import contextlib
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
from masktrain.study import preflight, ratefinder
from masktrain.study.preflight import Prepared, prepare
from masktrain.train.pixels import Crops

Make = Callable[..., FitConfig]


@pytest.fixture
def made(cache: Path, config: Make) -> Prepared:
    return prepare(cache, config())


@pytest.mark.parametrize(
    "changes",
    [
        {"augment__cutmix": 0.5, "loss__class_weights": "inverse"},
        {"target__kind": "heads", "loss__name": "focal", "model__freeze": 1},
        {"target__kind": "heads", "loss__name": "f1", "augment__recipe": "batched"},
    ],
)
def test_a_sound_fit_passes_every_check(cache: Path, config: Make, changes: dict[str, object]) -> None:
    made = prepare(cache, config(**changes))
    found = [*preflight.quick(made), *preflight.by_heart(made)]
    assert [f.name for f in found] == [
        *("labels", "people", "classes", "crops", "held out", "draws", "gradients", "overfit", "answers")
    ]
    assert all(f.ok for f in found), found


def test_labels_that_are_not_what_the_attributes_make(cache: Path) -> None:
    view = open_view(cache)
    rows = split(view, 0.2, 0).train
    table = view.table.copy()
    table.loc[rows[3], "label"] = 5 - table.loc[rows[3], "label"]
    found = preflight.labels(dataclasses.replace(view, table=table), rows)
    assert not found.ok and "1 of" in found.text and table["image"][rows[3]] in found.text
    table.loc[rows[3], "mask"] = None  # nothing is known to compare with
    found = preflight.labels(dataclasses.replace(view, table=table), rows)
    assert found.ok and "1 have no attributes" in found.text


def test_a_person_or_a_file_on_both_sides(cache: Path) -> None:
    view = open_view(cache)
    both = split(view, 0.2, 0)
    assert preflight.people(view, view.table, both).ok
    shared = dataclasses.replace(both, train=np.append(both.train, both.val[0]))
    found = preflight.people(view, view.table, shared)
    assert not found.ok and "1 person and 1 file both" in found.text
    table = view.table.copy()
    table.loc[both.val[0], "content"] = table.loc[both.train[0], "content"]
    found = preflight.people(view, table, both)
    assert not found.ok and "0 people and 1 file both" in found.text


def test_classes_that_are_held_out_only(cache: Path) -> None:
    schema = open_view(cache).schema
    assert preflight.classes(schema, np.arange(6), np.arange(3)).ok
    found = preflight.classes(schema, np.arange(5), np.arange(6))
    assert not found.ok and schema.class_names[5] in found.text
    some = preflight.classes(schema, np.arange(5), np.arange(5))
    assert some.ok and f"never: {schema.class_names[5]}" in some.text
    assert not preflight.classes(schema, np.zeros(9, np.int64), np.zeros(2, np.int64)).ok


@pytest.mark.parametrize("value, said", [(7, "of one colour"), (None, "the same picture")])
def test_crops_that_are_no_pictures(cache: Path, value: int | None, said: str) -> None:
    view = open_view(cache)
    rows = np.arange(len(view))
    assert preflight.crops(view, rows).ok
    picture = np.random.default_rng(0).integers(0, 255, (32, 32, 3), dtype=np.uint8)
    shards = {k: np.broadcast_to(picture if value is None else value, v.shape) for k, v in view.shards.items()}
    found = preflight.crops(dataclasses.replace(view, shards=shards), rows)
    assert not found.ok and said in found.text


def test_held_out_crops_that_are_changed(made: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight.held_out(made.val).ok
    batches = Crops.__iter__
    monkeypatch.setattr(Crops, "__iter__", lambda self: (batch.flip(2) for batch in batches(self)))
    assert not preflight.held_out(made.val).ok


def test_epochs_that_cannot_be_repeated(made: Prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    assert preflight.draws(made.train).ok
    rng = np.random.default_rng()
    shape = (made.train.steps, made.train.batch)
    monkeypatch.setattr(
        made.train,
        "order",
        lambda epoch: rng.permutation(made.train.steps * made.train.batch).reshape(shape) % len(made.data),
    )
    assert not preflight.draws(made.train).ok


def test_parameters_that_get_no_gradient(made: Prepared) -> None:
    batch = preflight.by_class(made)
    assert preflight.gradients(made, batch).ok
    assert all(p.grad is None for p in made.state.model.parameters())
    made.state.model.register_parameter("idle", nn.Parameter(torch.zeros(3)))
    found = preflight.gradients(made, batch)
    assert not found.ok and "idle" in found.text
    made.state.model.get_parameter("idle").requires_grad_(False)
    first = next(p for p in made.state.model.parameters() if p.requires_grad)
    first.register_hook(lambda grad: grad * float("nan"))
    found = preflight.gradients(made, batch)
    assert not found.ok and "not finite" in found.text


def test_what_cannot_be_learned_by_heart(cache: Path, config: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(preflight, "STEPS", 4)
    made = prepare(cache, config(optim__lr=1e-9))
    batch = preflight.by_class(made)
    by_heart, answers = preflight.by_heart(made)
    assert not by_heart.ok and by_heart.text.count("loss") == 3 and answers.name == "answers"
    blind = made.state
    blind.model.register_forward_pre_hook(lambda net, args: (torch.zeros_like(args[0]),))
    assert not preflight.answers(blind, batch).ok


def test_what_is_tried_is_deterministic_where_the_fit_is(cache: Path, config: Make) -> None:
    assert not torch.are_deterministic_algorithms_enabled()
    try:
        prepare(cache, config(run__deterministic=True))
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_dry_run_checks_too(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["masktrain", "fit", str(cache), "--model", "test_resnet", "--no-pretrained", "--dry-run"]
    monkeypatch.setattr("sys.argv", command)
    with contextlib.suppress(SystemExit):
        cli.main()
    out = capsys.readouterr().out
    assert "tried   3 steps: loss" in out and "ok      gradients" in out and "overfit" not in out
    assert "checks  every check passed" in out and not list(tmp_path.iterdir())
    wrong = preflight.Finding("crops", False, "all black", "Look.")
    monkeypatch.setattr(preflight, "crops", lambda view, rows: wrong)
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 1 and "FAILED  crops: all black\n        Look." in capsys.readouterr().out


def test_a_batch_of_every_class(made: Prepared) -> None:
    batch = preflight.by_class(made)
    assert len(batch) == preflight.IMAGES and set(batch.labels.tolist()) == set(range(6))
    crops = made.view.gather(made.data.split.train)
    assert all((crops == picture).all((1, 2, 3)).any() for picture in batch.pixels.numpy())


def test_the_command_fails_if_a_check_does(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(preflight, "STEPS", 2)
    tiny = ["--model", "test_resnet", "--no-pretrained", "--batch-size", "8"]
    monkeypatch.setattr("sys.argv", ["masktrain", "fit", str(cache), *tiny, "--lr", "1e-9", "--check"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    out = capsys.readouterr().out
    assert done.value.code == 1 and "FAILED  overfit" in out and "ok      labels" in out
    assert "1 check failed" in out or "2 checks failed" in out
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("sys.argv", ["masktrain", "fit", str(cache), "--check", "--find-lr"])
    with pytest.raises(SystemExit) as done:
        cli.main()
    assert done.value.code == 2 and "--find-lr is given alone" in capsys.readouterr().err


def test_a_range_test_by_hand() -> None:
    rates = [10.0 ** (-6 + i / 10) for i in range(60)]
    # flat, then a fall that is steepest at update 30, the lowest point at 45, then up
    losses = [2 - 1 / (1 + np.exp(-(i - 30) / 2)) + max(0, i - 45) ** 2 / 20 for i in range(60)]
    found = ratefinder.read(rates, losses, losses)
    assert found.lowest == pytest.approx(rates[45], rel=0.3) and found.steepest == pytest.approx(rates[30], rel=0.3)
    assert found.advised == found.steepest
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
    assert "smoothed" in told and ("take    --lr" in told or "the loss did not fall" in told)
