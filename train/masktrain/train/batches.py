"""Batches of a view: gathered from the mapped shards, augmented in threads of their own, handed to the device.

No worker processes: a gather costs some hundredths of a millisecond per image. Where nothing is to be augmented and the
images fit, they stay on the GPU.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from maskprep.base import UsageError
from maskprep.dataset import View
from masktrain.config.images import AugmentConfig
from masktrain.train import batched
from masktrain.train.augment import Augment, by_class, draw_seed
from masktrain.train.mixing import Mixer
from masktrain.train.sampling import Sampler, Several, occurrences

Floats = NDArray[np.float32]
Made = tuple[NDArray[np.int64], Tensor, tuple[NDArray[np.int64], Floats] | None]
NOTHING = AugmentConfig(recipe="none")

RESIDENT_SHARE = 0.4
"""Keep the images on the GPU when they take no more than this share of its free memory."""


@dataclass(frozen=True)
class Batch:
    """Some images.

    Attributes:
        rows: their table rows, int64 [n].
        pixels: uint8 [n, 3, H, W] in channels_last.
        labels: int64 [n], -1 for none.
        mixed: where others are mixed in, their labels int64 [n] and the images' own share float32 [n].
        soft: shares of the classes float32 [n, num_classes] where labels are not plain, mixed as the pixels are.
        numbers: of the attributes that are answered with a number, float32 [n, numbers], mixed as the pixels are;
            NaN where one is not known.
        total: images of the whole step, where several processes share it; 0 for those that are here.
    """

    rows: NDArray[np.int64]
    pixels: Tensor
    labels: Tensor
    mixed: tuple[Tensor, Tensor] | None = None
    soft: Tensor | None = None
    numbers: Tensor | None = None
    total: int = 0

    def __len__(self) -> int:
        return self.total or len(self.rows)

    def truth(self, num_classes: int) -> Tensor:
        """Shares of the classes, float32 [n, num_classes]."""
        if self.soft is not None:
            return self.soft
        own = torch.nn.functional.one_hot(self.labels, num_classes).float()
        if self.mixed is None:
            return own
        labels, share = self.mixed
        return own * share.unsqueeze(1) + torch.nn.functional.one_hot(labels, num_classes) * (1 - share.unsqueeze(1))


class Batches:
    """The images of some table rows, in batches of nearly equal size (the last one is never a remainder).

    Args:
        view: where the pixels are, and what lies behind the subjects.
        rows: row numbers of the view's table, int64 [n].
        batch_size: the most images of a batch.
        device: where batches go.
        augment: what training images go through; nothing for validation and prediction.
        sampler: which images an epoch holds; by default each once.
        seed: of the order and the augmentation.
        soft: shares of the classes of each row, float32 [n, C], where labels are not plain.
        numbers: of each row, float32 [n, numbers], for targets that answer with them.
        part: number of this process and how many there are; each gets its part of every training batch.

    Attributes:
        images: of an epoch, and in how many ``steps`` they come.
        recipes, kinds: of augmentation, and the number of each position's, int64 [n].
        waited: seconds that the last pass waited for data.
    """

    def __init__(
        self,
        view: View,
        rows: NDArray[np.int64],
        batch_size: int,
        device: torch.device,
        *,
        augment: AugmentConfig = NOTHING,
        sampler: Sampler | Several | None = None,
        seed: int = 0,
        soft: Floats | None = None,
        numbers: Floats | None = None,
        part: tuple[int, int] = (0, 1),
    ) -> None:
        self.view, self.rows, self.device, self.seed = view, rows, device, seed
        self.soft, self.numbers, self.part = soft, numbers, part
        self.recipe, self.sampler, self.batch_size = augment.recipe, sampler, batch_size
        self.labels = view.table["label"].fillna(-1).to_numpy(dtype=np.int64)[rows]
        self.recipes, self.kinds = by_class(augment, view.schema, self.labels)
        self.images = len(rows) if sampler is None else len(sampler)
        self.steps = -(-self.images // batch_size)
        if self.steps and self.images // self.steps < part[1]:
            raise UsageError(f"A batch of {self.images // self.steps} images cannot be shared by {part[1]} processes.")
        self.mixer = Mixer(augment, self.labels, rows, seed)
        self.waited = 0.0
        self._own = threading.local()
        self._resident = self._keep_on_device()

    def order(self, epoch: int | None) -> NDArray[np.int64]:
        """Positions in ``rows`` in the order of an epoch; None for the order of the table."""
        if epoch is None:
            return np.arange(len(self.rows))
        if self.sampler is not None:
            return self.sampler.order(epoch)
        return np.random.default_rng([self.seed, epoch]).permutation(len(self.rows))

    def epoch(self, epoch: int | None, start: int = 0) -> Iterator[Batch]:
        """One pass: sampled and augmented by the epoch's number, or as they are for None.

        Args:
            start: steps that are done already; the others are what they would have been.
        """
        self.waited = 0.0
        if not len(self.rows):
            return
        order = self.order(epoch)
        steps = self.steps if epoch is not None else -(-len(order) // self.batch_size)
        whole = np.array_split(order, steps)[start:]
        parts, repeats = (
            [self._own_part(p, epoch) for p in np.array_split(values, steps)[start:]]
            for values in (order, occurrences(order))
        )
        made = zip(parts, repeats, whole, strict=True)
        if self._resident is not None:
            for part, repeat, together in made:
                where = torch.from_numpy(part).to(self.device, non_blocking=True)
                yield self._batch((part, self._resident[where], None), repeat, epoch, len(together))
            return
        workers = 1 if self.device.type == "cpu" else min(8, os.cpu_count() or 1)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="batches")
        pending: deque[tuple[Future[Made], NDArray[np.int64], int]] = deque()
        try:
            for part, repeat, together in made:
                pending.append((pool.submit(self._make, part, repeat, order, epoch), repeat, len(together)))
                if len(pending) <= workers:
                    continue
                yield self._next(pending, epoch)
            while pending:
                yield self._next(pending, epoch)
        finally:
            pool.shutdown(cancel_futures=True)

    def _own_part(self, values: NDArray[np.int64], epoch: int | None) -> NDArray[np.int64]:
        """What this process takes of a batch; of one that is not trained on, everything."""
        rank, world = self.part if epoch is not None else (0, 1)
        return np.array_split(values, world)[rank]

    def _next(self, pending: deque[tuple[Future[Made], NDArray[np.int64], int]], epoch: int | None) -> Batch:
        started = time.perf_counter()
        future, repeat, together = pending.popleft()
        made = future.result()
        self.waited += time.perf_counter() - started
        return self._batch(made, repeat, epoch, together)

    def _batch(self, made: Made, repeats: NDArray[np.int64], epoch: int | None, together: int) -> Batch:
        """A batch on the device, of pixels uint8 [n, H, W, 3] and of what was mixed into them."""
        part, pixels, mixed = made
        # NHWC memory seen as NCHW is channels_last: no copy
        pixels = pixels.to(self.device, non_blocking=True).permute(0, 3, 1, 2)
        if epoch is not None and self.recipe == batched.RECIPE:
            draws = batched.draw(self.seed, epoch, self.rows[part], repeats)
            pixels = batched.apply(pixels, self._sent(draws))
        others = None if mixed is None else (self._sent(self.labels[mixed[0]]), self._sent(mixed[1]))

        def shared(values: Floats | None) -> Tensor | None:
            if values is None:
                return None
            if mixed is None:
                return self._sent(values[part])
            share = mixed[1][:, None]
            other = np.where(share < 1, values[mixed[0]], values[part])  # an unknown number of nobody does no harm
            return self._sent((values[part] * share + other * (1 - share)).astype(np.float32))

        labels = self._sent(self.labels[part])
        return Batch(self.rows[part], pixels, labels, others, shared(self.soft), shared(self.numbers), together)

    def _make(
        self, part: NDArray[np.int64], repeats: NDArray[np.int64], order: NDArray[np.int64], epoch: int | None
    ) -> Made:
        """Pixels uint8 [n, H, W, 3] of some positions, in pinned memory for a GPU, and what was mixed into them."""
        pixels = torch.empty((len(part), *self.view.size, 3), dtype=torch.uint8, pin_memory=self.device.type == "cuda")
        array = self._pixels(part, repeats, epoch, pixels.numpy())
        if epoch is None or not self.mixer.on:
            return part, pixels, None

        return part, pixels, self.mixer(array, part, repeats, epoch, order, lambda p, d: self._pixels(p, d, epoch))

    def _pixels(
        self,
        part: NDArray[np.int64],
        draws: NDArray[np.int64],
        epoch: int | None,
        out: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Pixels of some positions, augmented by (seed, epoch, row, draw)."""
        array = self.view.gather(self.rows[part], out=out, epoch=epoch)
        if epoch is None or self.recipes == ["none"] or self.recipe == batched.RECIPE:
            return array
        if not hasattr(self._own, "augments"):  # one per thread: albumentations keeps its generators inside
            self._own.augments = [Augment(recipe, draw_seed(self.seed)) for recipe in self.recipes]
        kinds = self.kinds[part]
        for kind, augment in enumerate(self._own.augments):
            mine = np.flatnonzero(kinds == kind)
            if len(mine) == len(part):
                augment(array, epoch, self.rows[part], draws)
            elif len(mine):
                some = array[mine]
                augment(some, epoch, self.rows[part][mine], draws[mine])
                array[mine] = some
        return array

    def _sent(self, array: NDArray[Any]) -> Tensor:
        values = torch.from_numpy(array)
        return values.pin_memory().to(self.device, non_blocking=True) if self.device.type == "cuda" else values

    def _keep_on_device(self) -> Tensor | None:
        """All pixels uint8 [n, H, W, 3] on the GPU, when nothing is to be done to them on the CPU and they fit."""
        fresh = self.view.background.kind == "random"  # drawn anew in every epoch
        light = self.recipe in ("none", batched.RECIPE) and len(self.recipes) == 1
        if self.device.type != "cuda" or not light or self.mixer.on or fresh:
            return None
        height, width = self.view.size
        if len(self.rows) * height * width * 3 > RESIDENT_SHARE * torch.cuda.mem_get_info(self.device)[0]:
            return None
        pixels = torch.empty((len(self.rows), height, width, 3), dtype=torch.uint8, device=self.device)
        for start in range(0, len(self.rows), 1024):
            part = self.view.gather(self.rows[start : start + 1024])
            pixels[start : start + len(part)] = torch.from_numpy(part).to(self.device)
        return pixels
