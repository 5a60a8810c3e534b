"""How weights move: frozen stages, layer-wise rates, parts of a batch, sharpness-aware steps, selection."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from masktrain.train.batches import Batch
from torch import Tensor, nn

from maskprep.dataset.view import open_view
from maskprep.errors import UsageError, UserError
from masktrain.config.config import FitConfig
from masktrain.config.sections import OptimConfig
from masktrain.runs import folder as runs
from masktrain.score import metrics
from masktrain.study.fit import fit, resume
from masktrain.train import checkpoint, loop
from masktrain.train.freezing import freeze, frozen_stages, stages, thawed
from masktrain.train.losses import make_objective
from masktrain.train.model import Several, build, recompute
from masktrain.train.optim import climb, descend, make_optimizer, set_learning_rate
from masktrain.train.targets import make_target

Make = Callable[..., FitConfig]
CPU = torch.device("cpu")


def learner_of(cache: Path, net: nn.Module, **settings: Any) -> tuple[loop.Learner, Batch, FitConfig]:
    view = open_view(cache)
    rows = np.arange(20, 36)
    labels = view.table["label"].iloc[rows].to_numpy(dtype=np.int64)
    config = FitConfig.from_keys({"optim.lr": 1e-2} | settings)
    made = make_objective(make_target("joint", view.schema), labels, config)
    learner = loop.make_learner(net, config, made, *view.mean_std(rows), CPU)
    pixels = torch.from_numpy(view.gather(rows)).permute(0, 3, 1, 2)
    return learner, Batch(rows, pixels, torch.from_numpy(labels)), config


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 6))


@pytest.mark.parametrize(
    "epoch, freeze_, thaw, wanted",
    [(1, 0, 0, 0), (9, 3, 0, 3), (1, -1, 0, 5), (1, -1, 0.5, 5), (2, -1, 0.5, 4), (5, -1, 0.5, 1), (6, -1, 0.5, 0)],
)
def test_how_many_stages_are_frozen(epoch: int, freeze_: int, thaw: float, wanted: int) -> None:
    assert frozen_stages(epoch, 10, 6, freeze_, thaw) == wanted


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
def test_the_last_stage_is_the_classifier(name: str) -> None:
    net = build(name, 3, (96, 96) if name == "test_vit" else (64, 64))
    groups = stages(net)
    assert len(groups) > 3 and sorted(n for g in groups for n in g) == sorted(n for n, _ in net.named_parameters())
    classifier = {id(p) for p in net.get_classifier().parameters()}  # type: ignore[operator]
    last = {id(net.get_parameter(n)) for n in groups[-1]}
    assert classifier <= last and not any(id(net.get_parameter(n)) in classifier for g in groups[:-1] for n in g)


def test_frozen_stages_stay_as_they_are(cache: Path, config: Make, tmp_path: Path) -> None:
    done = fit(cache, config(model__freeze=-1, optim__epochs=2, optim__weight_decay=0.1), out=tmp_path / "run").run
    after = checkpoint.load_last(done)["learner"]["model"]
    once = fit(cache, config(model__freeze=-1, optim__epochs=1), out=tmp_path / "once").run
    before = checkpoint.load_last(once)["learner"]["model"]
    changed = {k for k in after if not torch.equal(after[k], before[k])}
    assert changed == {"fc.weight", "fc.bias"}  # not even a running mean


def test_stages_thaw(cache: Path, config: Make, tmp_path: Path) -> None:
    settings = config(model__freeze=2, model__thaw=0.5, optim__epochs=4)
    done = fit(cache, settings, out=tmp_path / "run").run
    first = fit(cache, config(model__freeze=2, optim__epochs=1), out=tmp_path / "first").run
    states = [checkpoint.load_last(r)["learner"]["model"] for r in (done, first)]
    assert all(not torch.equal(states[0][k], states[1][k]) for k in ("conv1.0.weight", "layer1.0.bn1.running_mean"))


@pytest.mark.parametrize(
    "scores, patience, wanted",
    [
        ([], 4, False),
        ([0.5, 0.6, 0.6], 4, False),  # two of four epochs are half of the patience
        ([0.5, 0.6, 0.6, 0.5], 4, True),
        ([0.5, 0.6, 0.6, 0.5, 0.9, 0.95], 4, True),  # and stays so when it gets better
        ([0.6, 0.5, 0.7, 0.6, 0.8], 4, False),
        ([0.6, 0.5], 3, False),  # half of three is two
        ([0.6, 0.5, 0.5], 3, True),
        ([0.6, 0.5], 1, True),
    ],
)
def test_what_stood_still_for_half_the_patience_thaws(scores: list[float], patience: int, wanted: bool) -> None:
    assert thawed(scores, patience) is wanted


def test_a_plateau_thaws_all_stages_and_goes_on_bit_by_bit(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(
        model__freeze=2, model__thaw_on_plateau=True, select__patience=3, optim__epochs=5, run__snapshot_seconds=0.0
    )
    values = [0.5, 0.4, 0.4, 0.6, 0.7]
    scripted(monkeypatch, values)
    fit(cache, settings, out=tmp_path / "whole")
    assert [r["frozen_stages"] for r in runs.read_metrics(tmp_path / "whole")] == [2, 2, 2, 0, 0]
    for first in (47, 62):  # killed in the first epoch after the thaw, and in the next one
        run, step, count = tmp_path / f"part-{first}", loop.train_step, iter(range(99))

        def stops(*args: Any, at: int = first, count: Any = count, step: Any = step) -> Any:
            if next(count) == at:
                raise KeyboardInterrupt
            return step(*args)

        scripted(monkeypatch, values)
        with monkeypatch.context() as patch:
            patch.setattr(loop, "train_step", stops)
            with pytest.raises(KeyboardInterrupt):
                fit(cache, settings, out=run)
        done = len(runs.read_metrics(run))
        scripted(monkeypatch, values[done:])
        metrics.score(np.zeros(0, np.int64), np.zeros(0, np.int64), open_view(cache).schema)  # as fit asks, not resume
        resume(run)
        one, two = (checkpoint.load_last(r)["learner"] for r in (tmp_path / "whole", run))
        assert checkpoint.weights_hash(one["model"]) == checkpoint.weights_hash(two["model"])
        assert one["scores"] == two["scores"] == values


def test_norms_of_frozen_stages_stay_still_until_the_plateau(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    states = []
    for epochs in (1, 3, 4):
        scripted(monkeypatch, [0.5, 0.4, 0.4, 0.6])
        settings = config(
            model__freeze=-1, model__thaw_on_plateau=True, select__patience=3, optim__epochs=epochs,
            schedule__kind="constant",
        )  # fmt: skip
        run = fit(cache, settings, out=tmp_path / f"{epochs}").run
        state = checkpoint.load_last(run)["learner"]["model"]
        states.append({k: v for k, v in state.items() if not k.startswith("fc.")})
    first, third, fourth = states
    assert all(torch.equal(first[k], third[k]) for k in first)
    assert not any(torch.equal(third[k], fourth[k]) for k in first if k.endswith(("running_mean", "conv1.weight")))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"select__patience": 3}, "nothing is frozen"),
        ({"model__freeze": 2, "model__thaw": 0.5, "select__patience": 3}, r"by model\.thaw, too"),
        ({"model__freeze": 2}, "half of the patience"),
    ],
)
def test_thawing_that_cannot_be(
    cache: Path, config: Make, tmp_path: Path, changes: dict[str, object], said: str
) -> None:
    with pytest.raises(UsageError, match=said):
        fit(cache, config(model__thaw_on_plateau=True, **changes), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())


def test_more_stages_than_there_are(cache: Path, config: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="has 6 stages, so at most 5 can be frozen, not 7"):
        fit(cache, config(model__freeze=7), out=tmp_path / "run")
    assert not list(tmp_path.iterdir())
    net = nn.Linear(2, 2)
    with pytest.raises(UsageError, match="stages of Linear"):
        stages(net)
    freeze(net, [["weight"], ["bias"]], 1)
    assert not net.weight.requires_grad and net.bias.requires_grad


def test_earlier_layers_learn_slower() -> None:
    net = build("test_resnet", 3, (32, 32))
    optimizer = make_optimizer(net, OptimConfig(layer_decay=0.5))
    set_learning_rate(optimizer, 1.0)
    rate = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    by_stage = [{rate[id(net.get_parameter(n))] for n in group} for group in stages(net)]
    assert by_stage[-1] == {1.0} and max(by_stage[0]) < min(by_stage[2]) < 1.0
    ordered = [max(s) for s in by_stage]
    assert ordered == sorted(ordered)


def test_parts_of_a_batch_add_up_to_it(cache: Path) -> None:
    weights = []
    for micro in (0, 5, 1):
        learner, batch, config = learner_of(cache, small_net(), **{"optim.micro_batch": micro})
        outputs, loss = loop.train_step(learner, batch, config.optim)
        weights.append([p.detach().clone() for p in learner.model.parameters()])
        assert outputs.shape == (16, 6) and loss.dim() == 0
    for other in weights[1:]:
        for one, two in zip(weights[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "names, settings",
    [
        (["test_resnet"], {}),
        (["test_vit"], {"optim.sam": 0.05}),
        (["test_efficientnet"], {"model.freeze": 2, "optim.micro_batch": 8}),
        (["test_resnet", "test_vit"], {}),
    ],
)
def test_activations_computed_again_change_nothing(cache: Path, names: list[str], settings: dict[str, Any]) -> None:
    states, calls = [], [0, 0]
    for again in (False, True):
        torch.manual_seed(0)
        nets = [build(name, 6 // len(names), (32, 32), dropout=0.3, drop_path=0.2) for name in names]
        net = nets[0] if len(nets) == 1 else Several(nets)
        learner, batch, config = learner_of(cache, net, **settings, **{"model.checkpointing": again})
        loop.wake(learner.model, config, 1)
        for module in net.modules():
            module.register_forward_hook(lambda *_, again=again: calls.__setitem__(again, calls[again] + 1))
        torch.manual_seed(1)
        loop.train_step(learner, batch, config.optim)
        states.append({k: v.clone() for k, v in net.state_dict().items()})
    assert calls[1] > 1.3 * calls[0]
    for key, value in states[0].items():
        torch.testing.assert_close(states[1][key], value, rtol=0, atol=1e-7, msg=key)


def test_a_network_that_cannot_compute_again() -> None:
    with pytest.raises(UsageError, match="HighResolutionNet cannot compute its activations anew") as error:
        recompute(build("hrnet_w18_small", 2, (32, 32)))
    assert "optim.micro_batch" in error.value.hint


class Limited(nn.Module):
    """A network on a device whose memory holds only so many images."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.net, self.most = small_net(), most

    def forward(self, pixels: Tensor) -> Tensor:
        """Outputs, or an error as CUDA raises it."""
        if len(pixels) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.net(pixels)  # type: ignore[no-any-return]


def test_smaller_parts_when_memory_runs_out(cache: Path) -> None:
    learner, batch, config = learner_of(cache, Limited(5))
    plain, _, _ = learner_of(cache, small_net())
    for made in (learner, plain):
        loop.train_step(made, batch, config.optim)
    assert learner.micro == 4 and learner.state()["micro"] == 4
    for one, two in zip(learner.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    learner, batch, config = learner_of(cache, Limited(0))
    with pytest.raises(UserError, match="not do for a single image"):
        loop.train_step(learner, batch, config.optim)


def test_a_sharpness_aware_step_by_hand() -> None:
    """f(w) = w0^2 + 10 w1^2 at (1, 1): the gradient is taken at w + rho * g / |g|."""
    net = nn.Linear(2, 1, bias=False)
    net.weight.data = torch.tensor([[1.0, 1.0]])

    def gradient() -> Tensor:
        net.weight.grad = None
        (net.weight**2 * torch.tensor([1.0, 10.0])).sum().backward()  # type: ignore[no-untyped-call]
        assert net.weight.grad is not None
        return net.weight.grad.clone()

    g = gradient()
    before = climb(net, 0.5)
    moved = torch.tensor([[1.0, 1.0]]) + 0.5 * g / g.norm()
    torch.testing.assert_close(net.weight.detach(), moved)
    torch.testing.assert_close(gradient(), 2 * moved * torch.tensor([1.0, 10.0]))
    descend(before)
    assert net.weight.tolist() == [[1.0, 1.0]]


def test_sharpness_aware_training(cache: Path) -> None:
    learner, batch, config = learner_of(cache, small_net(), **{"optim.sam": 0.05, "optim.clip": 0.0})
    plain = copy.deepcopy(learner.model)
    losses = [float(loop.train_step(learner, batch, config.optim)[1]) for _ in range(30)]
    assert losses[-1] < losses[0] / 2
    other, _, _ = learner_of(cache, plain)
    loop.train_step(other, batch, dataclasses.replace(config.optim, sam=0.0))
    assert not torch.equal(next(other.model.parameters()), next(learner.model.parameters()))


def scripted(monkeypatch: pytest.MonkeyPatch, values: list[float]) -> None:
    score, worse = metrics.score, iter([0.0, *values])
    monkeypatch.setattr(metrics, "score", lambda *a: dataclasses.replace(score(*a), macro_f1=next(worse, 0.0)))


def test_a_fit_ends_when_nothing_gets_better(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.2, 0.9, 0.5, 0.5, 0.99])
    done = fit(cache, config(select__patience=2, optim__epochs=5), out=tmp_path / "run")
    assert done.best["epoch"] == 2 and done.epochs == 4
    assert resume(done.run).epochs == 4  # and is not taken up again


def test_the_rate_falls_on_a_plateau(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted(monkeypatch, [0.5, 0.4, 0.3, 0.2])
    settings = config(schedule__kind="plateau", schedule__patience=0, schedule__warmup=0.0, optim__epochs=4)
    done = fit(cache, settings, out=tmp_path / "run").run
    assert [r["lr"] for r in runs.read_metrics(done)] == pytest.approx([5e-3, 5e-3, 5e-4, 5e-5])


@pytest.mark.parametrize("by, sign", [("val_loss", -1), ("mask.macro_f1", 1), ("accuracy", 1)])
def test_one_named_score_decides(cache: Path, config: Make, tmp_path: Path, by: str, sign: int) -> None:
    done = fit(cache, config(select__by=by, optim__epochs=2), out=tmp_path / "run")
    records = runs.read_metrics(done.run)
    values = [r["attributes"]["mask"]["macro_f1"] if "." in by else r[by] for r in records]
    assert done.best["epoch"] == 1 + int(np.argmax([sign * v for v in values]))
    assert json.loads((done.run / "best.json").read_text())["epoch"] == done.best["epoch"]


def test_a_score_that_does_not_exist(cache: Path, config: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"no score 'age.macro_f1'") as error:
        fit(cache, config(select__by="age.macro_f1"), out=tmp_path / "run")
    assert "gender.macro_f1" in error.value.hint and not list(tmp_path.iterdir())


def test_a_model_without_branches_to_drop() -> None:
    assert build("test_convnext", 2, (32, 32), drop_path=0.2) is not None
    with pytest.raises(UsageError, match="no residual branches"):
        build("vgg11", 2, (32, 32), drop_path=0.2)


def test_everything_at_once_resumes_bit_by_bit(
    cache: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Averaging, SAM, mixing, sampling, thawing, plateau, parts of batches: all is in the state or needs none."""
    settings = config(
        optim__epochs=2, optim__ema=0.9, optim__sam=0.02, optim__micro_batch=5, augment__mixup=0.4, augment__halves=0.4,
        sample__kind="sqrt", model__freeze=2, model__thaw=0.5, schedule__kind="plateau", loss__name="ce_f1",
        target__kind="heads",
    )  # fmt: skip
    fit(cache, settings, out=tmp_path / "whole")
    step, count = loop.train_step, iter(range(99))

    def stops(*args: Any) -> Any:
        if next(count) == 22:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "train_step", stops)
    every = dataclasses.replace(settings, run=dataclasses.replace(settings.run, snapshot_seconds=0.0))
    with pytest.raises(KeyboardInterrupt):
        fit(cache, every, out=tmp_path / "part")
    monkeypatch.setattr(loop, "train_step", step)
    resume(tmp_path / "part")
    one, two = (checkpoint.load_last(tmp_path / r)["learner"] for r in ("whole", "part"))
    for key in ("model", "average"):
        assert checkpoint.weights_hash(one[key]) == checkpoint.weights_hash(two[key])
    assert one["scores"] == two["scores"]
