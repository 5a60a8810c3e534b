"""What a fit would do, without a run folder: data, shares after sampling, model, memory, learning rates, time."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

from masktrain.answer import cost
from masktrain.config.config import FitConfig
from masktrain.runs import folder as runs
from masktrain.study import fit as fitting
from masktrain.study import samples
from masktrain.study.rehearsal import prepare
from masktrain.train import loop
from masktrain.train.schedules import learning_rate

STEPS = 3
"""Steps that are run; the first one is not timed, as it still sets things up."""

RATES = 10_000
"""So many learning rates tell how they go."""


@dataclass(frozen=True)
class Plan:
    """A fit before it is done.

    Attributes:
        data: as in data.json.
        about: see :func:`masktrain.study.fit.outline`.
        memory: bytes of ``weights`` (with gradients, optimiser state and average) and of ``activations`` of a step.
        rates: learning rate of every update, or of :data:`RATES` spread evenly over them where there are more.
        loss: of each step that was run.
        seconds: that the whole fit may take.
        samples: images of the steps that were run, as they are and as they were trained on.
    """

    data: dict[str, Any]
    about: dict[str, Any]
    memory: dict[str, int]
    rates: list[float]
    loss: list[float]
    seconds: float
    samples: samples.Samples


def plan(cache: Path, config: FitConfig | None = None) -> Plan:
    """Prepare a fit as :func:`masktrain.study.fit.fit` would, run a few steps, and write nothing.

    Raises:
        UserError: all that would stop the fit.
    """
    made = prepare(cache, config)
    view, config, training, learner, train = made.view, made.config, made.training, made.learner, made.train
    saved: dict[int, int] = {}
    loop.wake(learner.model, config, epoch=1)
    losses: list[float] = []
    seen: list[samples.Samples] = []
    times: list[float] = []
    for batch in islice(train.epoch(1), STEPS):
        seen.append(samples.of_batch(batch, training.view))
        started = time.perf_counter()
        with nullcontext() if losses else cost.activations(learner.model, saved):
            losses.append(float(loop.train_step(learner, batch, config.optim)[1]))
        times.append(time.perf_counter() - started)
    steps = config.optim.epochs * train.steps
    shown = min(steps, RATES)
    # an image takes a third of a training step when it is only looked at
    looks = config.optim.epochs * len(training.split.val) / max(train.images / train.steps, 1) / 3
    states = sum(v.nbytes for s in learner.optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    weights = sum(p.nbytes for p in learner.model.parameters())
    outline = fitting.outline(learner, train, view, config)
    return Plan(
        data=runs.data_record(view, training),
        about=outline,
        memory={
            "weights": 2 * weights + states + (weights if learner.average is not None else 0),
            "activations": sum(saved.values()),
        },
        rates=[
            learning_rate(i * (steps - 1) // max(shown - 1, 1), steps, config.optim.lr, config.schedule)
            for i in range(shown)
        ],
        loss=losses,
        seconds=float(np.mean(times[1:] or times)) * (steps + looks),
        samples=samples.joined(seen),
    )


def curve(values: list[float], width: int = 48) -> str:
    """Values over time as a row of bars, the highest one full."""
    bars = " ▁▂▃▄▅▆▇█"
    means = [float(np.mean(part)) for part in np.array_split(np.array(values), min(width, len(values)))]
    top = max(means) or 1.0
    return "".join(bars[max(0, min(8, round(8 * m / top)))] for m in means)


def lines(made: Plan, config: FitConfig) -> list[str]:
    """A plan in words."""
    data, schema = made.data, made.about["schema"]
    width = max(len(name) for name in schema.class_names)
    found = [f"{'class':{width}}   train     val   drawn an epoch"]
    drawn = made.about["drawn"]
    total = max(int(drawn.sum()), 1)
    for k, name in enumerate(schema.class_names):
        train, val = data["classes"]["train"][k], data["classes"]["val"][k]
        found.append(f"{name:{width}} {train:7d} {val:7d}  {int(drawn[k]):7d} {drawn[k] / total:6.1%}")
    for name, weights in made.about["weights"].items():
        found.append(f"weigh   {name}: {', '.join(f'{w:.2f}' for w in weights)}")
    memory = " + ".join(f"{v / 2**20:.0f} MiB {k}" for k, v in made.memory.items())
    found += [
        f"memory  {memory}, for {config.optim.micro_batch or config.optim.batch_size} images at once",
        f"rate    {curve(made.rates)}  {max(made.rates):.2g} at most",
        f"tried   {len(made.loss)} steps: loss {' '.join(f'{v:.3f}' for v in made.loss)}",
    ]
    return found
