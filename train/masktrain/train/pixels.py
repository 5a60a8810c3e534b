"""Crops on their way to the device: resident there when they fit, otherwise prepared by threads while it works.

Order, partners, backgrounds and transforms are functions of (seed, epoch, image), so a batch is the same wherever and
by how many threads and processes it is made.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

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
from masktrain.train.draws import AUGMENT, BACKGROUND, MIX, PARTNER, Rows, keys, uniform
from masktrain.train.sampling import make_sampler, occurrences

Ints = NDArray[np.int64]
Bytes = NDArray[np.uint8]

RESIDENT_SHARE = 0.4
"""Keep the images on the GPU when they take no more than this share of its free memory."""
BLOCK = 2048
"""Images whose draws are made at once."""
GROUNDS = {"photo": 256, "noise": 64}
"""Backgrounds that are kept ready for ``random``, by what they come from."""


@dataclass(frozen=True)
class Batch(Rows):
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

    def images(self, augmenter: Augmenter) -> Tensor:
        """The images as they are trained on, uint8 [n, H, W, 3]."""
        pixels = self.pixels if self.what is None else augmenter.apply(self.pixels, self.what)
        if self.others is None or self.how is None or self.other_what is None:
            return pixels
        return augmenter.mix(pixels, augmenter.apply(self.others, self.other_what), self.how)


@dataclass(frozen=True)
class Ground(Rows):
    """What is laid behind images: number in the bank, int64 [n] (-1 for a colour, -2 for the image's own); whether it
    is mirrored, bool [n]; the colour, uint8 [n, 3]."""

    which: Tensor
    mirrored: Tensor
    colour: Tensor


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

    def choices(self, keys: Tensor, seen: Tensor) -> Ground:
        """What is laid behind images by the keys of their draws.

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
        return Ground(which, u[:, 2] < 0.5, (u[:, 3:] * 256).to(torch.uint8))

    def lay(self, pixels: Tensor, person: Tensor, alpha: Tensor, behind: Ground) -> Tensor:
        """Images uint8 [n, H, W, 3] before other backgrounds.

        Args:
            person: the people's own colours, uint8 [n, H, W, 3]; ``alpha``: their mattes, uint8 [n, H, W].
        """
        ground = self.bank[behind.which.clamp(min=0)]
        ground = torch.where(behind.mirrored.view(-1, 1, 1, 1), ground.flip(2), ground)
        ground = torch.where((behind.which == -1).view(-1, 1, 1, 1), behind.colour.view(-1, 1, 1, 3), ground)
        share = alpha.unsqueeze(3).to(torch.int32)
        laid = ((person * share + ground * (255 - share) + 127) // 255).to(torch.uint8)
        return torch.where((behind.which == -2).view(-1, 1, 1, 1), pixels, laid)


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
        resident: whether the images are on the device; ``on_host``: whether the CPU transforms and mixes them.
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
        self.on_host = device.type != "cuda" or self.augmenter.on_host
        self.resident = self._fits()
        self.draws_on = device if self.resident else torch.device("cpu")
        self.augmenter.to(self.draws_on, torch.device("cpu") if self.on_host else device)
        seen = np.zeros(len(self.rows), np.bool_) if self.backgrounds is None else self.backgrounds.seen
        self._table_rows, self._kinds, self._labels, self._seen = (
            torch.from_numpy(v).to(self.draws_on) for v in (self.rows, self.kinds, self.labels, seen)
        )
        self.truth, self._classes = torch.from_numpy(data.truth).to(device), torch.from_numpy(self.labels).to(device)
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
        for plan, pixels, others in map(self._make, plans) if self.resident else self._ahead(plans):
            yield self._batch(plan, pixels, others)

    def _plans(self, epoch: int, where: Ints, times: Ints, by_label: Tensor, starts: Tensor) -> Iterator[_Plan]:
        """What each of some steps is made of; positions and occurrences int64 [steps, n]."""
        size, augmenter, grounds = where.shape[1], self.augmenter, self.backgrounds
        own, often = (torch.from_numpy(v.reshape(-1)).to(self.draws_on) for v in (where, times))

        def drawn(position: Tensor, occurrence: Tensor, stream: int) -> Tensor:
            return keys(self.seed, epoch, self._table_rows[position], occurrence, stream)

        def parts(position: Tensor, occurrence: Tensor, stream: int) -> tuple[Tensor, Transforms, Ground | None]:
            what = augmenter.transforms(drawn(position, occurrence, stream), self._kinds[position])
            if grounds is None:
                return position, what, None
            return position, what, grounds.choices(drawn(position, occurrence, BACKGROUND), self._seen[position])

        whole = _Plan(*parts(own, often, AUGMENT))
        if augmenter.mixes:
            how, place = augmenter.mixing(drawn(own, often, MIX), by_label, starts, self._labels[own])
            # a partner is drawn anew for each image that it is mixed into
            partner = parts(by_label[place], self._table_rows[own] * 64 + often, PARTNER)
            whole = _Plan(whole.where, whole.what, whole.behind, *partner, how)
        yield from (whole[k * size : (k + 1) * size] for k in range(len(where)))

    def _make(self, plan: _Plan) -> tuple[_Plan, Tensor, Tensor | None]:
        """Pixels of a step and of its partners; transformed and mixed where the CPU does that."""
        pixels = self._pixels(plan.where, plan.behind)
        if plan.how is None or plan.partner is None or plan.other_what is None:
            if self.on_host:
                self.augmenter.apply_on_host(pixels.numpy(), plan.what, self.kinds[plan.where.numpy()])
            return plan, pixels, None
        if not self.on_host:
            return plan, pixels, self._pixels(plan.partner, plan.other_behind)
        self.augmenter.apply_on_host(pixels.numpy(), plan.what, self.kinds[plan.where.numpy()])
        mixed = torch.nonzero(plan.how.share < 1).squeeze(1)
        partner = plan.partner[mixed]
        others = self._pixels(partner, None if plan.other_behind is None else plan.other_behind[mixed])
        self.augmenter.apply_on_host(others.numpy(), plan.other_what[mixed], self.kinds[partner.numpy()])
        pixels[mixed] = self.augmenter.mix(pixels[mixed], others, plan.how[mixed])
        return plan, pixels, None

    def _pixels(self, where: Tensor, behind: Ground | None) -> Tensor:
        """Crops uint8 [n, H, W, 3] of some positions before their backgrounds, on the device if they are resident."""
        if self.resident:
            crops = self._crops[where]
            if behind is None or self.backgrounds is None:
                return crops
            return self.backgrounds.lay(crops, self._people[where], self._alphas[where], behind)
        pixels = torch.empty((len(where), *self.view.size, 3), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        self.view.gather(self.rows[where.numpy()], out=pixels.numpy())
        if behind is not None and self.backgrounds is not None and len(change := (behind.which != -2).nonzero()[:, 0]):
            person, alpha = people_of(self.view, self.rows[where[change].numpy()])
            pixels[change] = self.backgrounds.lay(
                pixels[change], torch.from_numpy(person), torch.from_numpy(alpha), behind[change]
            )
        return pixels

    def _batch(self, plan: _Plan, pixels: Tensor, others: Tensor | None) -> Batch:
        """A batch on the device: truth and numbers are mixed as the pixels are."""
        plan = plan.to(self.device)
        labels, truth = self._classes[plan.where], self.truth[plan.where]
        numbers = None if self.numbers is None else self.numbers[plan.where]
        if plan.partner is not None and plan.how is not None:
            share = plan.how.share.unsqueeze(1)
            truth = truth * share + self.truth[plan.partner] * (1 - share)
            if numbers is not None and self.numbers is not None:  # an unknown number of nobody does no harm
                other = torch.where(share < 1, self.numbers[plan.partner], 0.0)
                numbers = numbers * share + other * (1 - share)
        if self.on_host:
            return Batch(pixels, truth, labels, numbers)
        return Batch(pixels, truth, labels, numbers, plan.what, others, plan.other_what, plan.how)

    def _ahead(self, plans: Iterator[_Plan]) -> Iterator[tuple[_Plan, Tensor, Tensor | None]]:
        """Steps made by threads ahead of time; on a GPU their pixels are copied on a stream of their own."""
        on_gpu = self.device.type == "cuda"
        stream = torch.cuda.Stream(self.device) if on_gpu else None  # type: ignore[no-untyped-call]

        def copied(pixels: Tensor | None) -> Tensor | None:
            if pixels is None or stream is None:
                return pixels
            with torch.cuda.stream(stream):
                moved = pixels.to(self.device, non_blocking=True)
            torch.cuda.current_stream(self.device).wait_stream(stream)
            moved.record_stream(torch.cuda.current_stream(self.device))
            return moved

        workers = min(8, os.cpu_count() or 1) if on_gpu else 1
        pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        pending: deque[Future[tuple[_Plan, Tensor, Tensor | None]]] = deque()
        try:
            for plan in itertools.chain(plans, [None] * workers):  # as many are under way as there are threads
                if plan is not None:
                    pending.append(pool.submit(self._make, plan))
                if len(pending) > workers or (plan is None and pending):
                    started = time.perf_counter()
                    made, pixels, others = pending.popleft().result()
                    self.waited += time.perf_counter() - started
                    moved = copied(pixels)
                    assert moved is not None
                    yield made, moved, copied(others)
        finally:
            pool.shutdown(cancel_futures=True)

    def _fits(self) -> bool:
        """Whether the training images are to be resident: on a GPU, if they fit and the GPU transforms them."""
        if self.on_host:
            return False
        planes = 3 if self.backgrounds is None else 7
        free = torch.cuda.mem_get_info(self.device)[0]
        return len(self.rows) * math.prod(self.view.size) * planes <= RESIDENT_SHARE * free

    def _load(self) -> None:
        """Bring the training images to the device; with random backgrounds the people's colours and mattes, too."""
        n, size = len(self.rows), self.view.size
        self._crops = torch.empty((n, *size, 3), dtype=torch.uint8, device=self.device)
        if self.backgrounds is not None:
            self.backgrounds.bank = self.backgrounds.bank.to(self.device)
            self._people, self._alphas = torch.empty_like(self._crops), torch.empty_like(self._crops[..., 0])
        for start in range(0, n, 1024):
            part = slice(start, start + 1024)
            self._crops[part] = torch.from_numpy(self.view.gather(self.rows[part])).to(self.device)
            if self.backgrounds is not None:
                person, alpha = people_of(self.view, self.rows[part])
                self._people[part] = torch.from_numpy(person).to(self.device)
                self._alphas[part] = torch.from_numpy(alpha).to(self.device)


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
        self._resident: list[Tensor] = []
        height, width = view.size
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0
        self._fit = len(rows) * height * width * 3 <= RESIDENT_SHARE / 2 * free

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Tensor]:
        """Batches uint8 [n, H, W, 3] on the device."""
        if self._resident:
            yield from self._resident
            return
        read = []
        for start in range(0, len(self.rows), self.batch):
            pixels = torch.from_numpy(self.view.gather(self.rows[start : start + self.batch])).to(self.device)
            if self._fit:
                read.append(pixels)
            yield pixels
        self._resident = read  # of a whole pass only


@dataclass(frozen=True)
class _Plan(Rows):
    """What the images of a step are made of: positions, transforms and backgrounds, and those of their partners."""

    where: Tensor
    what: Transforms
    behind: Ground | None
    partner: Tensor | None = None
    other_what: Transforms | None = None
    other_behind: Ground | None = None
    how: Mixing | None = None


def people_of(view: View, rows: Ints) -> tuple[Bytes, Bytes]:
    """The people's own colours uint8 [n, H, W, 3] of some table rows, and their mattes uint8 [n, H, W]."""
    alphas = view.gather_alpha(rows)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return np.stack(list(pool.map(foreground, view.gather(rows), alphas))), alphas


def held_out(data: TrainSet, view: View, config: FitConfig, device: torch.device) -> Crops:
    """The images that are scored: never augmented, mixed or sampled, in larger batches on a GPU."""
    return Crops(view, data.split.val, config.optim.batch_size * (4 if device.type == "cuda" else 1), device)
