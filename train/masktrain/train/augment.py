"""What training images go through: moved, coloured, blurred, erased and mixed, whole batches at once.

Every draw is a function of (seed, epoch, image, occurrence), see :mod:`masktrain.train.draws`, so the same images are
made on every device. The transforms of a batch are computed once as numbers (:class:`Transforms`); a GPU applies them
to the whole batch with torch, a CPU to one image after the other with OpenCV, which is quicker there. Recipes that are
lists of albumentations (of plugins) are applied on the CPU.
"""

from __future__ import annotations

import math
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from maskprep.base import UsageError
from maskprep.base import fold as folded
from maskprep.labels import Schema
from masktrain.config.images import RECIPES, AugmentConfig
from masktrain.config.plugins import Registry
from masktrain.config.settings import nearest
from masktrain.train.draws import AUGMENT, Rows, keys, uniform

recipe: Registry[Callable[[], list[Any]]] = Registry("augmentation recipe", RECIPES)
"""Adds a recipe by name: a list of albumentations; see docs/plugins.md."""
ADDED = recipe

FILE = "albumentations:"
"""Begins the name of a recipe that is a YAML file with a list of albumentations."""
COLUMNS = 28
"""Draws of one image."""
CELLS = 12
"""Side of the grid of random displacements of elastic transforms."""
WARP = 0.0025
"""Standard deviation of elastic displacements, as a share of the longer side."""
_STILL, _SAME = np.eye(2, 3, dtype=np.float32), np.eye(3, dtype=np.float32)
SPARE = 1 << 16
"""Values of the bank of noise beyond those of one image; an image's noise begins at one of so many places."""


@dataclass(frozen=True)
class Recipe:
    """The constants of a recipe. Probabilities: flip, move, warp, colour, tone, degrade, erase.

    Attributes:
        scale, shift, degrees: largest change of size and place (shares of the side), and of the angle.
        light, hue: largest change of brightness, contrast and saturation (share), and of the hue (degrees).
        motion: whether blurs are those of motion (3 to 7 pixels) rather than Gaussian (3 or 5).
        noise_low, noise_high: standard deviation of the noise, as a share of the range of values.
    """

    flip: float = 0.5
    move: float = 0.8
    scale: float = 0.1
    shift: float = 0.06
    degrees: float = 10.0
    warp: float = 0.0
    colour: float = 0.7
    light: float = 0.2
    hue: float = 7.2
    tone: float = 0.0
    degrade: float = 0.2
    motion: float = 0.0
    noise_low: float = 0.01
    noise_high: float = 0.04
    erase: float = 0.0


NOTHING = Recipe(*([0.0] * len(fields(Recipe))))
LIGHT = Recipe()
BUILT_IN = {
    "none": NOTHING,
    "light": LIGHT,
    "batched": LIGHT,
    "base": Recipe(warp=0.3, colour=0.0, degrade=0.5, motion=1.0, noise_low=0.02, noise_high=0.08),
    "strong": Recipe(
        move=0.9, scale=0.2, shift=0.1, degrees=20.0, warp=0.3, tone=0.3, degrade=0.5, motion=1.0,
        noise_low=0.02, noise_high=0.08, erase=0.4,
    ),
}  # fmt: skip
"""``light`` keeps what the label hangs on: nose and chin stay in the picture, nothing is erased, and colours change too
little to turn one mask or face into another. ``base`` is the set that published write-ups of the mask task share
(affine, elastic, noise, motion blur; no colours). ``strong`` moves further, changes light and colours, and erases
patches. ``batched`` is an earlier name of ``light``."""


@dataclass(frozen=True)
class Transforms(Rows):
    """What is to be done to the images of a batch; tensors with one row per image.

    Attributes:
        matrix: from pixels of the result to pixels of the image, float32 [n, 2, 3].
        warp: standard deviation of the elastic displacement in pixels, float32 [n]; 0 for none.
        keys: of the elastic displacements, int64 [n].
        colour: of R, G, B, float32 [n, 3, 3]; ``contrast`` about the mean grey and ``gamma``, float32 [n].
        kernel: number of the blur kernel, int64 [n]; 0 for none.
        noise: standard deviation of the noise, 0..255, float32 [n]; 0 for none; ``start`` its place, int64 [n].
        boxes: top, bottom, left and right of two erased rectangles in pixels, int64 [n, 2, 4]; empty for none.
    """

    matrix: Tensor
    warp: Tensor
    keys: Tensor
    colour: Tensor
    contrast: Tensor
    gamma: Tensor
    kernel: Tensor
    noise: Tensor
    start: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class Mixing(Rows):
    """How the images of a batch are mixed with partners; tensors with one row per image.

    Attributes:
        share: of the image's own label, float32 [n]; 1 where nothing is mixed.
        blend: share of its own pixels outside the box, float32 [n]; below 1 for mixup only.
        box: top, bottom, left and right of what is the partner's, int64 [n, 4]; empty for none.
    """

    share: Tensor
    blend: Tensor
    box: Tensor


class Augmenter:
    """The transforms of training images.

    Args:
        config: recipes, and how often images are mixed.
        schema: of the classes that have recipes of their own.
        size: height and width of the images.
        seed: of the run.

    Attributes:
        recipes: names of those in use, the one of all images first.
        on_host: whether a recipe is a list of albumentations, which run on the CPU.

    Raises:
        UsageError: see :func:`by_class`.
    """

    def __init__(self, config: AugmentConfig, schema: Schema, size: tuple[int, int], seed: int) -> None:
        self.config, self.schema, self.size, self.seed = config, schema, size, seed
        self.recipes, _ = by_class(config, schema, np.zeros(0, dtype=np.int64))
        self.on_host = any(r not in BUILT_IN for r in self.recipes)
        self.mixes = config.mixup + config.cutmix + config.halves > 0
        rows = [BUILT_IN.get(r, NOTHING) for r in self.recipes]
        self.constants = {f.name: torch.tensor([getattr(r, f.name) for r in rows]) for f in fields(Recipe)}
        steady = torch.Generator().manual_seed(0)
        self.bank = torch.randn(size[0] * size[1] * 3 + SPARE, generator=steady)
        self.kernels, self.colours = _kernels(), _colours()
        self.quantiles = _beta_quantiles(config.alpha)
        self._places = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float32)
        cv2.setNumThreads(1)  # one image is too little to share; torch needs the cores
        self._compose: list[_Albumentations | None] | None = None

    def to(self, drawn: torch.device, applied: torch.device) -> None:
        """Move the tables that draws are turned into transforms with, and those that transforms are applied with."""
        self.constants = {k: v.to(drawn) for k, v in self.constants.items()}
        self.colours, self.quantiles = self.colours.to(drawn), self.quantiles.to(drawn)
        self.bank, self.kernels = self.bank.to(applied), self.kernels.to(applied)

    def transforms(self, keys: Tensor, kinds: Tensor) -> Transforms:
        """The transforms of images by the keys of their draws and the numbers of their recipes, both int64 [n]."""
        u, (height, width) = uniform(keys, COLUMNS), self.size
        of = {name: values[kinds] for name, values in self.constants.items()}

        def happens(name: str, column: int) -> Tensor:
            return u[:, column] < of[name]

        def around(column: int) -> Tensor:
            return 2 * u[:, column] - 1

        moved = happens("move", 1).float()
        flip = 1 - 2 * happens("flip", 0).float()
        scale = 1 / (1 + moved * of["scale"] * around(2))
        angle = moved * around(3) * of["degrees"] * (math.pi / 180)
        cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
        right, down = (moved * of["shift"] * around(4 + k) * side for k, side in enumerate((width, height)))
        x, y = (width - 1) / 2, (height - 1) / 2
        matrix = torch.stack(
            [flip * cos, -flip * sin, x + right - flip * (cos * x - sin * y), sin, cos, y + down - sin * x - cos * y], 1
        ).view(-1, 2, 3)

        lit = happens("colour", 6).float()
        brightness, contrast, saturation = (1 + lit * of["light"] * around(7 + k) for k in range(3))
        toned, grey = happens("tone", 11), u[:, 12] < 1 / 3
        saturation = torch.where(toned & grey, 0.0, saturation)
        gamma = torch.where(toned & ~grey, 0.7 + 0.7 * u[:, 13], 1.0)
        turn = lit * of["hue"] * around(10) * (math.pi / 180)
        colour = brightness.view(-1, 1, 1) * self._saturated(saturation, turn)

        degraded, blurred = happens("degrade", 14), u[:, 15] < 0.5
        first, count = 1 + 2 * of["motion"], 2 + 10 * of["motion"]  # kernels 1 and 2 are Gaussian, 3 to 14 of motion
        kernel = torch.where(degraded & blurred, first + (u[:, 16] * count).floor(), 0.0).long()
        deviation = 255 * (of["noise_low"] + (of["noise_high"] - of["noise_low"]) * u[:, 17])
        noise = torch.where(degraded & ~blurred, deviation, 0.0)
        erased = happens("erase", 19).float()
        boxes = []
        for k in range(2):  # the second one in half of the cases
            some = erased if k == 0 else erased * (u[:, 20] < 0.5).float()
            h, w = ((0.08 + 0.17 * u[:, 21 + 2 * k + i]) * side * some for i, side in enumerate((height, width)))
            top, left = u[:, 25] * (height - h), u[:, 26] * (width - w)
            if k:
                top, left = height - h - top, width - w - left
            boxes.append(torch.stack([top, top + h, left, left + w], 1).round().long())
        return Transforms(
            matrix, torch.where(happens("warp", 18), WARP * max(height, width), 0.0), keys, colour, contrast, gamma,
            kernel, noise, (u[:, 27] * SPARE).long(), torch.stack(boxes, 1),
        )  # fmt: skip

    def apply(self, pixels: Tensor, what: Transforms) -> Tensor:
        """Transformed images uint8 [n, H, W, 3] of images, all of them at once with torch, on any device."""
        n, height, width, _ = pixels.shape
        image = pixels.permute(0, 3, 1, 2).float()
        xs = torch.arange(width, device=pixels.device, dtype=torch.float32)
        ys = torch.arange(height, device=pixels.device, dtype=torch.float32).unsqueeze(1)
        # not as a product of matrices: a GPU may round its factors to 10 bits, a tenth of a pixel
        m = what.matrix.view(n, 2, 3, 1, 1)
        grid = torch.stack([m[:, k, 0] * xs + m[:, k, 1] * ys + m[:, k, 2] for k in range(2)], 3)
        if bool(self._warps):
            grid = grid + _displacements(what, self.size).permute(0, 2, 3, 1)
        grid = torch.stack([(2 * grid[..., 0] + 1) / width - 1, (2 * grid[..., 1] + 1) / height - 1], 3)
        image = functional.grid_sample(image, grid, padding_mode="reflection", align_corners=False).round()
        mixed = torch.einsum("nij,njhw->nihw", what.colour, image)
        grey = mixed.mean((1, 2, 3), keepdim=True)
        image = (grey + (mixed - grey) * what.contrast.view(n, 1, 1, 1)).round().clamp(0, 255)
        image = (255 * (image / 255) ** what.gamma.view(n, 1, 1, 1)).round()
        reach = self.kernels.shape[1] // 2
        padded = functional.pad(image, (reach, reach, reach, reach), mode="reflect").reshape(1, n * 3, *self._padded)
        kernels = self.kernels[what.kernel].repeat_interleave(3, 0).unsqueeze(1)
        image = functional.conv2d(padded, kernels, groups=n * 3).view(n, 3, height, width)
        noise = self.bank[what.start.unsqueeze(1) + torch.arange(height * width * 3, device=pixels.device)]
        noise = noise.view(n, height, width, 3)
        out = image.permute(0, 2, 3, 1) + noise * what.noise.view(n, 1, 1, 1)
        erased = _inside(what.boxes[:, 0], height, width) | _inside(what.boxes[:, 1], height, width)
        out = torch.where(erased, 128 + 64 * noise, out)
        return out.round().clamp(0, 255).to(torch.uint8)

    def apply_on_host(self, pixels: NDArray[np.uint8], what: Transforms, kinds: NDArray[np.int64]) -> None:
        """Transform images uint8 [n, H, W, 3] in place, one after the other with OpenCV or albumentations."""
        height, width = self.size
        if self._compose is None:
            self._compose = [None if r in BUILT_IN else _Albumentations(r) for r in self.recipes]
        values = [getattr(what, f.name).numpy() for f in fields(what)]
        for i, (matrix, warp, key, colour, contrast, gamma, kernel, noise, start, boxes) in enumerate(
            zip(*values, strict=True)
        ):
            if (other := self._compose[kinds[i]]) is not None:
                pixels[i] = other(pixels[i], int(key))
                continue
            image = pixels[i]
            if warp:
                one = what[i : i + 1]
                ys, xs = self._places
                x, y = (row[0] * xs + row[1] * ys + row[2] for row in matrix)
                dx, dy = _displacements(one, self.size)[0].numpy()
                image = cv2.remap(image, x + dx, y + dy, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
            elif not np.array_equal(matrix, _STILL):
                how = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
                image = cv2.warpAffine(image, matrix, (width, height), flags=how, borderMode=cv2.BORDER_REFLECT)
            if contrast != 1 or not np.array_equal(colour, _SAME):
                grey = float(np.dot(colour.sum(0), cv2.mean(image)[:3])) / 3
                offset = np.full((3, 1), grey * (1 - contrast), np.float32)
                image = cv2.transform(image, np.hstack([colour * contrast, offset]))
            if gamma != 1:
                image = cv2.LUT(image, np.rint(255 * (np.arange(256) / 255) ** gamma).astype(np.uint8))
            if kernel:
                image = cv2.filter2D(image, -1, self.kernels[kernel].numpy(), borderType=cv2.BORDER_REFLECT_101)
            bank = self.bank.numpy()[start : start + height * width * 3].reshape(height, width, 3)
            if noise:
                image = np.clip(np.rint(image + bank * noise), 0, 255).astype(np.uint8)
            pixels[i] = image
            for top, bottom, left, right in boxes:
                patch = 128 + 64 * bank[top:bottom, left:right]
                pixels[i, top:bottom, left:right] = np.clip(np.rint(patch), 0, 255)

    def mixing(self, keys: Tensor, sorted_rows: Tensor, starts: Tensor, labels: Tensor) -> tuple[Mixing, Tensor]:
        """How images are mixed, and with whom: the place of each one's partner in ``sorted_rows``, int64 [n].

        Args:
            keys: of their draws, int64 [n].
            sorted_rows: the epoch's images, sorted by label, int64 [N].
            starts: place of each label's first image there, and N at the end, int64 [classes + 1].
            labels: of the images, int64 [n].
        """
        u, (height, width), c = uniform(keys, 8), self.size, self.config
        kind, n = u[:, 0], len(sorted_rows)
        mixup = kind < c.mixup
        cutmix = ~mixup & (kind < c.mixup + c.cutmix)
        halves = ~mixup & ~cutmix & (kind < c.mixup + c.cutmix + c.halves)
        within = halves & (u[:, 1] < c.within)
        low = torch.where(within, starts[labels], 0)
        count = torch.where(within, starts[labels + 1] - starts[labels], n)
        partner = low + (u[:, 2].double() * count).long()
        at = u[:, 3] * (len(self.quantiles) - 1)
        below = at.long()
        beta = torch.lerp(self.quantiles[below], self.quantiles[below + 1], at - below)
        side = torch.sqrt(1 - beta)
        ends = []
        for column, size in ((4, height), (5, width)):
            centre = (u[:, column] * size).floor()
            ends += [(centre + s * side * size / 2).long().clamp(0, size) for s in (-1, 1)]
        rectangle = torch.stack(ends, 1)
        cut = ((0.46 + 0.08 * u[:, 6]) * width).round().long()
        on_right = u[:, 7] < 0.5
        zero, full = torch.zeros_like(cut), torch.full_like(cut, width)
        half = torch.stack([zero, zero + height, torch.where(on_right, cut, zero), torch.where(on_right, full, cut)], 1)
        box = torch.where(cutmix.unsqueeze(1), rectangle, torch.where(halves.unsqueeze(1), half, 0))
        area = (box[:, 1] - box[:, 0]) * (box[:, 3] - box[:, 2])
        blend = torch.where(mixup, beta, 1.0)
        share = torch.where(mixup, beta, 1 - area / (height * width))
        return Mixing(share, blend, box), partner

    def mix(self, pixels: Tensor, others: Tensor, how: Mixing) -> Tensor:
        """Images uint8 [n, H, W, 3] mixed with their partners."""
        blend = how.blend.view(-1, 1, 1, 1)
        both = (blend * pixels + (1 - blend) * others).round().to(torch.uint8)
        return torch.where(_inside(how.box, *self.size), others, both)

    def to_dict(self) -> dict[str, Any]:
        """Every recipe in use with every value, as kept in the run."""
        known = {r: asdict(BUILT_IN[r]) if r in BUILT_IN else _Albumentations(r).to_dict() for r in self.recipes}
        return {"recipe": self.recipes[0], "seed": self.seed, "recipes": known}

    def _saturated(self, saturation: Tensor, turn: Tensor) -> Tensor:
        """Of R, G, B [n, 3, 3]: shares of the grey and of the colours, turned about the grey axis."""
        same, grey, turned, luma = self.colours
        cos, sin, share = (v.view(-1, 1, 1) for v in (torch.cos(turn), torch.sin(turn), saturation))
        turned_colours: Tensor = share * (cos * same + (1 - cos) * grey + sin * turned) + (1 - share) * luma
        return turned_colours

    @property
    def _warps(self) -> bool:
        return any(BUILT_IN.get(r, NOTHING).warp for r in self.recipes)

    @property
    def _padded(self) -> tuple[int, int]:
        reach = self.kernels.shape[1] // 2
        return self.size[0] + 2 * reach, self.size[1] + 2 * reach


class _Albumentations:
    """A list of albumentations, of a plugin or of a file, with draws by key."""

    def __init__(self, name: str) -> None:
        a = _albumentations()
        self._compose = a.Compose(ADDED[name]() if name in ADDED else _of_file(Path(name.removeprefix(FILE))))
        self._steps = list(_walk(self._compose))

    def __call__(self, image: NDArray[np.uint8], key: int) -> NDArray[np.uint8]:
        """The image uint8 [H, W, 3] transformed by the draws of a key."""
        # a seed for each step: Compose.set_random_seed gives all of them the same one, and then the flip is only ever
        # drawn together with everything else
        seeds = np.random.SeedSequence(key).generate_state(len(self._steps))
        for step, seed in zip(self._steps, seeds.tolist(), strict=True):
            step.set_random_state(np.random.default_rng(seed), random.Random(seed))
        made: NDArray[np.uint8] = self._compose(image=image)["image"]
        return made

    def to_dict(self) -> dict[str, Any]:
        """The list with every value."""
        return dict(self._compose.to_dict())


def shown(recipe: str, seed: int, pixels: NDArray[np.uint8], rows: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Images uint8 [n, H, W, 3] of some table rows as the first epoch augments them."""
    made = Augmenter(AugmentConfig(recipe=recipe), Schema(()), (pixels.shape[1], pixels.shape[2]), seed)
    where = torch.from_numpy(rows)
    drawn = keys(seed, 1, where, torch.zeros_like(where), AUGMENT)
    made.apply_on_host(pixels, made.transforms(drawn, torch.zeros_like(where)), np.zeros_like(rows))
    return pixels


def by_class(config: AugmentConfig, schema: Schema, labels: NDArray[np.int64]) -> tuple[list[str], NDArray[np.int64]]:
    """The recipes that are in use, the one of all first, and the number of each image's recipe [n].

    Args:
        labels: joint labels [n].

    Raises:
        UsageError: a name that is no recipe, attribute or class; or a file of albumentations that cannot be used.
    """
    recipes, kinds = [_known(config.recipe)], np.zeros(len(labels), dtype=np.int64)
    if not config.classes:
        return recipes, kinds
    indices = np.array([schema.decode(k) for k in range(schema.num_classes)])
    for text in reversed(config.classes):  # the first one that fits an image counts
        named, colon, chosen = text.rpartition(":")
        name, equals, value = named.partition("=")
        if not (colon and equals):
            raise UsageError(f"augment.classes: '{text}' is not ATTRIBUTE=CLASS:RECIPE.", "Such as age=>=60:strong")
        if name not in ("joint", *schema.joint):
            raise _unknown("attribute", name, ["joint", *schema.joint])
        classes = [folded(c) for c in (schema.class_names if name == "joint" else schema[name].classes)]
        if folded(value) not in classes:
            raise _unknown(f"class of {name}", value, classes)
        which = classes.index(folded(value))
        meant = labels == which if name == "joint" else indices[labels, schema.joint.index(name)] == which
        if _known(chosen) not in recipes:
            recipes.append(chosen)
        kinds[meant & (labels >= 0)] = recipes.index(chosen)
    return recipes, kinds


def _known(name: str) -> str:
    if name not in RECIPES and not name.startswith(FILE):
        raise _unknown("recipe", name, RECIPES)
    return name


def _unknown(what: str, name: str, known: list[str]) -> UsageError:
    near = nearest(name, known)
    hint = f"Did you mean '{near[0]}'?" if near else f"There is {', '.join(known[:8])}."
    return UsageError(f"augment: there is no {what} '{name}'.", hint)


def _of_file(file: Path) -> list[Any]:
    """The albumentations of a YAML file: a list of ``Name: {argument: value}``.

    Raises:
        UsageError: it cannot be read, or names something that albumentations does not have or does not take.
    """
    import yaml

    a = _albumentations()
    try:
        steps = yaml.safe_load(file.read_text(encoding="utf-8"))
        made = []
        for step in steps:
            [(name, values)] = step.items() if isinstance(step, dict) else [(step, None)]
            kind = getattr(a, str(name), None)
            if not (isinstance(kind, type) and issubclass(kind, a.BasicTransform)):
                raise UsageError(f"{file}: albumentations has no transform '{name}'.")
            made.append(kind(**(values or {})))
        return made
    except (OSError, ValueError, TypeError, AttributeError, yaml.YAMLError) as error:
        raise UsageError(
            f"{file} is no list of albumentations: {str(error).splitlines()[0]}",
            "Write it like this, one line for each: - HorizontalFlip: {p: 0.5}",
        ) from error


def _displacements(what: Transforms, size: tuple[int, int]) -> Tensor:
    """Displacements of each pixel in x and y, float32 [n, 2, H, W]: smooth and random."""
    u = uniform(what.keys, 2 * CELLS * CELLS, first=COLUMNS).view(-1, 2, CELLS, CELLS)
    coarse = (u - 0.5) * (math.sqrt(12) * what.warp.view(-1, 1, 1, 1))
    return functional.interpolate(coarse, size, mode="bilinear", align_corners=True)


def _inside(box: Tensor, height: int, width: int) -> Tensor:
    """Which pixels lie in a box (top, bottom, left, right; int64 [n, 4]) of each image, bool [n, H, W, 1]."""
    ys = torch.arange(height, device=box.device).view(1, height, 1, 1)
    xs = torch.arange(width, device=box.device).view(1, 1, width, 1)
    top, bottom, left, right = (v.view(-1, 1, 1, 1) for v in box.unbind(1))
    return (ys >= top) & (ys < bottom) & (xs >= left) & (xs < right)


def _kernels() -> Tensor:
    """Blur kernels, float32 [15, 7, 7]: none, Gaussian of 3 and 5, and lines of 3, 5 and 7 in four directions."""
    bank = np.zeros((15, 7, 7), np.float32)
    bank[0, 3, 3] = 1
    for k, side in ((1, 3), (2, 5)):
        line = cv2.getGaussianKernel(side, 0)
        bank[k, 3 - side // 2 : 4 + side // 2, 3 - side // 2 : 4 + side // 2] = line @ line.T
    for k in range(12):
        side, (dy, dx) = 3 + 2 * (k // 4), ((0, 1), (1, 0), (1, 1), (1, -1))[k % 4]
        for step in range(-(side // 2), side // 2 + 1):
            bank[3 + k, 3 + dy * step, 3 + dx * step] = 1 / side
    return torch.from_numpy(bank)


def _colours() -> Tensor:
    """What colours are put together from, float32 [4, 3, 3]: themselves, their mean, a turn about it, their luma."""
    turn = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    luma = np.tile([0.299, 0.587, 0.114], (3, 1))
    return torch.from_numpy(np.stack([np.eye(3), np.full((3, 3), 1 / 3), turn, luma]).astype(np.float32))


def _beta_quantiles(alpha: float) -> Tensor:
    """Quantiles of Beta(alpha, alpha) at even distances, float32 [1025]."""
    from scipy.special import betaincinv

    return torch.from_numpy(betaincinv(alpha, alpha, np.linspace(0, 1, 1025)).astype(np.float32))


def _walk(step: Any) -> Iterator[Any]:
    """A step of a recipe and all steps within it."""
    yield step
    for inner in getattr(step, "transforms", ()):
        if hasattr(inner, "set_random_state"):  # ColorJitter keeps functions under that name
            yield from _walk(inner)


def _albumentations() -> Any:
    """albumentations without its question to the network whether there is a newer one."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    import albumentations

    return albumentations
