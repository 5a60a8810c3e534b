"""What a fit prints: its plan, its progress, and what a dry run finds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maskprep.base import Progress as Bars
from maskprep.base import counted, wrapped
from maskprep.labels import Schema
from masktrain.config.config import FitConfig
from masktrain.data.units import of_people, unit, warned
from masktrain.pages import weakest
from masktrain.study.progress import Progress

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MANY = 12
"""Classes above which they are not listed one by one."""
LABEL = 8
"""Width of the labels in front of lines."""
LOG_SECONDS = 30
"""Seconds between two lines within an epoch where there is no terminal."""


class PrintedFit(Progress):
    """A line per epoch; within an epoch a live bar on a terminal, elsewhere a line at most every LOG_SECONDS.

    Args:
        clock: seconds since some moment.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock

    @contextmanager
    def running(
        self, run: Path, config: FitConfig, data: dict[str, Any], about: dict[str, Any], done: int, step: int
    ) -> Iterator[None]:
        """Print the plan, then show the progress."""
        self.epochs, self.batch, self.images = config.optim.epochs, config.optim.batch_size, int(sum(about["drawn"]))
        self.present = {n for n, k in zip(about["schema"].class_names, data["classes"]["val"], strict=True) if k}
        self.done, self.loss = done, float("nan")
        self.started = self.epoch_started = self.printed = self._clock()
        for line in opening(run, config, data, about):
            print(wrapped(line, LABEL))
        if step:
            print(f"Resuming epoch {done + 1} of {self.epochs} at step {step + 1} of {about['steps']}.")
        elif done:
            print(f"Resuming after epoch {done} of {self.epochs}.")
        sys.stdout.flush()
        self.bar, self.task = None, None
        if sys.stdout.isatty():
            from rich import progress as bars

            columns = (
                bars.TextColumn("epoch {task.fields[epoch]}"),
                bars.BarColumn(),
                bars.TextColumn("{task.fields[text]}"),
            )
            self.bar = bars.Progress(*columns, transient=True)
            self.task = self.bar.add_task("", total=self.images, epoch=f"{done + 1}/{self.epochs}", text="")
        if self.bar is None:
            yield
            return
        with self.bar:
            yield

    def say(self, text: str) -> None:
        """Print it."""
        print(wrapped(text, LABEL), flush=True)

    def step(self, epoch: int, images: int, loss: float | None, waited: float) -> None:
        """Move the bar, or print a line if the last one is long ago."""
        now = self._clock()
        self.loss = self.loss if loss is None else loss
        if self.bar is None and (now - self.printed < LOG_SECONDS or images >= self.images):
            return
        rate = images / max(now - self.epoch_started, 1e-9)
        left = ((self.epochs - epoch) * self.images + self.images - images) / rate
        shown = (
            f"  loss {self.loss:.3f}" if self.loss == self.loss else ""
        )  # NaN before the first; a GPU reports it some steps later
        text = (
            f"{rate:.0f} img/s  data wait {waited / max(now - self.epoch_started, 1e-9):.0%}{shown}  {clock(left)} left"
        )
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=images, epoch=f"{epoch}/{self.epochs}", text=text)
        else:
            self.printed = now
            print(f"epoch {epoch}/{self.epochs}  {images}/{self.images} images  {text}", flush=True)

    def epoch(self, record: dict[str, Any]) -> None:
        """One line, with the time left."""
        now = self.printed = self._clock()
        self.done += 1
        per_epoch = now - self.epoch_started
        self.epoch_started = now
        line = (
            epoch_line(record, self.epochs, self.batch) + f"  {clock(per_epoch * (self.epochs - record['epoch']))} left"
        )
        weak = weakest.line(record, self.present)
        if self.bar is not None:
            self.bar.console.print(wrapped(line, LABEL), highlight=False, markup=False, soft_wrap=True)
            if weak:
                self.bar.console.print(f"        {weak}", style="red", highlight=False, markup=False, soft_wrap=True)
        else:
            print(wrapped(line, LABEL) + (f"\n        {weak}" if weak else ""), flush=True)


class _Bar:
    """Progress of what maskprep makes, one live bar after another."""

    def __init__(self, live: Any) -> None:
        self._live, self._task = live, None

    def start(self, name: str, total: int) -> None:
        """A piece of work begins; the one before has ended."""
        if self._task is not None:
            self._live.remove_task(self._task)
        self._task = self._live.add_task(name, total=total)

    def advance(self, steps: int = 1) -> None:
        """Some steps are done."""
        self._live.advance(self._task, steps)


@contextmanager
def bars() -> Iterator[Bars | None]:
    """Shows the progress of what maskprep makes for a fit, if this is a terminal."""
    if not sys.stdout.isatty():
        yield None
        return
    from rich.progress import Progress as Live

    with Live(transient=True) as live:
        yield _Bar(live)


def opening(run: Path | None, config: FitConfig, data: dict[str, Any], about: dict[str, Any]) -> list[str]:
    """The plan of a fit: data, people, classes, model."""
    images, people, counts = data["images"], data["people"], data["classes"]
    of = f" of {n}" if unit(n := len(people["val"]), images["val"]) == "people" else ""
    height, width = about["size"]
    lines = [
        f"run     {run or 'none, as this is a dry run'}",
        f"data    {of_people(images['train'], len(people['train']))} to train on,"
        f" {images['val']}{of} held out; view '{data['view']}' {height}x{width}",
        f"classes {sum(c > 0 for c in counts['train'])} of {len(counts['train'])} occur in training;"
        f" {min(counts['train'])} to {max(counts['train'])} training images for each,"
        f" {min(counts['val'])} to {max(counts['val'])} held out",
        f"model   {about['model']}, {about['parameters'] / 1e6:.1f} M parameters,"
        f" {'pretrained' if config.model.pretrained else 'from scratch'},"
        f" {about['precision']} on {about['device']}, {counted(about['steps'], 'step')} per epoch",
    ]
    lines += choices(config, about)
    if config.run.protocol:
        lines.append(f"rules   follows protocol {config.run.protocol}; the best epoch is chosen by {config.select.by}")
        lines += [f"        differs from the protocol: {each}" for each in config.run.deviates]
    if config.sample.kind != "all" or config.sample.photos:
        lines.append(
            f"sample  {counted(int(sum(about['drawn'])), 'image')} per epoch: {shares(about['drawn'], about['schema'])}"
        )
    left_out = [f"{n} {reason}" for reason, n in images["left out"].items()]
    left_out += [f"{images['without crop']} without a crop"] * (images["without crop"] > 0)
    if left_out:
        lines.insert(2, f"        left out: {', '.join(left_out)}")
    if bins := data["training"].get("bins"):
        named = "; ".join(f"{name} at {', '.join(f'{v:g}' for v in limits)}" for name, limits in bins.items())
        moved = data["training"]["relabelled"]
        lines.insert(
            3,
            f"        training labels cut {named}, which changes {counted(moved, 'label')}; scores use the cache's",
        )
    for extra in data.get("extra", ()):
        gone = "".join(f", {n} {reason} left out" for reason, n in extra["left out"].items())
        lines.insert(2, f"        {extra['images']} of them from {extra['cache']}, weight {extra['weight']:g}{gone}")
    if linked := data["linked"]:
        named = "; ".join(" = ".join(group[:4]) + (", ..." if len(group) > 4 else "") for group in linked[:3])
        more = f"; and {len(linked) - 3} more" if len(linked) > 3 else ""
        lines.insert(2, f"        kept on one side of the split, as they share photos or a number: {named}{more}")
    own_size = config.model.second != ""  # of two backbones, each sees the crops at its own size
    lines += warned(data["persons"]["doubts"])
    if tuple(about["native size"]) != tuple(about["size"]) and config.model.pretrained and not own_size:
        lines.append(f"        note: the pretrained weights are of {about['native size'][0]}x{about['native size'][1]}")
    return lines


def choices(config: FitConfig, about: dict[str, Any]) -> list[str]:
    """Target, loss, class weights, augmentation, rate and length of a fit, and why where that was left open."""
    from masktrain.study.length import LONGEST, SHORTEST, UPDATES

    optim, loss, schema, asked = config.optim, config.loss, about["schema"], about.get("asked")

    def why(open: bool | None, reason: str) -> str:
        return f" ({reason})" if asked is not None and open else ""

    known = {"number": "the labels have a number, such as an age", "joint": "the labels have no number"}
    target = config.target.kind + why(asked and asked.target.kind == "auto", known.get(config.target.kind, ""))
    parts = [target, f"loss {', '.join(config.target.losses) or loss.name}"]
    if smooth := config.target.smoothing or (loss.label_smoothing,) * (loss.label_smoothing > 0):
        parts.append(f"label smoothing {', '.join(f'{value:g}' for value in smooth)}")
    weighed = []
    for name, values in about["weights"].items() if loss.class_weights != "none" else ():
        few = name in schema.joint and len(values) == len(schema[name].classes) <= MANY
        each = (f"{c} {v:.2f}" for c, v in zip(schema[name].classes, values, strict=True)) if few else None
        weighed.append(f"{name}: {', '.join(each) if each else f'{min(values):.2f} to {max(values):.2f}'}")
    parts.append(f"class weights {loss.class_weights}" + (f" ({'; '.join(weighed)})" if weighed else ""))
    own = config.augment
    augment = ", ".join(
        [f"{r} for {counted(n, 'image')}" for r, n in about["recipes"].items()] if own.classes else [own.recipe]
    ) + "".join(f", {name} {share:g}" for name in ("mixup", "cutmix", "halves") if (share := getattr(own, name)))
    rate = f"rate {optim.lr:g}" + why(asked and not asked.optim.lr, f"1e-3 x root of {optim.batch_size}/16")
    batch = f"batches of {about['batch']}" + why(asked and not asked.optim.batch_size, f"on {about['device']}")
    updates = counted(optim.epochs * about["steps"], "update")
    length = f"{counted(optim.epochs, 'epoch')} x {counted(about['steps'], 'step')} = {updates}"
    length += why(asked and not asked.optim.epochs, f"about {UPDATES} updates, {SHORTEST} to {LONGEST} epochs")
    if config.run.minutes:
        length += f", within {config.run.minutes:g} minutes"
    if config.select.patience:
        length += f"; ends early after {counted(config.select.patience, 'epoch')} without a better one"
    return [
        f"target  {', '.join(parts)}",
        f"train   augmentation {augment}; {optim.optimizer}, {rate}, {config.schedule.kind}; {batch}",
        f"length  {length}",
    ]


def shares(drawn: NDArray[np.int64], schema: Schema) -> str:
    """Shares of the classes of each attribute among some images, given how many have each joint label."""
    import numpy as np

    texts = []
    for k, name in enumerate(schema.joint):
        axes = tuple(a for a in range(len(schema.sizes)) if a != k)
        share = np.asarray(drawn).reshape(schema.sizes).sum(axes) / max(sum(drawn), 1)
        if len(share) > MANY:
            texts.append(f"{name} {share.min():.2%} to {share.max():.2%} each")
        else:
            texts.append(
                f"{name} " + ", ".join(f"{c} {s:.0%}" for c, s in zip(schema[name].classes, share, strict=True))
            )
    return "; ".join(texts)


def epoch_line(record: dict[str, Any], epochs: int, batch: int) -> str:
    """One epoch in a line."""
    mark = "*" if record["best_epoch"] == record["epoch"] else " "
    return (
        f"epoch {record['epoch']:>{len(str(epochs))}}/{epochs}  loss {record['train_loss']:.3f}"
        f"  val {record['val_loss']:.3f}  macro-F1 {record['macro_f1']:.4f}{mark}  accuracy {record['accuracy']:.4f}"
        f"  {record['images_per_second']:.0f} img/s  data wait {record['data_wait']:.1%}"
        + (f"  {n} stages frozen" if (n := record.get("frozen_stages")) else "")
        + (f"  micro-batch {record['micro_batch']}" if record["micro_batch"] < batch else "")
    )


def clock(seconds: float) -> str:
    """Minutes and seconds, with hours where there are any."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def tried(cache: Path, config: FitConfig, sheet: Path | None, force: bool, heart: bool) -> bool:
    """Print the plan of a fit after some trial steps, and the outcome of each check.

    Args:
        sheet: picture of the crops of these steps.
        heart: also check that one batch can be overfitted.

    Returns:
        Whether no check failed.
    """
    from maskprep.base import missing_note
    from masktrain.study import preflight, samples

    if sheet is not None:
        samples.check(sheet, cache, force)
    started, failed = time.perf_counter(), 0
    made = preflight.prepare(cache, config)
    plan = preflight.plan_of(made)
    for line in opening(None, made.config, plan.data, plan.about) + preflight.lines(plan, made.config):
        print(wrapped(line, LABEL))
    print(f"time    about {clock(plan.seconds)} on this machine")
    if sheet is not None:
        print(f"look    {samples.write(plan.samples, sheet, samples.title(made.config))}")
        if note := missing_note():
            print(f"note    {note}")
    for finding in chain(preflight.quick(made), preflight.by_heart(made) if heart else ()):
        failed += not finding.ok
        print(wrapped(f"{'ok' if finding.ok else 'FAILED':7} {finding.name}: {finding.text}", LABEL), flush=True)
        if finding.advice:
            print(wrapped(f"{'':{LABEL}}{finding.advice}", LABEL))
    result = f"{counted(failed, 'check')} failed" if failed else "every check passed"
    print(f"checks  {result}, in {clock(time.perf_counter() - started)}")
    return not failed


def rates(cache: Path, config: FitConfig) -> None:
    """Print a range test of the learning rate."""
    from masktrain.study import ratefinder

    for line in ratefinder.lines(ratefinder.find(cache, config), config):
        print(wrapped(line, LABEL))
