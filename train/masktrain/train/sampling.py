"""Which training images an epoch holds, and how often. A pure function of (seed, epoch).

Shares are met exactly rather than on average: every group gets its quota of draws, and within a group no image comes a
second time before all have come once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UsageError, counted
from masktrain.config.images import SAMPLES, SampleConfig
from masktrain.config.plugins import Registry
from masktrain.config.settings import nearest
from masktrain.data.trainset import TrainSet

Ints = NDArray[np.int64]

sample: Registry[Callable[[Ints, Ints, SampleConfig], Ints]] = Registry("way of sampling", SAMPLES)
"""Adds a way of sampling by name: the draws of each group by its number and size; see docs/plugins.md."""


@dataclass(frozen=True)
class Sampler:
    """Draws the images of an epoch.

    Args:
        labels: joint label of each training image, int64 [n].
        people: number of each image's person, int64 [n].
        groups: number of what is to be balanced (a class of the joint label or of an attribute), int64 [n].
        config: how.
        seed: of the run.
    """

    labels: Ints
    people: Ints
    groups: Ints
    config: SampleConfig
    seed: int

    def order(self, epoch: int) -> Ints:
        """Positions of an epoch's images, in the order they are trained on."""
        rng = np.random.default_rng([self.seed, epoch])
        if self.config.kind == "all" and not self.config.photos:
            return rng.permutation(len(self.labels))
        pool = self._photos(rng) if self.config.photos else np.arange(len(self.labels))
        groups = self.people if self.config.kind == "person" else self.groups
        names, of, counts = np.unique(groups[pool], return_inverse=True, return_counts=True)
        drawn = [
            _draw(pool[of == k], n, rng)
            for k, n in enumerate(quota(self.config, names, counts.astype(np.int64)).tolist())
        ]
        return rng.permutation(np.concatenate(drawn))

    def _photos(self, rng: np.random.Generator) -> Ints:
        """Positions of some photos of each person and class, others every epoch."""
        shuffled = rng.permutation(len(self.labels))
        key = self.people[shuffled] * (int(self.labels.max()) + 1) + self.labels[shuffled]
        return np.sort(shuffled[occurrences(key) < self.config.photos])


@dataclass(frozen=True)
class MixedSources:
    """Draws the images of an epoch from several sources, each sampled by itself and coming as often as its weight.

    Args:
        parts: of each source its sampler, the positions of its images, and how often they come.
        seed: of the run.
    """

    parts: tuple[tuple[Sampler, Ints, float], ...]
    seed: int

    def order(self, epoch: int) -> Ints:
        """Positions of an epoch's images, in the order they are trained on."""
        rng = np.random.default_rng([self.seed, epoch, len(self.parts)])
        drawn = []
        for sampler, places, weight in self.parts:
            order = sampler.order(epoch)
            drawn.append(_draw(places[order], max(1, round(weight * len(order))), rng))
        return rng.permutation(np.concatenate(drawn))


def make_sampler(data: TrainSet, config: SampleConfig, seed: int) -> Sampler | MixedSources:
    """What draws the images of an epoch from a training set.

    Raises:
        UsageError: ``sample.by`` is no attribute, or ``sample.shares`` are not one for each of its classes, or are 0
            for all that have training images. Those without images leave their shares to the others.
    """
    schema, labels, people = data.view.schema, data.labels, data.people
    classes, groups = schema.num_classes, labels
    if config.by != "joint":
        if config.by not in schema.joint:
            near = nearest(config.by, ("joint", *schema.joint))
            hint = f"Did you mean '{near[0]}'?" if near else f"Choose joint, {', '.join(schema.joint)}."
            raise UsageError(f"'sample.by' is '{config.by}', which is not an attribute.", hint)
        k = schema.joint.index(config.by)
        classes, groups = schema.sizes[k], np.unravel_index(labels, schema.sizes)[k].astype(np.int64)
    if config.kind == "weighted" and (len(config.shares) != classes or sum(config.shares) <= 0):
        raise UsageError(
            f"'sample.shares' has {counted(len(config.shares), 'value')}; {config.by} has {classes} classes.",
            "Give the wanted share of each class, for example --set sample.shares=0.4,0.4,0.2",
        )
    if config.kind == "weighted" and not any(config.shares[k] for k in np.unique(groups).tolist()):
        raise UsageError(
            f"'sample.shares' wants only classes of {config.by} that none of {len(labels)} training images has.",
            "Give a share to a class that has some; see them with: masktrain fit CACHE --dry-run",
        )
    if len(data.weights) == 1:
        return Sampler(labels, people, groups, config, seed)
    places = [np.flatnonzero(data.source == k) for k in range(len(data.weights))]
    parts = [
        (Sampler(labels[p], people[p], groups[p], config, seed), p, weight)
        for p, weight in zip(places, data.weights, strict=True)
        if len(p)
    ]
    return MixedSources(tuple(parts), seed)


def quota(config: SampleConfig, names: Ints, counts: Ints) -> Ints:
    """Draws of each group that occurs, int64 [groups].

    Args:
        names: the groups' numbers.
        counts: how many images each has, above 0.

    Raises:
        UsageError: a plugin's way of sampling draws no whole numbers, or nothing.
    """
    if config.kind in sample:
        drawn = np.asarray(sample[config.kind](names, counts, config))
        if drawn.shape != counts.shape or drawn.dtype.kind not in "iu" or (drawn < 0).any() or not drawn.any():
            raise UsageError(
                f"The way of sampling '{config.kind}' of a plugin must give a whole number of draws for each of the"
                f" {len(counts)} groups, not all 0."
            )
        return drawn.astype(np.int64)
    n = counts.astype(np.float64)
    if config.kind == "all":
        return counts
    if config.kind == "oversample":
        return np.maximum(counts, round(config.level * int(counts.max())))
    if config.kind == "undersample":
        return np.minimum(counts, max(1, round(int(counts.min()) / config.level)))
    shares = np.ones_like(n)  # balanced, person
    if config.kind == "sqrt":
        shares = np.sqrt(n)
    if config.kind == "weighted":
        shares = np.array(config.shares, dtype=np.float64)[names]
    exact = counts.sum() * shares / max(shares.sum(), 1e-12)
    whole: Ints = np.floor(exact).astype(np.int64)
    # the largest remainders get what rounding left over
    whole[np.argsort(whole - exact, kind="stable")[: int(counts.sum() - whole.sum())]] += 1
    return whole


def occurrences(values: Ints) -> Ints:
    """For each value how often it has come before, int64 [n]."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(values) else np.zeros(0, dtype=np.int64)
    found = np.empty(len(values), dtype=np.int64)
    found[order] = np.arange(len(values)) - np.repeat(starts, np.diff(np.r_[starts, len(values)]))
    return found


def _draw(pool: Ints, n: int, rng: np.random.Generator) -> Ints:
    """Some of a pool, in as many whole passes as there are and a random part of one more."""
    passes, rest = divmod(n, len(pool))
    drawn: Ints = np.concatenate([np.tile(pool, passes), rng.permutation(pool)[:rest]])
    return drawn
