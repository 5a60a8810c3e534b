"""Two backbones, and answers that are numbers: from the batches to what is kept, used and exported."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from maskprep.base import UsageError
from maskprep.dataset import open_view
from maskprep.labels import Attribute, Schema
from masktrain.answer import model
from masktrain.config.config import FitConfig
from masktrain.config.sections import OptimConfig
from masktrain.runs import folder as runs
from masktrain.study.fit import fit, resume
from masktrain.train.freezing import stages
from masktrain.train.losses import Objective, number_loss
from masktrain.train.model import Paired, assemble
from masktrain.train.optim import make_optimizer, set_learning_rate
from masktrain.train.targets import Head, make_target

Make = Callable[..., FitConfig]


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
    made = Objective(target, np.ones(3), config.loss, config.target)
    outputs = torch.tensor([[-1.0, 0.0], [0.0, 0.0], [2.0, 0.0]])
    truth = torch.eye(3)
    assert float(made(outputs, truth, torch.tensor([[30.0], [45.0], [75.0]]))) == pytest.approx(0, abs=1e-6)
    assert float(made(outputs, truth, torch.tensor([[30.0], [45.0], [60.0]]))) > 0.3


def test_batches_carry_numbers_and_shared_labels(aged: Path, fed: Callable[..., Any]) -> None:
    """Where an image is mixed, its number is mixed by the same share; otherwise it is the one of the table."""
    data, train, _ = fed(aged, target__kind="number", data__soft_labels="age=2", augment__mixup=0.6)
    ages = data.numbers(["age"])[:, 0]
    mixed = 0
    for where, batch in zip(train.order(1), train.epoch(1), strict=True):
        torch.testing.assert_close(batch.truth.sum(1), torch.ones(len(batch)))
        alone = (batch.truth.numpy() == data.truth[where]).all(1)
        np.testing.assert_allclose(batch.numbers.numpy()[alone, 0], ages[where][alone], rtol=1e-6)
        mixed += int((~alone).sum())
        other = ~alone & np.isfinite(ages[where]) & batch.numbers[:, 0].isfinite().numpy()
        assert (np.abs(batch.numbers.numpy()[other, 0] - ages[where][other]) > 0).mean() > 0.5 or not other.any()
    assert mixed > 10


@pytest.mark.parametrize(
    "settings",
    [
        {"target__kind": "ordinal"},
        {"target__kind": "number", "data__soft_labels": "age=2"},
        {"model__second": "test_efficientnet"},
    ],
)
def test_a_fit_is_used_and_resumed_like_any_other(
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


def test_two_backbones_see_the_crops_at_their_own_sizes() -> None:
    net = assemble("test_resnet", 6, (48, 32), second="test_vit")
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
        assemble("test_resnet", 6, (32, 32), second="test_vitt")


def test_two_backbones_freeze_and_decay_by_layer() -> None:
    net = assemble("test_resnet", 6, (32, 32), second="test_vit")
    groups = stages(net)
    assert sorted(n for g in groups for n in g) == sorted(n for n, _ in net.named_parameters())
    assert set(groups[-1]) == {"classifier.weight", "classifier.bias"}
    optimizer = make_optimizer(net, OptimConfig(layer_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    ends = [{rate[id(net.get_parameter(n))] for n in group} for group in (groups[0], groups[-1])]
    assert ends[1] == {1.0} and max(ends[0]) < 0.5
