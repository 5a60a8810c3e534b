"""Targets and losses: values by hand, gradients by finite differences, counts from data, and that they can be met."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskprep.base import UsageError
from maskprep.dataset import open_view
from maskprep.labels import MASK_SCHEMA, Attribute, Schema
from masktrain.config.config import FitConfig
from masktrain.config.sections import LOSSES, TARGETS, LossConfig
from masktrain.data.trainset import TrainSet
from masktrain.study.fit import make_state
from masktrain.train import loop
from masktrain.train.augment import Augmenter
from masktrain.train.losses import Objective, class_weights, focal, ldam_margins, soft_f1
from masktrain.train.pixels import Batch
from masktrain.train.targets import Head, make_target

LABELS = np.repeat(np.arange(18), np.arange(1, 19))
"""Joint labels of the mask schema: class k occurs k + 1 times."""

PLAIN = {"loss.label_smoothing": 0.0, "loss.class_weights": "none"}


def objective(kind: str, cosine: bool = False, **settings: Any) -> Objective:
    config = FitConfig.from_keys(PLAIN | {k.replace("__", "."): v for k, v in settings.items()})
    counts = np.bincount(LABELS).astype(np.float64)
    return Objective(make_target(kind, MASK_SCHEMA), counts, config.loss, config.target, cosine)


def one_hot(labels: list[int], classes: int) -> Tensor:
    return torch.eye(classes, dtype=torch.float64)[labels]


def softmax(row: list[float]) -> list[float]:
    total = sum(math.exp(x) for x in row)
    return [math.exp(x) / total for x in row]


@pytest.mark.parametrize("kind, outputs", [("joint", 18), ("heads", 8), ("ordinal", 7), ("number", 7)])
def test_every_target_gives_one_table(kind: str, outputs: int) -> None:
    target = make_target(kind, MASK_SCHEMA)
    assert target.outputs == outputs
    table = target.probabilities(torch.randn(5, outputs, dtype=torch.float64) * 5)
    assert table.shape == (5, 18) and (table >= 0).all()
    torch.testing.assert_close(table.sum(1), torch.ones(5, dtype=torch.float64))


def test_the_joint_probability_is_the_product_of_the_heads() -> None:
    outputs = [0.3, -1.0, 2.0, 0.5, -0.5, 1.0, 0.0, -2.0]
    table = make_target("heads", MASK_SCHEMA).probabilities(torch.tensor([outputs], dtype=torch.float64))[0]
    mask, gender, age = softmax(outputs[:3]), softmax(outputs[3:5]), softmax(outputs[5:])
    for k in range(18):
        m, g, a = MASK_SCHEMA.decode(k)
        assert float(table[k]) == pytest.approx(mask[m] * gender[g] * age[a], rel=1e-12)


def test_heads_for_any_schema() -> None:
    schema = Schema((Attribute("a", ("x", "y", "z", "w")), Attribute("b", ("p", "q"))), joint=("b", "a"))
    target = make_target("heads", schema)
    assert [(h.name, h.classes) for h in target.heads] == [("b", 2), ("a", 4)]
    truths = target.truths(one_hot([5], 8))
    assert [t.argmax(1).item() for t in truths] == [1, 1]
    single = make_target("heads", Schema((Attribute("class", tuple("abcde")),)))
    assert single.outputs == 5 and single.truths(one_hot([3], 5))[0].argmax() == 3


def test_ordered_classes_by_hand() -> None:
    head = Head("age", 3, ordinal=True)
    outputs = torch.tensor([[0.7, -0.4]], dtype=torch.float64)
    first = 0.7
    second = first - math.log1p(math.exp(-0.4))
    above = [1 / (1 + math.exp(-first)), 1 / (1 + math.exp(-second))]
    by_hand = [1 - above[0], above[0] - above[1], above[1]]
    assert head.logits(outputs).exp()[0].tolist() == pytest.approx(by_hand, rel=1e-12)
    odds, asked = head.binary(outputs, one_hot([1], 3))
    assert odds.sigmoid()[0].tolist() == pytest.approx(above, rel=1e-12) and asked.tolist() == [[1, 0]]
    assert [head.binary(outputs, one_hot([k], 3))[1].tolist() for k in (0, 2)] == [[[0, 0]], [[1, 1]]]
    extreme = head.logits(torch.tensor([[300.0, 300.0], [-300.0, -300.0], [5.0, 300.0]]))
    assert extreme.isfinite().all() and extreme.argmax(1).tolist() == [1, 0, 1]


def test_ordinal_needs_bins() -> None:
    with pytest.raises(UsageError, match="no classes have an order"):
        make_target("ordinal", Schema((Attribute("mask", ("a", "b")),)))


def test_class_weights_by_hand() -> None:
    counts = np.array([16, 4, 0])
    ratio = {"sqrt": 2.0, "inverse": 4.0, "log": math.log(17) / math.log(5), "effective": (1 - 0.9**16) / (1 - 0.9**4)}
    for kind, wanted in ratio.items():
        weights = class_weights(counts, kind, beta=0.9)
        assert weights is not None
        assert weights[1] / weights[0] == pytest.approx(wanted) and weights[2] == 0
        assert (weights * counts).sum() / 20 == pytest.approx(1)
    assert class_weights(counts, "none") is None


def test_cross_entropy_with_weights_and_smoothing_by_hand() -> None:
    outputs = torch.randn(2, 18, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    made = objective("joint", loss__label_smoothing=0.3, loss__class_weights="inverse")
    weights = class_weights(np.arange(1, 19), "inverse")
    assert weights is not None
    by_hand = 0.0
    for row, label in zip(outputs.tolist(), (0, 17), strict=True):
        shares = [0.3 / 18 + 0.7 * (k == label) for k in range(18)]
        by_hand -= weights[label] * sum(t * math.log(p) for t, p in zip(shares, softmax(row), strict=True)) / 2
    assert float(made(outputs, one_hot([0, 17], 18))) == pytest.approx(by_hand, rel=1e-6)
    reference = nn.functional.cross_entropy(outputs, torch.tensor([0, 17]), label_smoothing=0.3)
    smoothed = objective("joint", loss__label_smoothing=0.3)(outputs, one_hot([0, 17], 18))
    assert float(smoothed) == pytest.approx(float(reference), rel=1e-12)


def test_focal_by_hand_and_far_from_the_truth() -> None:
    logits = [1.0, 0.0, -1.0]
    p = softmax(logits)[2]
    loss = focal(torch.tensor([logits], dtype=torch.float64), one_hot([2], 3), 2.0)
    assert float(loss) == pytest.approx(-((1 - p) ** 2) * math.log(p), rel=1e-12)
    far = focal(torch.tensor([[500.0, 0.0, -500.0]]), one_hot([2], 3).float(), 2.0)
    assert float(far) == pytest.approx(1000.0)  # softmax().log() would give infinity


def test_soft_f1_by_hand_without_the_absent_class() -> None:
    rows = [[2.0, 0.0, 1.0], [0.0, 1.0, 0.0], [1.0, 1.0, -1.0]]
    labels, p = [0, 1, 0], [softmax(r) for r in rows]
    f1 = []
    for c in (0, 1):
        hits = sum(p[i][c] for i in range(3) if labels[i] == c)
        f1.append(2 * hits / (sum(r[c] for r in p) + labels.count(c)))
    logits = torch.tensor(rows, dtype=torch.float64, requires_grad=True)
    loss = soft_f1(logits, one_hot(labels, 3), torch.ones(3, dtype=torch.float64))
    assert float(loss.detach()) == pytest.approx(1 - sum(f1) / 2, rel=1e-12)
    loss.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None and (logits.grad.abs() > 1e-4).all()
    # an image that weighs 2 is as good as two of them
    doubled = soft_f1(logits[[0, 1, 2, 2]], one_hot([*labels, 0], 3), torch.ones(4, dtype=torch.float64))
    weighed = soft_f1(logits, one_hot(labels, 3), torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64))
    doubled, weighed = doubled.detach(), weighed.detach()
    assert float(doubled) == pytest.approx(float(weighed), rel=1e-12)


def test_a_mix_of_cross_entropy_and_f1() -> None:
    outputs, truth = torch.randn(4, 18, dtype=torch.float64), one_hot([0, 3, 3, 17], 18)
    ce, f1 = (objective("joint", loss__name=n)(outputs, truth) for n in ("ce", "f1"))
    mixed = objective("joint", loss__name="ce_f1", loss__f1_share=0.7)(outputs, truth)
    assert float(mixed) == pytest.approx(0.3 * float(ce) + 0.7 * float(f1), rel=1e-12)


@pytest.mark.parametrize("cosine, scale", [(False, 1.0), (True, 10.0)])
def test_ldam_by_hand(cosine: bool, scale: float) -> None:
    """The margin is scaled as the outputs are: those of a cosine classifier, and not those of a linear one."""
    counts = np.array([16.0, 81.0, 0.0])
    assert ldam_margins(counts, 0.5).tolist() == pytest.approx([0.5, 0.5 * 2 / 3, 0])
    plain = torch.rand(1, 18, dtype=torch.float64) * 2 - 1
    made = objective("joint", cosine, loss__name="ldam", loss__margin=0.4, loss__scale=10.0)
    moved = plain[0].tolist()
    moved[4] -= 0.4 * 5**-0.25  # class 4 occurs 5 times, the rarest once
    by_hand = -math.log(softmax([scale * v for v in moved])[4])
    assert float(made(scale * plain, one_hot([4], 18))) == pytest.approx(by_hand, rel=1e-6)


def test_deferred_weights() -> None:
    outputs, truth = torch.randn(4, 18, dtype=torch.float64), one_hot([0, 3, 3, 17], 18)
    made = objective("joint", loss__class_weights="effective", loss__defer=0.8)
    plain, weighted = float(objective("joint")(outputs, truth)), float(made(outputs, truth))
    assert made.defer == 0.8 and float(made(outputs, truth, weighted=False)) == plain != weighted


def test_binary_losses_as_torch_computes_them() -> None:
    outputs, truth = torch.randn(4, 18, dtype=torch.float64), one_hot([0, 3, 3, 17], 18)
    soft = objective("joint", loss__name="soft_margin")(outputs, truth)
    assert float(soft) == pytest.approx(float(nn.functional.multilabel_soft_margin_loss(outputs, truth)), rel=1e-12)
    summed = objective("joint", loss__name="bce")(outputs, truth)
    assert float(summed) == pytest.approx(18 * float(soft), rel=1e-12)


def test_heads_have_their_own_losses_and_weights() -> None:
    outputs, truth = torch.randn(3, 8, dtype=torch.float64), one_hot([0, 9, 17], 18)
    made = objective("heads", target__weights=[0.5, 1.0, 2.5], target__losses=["ce", "ce", "focal"])
    labels = torch.tensor([MASK_SCHEMA.decode(k) for k in (0, 9, 17)])
    parts = outputs.split([3, 2, 3], 1)
    by_hand = 0.5 * nn.functional.cross_entropy(parts[0], labels[:, 0])
    by_hand = by_hand + nn.functional.cross_entropy(parts[1], labels[:, 1])
    by_hand = by_hand + 2.5 * focal(parts[2], one_hot(labels[:, 2].tolist(), 3), 2.0).mean()
    assert float(made(outputs, truth)) == pytest.approx(float(by_hand) / 4, rel=1e-12)
    with pytest.raises(UsageError, match=r"'target.weights' has 2 values; the target has 3 heads: mask, gender, age"):
        objective("heads", target__weights=[1, 2])
    with pytest.raises(UsageError, match="add up to nothing"):
        objective("heads", target__weights=[0, 0, 0])


def test_heads_have_their_own_label_smoothing() -> None:
    outputs, truth = torch.randn(3, 8, dtype=torch.float64), one_hot([0, 9, 17], 18)
    made = objective("heads", target__smoothing=[0.0, 0.3, 0.1], loss__label_smoothing=0.2)
    labels = torch.tensor([MASK_SCHEMA.decode(k) for k in (0, 9, 17)])
    parts = zip(outputs.split([3, 2, 3], 1), labels.T, (0.0, 0.3, 0.1), strict=True)
    by_hand = [nn.functional.cross_entropy(part, own, label_smoothing=smooth) for part, own, smooth in parts]
    assert float(made(outputs, truth)) == pytest.approx(float(sum(by_hand)) / 3, rel=1e-12)
    with pytest.raises(UsageError, match=r"'target.smoothing' has 1 values; the target has 3 heads"):
        objective("heads", target__smoothing=[0.1])


def test_counts_come_from_the_data() -> None:
    ages = np.bincount(LABELS % 3, minlength=3).astype(np.float64)
    made = objective("heads", loss__class_weights="inverse")
    weights = class_weights(ages, "inverse")
    assert weights is not None
    assert made.criteria[2].weights.tolist() == pytest.approx(weights.tolist(), rel=1e-6)
    assert [len(c.margins) for c in made.criteria] == [3, 2, 3]


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_by_finite_differences(kind: str, loss: str) -> None:
    made = objective(kind, loss__name=loss, loss__label_smoothing=0.1, loss__class_weights="sqrt").double()
    generator = torch.Generator().manual_seed(1)
    outputs = torch.randn(4, made.target.outputs, dtype=torch.float64, generator=generator, requires_grad=True)
    truth = one_hot([0, 3, 8, 17], 18) * 0.7 + one_hot([1, 3, 2, 5], 18) * 0.3  # as mixup gives it
    assert torch.autograd.gradcheck(lambda x: made(x, truth), outputs)
    made(outputs, truth).backward()
    assert outputs.grad is not None and (outputs.grad.abs().sum(1) > 1e-6).all()


@pytest.mark.parametrize("kind", TARGETS)
@pytest.mark.parametrize("loss", LOSSES)
def test_one_batch_can_be_learned_by_heart(cache: Path, kind: str, loss: str) -> None:
    """Every loss falls to nothing on 16 images, and every image gets its label."""
    view = open_view(cache)
    schema = Schema((Attribute("mask", bins=(1, 2)), Attribute("gender", ("male", "female"))))
    settings = {**PLAIN, "optim.lr": 1e-2, "target.kind": kind, "loss.name": loss, "loss.scale": 10.0}
    config = FitConfig.from_keys(settings)
    rows = np.arange(20, 36)
    labels = torch.from_numpy(view.table["label"].iloc[rows].to_numpy(dtype=np.int64))
    target, truth = make_target(kind, schema), torch.eye(6)[labels]
    torch.manual_seed(0)
    net = nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, target.outputs))
    made = Objective(target, truth.double().sum(0).numpy(), config.loss, config.target)
    state = loop.make_state(net, config, made, *view.mean_std(rows), torch.device("cpu"))
    augmenter = Augmenter(config.augment, schema, view.size, 0)
    loop.set_train_mode(state, 1)
    batch = Batch(torch.from_numpy(view.gather(rows)), truth, labels)
    first, _ = loop.train_step(state, batch, augmenter)
    for _ in range(119):
        last, right = loop.train_step(state, batch, augmenter)
    assert float(last) < 0.02 and float(last) < float(first) / 20 and int(right) == 16


def test_losses_are_checked_when_settings_are_read() -> None:
    with pytest.raises(UsageError, match="one of ce, focal"):
        dataclasses.replace(LossConfig(), name="fokal")


@pytest.mark.parametrize("kind", ["sqrt", "inverse", "log", "effective"])
def test_a_head_that_nobody_asks_has_no_weights_and_no_margins(kind: str) -> None:
    nobody = np.zeros(3)
    weights = class_weights(nobody, kind)
    assert weights is not None and weights.tolist() == [0.0, 0.0, 0.0]
    assert ldam_margins(nobody, 0.5).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("kind", ["joint", "heads"])
def test_classes_drawn_alike_weigh_alike(cache: Path, config: Callable[..., FitConfig], kind: str) -> None:
    """Weights are made of what an epoch draws, so that sampling and weights do not both make up for a rare class."""

    def weights(sample: str) -> list[float]:
        settings = config(target__kind=kind, sample__kind=sample, loss__class_weights="inverse")
        data = TrainSet.open(open_view(cache), settings)
        state = make_state(settings, data, np.full(3, 0.5), np.full(3, 0.2), torch.device("cpu"), pretrained=False)
        return [w for head in state.objective.class_weights().values() for w in head]

    assert weights("balanced") == pytest.approx([1.0] * {"joint": 6, "heads": 5}[kind])
    assert max(weights("all")) > 1.5
