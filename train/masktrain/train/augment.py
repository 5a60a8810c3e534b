"""What training images go through. Every draw is a function of (seed, epoch, image), never of the order of work."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.base import UsageError, fold
from maskprep.labels import Schema
from masktrain.config.images import RECIPES, AugmentConfig
from masktrain.config.plugins import Registry
from masktrain.config.settings import nearest
from masktrain.train import batched

recipe: Registry[Callable[[], list[Any]]] = Registry("augmentation recipe", RECIPES)
"""Adds a recipe by name: a list of albumentations; see docs/plugins.md."""
ADDED = recipe


def draw_seed(*numbers: int) -> int:
    """A 32-bit seed that depends on every number and on their order."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


class Augment:
    """A recipe that can be applied to any image at any time, in any thread of its own.

    Args:
        recipe: name of a recipe, see :func:`transforms`.
        seed: seed of the run.
    """

    def __init__(self, recipe: str, seed: int) -> None:
        albumentations, cv2 = _import()
        cv2.setNumThreads(1)  # one image is too little to share; torch needs the cores
        self.seed = seed
        self._compose = albumentations.Compose(transforms(recipe))
        self._steps = list(_walk(self._compose))

    def __call__(
        self, pixels: NDArray[np.uint8], epoch: int, indices: NDArray[np.int64], draws: NDArray[np.int64] | None = None
    ) -> None:
        """Augment a batch in place: uint8 [n, H, W, 3], with the table row of each image.

        Args:
            draws: what tells several draws of one image in an epoch from each other, int64 [n] or [n, k].
        """
        marks = [[0]] * len(indices) if draws is None else draws.reshape(len(indices), -1).tolist()
        for i, index in enumerate(indices.tolist()):
            # one seed for each step: Compose.set_random_seed gives all of them the same one, and then the flip is
            # only ever drawn together with everything else
            seeds = np.random.SeedSequence((self.seed, epoch, index, *marks[i])).generate_state(len(self._steps))
            for step, seed in zip(self._steps, seeds.tolist(), strict=True):
                step.set_random_state(np.random.default_rng(seed), random.Random(seed))
            pixels[i] = self._compose(image=pixels[i])["image"]

    def to_dict(self) -> dict[str, Any]:
        """The recipe with every value, as kept in the run."""
        return dict(self._compose.to_dict())


def described(recipe: str, seed: int, classes: Sequence[str] = ()) -> dict[str, Any]:
    """A recipe of any kind with every value, as kept in the run; with ``classes`` those of some classes, too."""
    whole = batched.to_dict(seed) if recipe == batched.RECIPE else Augment(recipe, seed).to_dict()
    return whole | ({"classes": {c: described(c.rpartition(":")[2], seed) for c in classes}} if classes else {})


def by_class(config: AugmentConfig, schema: Schema, labels: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """The recipes that are in use, the one of all first, and the number of each image's recipe [n] (S4.17).

    Args:
        labels: joint labels [n].

    Raises:
        UsageError: ``augment.classes`` names something that is no attribute, class or recipe for single images.
    """
    recipes, kinds = [config.recipe], np.zeros(len(labels), dtype=np.int64)
    if not config.classes:
        return recipes, kinds
    indices = np.array([schema.decode(k) for k in range(schema.num_classes)])
    for text in reversed(config.classes):  # the first one that fits an image counts
        named, colon, chosen = text.rpartition(":")
        name, equals, value = named.partition("=")
        if not (colon and equals):
            raise UsageError(f"augment.classes: '{text}' is not ATTRIBUTE=CLASS:RECIPE.", "Such as age=>=60:strong")
        if batched.RECIPE in (chosen, config.recipe):
            raise UsageError(f"augment.classes: {batched.RECIPE} takes all images alike.", "Choose another --augment.")
        if chosen not in RECIPES:
            raise _unknown("recipe", chosen, RECIPES)
        if name not in ("joint", *schema.joint):
            raise _unknown("attribute", name, ["joint", *schema.joint])
        classes = schema.class_names if name == "joint" else schema[name].classes
        if fold(value) not in (known := [fold(c) for c in classes]):
            raise _unknown(f"class of {name}", value, list(classes))
        which = known.index(fold(value))
        meant = labels == which if name == "joint" else indices[labels, schema.joint.index(name)] == which
        if chosen not in recipes:
            recipes.append(chosen)
        kinds[meant & (labels >= 0)] = recipes.index(chosen)
    return recipes, kinds


def _unknown(what: str, name: str, known: list[str]) -> UsageError:
    near = nearest(name, known)
    hint = f"Did you mean '{near[0]}'?" if near else f"There is {', '.join(known[:8])}."
    return UsageError(f"augment.classes: there is no {what} '{name}'.", hint)


def shown(recipe: str, seed: int, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Pixels uint8 [n, H, W, 3] of some table rows as the first epoch augments them."""
    if recipe != batched.RECIPE:
        Augment(recipe, draw_seed(seed))(pixels, 1, rows)
        return pixels
    import torch

    draws = torch.from_numpy(batched.draw(seed, 1, rows, np.zeros_like(rows)))
    return batched.apply(torch.from_numpy(pixels).permute(0, 3, 1, 2), draws).permute(0, 2, 3, 1).numpy()


def transforms(recipe: str) -> list[Any]:
    """The albumentations of a recipe.

    ``light`` keeps what the label hangs on: the nose and the chin stay in the picture (no more than 6 % shift and 10 %
    scale), nothing is erased, and colours change too little to turn one mask or face into another. ``base`` is the set
    that the write-ups share (S2.13: affine, elastic, noise, motion blur; no colours). ``strong`` moves further, changes
    light and colours, and erases patches, as the heavy recipes of the first cohorts did.
    """
    a, cv2 = _import()
    if recipe in ADDED:
        return ADDED[recipe]()
    if recipe == "none":
        return []

    def moved(scale: float, shift: float, degrees: float, p: float) -> Any:
        return a.Affine(
            scale=(1 - scale, 1 + scale),
            translate_percent=(-shift, shift),
            rotate=(-degrees, degrees),
            border_mode=cv2.BORDER_REFLECT_101,
            p=p,
        )

    flip = a.HorizontalFlip(p=0.5)
    colour = a.ColorJitter(brightness=(0.8, 1.2), contrast=(0.8, 1.2), saturation=(0.8, 1.2), hue=(-0.02, 0.02), p=0.7)
    if recipe == "light":
        noise = [a.GaussianBlur(blur_limit=(3, 5)), a.GaussNoise(std_range=(0.01, 0.04))]
        return [flip, moved(0.1, 0.06, 10, 0.8), colour, a.OneOf(noise, p=0.2)]
    warped = a.ElasticTransform(alpha=20, sigma=6, border_mode=cv2.BORDER_REFLECT_101, p=0.3)
    noise = [a.GaussNoise(std_range=(0.02, 0.08)), a.MotionBlur(blur_limit=(3, 7))]
    if recipe == "base":
        return [flip, moved(0.1, 0.06, 10, 0.8), warped, a.OneOf(noise, p=0.5)]
    if recipe == "strong":
        erased = a.CoarseDropout(
            num_holes_range=(1, 2), hole_height_range=(0.08, 0.25), hole_width_range=(0.08, 0.25), fill="random", p=0.4
        )
        light = a.OneOf([a.CLAHE(clip_limit=(1, 3)), a.RandomGamma(gamma_limit=(70, 140)), a.ToGray()], p=0.3)
        return [flip, moved(0.2, 0.1, 20, 0.9), warped, colour, light, a.OneOf(noise, p=0.5), erased]
    raise ValueError(f"no recipe '{recipe}'")


def _walk(step: Any) -> Iterator[Any]:
    """A step of a recipe and all steps within it."""
    yield step
    for inner in getattr(step, "transforms", ()):
        if hasattr(inner, "set_random_state"):  # ColorJitter keeps functions under that name
            yield from _walk(inner)


def _import() -> tuple[Any, Any]:
    """albumentations without its question to the network whether there is a newer one."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations
    import cv2

    return albumentations, cv2
