"""What is tried before a fit: its plan, quick checks, and overfitting one batch. Nothing is written."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from maskprep.base import counted
from maskprep.dataset import View
from maskprep.labels import Schema
from masktrain.answer import cost
from masktrain.config.config import FitConfig
from masktrain.data.folds import Split
from masktrain.data.names import listed
from masktrain.data.trainset import TrainSet, open_view_of
from masktrain.runs import folder as runs
from masktrain.study import fit as fitting
from masktrain.study import samples
from masktrain.train import device as devices
from masktrain.train import loop
from masktrain.train.draws import draw_seed
from masktrain.train.optim import learning_rate, set_learning_rate
from masktrain.train.pixels import Batch, Crops, Feed

TIMED = 3
"""Steps that a plan runs; the first one is not timed, as it still sets things up."""
MANY_RATES = 10_000
"""So many learning rates show how they go."""
CROPS = 512
"""Crops of each side that are looked at."""
IMAGES, STEPS, FACTORS = 16, 60, (1.0, 10.0, 0.1)
"""Images of the batch to overfit, steps for it, and the learning rates tried, as factors of the run's own."""
LEARNED = 0.2
"""Share of its first loss that an overfitted batch may have left."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Prepared:
    """All that a fit begins with: the view, the settings as asked for and with everything decided, what is learnt, the
    state before the first step, the batches, and the crops that are scored."""

    view: View
    asked: FitConfig
    config: FitConfig
    data: TrainSet
    state: loop.State
    train: Feed
    val: Crops


def prepare(cache: Path, config: FitConfig | None = None) -> Prepared:
    """Set a fit up as :func:`masktrain.study.fit.fit` would, deterministic where it would be.

    Raises:
        UserError: all that would stop the fit.
    """
    view = open_view_of(cache, asked := config or FitConfig())
    data = TrainSet.open(view, asked)
    device = devices.choose_device(asked.run.device, deterministic=asked.run.deterministic)
    config = fitting.settled(data, asked, device)
    fitting.check(data, config)
    mean, std = fitting.statistics(data, config)
    state = fitting.make_state(config, data, mean, std, device, pretrained=True)
    return Prepared(
        view, asked, config, data, state, *fitting.feeds(data, config, fitting.colour(data, config), device)
    )


@dataclass(frozen=True)
class Plan:
    """A fit before it is done.

    Attributes:
        data: as in data.json.
        about: see :func:`masktrain.study.fit.outline`.
        memory: bytes of ``weights`` (with gradients, optimiser state and average) and of ``activations`` of a step.
        rates: learning rate of every update, or of :data:`MANY_RATES` spread evenly over them where there are more.
        loss: of each step that was run.
        seconds: that the whole fit may take, with its waits for data.
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
    return plan_of(prepare(cache, config))


def plan_of(made: Prepared) -> Plan:
    """The plan of a fit, after some of its steps."""
    config, state, train, split = made.config, made.state, made.train, made.data.split
    kept: dict[int, int] = {}
    losses: list[float] = []
    times: list[float] = []
    seen: list[samples.Samples] = []
    loop.set_train_mode(state, 1)
    rows = train.rows[train.order(1)]
    started = time.perf_counter()
    for step, batch in enumerate(islice(train.epoch(1), TIMED)):
        with nullcontext() if losses else cost.activations(state.model, kept):
            losses.append(float(loop.train_step(state, batch, train.augmenter)[0]))
        times.append(time.perf_counter() - started)  # with the wait for data
        seen.append(samples.of_batch(batch, rows[step], train))
        started = time.perf_counter()
    steps = config.optim.epochs * train.steps
    shown = min(steps, MANY_RATES)
    places = [i * (steps - 1) // max(shown - 1, 1) for i in range(shown)]
    # an image takes a third of a training step when it is only scored
    scoring = config.optim.epochs * len(split.val) / train.batch / 3
    states = sum(v.nbytes for s in state.optimizer.state.values() for v in s.values() if isinstance(v, torch.Tensor))
    weights = sum(p.nbytes for p in state.model.parameters())
    return Plan(
        data=runs.data_record(made.view, made.data),
        about=fitting.outline(state, train, made.data) | {"asked": made.asked},
        memory={
            "weights": (2 + (state.average is not None)) * weights + states,
            "activations": sum(kept.values()),
        },
        rates=[learning_rate(place, steps, config.optim.lr, config.schedule) for place in places],
        loss=losses,
        seconds=float(np.mean(times[1:] or times)) * (steps + scoring),
        samples=samples.joined(seen),
    )


def curve(values: list[float], width: int = 48) -> str:
    """Values over time as a row of bars, the highest one full."""
    means = [float(np.mean(part)) for part in np.array_split(np.array(values), min(width, len(values)))]
    top = max(means) or 1.0
    return "".join(" ▁▂▃▄▅▆▇█"[max(0, min(8, round(8 * m / top)))] for m in means)


def lines(made: Plan, config: FitConfig) -> list[str]:
    """A plan in words."""
    names, drawn, counts = made.about["schema"].class_names, made.about["drawn"], made.data["classes"]
    width, total = max(map(len, names)), max(int(drawn.sum()), 1)
    memory = " + ".join(f"{v / 2**20:.0f} MiB {k}" for k, v in made.memory.items())
    return [
        f"{'class':{width}}   train     val   per epoch     ",
        *(
            f"{name:{width}} {train:7d} {val:7d}  {int(n):7d} {n / total:6.1%}"
            for name, train, val, n in zip(names, counts["train"], counts["val"], drawn, strict=True)
        ),
        *(
            f"class weights of {name}: {', '.join(f'{w:.2f}' for w in weights)}"
            for name, weights in made.about["weights"].items()
        ),
        f"memory  {memory}, for {counted(config.optim.micro_batch or config.optim.batch_size, 'image')} at once",
        f"rate    {curve(made.rates)}  {max(made.rates):.2g} at most",
        f"tried   {counted(len(made.loss), 'step')}: loss {' '.join(f'{v:.3f}' for v in made.loss)}",
    ]


@dataclass(frozen=True)
class Finding:
    """One check: what it is about, how it went, and what to do if it failed."""

    name: str
    ok: bool
    text: str
    advice: str = ""


def quick(made: Prepared) -> Iterator[Finding]:
    """Check the data, what is fed, and the gradients, one finding after another."""
    view, split = made.view, made.data.split
    own = split.train[split.train < len(view)]
    yield labels(view, np.concatenate([own, split.val]))
    yield people(view, made.data.view.table, split)
    yield classes(view.schema, *(view.table["label"].iloc[r].to_numpy(np.int64) for r in (own, split.val)))
    yield crops(made.data.view, np.concatenate([split.train, split.val]))
    yield held_out(made.val)
    yield draws(made.train)
    yield gradients(made, by_class(made))


def labels(view: View, rows: Rows) -> Finding:
    """Whether the joint label of some table rows is what their attributes make."""
    schema, table = view.schema, view.table.iloc[rows]
    values = zip(*(table[name].tolist() for name in schema.joint), strict=True)
    made = [schema.label(dict(zip(schema.joint, each, strict=True))) for each in values]
    given = table["label"].tolist()
    unknown = sum(m is None for m in made)
    wrong = [i for i, (m, t) in enumerate(zip(made, given, strict=True)) if m is not None and m != t]
    if wrong:
        at, first = wrong[0], table.iloc[wrong[0]]
        shown = ", ".join(f"{name} {first[name]}" for name in schema.joint)
        text = f"{len(wrong)} of {len(rows)} labels are not what their attributes make: {first['image']} has label"
        text += f" {given[at]}, but {shown} is {made[at]}"
        return Finding("labels", False, text, f"Make them again with: maskprep run {view.path}")
    without = f"; {unknown} have no attributes to compare with" if unknown else ""
    return Finding("labels", True, f"{counted(len(rows) - unknown, 'label')} as the attributes make them{without}")


def people(view: View, table: pd.DataFrame, split: Split) -> Finding:
    """Whether it is known who is on the photos of a view, and nobody, and no file, is on both sides of a split.

    Args:
        table: the rows that are split.
    """
    train, val = (table.iloc[rows] for rows in (split.train, split.val))
    shared = sorted(set(train["person"]) & set(val["person"]))
    files = sorted(set(train["content"].dropna()) & set(val["content"].dropna()))
    if shared or files:
        images = val["image"][val["content"].isin(files) | val["person"].isin(shared)]
        text = (
            f"{counted(len(shared), 'person', 'people')} and {counted(len(files), 'file')} both "
            f"trained on and held out: {listed(sorted(images))}"
        )
        return Finding("people", False, text, "See which with: maskprep duplicates CACHE")
    if doubts := view.person_doubts():
        return Finding("people", view.persons_known > 0, *doubts)
    counts = [len(set(side["person"])) for side in (train, val)]
    return Finding("people", True, f"{counts[0]} trained on, {counts[1]} held out, nobody on both sides")


def classes(schema: Schema, train: Rows, val: Rows) -> Finding:
    """Whether every class that is held out is trained on, by joint labels [n] of both sides."""
    trained, held, names = set(train.tolist()), set(val.tolist()), schema.class_names
    if lost := sorted(held - trained):
        text = (
            f"{counted(len(lost), 'class', 'classes')} held out and never "
            f"trained on: {listed([names[k] for k in lost])}"
        )
        return Finding("classes", False, text, "Hold out other people with --split-seed, or fewer with --val-ratio.")
    if len(trained) < 2:
        return Finding("classes", False, "all training images have one class", "See the labels: maskprep status CACHE")
    never = [names[k] for k in range(len(names)) if k not in trained]
    text = f"{len(trained)} of {len(names)} occur in training, {len(held)} among the held out"
    return Finding("classes", True, text + (f"; never: {listed(never)}" if never else ""))


def crops(view: View, rows: Rows) -> Finding:
    """Whether crops are pictures: few are of one colour, and few are alike."""
    pixels = view.gather_original(_some(rows))
    count, flat = len(pixels), pixels.reshape(len(pixels), -1, 3)
    plain = int((flat.max(1) == flat.min(1)).all(1).sum())
    most = max(np.unique([hash(p.tobytes()) for p in pixels], return_counts=True)[1])
    advice = f"Look at them with: maskprep sheet {view.path}"
    if plain > count / 100:
        return Finding("crops", False, f"{plain} of {count} crops are of one colour", advice)
    if most > max(1, count / 10):
        return Finding("crops", False, f"{most} of {count} crops are the same picture", advice)
    return Finding("crops", True, f"of {count}, {plain} are of one colour; at most {most} the same picture")


def held_out(val: Crops) -> Finding:
    """Whether validation sees the crops as they are in the cache, without any training transform, every time."""
    chosen = _some(np.arange(len(val)))
    wanted = val.view.gather(val.rows[chosen])
    if any((np.concatenate([b.cpu().numpy() for b in val])[chosen] != wanted).any() for _ in range(2)):
        text = "the held-out crops are not shown as they are in the cache"
        return Finding("held out", False, text, "This is an error of masktrain; please report it with your settings.")
    return Finding("held out", True, f"{counted(len(chosen), 'crop')} shown as in the cache, both times alike")


def draws(train: Feed) -> Finding:
    """Whether an epoch can be repeated bit by bit, and what is augmented differs from epoch to epoch."""
    once, again = (next(train.epoch(1)).images(train.augmenter) for _ in range(2))
    if not torch.equal(once, again):
        advice = "With a plugin of yours, draw by the seed it is given: docs/plugins.md."
        return Finding("draws", False, "an epoch that is drawn twice differs", advice)
    moved = "another order and " if (train.order(1) != train.order(2)).any() else ""
    text = f"an epoch repeats bit by bit, the next one has {moved}draws of its own ({train.recipes[0]})"
    return Finding("draws", True, text)


def gradients(made: Prepared, batch: Batch) -> Finding:
    """Whether gradients are finite and reach everything that is to learn within the first steps of training: what
    begins with a factor of nothing, as residual branches do, gets none at the very first."""
    state, train = made.state, made.train
    loop.set_train_mode(state, 1)
    learning = {n: p for n, p in state.model.named_parameters() if p.requires_grad}
    reached: set[str] = set()
    for step, each in enumerate([batch, batch, *islice(train.epoch(1), 2)]):
        torch.manual_seed(draw_seed(made.config.run.seed, 1, step))
        state.optimizer.zero_grad(set_to_none=True)
        loop.gradients(state, each, train.augmenter, weighted=True)
        for name, grad in ((n, p.grad) for n, p in learning.items() if p.grad is not None):
            if not bool(grad.isfinite().all()) and not state.scaler.is_enabled():
                state.optimizer.zero_grad(set_to_none=True)
                text = f"that of {name} is not finite"
                return Finding("gradients", False, text, "Use --amp off on a GPU; look at the crops and at --loss.")
            if bool(grad.ne(0).any()):
                reached.add(name)
        state.scaler.step(state.optimizer)
        state.scaler.update()
    state.optimizer.zero_grad(set_to_none=True)
    still = [name for name in learning if name not in reached]
    if not learning or still:
        text = f"{len(still)} of {len(learning)} parameters get none: {listed(still)}" if still else "nothing learns"
        return Finding("gradients", False, text, "Freeze fewer stages, or choose another --model or --loss.")
    frozen = sum(1 for _ in state.model.parameters()) - len(learning)
    more = f"; {frozen} are frozen" if frozen else ""
    return Finding("gradients", True, f"finite, and reach all {len(learning)} parameters that learn{more}")


def by_heart(made: Prepared) -> Iterator[Finding]:
    """Whether one batch can be overfitted, and whether the answers then depend on the crop.

    The target, loss, model and optimiser of the run; without augmentation, mixing, smoothing, dropout and schedule,
    which would keep the loss from falling to nothing.
    """
    config, batch, prior, tried = plain(made.config), by_class(made), made.state, []
    mean, std = ((v.flatten().cpu().numpy().astype(np.float64) / 255) for v in (prior.mean, prior.std))
    for factor in FACTORS:
        state = fitting.make_state(config, made.data, mean, std, prior.device, pretrained=True)
        loop.set_train_mode(state, 1)
        losses: list[float] = []
        rate, right, known = config.optim.lr * factor, 0, False
        while not known and len(losses) < STEPS and np.isfinite(losses[-1:]).all():
            torch.manual_seed(draw_seed(config.run.seed, 1, len(losses) + 1))
            set_learning_rate(state.optimizer, rate)
            loss, hits = loop.train_step(state, batch, made.train.augmenter)
            losses.append(float(loss))
            right = int(hits)
            known = losses[-1] <= LEARNED * losses[0] and right == len(batch)
        tried.append(f"loss {losses[0]:.3f} to {losses[-1]:.3f}, {right} of {len(batch)} images right after")
        tried[-1] += f" {counted(len(losses), 'step')} at {rate:.2g}"
        if known:
            note = "" if factor == 1 else f" (not at the run's {config.optim.lr:.2g}; see --find-lr)"
            yield Finding("overfit", True, tried[-1] + note)
            break
    else:
        advice = (
            "Is the loss the one for this target? Is too much frozen? Look at the crops with: maskprep sheet CACHE;"
            " then try another --lr, --loss or --model."
        )
        yield Finding("overfit", False, "; ".join(tried), advice)
    yield answers(state, batch)


def answers(state: loop.State, batch: Batch) -> Finding:
    """Whether different crops get different answers."""
    state.model.eval()
    with torch.inference_mode(), state.precision.context():
        outputs = state.model(loop.normalise(batch.pixels, state.mean, state.std))
        probabilities = state.objective.target.probabilities(outputs)
    spread = float((probabilities.amax(0) - probabilities.amin(0)).max())
    if not spread > 1e-3:
        text = f"all of {counted(len(batch), 'crop')} get the same probabilities (largest difference {spread:.1g})"
        advice = "Does the model look at its input? Are the crops alike (maskprep sheet CACHE), or all of it frozen?"
        return Finding("answers", False, text, advice)
    return Finding("answers", True, f"they depend on the crop: a probability varies by up to {spread:.2f}")


def plain(config: FitConfig) -> FitConfig:
    """The settings without what keeps the loss of an overfitted batch above 0."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dropout=0.0, drop_path=0.0),
        target=dataclasses.replace(config.target, smoothing=()),
        loss=dataclasses.replace(config.loss, label_smoothing=0.0, defer=0.0),
        optim=dataclasses.replace(config.optim, weight_decay=0.0, micro_batch=0, ema=0.0),
        run=dataclasses.replace(config.run, compile=False),
    )


def by_class(made: Prepared) -> Batch:
    """Training images as they are, class after class in turn, so that every head is asked."""
    labels = made.data.labels
    each = [np.flatnonzero(labels == k).tolist() for k in np.unique(labels)]
    turns = [place for turn in zip_longest(*each) for place in turn if place is not None]
    chosen = np.array(turns[: max(IMAGES, len(each)) if len(each) <= 2 * IMAGES else IMAGES], dtype=np.int64)
    pixels = made.val.view.gather(made.data.split.train[chosen])
    device, where = made.state.device, torch.from_numpy(chosen)
    numbers = None if made.train.numbers is None else made.train.numbers.cpu()[where]
    truth, own = torch.from_numpy(made.data.truth)[where], torch.from_numpy(labels)[where]
    return Batch(torch.from_numpy(pixels), truth, own, numbers).to(device)


def _some(rows: Rows) -> Rows:
    """At most so many rows, evenly from all."""
    return rows[np.linspace(0, len(rows) - 1, min(CROPS, len(rows))).astype(np.int64)] if len(rows) else rows
