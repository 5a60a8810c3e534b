"""Self-checks before a long fit: the labels, the split, the crops, what is fed, and whether the network can learn."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from maskprep.dataset import View
from maskprep.labels import Schema
from masktrain.config.config import FitConfig
from masktrain.data import bands
from masktrain.data.folds import Split
from masktrain.data.names import listed
from masktrain.study import fit as fitting
from masktrain.study.rehearsal import Rehearsal, prepare
from masktrain.train import feed, loop
from masktrain.train.augment import draw_seed
from masktrain.train.batches import Batch, Batches
from masktrain.train.optim import set_learning_rate
from masktrain.train.targets import make_target

LOOKED_AT = 512
"""Crops of each side that are looked at."""

IMAGES, STEPS, RATES = 16, 60, (1.0, 10.0, 0.1)
"""Images that are to be learned by heart, steps for it, and the learning rates tried, as parts of the run's own."""

LEARNED = 0.2
"""Share of its first loss that a batch known by heart may have left."""

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Finding:
    """One check: what it is about, how it went, and what to do if it failed."""

    name: str
    ok: bool
    said: str
    advice: str = ""


def check(cache: Path, config: FitConfig | None = None) -> Iterator[Finding]:
    """Check a fit before it is done, one finding after another. Nothing is written.

    Raises:
        UserError: all that would stop the fit at once.
    """
    made = prepare(cache, config)
    view, split, device = made.view, made.training.split, made.learner.precision.device
    own = split.train[split.train < len(view)]
    yield labels(view, np.concatenate([own, split.val]))
    yield people(made.training.view, split)
    yield classes(view.schema, *(view.table["label"].iloc[r].to_numpy(np.int64) for r in (own, split.val)))
    yield crops(made.training.view, np.concatenate([split.train, split.val]))
    yield held_out(view, made.config, feed.held_out(view, split, made.config, made.behind, device))
    yield draws(made.train)
    batch = by_class(made)
    yield gradients(made, batch)
    yield from learning(made, batch)


def labels(view: View, rows: Rows) -> Finding:
    """Whether the joint label of some table rows is what their attributes make."""
    schema, table = view.schema, view.table.iloc[rows]
    values = zip(*(table[name].tolist() for name in schema.joint), strict=True)
    made = [schema.label(dict(zip(schema.joint, each, strict=True))) for each in values]
    told = table["label"].tolist()
    wrong = [i for i, (m, t) in enumerate(zip(made, told, strict=True)) if m is not None and m != t]
    unknown = sum(m is None for m in made)
    if wrong:
        first, at = table.iloc[wrong[0]], wrong[0]
        shown = ", ".join(f"{name} {first[name]}" for name in schema.joint)
        return Finding(
            "labels",
            False,
            f"{len(wrong)} of {len(rows)} labels are not what their attributes make: {first['image']} has label"
            f" {told[at]}, but {shown} is {made[at]}",
            f"Make them again with: maskprep run {view.path}",
        )
    without = f"; {unknown} have no attributes to compare with" if unknown else ""
    return Finding("labels", True, f"{len(rows) - unknown} labels are what their attributes make{without}")


def people(view: View, split: Split) -> Finding:
    """Whether nobody, and no file, is on both sides of a split."""
    train, val = (view.table.iloc[rows] for rows in (split.train, split.val))
    shared = sorted(set(train["person"]) & set(val["person"]))
    files = sorted(set(train["content"].dropna()) & set(val["content"].dropna()))
    if shared or files:
        images = val["image"][val["content"].isin(files) | val["person"].isin(shared)]
        what = f"{len(shared)} people and {len(files)} files are trained on and held out: {listed(sorted(images))}"
        return Finding("people", False, what, "See which with: maskprep duplicates CACHE")
    counts = [len(set(side["person"])) for side in (train, val)]
    return Finding("people", True, f"{counts[0]} trained on, {counts[1]} held out, nobody on both sides")


def classes(schema: Schema, train: Rows, val: Rows) -> Finding:
    """Whether every class that is held out is trained on, by joint labels [n] of both sides."""
    trained, held = set(train.tolist()), set(val.tolist())
    named = schema.class_names
    if lost := sorted(held - trained):
        said = f"{len(lost)} classes are held out and never trained on: {listed([named[k] for k in lost])}"
        return Finding("classes", False, said, "Hold out other people with --split-seed, or fewer with --val-ratio.")
    if len(trained) < 2:
        return Finding("classes", False, "all training images have one class", "See the labels: maskprep status CACHE")
    said = f"{len(trained)} of {len(named)} occur in training, {len(held)} among the held out"
    if never := sorted(set(range(len(named))) - trained):
        said += f"; never: {listed([named[k] for k in never])}"
    return Finding("classes", True, said)


def crops(view: View, rows: Rows) -> Finding:
    """Whether crops are pictures: few are of one colour, and few are alike."""
    chosen = _some(rows)
    pixels = view.gather_original(chosen)
    flat = pixels.reshape(len(pixels), -1, 3)
    plain = int((flat.max(1) == flat.min(1)).all(1).sum())
    most = max(np.unique([hash(p.tobytes()) for p in pixels], return_counts=True)[1])
    advice = f"Look at them with: maskprep sheet {view.path}"
    if plain > len(chosen) / 100:
        return Finding("crops", False, f"{plain} of {len(chosen)} crops are of one colour", advice)
    if most > max(1, len(chosen) / 10):
        return Finding("crops", False, f"{most} of {len(chosen)} crops are the same picture", advice)
    said = f"of {len(chosen)} looked at, {plain} are of one colour and at most {most} {'is' if most == 1 else 'are'} "
    return Finding("crops", True, said + "the same picture")


def held_out(view: View, config: FitConfig, val: Batches) -> Finding:
    """Whether validation sees the crops as they are in the cache, without any training transform, every time."""
    chosen = _some(np.arange(len(val.rows)))
    few = dataclasses.replace(view, background=val.view.background)
    wanted = few.gather(val.rows[chosen])
    found = [_shown(val, chosen) for _ in range(2)]
    if any((f != wanted).any() for f in found) or val.mixer.on:
        said = "the held-out crops are not shown as they are in the cache"
        return Finding("held out", False, said, "This is an error of masktrain; please report it with your settings.")
    return Finding("held out", True, f"{len(chosen)} crops are shown as they are in the cache, twice alike")


def draws(train: Batches) -> Finding:
    """Whether an epoch can be repeated bit by bit, and what is augmented differs from epoch to epoch."""
    once, again, other = (next(train.epoch(e)) for e in (1, 1, 2))
    same = bool((once.rows == again.rows).all()) and torch.equal(once.pixels, again.pixels)
    if not same:
        advice = "With a plugin of yours, draw by the seed it is given: docs/plugins.md."
        return Finding("draws", False, "an epoch that is drawn twice differs", advice)
    changed = (once.rows != other.rows).any() if len(once.rows) == len(other.rows) else True
    moved = "another order and " if changed else ""
    recipe = train.recipe
    return Finding("draws", True, f"an epoch repeats bit by bit, the next one has {moved}draws of its own ({recipe})")


def gradients(made: Rehearsal, batch: Batch) -> Finding:
    """Whether gradients are finite and reach everything that is to learn within the first steps of training: what
    begins with a factor of nothing, as residual branches do, gets none at the very first."""
    learner, config = made.learner, made.config
    loop.wake(learner.model, config, 1)
    learning = {n: p for n, p in learner.model.named_parameters() if p.requires_grad}
    reached: set[str] = set()
    for step, each in enumerate([batch, batch, *islice(made.train.epoch(1), 2)]):
        torch.manual_seed(draw_seed(config.run.seed, 1, step))
        learner.optimizer.zero_grad(set_to_none=True)
        loop.gradients(learner, each, 0.0)
        for name, parameter in learning.items():
            if parameter.grad is None:
                continue
            if not bool(parameter.grad.isfinite().all()) and not learner.scaler.is_enabled():
                learner.optimizer.zero_grad(set_to_none=True)
                said = f"that of {name} is not finite"
                return Finding("gradients", False, said, "Use --amp off on a GPU; look at the crops and at --loss.")
            if bool(parameter.grad.ne(0).any()):
                reached.add(name)
        learner.scaler.step(learner.optimizer)
        learner.scaler.update()
    learner.optimizer.zero_grad(set_to_none=True)
    still = [name for name in learning if name not in reached]
    if not learning or still:
        said = f"{len(still)} of {len(learning)} parameters get none: {listed(still)}" if still else "nothing learns"
        return Finding("gradients", False, said, "Freeze fewer stages, or choose another --model or --loss.")
    frozen = sum(1 for _ in learner.model.parameters()) - len(learning)
    more = f"; {frozen} are frozen" if frozen else ""
    return Finding("gradients", True, f"finite, and reach all {len(learning)} parameters that learn{more}")


def learning(made: Rehearsal, batch: Batch) -> Iterator[Finding]:
    """Whether one batch can be learned by heart, and whether the answers then depend on what is seen.

    The target, loss, model and optimiser of the run; without augmentation, mixing, smoothing, dropout and schedule,
    which would keep the loss from falling to nothing.
    """
    config = plain(made.config)
    tried: list[str] = []
    for factor in RATES:
        learner = fitting.make_learner(
            config, made.training, *_statistics(made.learner), made.learner.precision.device, config.model.pretrained
        )
        rate = config.optim.lr * factor
        first, last, right, steps = by_heart(learner, config, batch, rate, STEPS)
        how = f"loss {first:.3f} to {last:.3f}, {right} of {len(batch)} images right after {steps} steps at {rate:.2g}"
        if known(first, last, right, len(batch)):
            note = "" if factor == 1 else f" (not at the run's {config.optim.lr:.2g}; see --find-lr)"
            yield Finding("by heart", True, how + note)
            break
        tried.append(how)
    else:
        advice = (
            "Is the loss the one for this target? Is too much frozen? Look at the crops with: maskprep sheet CACHE;"
            " then try another --lr, --loss or --model."
        )
        yield Finding("by heart", False, "; ".join(tried), advice)
    yield answers(learner, batch)


def by_heart(
    learner: loop.Learner, config: FitConfig, batch: Batch, rate: float, most: int
) -> tuple[float, float, int, int]:
    """Train on one batch until it is known, or for so many steps at most.

    Returns:
        The first and the last loss, how many images are right, and steps.
    """
    loop.wake(learner.model, config, 1)
    truth, first, last, right = batch.labels, float("nan"), float("nan"), 0
    for step in range(1, most + 1):
        torch.manual_seed(draw_seed(config.run.seed, 1, step))
        set_learning_rate(learner.optimizer, rate)
        outputs, loss = loop.train_step(learner, batch, config.optim)
        last = float(loss)
        first = last if step == 1 else first
        right = int((learner.objective.target.probabilities(outputs).argmax(1) == truth).sum())
        if known(first, last, right, len(batch)) or not np.isfinite(last):
            break
    return first, last, right, step


def known(first: float, last: float, right: int, images: int) -> bool:
    """Whether a batch counts as learned by heart."""
    return last <= LEARNED * first and right == images


def answers(learner: loop.Learner, batch: Batch) -> Finding:
    """Whether different crops get different answers."""
    learner.model.eval()
    with torch.inference_mode(), learner.precision.context():
        outputs = learner.model(loop.normalise(batch.pixels, learner.mean, learner.std))
        told = learner.objective.target.probabilities(outputs)
    spread = float((told.amax(0) - told.amin(0)).max())
    if not spread > 1e-3:
        said = f"all {len(batch)} crops get the same probabilities (largest difference {spread:.1g})"
        advice = "Does the model look at its input? Are the crops alike (maskprep sheet CACHE), or all of it frozen?"
        return Finding("answers", False, said, advice)
    return Finding("answers", True, f"they depend on the crop: a probability varies by up to {spread:.2f}")


def plain(config: FitConfig) -> FitConfig:
    """The settings without what keeps the loss of a batch known by heart above nothing."""
    return dataclasses.replace(
        config,
        model=dataclasses.replace(config.model, dropout=0.0, drop_path=0.0),
        loss=dataclasses.replace(config.loss, label_smoothing=0.0, defer=0.0),
        optim=dataclasses.replace(config.optim, weight_decay=0.0, micro_batch=0, ema=0.0),
        run=dataclasses.replace(config.run, compile=False),
    )


def by_class(made: Rehearsal) -> Batch:
    """Training images as they are, class after class in turn, so that every head is asked."""
    training = made.training
    found = training.view.table["label"].iloc[training.split.train].to_numpy(dtype=np.int64)
    each = [training.split.train[found == k] for k in sorted(set(found.tolist()))]
    turns: list[Sequence[int]] = [[int(rows[i]) for rows in each if i < len(rows)] for i in range(max(map(len, each)))]
    count = max(IMAGES, len(each)) if len(each) <= 2 * IMAGES else IMAGES
    chosen = np.array([row for turn in turns for row in turn][:count], dtype=np.int64)
    target = make_target(made.config.target.kind, training.view.schema, made.config.target.route)
    numbers = bands.numbers_of(training.view, chosen, target.numbers)
    view = training.view.before(made.behind)
    return next(Batches(view, chosen, len(chosen), made.learner.precision.device, numbers=numbers).epoch(None))


def _statistics(learner: loop.Learner) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation (0..1, float64 [3]) that a learner normalises by."""
    mean, std = (v.flatten().cpu().numpy().astype(np.float64) / 255 for v in (learner.mean, learner.std))
    return mean, std


def _some(rows: Rows) -> Rows:
    """At most so many rows, evenly from all."""
    return rows[np.linspace(0, len(rows) - 1, min(LOOKED_AT, len(rows))).astype(np.int64)] if len(rows) else rows


def _shown(batches: Batches, positions: Rows) -> NDArray[np.uint8]:
    """Pixels uint8 [n, H, W, 3] of some positions, rising, as one pass over batches without an epoch shows them."""
    kept, done = [], 0
    for batch in batches.epoch(None):
        inside = positions[(positions >= done) & (positions < done + len(batch))] - done
        kept.append(batch.pixels[torch.from_numpy(inside).to(batch.pixels.device)].permute(0, 2, 3, 1).cpu().numpy())
        done += len(batch)
    return np.concatenate(kept)
