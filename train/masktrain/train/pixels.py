"""Crops on their way to the device: resident there when they fit, otherwise prepared by threads while it works.

Order, partners, backgrounds and transforms are functions of (seed, epoch, image), so a batch is the same wherever and
by how many threads and processes it is made.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskprep.crops import DRAW, NOTHING_FOUND, empty_ground, foreground, noise
from maskprep.dataset import View
from masktrain.config.config import FitConfig
from masktrain.data.trainset import TrainSet
from masktrain.train import device as devices
from masktrain.train.augment import Augmenter, Mixing, Transforms, by_class
from masktrain.train.draws import AUGMENT, BACKGROUND, MIX, PARTNER, keys, uniform
from masktrain.train.sampling import make_sampler, occurrences

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]
T = TypeVar("T")

RESIDENT_SHARE = 0.4
"""Keep the images on the GPU when they take no more than this share of its free memory."""
BLOCK = 2048
"""Images whose draws are made at once."""
GROUNDS = {"photo": 256, "noise": 64}
"""Backgrounds that are kept ready for ``random``, by what they come from."""


@dataclass(frozen=True)
class Batch:
    """The images of a step, or of a process's part of it.

    Attributes:
        pixels: uint8 [n, H, W, 3].
        truth: shares of the joint classes, float32 [n, C], mixed as the pixels are.
        labels: the image's own class, int64 [n].
        numbers: of the attributes that are answered with a number, float32 [n, numbers], NaN where one is not known.
        what: transforms that the device has still to apply; None where they are applied.
        others, other_what, how: partners that it has still to mix in, with their transforms.
    """

    pixels: Tensor
    truth: Tensor
    labels: Tensor
    numbers: Tensor | None = None
    what: Transforms | None = None
    others: Tensor | None = None
    other_what: Transforms | None = None
    how: Mixing | None = None

    def __len__(self) -> int:
        return len(self.truth)

    def part(self, start: int, end: int) -> Batch:
        """Some of the images."""
        return _sliced(self, slice(start, end))

    def images(self, augmenter: Augmenter) -> Tensor:
        """The images as they are trained on, uint8 [n, H, W, 3]."""
        pixels = self.pixels if self.what is None else augmenter.apply(self.pixels, self.what)
        if self.others is None or self.how is None:
            return pixels
        others = self.others if self.other_what is None else augmenter.apply(self.others, self.other_what)
        return augmenter.mix(pixels, others, self.how)


class Backgrounds:
    """Random backgrounds for training images with mattes: those of other photos, colours, noise, or their own.

    Args:
        view: where crops and mattes are read from.
        rows: table rows of the training images, int64 [n].
        seed: of the run.

    Attributes:
        bank: backgrounds without people, uint8 [m, H, W, 3]; those of photos first.

    Raises:
        UserError: a crop has no matte.
    """

    def __init__(self, view: View, rows: Ints, seed: int) -> None:
        view.need_mattes(rows)
        self.view, self.rows = view, rows
        self.seen = np.array([s not in NOTHING_FOUND for s in view.matte_statuses(rows)])
        rng = np.random.default_rng([seed, BACKGROUND])
        sources = np.sort(rng.permutation(rows[self.seen])[: GROUNDS["photo"]])
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            photos = list(pool.map(lambda r: empty_ground(view.gather([r])[0], view.gather_alpha([r])[0]), sources))
        made = [*photos, *(noise(view.size, rng) for _ in range(GROUNDS["noise"]))]
        self.photos, self.bank = len(photos), torch.from_numpy(np.stack(made))

    def choices(self, keys: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Number in the bank [n] (-1 for a colour, -2 for the image's own), whether mirrored [n], and R, G, B [n, 3].

        Args:
            seen: whether each image's matte shows somebody, bool [n]; others keep their background.
        """
        u, (photo, colour, grain, _) = uniform(keys, 6), np.cumsum(list(DRAW.values())).tolist()
        kind = u[:, 0]
        of_photo = (u[:, 1] * self.photos).long()
        of_noise = self.photos + (u[:, 1] * (len(self.bank) - self.photos)).long()
        which = torch.where(kind < photo, of_photo if self.photos else -1, -1)
        which = torch.where((kind >= colour) & (kind < grain), of_noise, which)
        which = torch.where((kind >= grain) | ~seen, -2, which)
        return which, u[:, 2] < 0.5, (u[:, 3:] * 256).to(torch.uint8)

    def lay(self, pixels: Tensor, person: Tensor, alpha: Tensor, choices: tuple[Tensor, Tensor, Tensor]) -> Tensor:
        """Images uint8 [n, H, W, 3] before the backgrounds chosen.

        Args:
            person: the people's own colours, uint8 [n, H, W, 3]; ``alpha``: their mattes, uint8 [n, H, W].
        """
        which, mirrored, colour = choices
        ground = self.bank[which.clamp(min=0)]
        ground = torch.where(mirrored.view(-1, 1, 1, 1), ground.flip(2), ground)
        ground = torch.where((which == -1).view(-1, 1, 1, 1), colour.view(-1, 1, 1, 3), ground)
        share = alpha.unsqueeze(3).to(torch.int32)
        laid = ((person * share + ground * (255 - share) + 127) // 255).to(torch.uint8)
        return torch.where((which == -2).view(-1, 1, 1, 1), pixels, laid)

    def lay_on_host(self, pixels: Bytes, where: Ints, choices: tuple[Tensor, Tensor, Tensor]) -> None:
        """Give images uint8 [n, H, W, 3] their backgrounds in place; ``where``: their positions, int64 [n]."""
        change = torch.nonzero(choices[0] != -2).squeeze(1)
        if not len(change):
            return
        some = change.numpy()
        alpha = self.view.gather_alpha(self.rows[where[some]])
        person = np.stack([foreground(p, a) for p, a in zip(pixels[some], alpha, strict=True)])
        chosen = (choices[0][change], choices[1][change], choices[2][change])
        laid = self.lay(torch.from_numpy(pixels[some]), torch.from_numpy(person), torch.from_numpy(alpha), chosen)
        pixels[some] = laid.numpy()


class Feed:
    """The training images, epoch by epoch, in batches of one constant size.

    The last batch is filled up with the first images of the epoch.

    Args:
        data: what is learnt from.
        view: its crops before the background of training.
        config: batch size, sampling, augmentation and seed.
        numbers: attributes that are answered with a number.
        device: where batches go.

    Attributes:
        augmenter: applies what the device has still to do to a batch.
        steps: of an epoch, each of ``batch`` images (of all processes together).
        resident: whether the images are on the device.
        waited: seconds that the last pass waited for data.

    Raises:
        UsageError: settings of sampling or augmentation that cannot be met.
    """

    def __init__(self, data: TrainSet, view: View, config: FitConfig, numbers: list[str], device: torch.device) -> None:
        self.view, self.rows, self.device, self.seed = view, data.split.train, device, config.run.seed
        self.sampler = make_sampler(data, config.sample, self.seed)
        self.labels = data.labels
        self.recipes, self.kinds = by_class(config.augment, view.schema, self.labels)
        images, world = len(self.sampler.order(1)), devices.world_size()
        self.steps = -(-images // config.optim.batch_size)
        self.batch = -(-images // self.steps)
        self.batch += -self.batch % world
        self.augmenter = Augmenter(config.augment, view.schema, view.size, self.seed)
        random = view.background.kind == "random"
        self.backgrounds = Backgrounds(view, self.rows, self.seed) if random else None
        self.waited = 0.0
        self.resident = self._fits()
        on_device = device if device.type == "cuda" and not self.augmenter.on_host else torch.device("cpu")
        self.draws_on = on_device if self.resident else torch.device("cpu")
        self.augmenter.to(self.draws_on, on_device)
        self._keys_rows = torch.from_numpy(self.rows).to(self.draws_on)
        self._kinds = torch.from_numpy(self.kinds).to(self.draws_on)
        self._labels = torch.from_numpy(self.labels).to(self.draws_on)
        self.truth = torch.from_numpy(data.truth).to(device)
        given = data.numbers(numbers)
        self.numbers = None if given is None else torch.from_numpy(given).to(device)
        if self.resident:
            self._load()

    def order(self, epoch: int) -> Ints:
        """Positions of the training images in an epoch, int64 [steps, batch]."""
        order = self.sampler.order(epoch)
        return np.resize(order, self.steps * self.batch).reshape(self.steps, self.batch)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            start: steps that are done already; the others are what they would have been.
        """
        self.waited = 0.0
        whole = self.order(epoch)
        times = occurrences(whole.reshape(-1)).reshape(whole.shape)
        rank, world = devices.rank(), devices.world_size()
        here = slice(rank * self.batch // world, (rank + 1) * self.batch // world)
        sorted_labels = torch.from_numpy(np.sort(self.labels[whole.reshape(-1)])).to(self.draws_on)
        order = np.argsort(self.labels[whole.reshape(-1)], kind="stable")
        by_label = torch.from_numpy(whole.reshape(-1)[order]).to(self.draws_on)
        classes = torch.arange(self.truth.shape[1] + 1, device=self.draws_on)
        starts = torch.searchsorted(sorted_labels, classes)
        block = max(1, BLOCK // self.batch)
        plans = (
            plan
            for first in range(start, self.steps, block)
            for plan in self._plans(
                epoch, whole[first : first + block, here], times[first : first + block, here], by_label, starts
            )
        )
        if self.resident:
            yield from (self._batch(plan, self._take(plan.where, plan), self._take_partner(plan)) for plan in plans)
            return
        workers = 1 if self.device.type == "cpu" else min(8, os.cpu_count() or 1)
        for plan, (pixels, others) in self._ahead(plans, self._make, workers):
            yield self._batch(plan, pixels, others)

    def _plans(self, epoch: int, where: Ints, times: Ints, by_label: Tensor, starts: Tensor) -> Iterator[_Plan]:
        """What each of some steps is made of; positions and occurrences int64 [steps, n]."""
        shape, own = where.shape, torch.from_numpy(where.reshape(-1)).to(self.draws_on)
        often = torch.from_numpy(times.reshape(-1)).to(self.draws_on)

        def drawn(position: Tensor, occurrence: Tensor, stream: int) -> Tensor:
            return keys(self.seed, epoch, self._keys_rows[position], occurrence, stream)

        augmenter, partner, how, other_what, behind, other_behind = self.augmenter, None, None, None, None, None
        what = augmenter.transforms(drawn(own, often, AUGMENT), self._kinds[own])
        if self.backgrounds is not None:
            behind = self._behind(own, drawn(own, often, BACKGROUND))
        if augmenter.mixes:
            how, place = augmenter.mixing(drawn(own, often, MIX), by_label, starts, self._labels[own])
            partner = by_label[place]
            mark = self._keys_rows[own] * 64 + often  # a partner is drawn anew for each image it is mixed into
            other_what = augmenter.transforms(drawn(partner, mark, PARTNER), self._kinds[partner])
            if self.backgrounds is not None:
                other_behind = self._behind(partner, drawn(partner, mark, BACKGROUND))
        whole = _Plan(own, what, behind, partner, other_what, other_behind, how)
        for k in range(shape[0]):
            yield _sliced(whole, slice(k * shape[1], (k + 1) * shape[1]))

    def _behind(self, where: Tensor, drawn: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        assert self.backgrounds is not None
        return self.backgrounds.choices(drawn, torch.from_numpy(self.backgrounds.seen).to(where.device)[where])

    def _batch(self, plan: _Plan, pixels: Tensor, others: Tensor | None) -> Batch:
        """A batch on the device: what is mixed is mixed in truth and numbers."""
        where = plan.where.to(self.device, non_blocking=True)
        own = self.truth[where]
        truth, numbers = own, None if self.numbers is None else self.numbers[where]
        how = plan.how
        if plan.partner is not None and how is not None:
            partner, how = plan.partner.to(self.device, non_blocking=True), _moved(how, self.device)
            share = how.share.unsqueeze(1)
            truth = truth * share + self.truth[partner] * (1 - share)
            if numbers is not None and self.numbers is not None:  # an unknown number of nobody does no harm
                other = torch.where(share < 1, self.numbers[partner], 0.0)
                numbers = numbers * share + other * (1 - share)
        if self.device.type == "cpu" or self.augmenter.on_host:
            return Batch(pixels, truth, own.argmax(1), numbers)
        what, other_what = _moved(plan.what, self.device), _moved(plan.other_what, self.device)
        return Batch(pixels, truth, own.argmax(1), numbers, what, others, other_what, how)

    def _take(self, where: Tensor, plan: _Plan) -> Tensor:
        """Resident crops of some positions before their backgrounds."""
        return self._resident(where, plan.behind)

    def _take_partner(self, plan: _Plan) -> Tensor | None:
        return None if plan.partner is None else self._resident(plan.partner, plan.other_behind)

    def _resident(self, where: Tensor, behind: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
        pixels = self._crops[where]
        if behind is None or self.backgrounds is None:
            return pixels
        return self.backgrounds.lay(pixels, self._people[where], self._alphas[where], behind)

    def _make(self, plan: _Plan) -> tuple[Tensor, Tensor | None]:
        """Pixels of a step and of its partners, by a thread: transformed and mixed where the CPU does that."""
        pixels = self._gathered(plan.where, plan.behind)
        others = None
        if plan.partner is not None and plan.how is not None:
            others = self._gathered(plan.partner, plan.other_behind)
        if self.device.type == "cpu" or self.augmenter.on_host:
            self.augmenter.apply_on_host(pixels.numpy(), plan.what, self.kinds[plan.where.numpy()])
            if others is not None and plan.how and plan.other_what and plan.partner is not None:
                some = torch.nonzero(plan.how.share < 1).squeeze(1)
                mixed = others[some].numpy()
                what, how = _picked(plan.other_what, some), _picked(plan.how, some)
                self.augmenter.apply_on_host(mixed, what, self.kinds[plan.partner.numpy()[some.numpy()]])
                pixels[some] = self.augmenter.mix(pixels[some], torch.from_numpy(mixed), how)
                others = None
        return pixels, others

    def _gathered(self, where: Tensor, behind: tuple[Tensor, Tensor, Tensor] | None) -> Tensor:
        pinned = self.device.type == "cuda"
        pixels = torch.empty((len(where), *self.view.size, 3), dtype=torch.uint8, pin_memory=pinned)
        self.view.gather(self.rows[where.numpy()], out=pixels.numpy())
        if behind is not None and self.backgrounds is not None:
            self.backgrounds.lay_on_host(pixels.numpy(), where.numpy(), behind)
        return pixels

    def _ahead(
        self, plans: Iterator[_Plan], make: Callable[[_Plan], tuple[Tensor, Tensor | None]], workers: int
    ) -> Iterator[tuple[_Plan, tuple[Tensor, Tensor | None]]]:
        """Steps made by threads ahead of time; on a GPU their pixels are copied on a stream of their own."""
        stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None  # type: ignore[no-untyped-call]

        def copied(pixels: Tensor | None) -> Tensor | None:
            if pixels is None or stream is None:
                return pixels
            with torch.cuda.stream(stream):
                moved = pixels.to(self.device, non_blocking=True)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            moved.record_stream(torch.cuda.current_stream(self.device))
            return moved

        pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        pending: deque[tuple[_Plan, Future[tuple[Tensor, Tensor | None]]]] = deque()
        try:
            for plan in plans:
                pending.append((plan, pool.submit(make, plan)))
                if len(pending) > workers:
                    yield self._awaited(pending, copied)
            while pending:
                yield self._awaited(pending, copied)
        finally:
            pool.shutdown(cancel_futures=True)

    def _awaited(
        self,
        pending: deque[tuple[_Plan, Future[tuple[Tensor, Tensor | None]]]],
        copied: Callable[[Tensor | None], Tensor | None],
    ) -> tuple[_Plan, tuple[Tensor, Tensor | None]]:
        started = time.perf_counter()
        plan, future = pending.popleft()
        pixels, others = future.result()
        self.waited += time.perf_counter() - started
        moved = copied(pixels)
        assert moved is not None
        return plan, (moved, copied(others))

    def _fits(self) -> bool:
        """Whether the training images are to be resident: on a GPU, if they fit and the GPU transforms them."""
        if self.device.type != "cuda" or self.augmenter.on_host:
            return False
        planes = 3 if self.backgrounds is None else 7
        height, width = self.view.size
        free = torch.cuda.mem_get_info(self.device)[0]
        return len(self.rows) * height * width * planes <= RESIDENT_SHARE * free

    def _load(self) -> None:
        """Bring the training images to the device; with random backgrounds the people's colours and mattes, too."""
        self._crops = resident(self.view.gather, self.rows, (*self.view.size, 3), self.device)
        if self.backgrounds is None:
            return

        def people(rows: Ints) -> Bytes:
            pairs = zip(self.view.gather(rows), self.view.gather_alpha(rows), strict=True)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                return np.stack(list(pool.map(lambda pair: foreground(*pair), pairs)))

        self._people = resident(people, self.rows, (*self.view.size, 3), self.device)
        self._alphas = resident(self.view.gather_alpha, self.rows, self.view.size, self.device)
        self.backgrounds.bank = self.backgrounds.bank.to(self.device)


class Crops:
    """Crops of some table rows in their order, without augmentation: those that are scored or answered.

    Args:
        view: where the crops are, before the background that they are to have.
        rows: row numbers of its table, int64 [n].
        batch: the most images of a batch.
        device: where batches go; on a GPU they stay there after the first pass if they fit.
    """

    def __init__(self, view: View, rows: Ints, batch: int, device: torch.device) -> None:
        self.view, self.rows, self.batch, self.device = view, rows, batch, device
        self.labels: Ints = view.table["label"].fillna(-1).to_numpy(dtype=np.int64)[rows]
        self._resident: list[Tensor] | None = None
        height, width = view.size
        if device.type == "cuda":
            free = torch.cuda.mem_get_info(device)[0]
            self._resident = [] if len(rows) * height * width * 3 <= RESIDENT_SHARE / 2 * free else None

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Tensor]:
        """Batches uint8 [n, H, W, 3] on the device."""
        if self._resident:
            yield from self._resident
            return
        for start in range(0, len(self.rows), self.batch):
            pixels = torch.from_numpy(self.view.gather(self.rows[start : start + self.batch])).to(self.device)
            if self._resident is not None:
                self._resident.append(pixels)
            yield pixels


@dataclass(frozen=True)
class _Plan:
    """What the images of a step are made of; tensors with one row per image (see :class:`Batch`)."""

    where: Tensor
    what: Transforms
    behind: tuple[Tensor, Tensor, Tensor] | None
    partner: Tensor | None
    other_what: Transforms | None
    other_behind: tuple[Tensor, Tensor, Tensor] | None
    how: Mixing | None


def resident(read: Callable[[Ints], Bytes], rows: Ints, shape: tuple[int, ...], device: torch.device) -> Tensor:
    """What is read of some table rows, uint8 [n, *shape], on a device."""
    held = torch.empty((len(rows), *shape), dtype=torch.uint8, device=device)
    for start in range(0, len(rows), 1024):
        part = read(rows[start : start + 1024])
        held[start : start + len(part)] = torch.from_numpy(part).to(device)
    return held


def held_out(data: TrainSet, view: View, config: FitConfig, device: torch.device) -> Crops:
    """The images that are scored: never augmented, mixed or sampled, in larger batches."""
    return Crops(view, data.split.val, config.optim.batch_size * (4 if device.type == "cuda" else 1), device)


def _each(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """A dataclass or tuple of tensors with all of them changed."""
    made: Any = value
    if isinstance(value, Tensor):
        made = change(value)
    elif isinstance(value, tuple):
        made = tuple(_each(v, change) for v in value)
    elif value is not None:
        made = type(value)(*(_each(getattr(value, f.name), change) for f in fields(value)))  # type: ignore[arg-type]
    return made  # type: ignore[no-any-return]


def _sliced(value: T, part: slice) -> T:
    return _each(value, lambda tensor: tensor[part])


def _picked(value: T, where: Tensor) -> T:
    return _each(value, lambda tensor: tensor[where])


def _moved(value: T, device: torch.device) -> T:
    return _each(value, lambda tensor: tensor.to(device, non_blocking=True))
