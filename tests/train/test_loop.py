"""How weights move: frozen stages, parts of a batch, less memory, sharpness-aware steps, patience and selection."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from maskprep.base import UsageError, UserError
from maskprep.dataset import open_view
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study.fit import fit, make_state, resume, settled
from masktrain.study.progress import Progress
from masktrain.train import checkpoint, loop
from masktrain.train.augment import Augmenter
from masktrain.train.freezing import freeze, frozen_stages, stages, thawed
from masktrain.train.losses import Objective
from masktrain.train.model import assemble, build, recompute
from masktrain.train.pixels import Batch
from masktrain.train.targets import make_target

Make = Callable[..., FitConfig]
CPU = torch.device("cpu")


def state_of(cache: Path, net: nn.Module, **settings: Any) -> tuple[loop.State, Batch, Augmenter]:
    """A network on a batch of 16 images, ready for its first step."""
    view, rows = open_view(cache), np.arange(20, 36)
    labels = torch.from_numpy(view.table["label"].iloc[rows].to_numpy(dtype=np.int64))
    truth = torch.eye(6)[labels]
    config = FitConfig.from_keys({"optim.lr": 1e-2} | settings)
    made = Objective(make_target("joint", view.schema), truth.double().sum(0).numpy(), config.loss, config.target)
    state = loop.make_state(net, config, made, *view.mean_std(rows), CPU)
    loop.set_train_mode(state, 1)
    augmenter = Augmenter(config.augment, view.schema, view.size, 0)
    return state, Batch(torch.from_numpy(view.gather(rows)), truth, labels), augmenter


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(4), nn.Flatten(), nn.Linear(192, 16), nn.Tanh(), nn.Linear(16, 6))


@pytest.fixture
def scripted(cache: Path, config: Make, fed: Callable[..., Any]) -> Callable[..., Any]:
    """Trains with scores as given, from the start or from a state that is kept, to the end or to some step."""

    def trained(
        scores: Sequence[float],
        accuracies: Sequence[float] = (),
        stop: int = 0,
        state: dict[str, Any] | None = None,
        **settings: Any,
    ) -> tuple[loop.State, list[dict[str, Any]]]:
        data, train, val = fed(cache, **settings)
        chosen = settled(data, config(**settings), CPU)
        made = make_state(chosen, data, np.full(3, 0.4), np.full(3, 0.2), CPU, pretrained=False)
        if state is not None:
            made.load(state)
        records: list[dict[str, Any]] = []

        def evaluate(_: Any) -> dict[str, Any]:
            k = made.epoch
            return {"macro_f1": scores[k], "accuracy": (accuracies or scores)[k], "attributes": {}}

        def pause() -> None:
            if stop and made.epoch * train.steps + made.step == stop:
                raise KeyboardInterrupt

        with contextlib.suppress(KeyboardInterrupt):
            loop.fit(made, train, val, evaluate, lambda record, _: records.append(record), pause, Progress())
        return made, records

    return trained


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


def test_a_plateau_thaws_all_stages_and_goes_on_bit_by_bit(scripted: Callable[..., Any]) -> None:
    settings = {
        "model__freeze": 2, "model__thaw_on_plateau": True, "select__patience": 3, "optim__epochs": 5,
    }  # fmt: skip
    scores = [0.5, 0.4, 0.4, 0.6, 0.7]
    whole, records = scripted(scores, **settings)
    assert [r["frozen_stages"] for r in records] == [2, 2, 2, 0, 0]
    for stop in (47, 62):  # in the first epoch after the thaw, and in the next one
        part, _ = scripted(scores, stop=stop, **settings)
        again, _ = scripted(scores, state=checkpoint.on_host(part.to_dict()), **settings)
        assert checkpoint.weights_hash(again.model.state_dict()) == checkpoint.weights_hash(whole.model.state_dict())
        assert again.scores == whole.scores == scores


def test_norms_of_frozen_stages_stay_still_until_the_plateau(scripted: Callable[..., Any]) -> None:
    states = []
    for epochs in (1, 3, 4):
        made, _ = scripted(
            [0.5, 0.4, 0.4, 0.6], model__freeze=-1, model__thaw_on_plateau=True, select__patience=3,
            optim__epochs=epochs, schedule__kind="constant",
        )  # fmt: skip
        states.append({k: v for k, v in made.model.state_dict().items() if not k.startswith("fc.")})
    first, third, fourth = states
    assert all(torch.equal(first[k], third[k]) for k in first)
    assert not any(torch.equal(third[k], fourth[k]) for k in first if k.endswith(("running_mean", "conv1.weight")))


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"select__patience": 3}, "nothing is frozen"),
        ({"model__freeze": 2, "model__thaw": 0.5, "select__patience": 3}, r"model\.thaw is set, too"),
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


def test_parts_of_a_batch_add_up_to_it(cache: Path) -> None:
    weights, results = [], []
    for micro in (0, 5, 1):
        state, batch, augmenter = state_of(cache, small_net(), **{"optim.micro_batch": micro})
        loss, right = loop.train_step(state, batch, augmenter)
        weights.append([p.detach().clone() for p in state.model.parameters()])
        results.append((float(loss), int(right)))
    for other, (loss_of, right_of) in zip(weights[1:], results[1:], strict=True):
        assert loss_of == pytest.approx(results[0][0], rel=1e-5) and right_of == results[0][1]
        for one, two in zip(weights[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "names, settings",
    [
        (["test_resnet"], {}),
        (["test_vit"], {"optim.sam": 0.05}),
        (["test_efficientnet"], {"model.freeze": 2, "optim.micro_batch": 8}),
        (["test_resnet", "test_efficientnet"], {}),
    ],
)
def test_activations_computed_again_change_nothing(cache: Path, names: list[str], settings: dict[str, Any]) -> None:
    states, calls = [], [0, 0]
    for again in (False, True):
        torch.manual_seed(0)
        net = assemble(names[0], 6, (32, 32), second="".join(names[1:]), dropout=0.3, drop_path=0.2)
        state, batch, augmenter = state_of(cache, net, **settings, **{"model.checkpointing": again})
        for module in net.modules():
            module.register_forward_hook(lambda *_, again=again: calls.__setitem__(again, calls[again] + 1))
        torch.manual_seed(1)
        loop.train_step(state, batch, augmenter)
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
    limited, batch, augmenter = state_of(cache, Limited(5))
    plain, _, _ = state_of(cache, small_net())
    for state in (limited, plain):
        loop.train_step(state, batch, augmenter)
    assert limited.micro == 4 and limited.to_dict()["micro"] == 4
    for one, two in zip(limited.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-6)
    state, batch, augmenter = state_of(cache, Limited(0))
    with pytest.raises(UserError, match="too little memory for 1 image at once"):
        loop.train_step(state, batch, augmenter)


def test_sharpness_aware_training(cache: Path) -> None:
    sharp, batch, augmenter = state_of(cache, small_net(), **{"optim.sam": 0.05, "optim.clip": 0.0})
    plain, _, _ = state_of(cache, small_net(), **{"optim.clip": 0.0})
    losses = [float(loop.train_step(sharp, batch, augmenter)[0])]
    loop.train_step(plain, batch, augmenter)
    assert not torch.equal(next(plain.model.parameters()), next(sharp.model.parameters()))
    losses += [float(loop.train_step(sharp, batch, augmenter)[0]) for _ in range(29)]
    assert losses[-1] < losses[0] / 2


def test_a_step_in_16_bits_is_nearly_the_same(cache: Path) -> None:
    losses = []
    for amp in ("off", "bf16"):
        state, batch, augmenter = state_of(cache, small_net(), **{"run.amp": amp})
        losses.append([float(loop.train_step(state, batch, augmenter)[0]) for _ in range(10)])
        assert all(p.dtype is torch.float32 for p in state.model.parameters())
    assert losses[0] != losses[1] and losses[0] == pytest.approx(losses[1], rel=0.05)


def test_a_fit_ends_when_nothing_gets_better(scripted: Callable[..., Any]) -> None:
    scores, settings = [0.2, 0.9, 0.5, 0.5, 0.99], {"select__patience": 2, "optim__epochs": 5}
    state, records = scripted(scores, **settings)
    assert state.best == 2 and state.epoch == len(records) == 4
    again, records = scripted(scores, state=checkpoint.on_host(state.to_dict()), **settings)
    assert again.epoch == 4 and not records  # and is not taken up again


def test_another_score_may_end_a_fit_than_the_one_that_selects(scripted: Callable[..., Any]) -> None:
    settings = {"select__patience": 2, "optim__epochs": 5}
    falls, rises = [0.9, 0.8, 0.8, 0.8, 0.8], [0.1, 0.2, 0.3, 0.4, 0.5]
    state, _ = scripted(rises, falls, select__stop_by="accuracy", **settings)
    assert (state.epoch, state.best) == (3, 3) and state.scores == rises[:3] and state.stops == falls[:3]
    state, _ = scripted(falls, rises, select__stop_by="accuracy", **settings)
    assert (state.epoch, state.best) == (5, 1)


def test_the_rate_falls_on_a_plateau(scripted: Callable[..., Any]) -> None:
    settings = {"schedule__kind": "plateau", "schedule__patience": 0, "schedule__warmup": 0.0, "optim__epochs": 4}
    _, records = scripted([0.5, 0.4, 0.3, 0.2], **settings)
    assert [r["lr"] for r in records] == pytest.approx([5e-3, 5e-3, 5e-4, 5e-5])


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


@pytest.mark.parametrize("kind", ["heads", "number"])
def test_everything_at_once_resumes_bit_by_bit(
    aged: Path, config: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """Averaging, SAM, mixing, sampling, thawing, plateau, parts of batches: all is in the state or needs none."""
    settings = config(
        optim__epochs=2, optim__batch_size=20, optim__ema=0.9, optim__sam=0.02, optim__micro_batch=12,
        augment__mixup=0.4, augment__halves=0.4,
        sample__kind="sqrt", model__freeze=2, model__thaw=0.5, schedule__kind="plateau", loss__name="ce_f1",
        run__snapshot_seconds=0.0, target__kind=kind, data__soft_labels="age=2",
    )  # fmt: skip
    fit(aged, settings, out=tmp_path / "whole")
    step, count = loop.train_step, iter(range(99))

    def stops(*args: Any) -> Any:
        if next(count) == 14:
            raise KeyboardInterrupt
        return step(*args)

    monkeypatch.setattr(loop, "train_step", stops)
    with pytest.raises(KeyboardInterrupt):
        fit(aged, settings, out=tmp_path / "part")
    monkeypatch.setattr(loop, "train_step", step)
    resume(tmp_path / "part")
    one, two = (checkpoint.load_last(tmp_path / r)["learner"] for r in ("whole", "part"))
    for key in ("model", "average"):
        assert checkpoint.weights_hash(one[key]) == checkpoint.weights_hash(two[key])
    assert one["scores"] == two["scores"]
