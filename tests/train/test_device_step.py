"""A training step on a device that is not the CPU: nothing is read from it, and nothing is made on the host.

torch's meta device has shapes and no values, so what would wait for a GPU, or mix devices, fails here.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from maskprep.labels.schema import Attribute, Schema
from masktrain.config.config import FitConfig
from masktrain.config.sections import LOSSES
from masktrain.study.fit import fit
from masktrain.train import loop
from masktrain.train.augment import Augmenter
from masktrain.train.draws import AUGMENT, MIX, PARTNER, keys
from masktrain.train.losses import Objective
from masktrain.train.model import build
from masktrain.train.pixels import Batch
from masktrain.train.targets import make_target

META = torch.device("meta")
SIDE, IMAGES = 64, 8
SCHEMA = Schema((Attribute("mask", ("wear", "no")), Attribute("age", bins=(30, 60))))


class Watch(TorchDispatchMode):
    """Notes values that are read, tensors that are made from Python data, and copies between devices."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        given = [a for a in args if isinstance(a, Tensor)]
        # optimisers of torch that are not fused count their steps on the CPU, where reading waits for nothing
        read = "_local_scalar_dense" in name and given[0].device.type != "cpu"
        if read or "lift_fresh" in name:
            self.wrong.append(name)
        wanted = (kwargs or {}).get("device")
        devices = {a.device.type for a in given} | ({torch.device(wanted).type} if wanted is not None else set())
        if "copy" in name and len(devices) > 1:
            self.wrong.append(f"{name} between devices")
        return func(*args, **(kwargs or {}))


def batch_on(device: torch.device, augmenter: Augmenter, numbers: int) -> Batch:
    augmenter.to(device, device)
    rows = torch.arange(IMAGES, device=device)
    labels = rows % SCHEMA.num_classes
    pixels = torch.zeros(IMAGES, SIDE, SIDE, 3, dtype=torch.uint8, device=device)
    truth = torch.zeros(IMAGES, SCHEMA.num_classes, device=device)
    starts = torch.zeros(SCHEMA.num_classes + 1, dtype=torch.int64, device=device)

    def drawn(stream: int) -> Tensor:
        return keys(0, 1, rows, rows, stream)

    how, _ = augmenter.mixing(drawn(MIX), rows, starts, labels)
    known = torch.zeros(IMAGES, numbers, device=device) if numbers else None
    what, other = (augmenter.transforms(drawn(stream), rows * 0) for stream in (AUGMENT, PARTNER))
    return Batch(pixels, truth, labels, known, what, pixels, other, how)


def state_on(device: torch.device, config: FitConfig) -> loop.State:
    target = make_target(config.target.kind, SCHEMA)
    objective = Objective(target, np.full(6, 4.0), config.loss, config.target)
    net = build(config.model.name, target.outputs, (SIDE, SIDE))
    state = loop.make_state(net, config, objective, np.full(3, 0.5), np.full(3, 0.2), device)
    loop.set_train_mode(state, 1)
    return state


def config_of(kind: str, loss: str, **more: Any) -> FitConfig:
    given = {"model.name": "test_resnet", "model.pretrained": False, "run.amp": "off", "run.compile": False}
    given |= {"target.kind": kind, "loss.name": loss, "augment.recipe": "strong", "optim.lr": 1e-3}
    return FitConfig.from_keys(given | {"augment.mixup": 0.3, "augment.cutmix": 0.3, "augment.halves": 0.3} | more)


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("kind", ["joint", "heads", "ordinal", "number"])
def test_a_step_reads_nothing_and_makes_nothing_on_the_host(kind: str, loss: str) -> None:
    config = config_of(kind, loss)
    state = state_on(META, config)
    augmenter = Augmenter(config.augment, SCHEMA, (SIDE, SIDE), 0)
    batch = batch_on(META, augmenter, 1 if kind == "number" else 0)
    loop.train_step(state, batch, augmenter)  # the optimiser makes its state in the first step
    with Watch() as watch:
        value, right = loop.train_step(state, batch, augmenter)
    assert not watch.wrong and value.device == right.device == META


@pytest.mark.parametrize(
    "more", [{"optim.sam": 0.05}, {"optim.micro_batch": 3}, {"model.checkpointing": True}, {"optim.optimizer": "sgd"}]
)
def test_nor_do_other_ways_to_take_a_step(more: dict[str, Any]) -> None:
    config = config_of("number", "ce", **more)
    state = state_on(META, config)
    augmenter = Augmenter(config.augment, SCHEMA, (SIDE, SIDE), 0)
    batch = batch_on(META, augmenter, 1)
    loop.train_step(state, batch, augmenter)
    with Watch() as watch:
        loop.train_step(state, batch, augmenter)
    assert not watch.wrong


def test_the_watch_sees_what_would_wait() -> None:
    with Watch() as watch:
        made = torch.tensor([1.0, 2.0])
        torch.ones(2, device=META) + made.to(META)
        with pytest.raises(RuntimeError):
            float(torch.ones((), device=META))
    assert len(watch.wrong) >= 3


def test_draws_are_made_on_the_device_too() -> None:
    augmenter = Augmenter(config_of("joint", "ce").augment, SCHEMA, (SIDE, SIDE), 0)
    augmenter.to(META, META)
    with Watch() as watch:
        batch_on(META, augmenter, 0)
    assert not watch.wrong


@pytest.mark.parametrize("kind", ["joint", "number"])
def test_a_fit_compiles_one_graph(
    kind: str, cache: Path, config: Callable[..., FitConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs = []

    def count(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    monkeypatch.setattr(loop, "BACKEND", count)
    torch._dynamo.reset()
    chosen = config(run__compile=True, optim__epochs=2, optim__batch_size=7, target__kind="joint")
    made = fit(cache, chosen, out=tmp_path / "run")
    assert len(graphs) == 1 and made.epochs == 2


def test_the_work_of_a_device_is_one_graph() -> None:
    graphs = []

    def count(module: torch.fx.GraphModule, inputs: Any) -> Any:
        graphs.append(module)
        return module.forward

    torch._dynamo.reset()
    config = config_of("number", "ce")
    state = state_on(torch.device("cpu"), config)
    augmenter = Augmenter(config.augment, SCHEMA, (SIDE, SIDE), 0)
    batch = batch_on(torch.device("cpu"), augmenter, 1)
    plain, _ = loop.train_step(state, batch, augmenter)
    state = state_on(torch.device("cpu"), config)
    assert state.loss_of is not None
    made = torch.compile(state.loss_of, fullgraph=True, dynamic=False, backend=count)
    for _ in range(2):
        value, _ = made(batch, augmenter, True)
    assert len(graphs) == 1 and torch.isfinite(value) and torch.isfinite(plain)
