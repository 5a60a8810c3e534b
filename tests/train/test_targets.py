"""Several networks for one table: separate ones, cascades, two backbones; and answers that are numbers."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from masktrain.train.batches import Batch
from torch import nn

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from maskprep.labels.schema import MASK_SCHEMA, Attribute, Schema
from masktrain.answer import export, model
from masktrain.config.config import FitConfig
from masktrain.config.images import DataConfig
from masktrain.config.recipes import read
from masktrain.config.sections import LOSSES, OptimConfig
from masktrain.data import bands
from masktrain.runs import folder as runs
from masktrain.study.fit import fit, resume
from masktrain.train import checkpoint, feed, loop
from masktrain.train.freezing import stages
from masktrain.train.losses import make_objective, number_loss
from masktrain.train.model import Paired, Several, assemble
from masktrain.train.optim import make_optimizer, set_learning_rate
from masktrain.train.targets import Head, make_target

Make = Callable[..., FitConfig]
SCHEMA = Schema((Attribute("gender", ("male", "female")), Attribute("age", bins=(30, 60))))


@pytest.fixture(scope="module")
def aged(synthetic: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose people are 20, 21, ... 69 years old, one of unknown age: classes gender x age."""
    cache: Path = synthetic.write_cache(tmp_path_factory.mktemp("aged") / "cache", people=50, eval_people=2)
    labels = pd.read_parquet(cache / "labels.parquet")
    known = labels["person"].notna()
    labels["age"] = pd.to_numeric(labels["person"]) + 20.0
    joint = [SCHEMA.label({"gender": g, "age": a}) for g, a in zip(labels["gender"], labels["age"], strict=True)]
    labels["label"] = pd.Series(joint, dtype="Int64").where(known)
    labels["age"] = labels["age"].where(labels["age"] != 25)
    labels.to_parquet(cache / "labels.parquet")
    dataset = json.loads((cache / "dataset.json").read_text())
    (cache / "dataset.json").write_text(json.dumps({**dataset, "schema": SCHEMA.to_dict()}))
    return cache


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


@pytest.mark.parametrize("route", ["soft", "hard"])
def test_a_cascade_by_hand(route: str) -> None:
    """Outputs: three mask states; then for each of them two genders and three ages."""
    target = make_target("cascade", MASK_SCHEMA, route)
    assert target.network_outputs == [3, 5, 5, 5] and target.outputs == 18
    row = torch.randn(18, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).tolist()
    states = softmax(row[:3])
    if route == "hard":
        states = [float(s == max(states)) for s in states]
    table = target.probabilities(torch.tensor([row], dtype=torch.float64))[0]
    for k in range(18):
        m, g, a = MASK_SCHEMA.decode(k)
        own = row[3 + 5 * m : 8 + 5 * m]
        assert float(table[k]) == pytest.approx(states[m] * softmax(own[:2])[g] * softmax(own[2:])[a], abs=1e-12)


@pytest.mark.parametrize("weights", ["none", "sqrt"])
@pytest.mark.parametrize("loss", LOSSES)
def test_a_network_of_a_cascade_learns_from_its_own_state_only(loss: str, weights: str) -> None:
    labels = np.arange(18)
    config = FitConfig.from_keys({"target.kind": "cascade", "loss.name": loss, "loss.class_weights": weights})
    made = make_objective(make_target("cascade", MASK_SCHEMA), labels, config).double()
    outputs = torch.randn(4, 18, dtype=torch.float64, requires_grad=True)
    truth = torch.eye(18, dtype=torch.float64)[[1, 8, 15, 17]]  # one wears, one wears it wrongly, two wear none
    made(outputs, truth).backward()
    assert outputs.grad is not None
    learns = (outputs.grad.abs() > 1e-9).reshape(4, 18)
    for i, state in enumerate((0, 1, 2, 2)):
        own = {0, 1, 2, *range(3 + 5 * state, 8 + 5 * state)}
        assert {k for k in range(18) if learns[i, k]} == own


def test_the_loss_of_a_cascade_by_hand() -> None:
    """With all networks of a kind alike, it is the loss of heads that answer so."""
    plain = {"loss.label_smoothing": 0.0, "loss.class_weights": "none", "target.weights": [0.5, 1.0, 2.0]}
    row = torch.randn(1, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    truth = torch.eye(18, dtype=torch.float64)[[16]]
    losses = []
    for kind, outputs in (("heads", row), ("cascade", torch.cat([row[:, :3], *[row[:, 3:]] * 3], 1))):
        config = FitConfig.from_keys(plain | {"target.kind": kind})
        losses.append(float(make_objective(make_target(kind, MASK_SCHEMA), np.arange(18), config)(outputs, truth)))
    assert losses[1] == pytest.approx(losses[0], rel=1e-12)


def test_nothing_to_part_with_one_attribute() -> None:
    single = Schema((Attribute("class", ("a", "b", "c")),))
    for kind in ("separate", "cascade"):
        with pytest.raises(UsageError, match="only class to tell"):
            make_target(kind, single)


def test_separate_networks_do_not_touch_each_other() -> None:
    target = make_target("separate", MASK_SCHEMA)
    net = assemble(target, "test_resnet", (32, 32))
    assert isinstance(net, Several) and len(net.nets) == 3
    outputs = net.eval()(torch.randn(2, 3, 32, 32))
    assert outputs.shape == (2, 8)
    outputs[:, 3:5].sum().backward()  # the gender
    touched = {n.split(".")[1] for n, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    assert touched == {"1"}


def test_a_separate_network_becomes_what_it_would_be_alone(cache: Path, config: Make) -> None:
    """The first of two networks, against a network for the first attribute alone: the same bits, clipping included."""
    view = open_view(cache)
    rows = np.arange(20, 36)
    labels = view.table["label"].iloc[rows].to_numpy(dtype=np.int64)
    pixels = torch.from_numpy(view.gather(rows)).permute(0, 3, 1, 2)
    alone = Schema((view.schema["mask"],))
    weights = []
    for kind, schema, own in (("separate", view.schema, labels), ("joint", alone, labels // 2)):
        settings = config(target__kind=kind, optim__clip=0.5, optim__lr=1e-2)
        target = make_target(kind, schema)
        torch.manual_seed(0)
        net = assemble(target, "test_resnet", view.size)
        made = make_objective(target, own, settings)
        learner = loop.make_learner(net, settings, made, *view.mean_std(rows), torch.device("cpu"))
        learner.model.train()
        for _ in range(3):
            loop.train_step(learner, Batch(rows, pixels, torch.from_numpy(own)), settings.optim)
        one = learner.model.nets[0] if isinstance(learner.model, Several) else learner.model
        weights.append(checkpoint.weights_hash(one.state_dict()))
    assert weights[0] == weights[1]


def test_the_spread_of_a_number_by_hand() -> None:
    """A logistic distribution around the number, cut at 30 and 60."""
    head = Head("age", 3, limits=(30.0, 60.0))
    outputs = torch.tensor([[0.4, -0.3]], dtype=torch.float64)
    number, spread = 45 + 15 * 0.4, 15 * (math.log1p(math.exp(-0.3)) + 0.05)
    assert float(head.number(outputs)) == pytest.approx(number)
    below = [1 / (1 + math.exp(-(limit - number) / spread)) for limit in (30, 60)]
    by_hand = [below[0], below[1] - below[0], 1 - below[1]]
    assert head.logits(outputs).exp()[0].tolist() == pytest.approx(by_hand, rel=1e-12)
    odds, _ = head.binary(outputs, torch.eye(3, dtype=torch.float64)[:1])
    assert odds.sigmoid()[0].tolist() == pytest.approx([1 - b for b in below], rel=1e-12)
    far = head.logits(torch.tensor([[50.0, -50.0], [-50.0, -50.0]]))
    assert far.isfinite().all() and far.argmax(1).tolist() == [2, 0]
    assert Head("age", 2, limits=(40.0,)).unit == 20 and Head("age", 2, limits=(0.0,)).unit == 1


def test_numbers_are_learnt_and_unknown_ones_are_not() -> None:
    given = torch.tensor([0.0, 0.5, 3.0], requires_grad=True)
    loss = number_loss(given, torch.tensor([0.05, 1.5, math.nan]))
    assert float(loss.detach()) == pytest.approx((0.05**2 / 0.2 + (1.0 - 0.05)) / 3)  # Huber, bent at 0.1
    loss.backward()
    assert given.grad is not None and given.grad[2] == 0 and given.grad[1] != 0
    schema = Schema((Attribute("age", bins=(30, 60)),))
    target = make_target("number", schema)
    config = FitConfig.from_keys({"target.kind": "number", "target.number_share": 1.0})
    made = make_objective(target, np.array([0, 1, 2]), config)
    outputs = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    truth = torch.eye(3)
    assert float(made(outputs, truth, 1.0, torch.tensor([[30.0], [45.0], [75.0]]))) == pytest.approx(0, abs=1e-6)
    assert float(made(outputs, truth, 1.0, torch.tensor([[30.0], [45.0], [60.0]]))) > 0.3


def test_labels_near_a_limit_are_shared(aged: Path) -> None:
    """Sixty, read as 60.5 with an error of 2: above 60 with the probability that a normal draw is above -0.25."""
    view = open_view(aged)
    split = feed.split_of(view, FitConfig())
    training = bands.prepare(view, split, DataConfig(soft_labels="age=2"))
    assert training.soft is not None and training.soft.shape == (len(split.train), 6)
    np.testing.assert_allclose(training.soft.sum(1), 1, rtol=1e-6)
    table = view.table.iloc[split.train]
    above = 0.5 * (1 + math.erf(0.25 / math.sqrt(2)))
    seen = 0
    for age, share in ((60, above), (59, 1 - above), (61, 0.5 * (1 + math.erf(0.75 / math.sqrt(2)))), (20, 0.0)):
        rows = np.flatnonzero((table["age"] == age).to_numpy())
        seen += len(rows) > 0
        for row in rows.tolist():
            place = 3 * (table["gender"].iloc[row] == "female")
            assert training.soft[row, place + 2] == pytest.approx(share, abs=1e-6)
            assert training.soft[row, 3 - place : 6 - place].sum() == 0  # the gender is not shared
    assert seen >= 3
    unknown = table["age"].isna().to_numpy()
    assert unknown.any() and set(training.soft[unknown].ravel()) == {0.0, 1.0}
    assert training.record["shared"] == int((training.soft.max(1) < 0.99).sum()) > 0
    nameless = dataclasses.replace(view, table=view.table.assign(age=None))
    with pytest.raises(UserError, match="No training image's age is known as a number"):
        bands.prepare(nameless, split, DataConfig(soft_labels="age=2"))
    with pytest.raises(UsageError, match="soft_labels must be above 0"):
        bands.parse(DataConfig(soft_labels="age=0"), SCHEMA)


def test_batches_carry_numbers_and_shared_labels(aged: Path, config: Make) -> None:
    view = open_view(aged)
    settings = config(target__kind="number", data__soft_labels="age=2", augment__mixup=0.6)
    training = feed.training_of(view, settings)
    batches = feed.batches_of(training, settings, view.background, torch.device("cpu"))
    mixed = 0
    for batch in batches.epoch(1):
        assert batch.soft is not None and batch.numbers is not None and batch.mixed is not None
        torch.testing.assert_close(batch.truth(6).sum(1), torch.ones(len(batch.rows)))
        ages = pd.to_numeric(view.table["age"].iloc[batch.rows]).to_numpy()
        alone = batch.mixed[1].numpy() == 1
        np.testing.assert_allclose(batch.numbers.numpy()[alone, 0], ages[alone], rtol=1e-6)
        mixed += int((~alone).sum())
        other = ~alone & np.isfinite(ages) & batch.numbers[:, 0].isfinite().numpy()
        assert (np.abs(batch.numbers.numpy()[other, 0] - ages[other]) > 0).mean() > 0.5 or not other.any()
    assert mixed > 10


@pytest.mark.parametrize(
    "settings",
    [
        {"target__kind": "separate"},
        {"target__kind": "cascade", "target__route": "hard"},
        {"target__kind": "number", "data__soft_labels": "age=2"},
        {"model__second": "test_efficientnet"},
    ],
)
def test_a_fit_is_used_exported_and_resumed_like_any_other(
    aged: Path, config: Make, tmp_path: Path, settings: dict[str, Any]
) -> None:
    done = fit(aged, config(optim__epochs=1, **settings), out=tmp_path / "run").run
    oof = pd.read_parquet(done / runs.OOF)
    p = oof.filter(regex=r"^p_\d+$").to_numpy()
    assert p.shape[1] == 6 and np.allclose(p.sum(1), 1, atol=1e-5)
    view = open_view(aged)
    rows = view.table.reset_index().set_index("image")["index"].loc[oof["image"]].to_numpy(dtype=np.int64)
    np.testing.assert_allclose(model.load(done)(view, rows), p, atol=1e-5)
    again = resume(done)
    assert again.epochs == 1 and again.run == done
    kind = "onnx" if "target__route" in settings or "model__second" in settings else "safetensors"
    made = export.export(done, tmp_path / "export", formats=(kind,))
    assert made.differences[kind] < 1e-4
    for name in ("test_resnet", settings.get("model__second", "test_resnet")):
        assert f"| {name} | pretrained weights in timm" in (tmp_path / "export/MODEL_CARD.md").read_text()


def test_two_backbones_see_the_crops_at_their_own_sizes() -> None:
    target = make_target("joint", SCHEMA)
    net = assemble(target, "test_resnet", (48, 32), second="test_vit")
    assert isinstance(net, Paired) and net.sizes == [(160, 160), (160, 160)]
    seen: list[tuple[int, ...]] = []
    for part in net.nets:
        part.register_forward_pre_hook(lambda _, given: seen.append(tuple(given[0].shape)))
    net.eval()
    pixels = torch.randn(2, 3, 48, 32)
    features = [part(nn.functional.interpolate(pixels, (160, 160), mode="bilinear")) for part in net.nets]
    seen.clear()
    torch.testing.assert_close(net(pixels), net.classifier(torch.cat(features, 1)))
    assert seen == [(2, 3, 160, 160)] * 2
    with pytest.raises(UsageError, match="no model 'test_vitt'"):
        assemble(target, "test_resnet", (32, 32), second="test_vitt")


@pytest.mark.parametrize("kind, second", [("separate", ""), ("joint", "test_vit"), ("cascade", "test_convnext")])
def test_networks_side_by_side_freeze_and_decay_by_layer(kind: str, second: str) -> None:
    net = assemble(make_target(kind, SCHEMA), "test_resnet", (32, 32), second=second)
    groups = stages(net)
    assert sorted(n for g in groups for n in g) == sorted(n for n, _ in net.named_parameters())
    last = {"classifier.weight", "classifier.bias"} if kind == "joint" else {"nets.0.fc.weight", "nets.1.fc.bias"}
    assert set(groups[-1]) == last if kind == "joint" else kind == "cascade" or last <= set(groups[-1])
    optimizer = make_optimizer(net, OptimConfig(layer_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    ends = [{rate[id(net.get_parameter(n))] for n in group} for group in (groups[0], groups[-1])]
    assert ends[1] == {1.0} and max(ends[0]) < 0.5


@pytest.mark.parametrize("name", ["separate", "cascade", "number", "two-backbones"])
def test_recipes_of_several_networks(name: str) -> None:
    assert FitConfig.from_keys(read(name)) != FitConfig()


def test_a_checkpoint_holds_what_it_takes_to_route(aged: Path, config: Make, tmp_path: Path) -> None:
    done = fit(aged, config(optim__epochs=1, target__kind="cascade", target__route="hard"), out=tmp_path / "run").run
    sidecar = checkpoint.load_sidecar(done)
    assert (sidecar.target, sidecar.route, sidecar.answers().route) == ("cascade", "hard", "hard")
    oof = pd.read_parquet(done / runs.OOF).filter(regex=r"^p_\d+$").to_numpy()
    assert ((oof[:, :3] == 0).all(1) ^ (oof[:, 3:] == 0).all(1)).all()  # one gender has everything
