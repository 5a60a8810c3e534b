"""Laying a subject on another background, at the moment it is read; nothing is stored.

Arrays: pixels and backgrounds uint8 [H, W, 3] RGB, alpha uint8 [H, W]; a background may broadcast.

A matte alone would leave the old background shining through every soft edge (rembg #474), so the person's own colours
are estimated first.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from maskprep.base import BACKGROUNDS, Colour, UsageError
from maskprep.photos import Pixels

Floats = NDArray[np.float32]


SOLID = 128
"""From this value on a pixel counts as the person's."""

NOTHING_FOUND = ("low_contrast", "empty")
"""Statuses of mattes that found nobody: such a picture keeps its background whatever is asked for."""

GROUND_KEPT = (*NOTHING_FOUND, "full")
"""Statuses of mattes that remove nothing of the background."""

WORKING_SIDE = 512
"""Neighbourhood means are taken on a copy at most this large: they are blurs, and large photos stay quick."""

PURITY = 6
"""How much more a pixel counts for the colour of a layer the more of it that layer has."""

DRAW = {"photo": 0.45, "colour": 0.2, "noise": 0.15, "original": 0.2}
"""What ``random`` draws, and how often."""


class Crops(Protocol):
    """Where crops and their mattes are read from."""

    def gather_original(self, indices: Any, out: Pixels | None = None) -> Pixels:
        """uint8 [n, H, W, 3]."""

    def gather_alpha(self, indices: Any, out: Pixels | None = None) -> Pixels:
        """uint8 [n, H, W]."""

    def matte_statuses(self, indices: Any) -> list[str | None]:
        """Status of each matte, None without one."""


@dataclass(frozen=True)
class Background:
    """What is to lie behind the subjects of a view.

    Args:
        kind: one of BACKGROUNDS. ``mean`` is one colour too, that of the data set.
        colour: R, G, B for ``colour`` and ``mean``.
        seed: of the draws of ``random``.
        sources: rows of the table whose backgrounds ``random`` may borrow; none: only colours and noise.

    Raises:
        UsageError: an unknown kind.
    """

    kind: str = "original"
    colour: Colour = (128, 128, 128)
    seed: int = 0
    sources: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64), repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.kind not in BACKGROUNDS:
            raise UsageError(f"Unknown background '{self.kind}'.", f"Known: {', '.join(BACKGROUNDS)}.")

    def changes(self, epoch: int | None) -> bool:
        """Whether anything is done to a crop: ``random`` is for training: without an epoch, nothing."""
        return self.kind != "original" and (self.kind != "random" or epoch is not None)

    def lay(self, crops: Crops, pixels: Pixels, rows: NDArray[np.int64], epoch: int | None) -> None:
        """Give the crops of some table rows, uint8 [n, H, W, 3], their background, in place. Every draw is a function
        of (seed, epoch, row), whatever the order of work.

        Raises:
            UserError: a crop has no matte.
        """
        if not self.changes(epoch):
            return
        alphas = crops.gather_alpha(rows)
        for i, status in enumerate(crops.matte_statuses(rows)):
            if status not in NOTHING_FOUND:
                pixels[i] = self._behind(crops, pixels[i], alphas[i], int(rows[i]), epoch)

    def _behind(self, crops: Crops, pixels: Pixels, alpha: Pixels, row: int, epoch: int | None) -> Pixels:
        if self.kind == "blur":
            return place(pixels, alpha, blurred_ground(pixels, alpha))
        if self.kind != "random":
            return place(pixels, alpha, np.array(self.colour, np.uint8))
        assert epoch is not None  # or nothing would change
        random = np.random.default_rng([self.seed, epoch, row, 0x6261636B])
        kind = str(random.choice(list(DRAW), p=list(DRAW.values())))
        if kind == "original":
            return pixels
        if kind == "photo" and len(self.sources):
            other = [int(random.choice(self.sources))]
            status = crops.matte_statuses(other)[0]
            if status is not None and status not in NOTHING_FOUND:
                ground = empty_ground(crops.gather_original(other)[0], crops.gather_alpha(other)[0])
                return place(pixels, alpha, ground[:, ::-1] if random.random() < 0.5 else ground)
        if kind == "noise":
            return place(pixels, alpha, noise(alpha.shape, random))
        return place(pixels, alpha, random.integers(0, 256, 3).astype(np.uint8))


def over(person: Pixels, alpha: Pixels, ground: Pixels) -> Pixels:
    """The person's own colours on a background: person * alpha + ground * (1 - alpha), rounded exactly."""
    share = alpha.astype(np.uint16)[..., None]  # 255 * 255 + 127 is below 2**16
    total = person * share + ground * (255 - share) + 127
    return np.asarray(total // 255, np.uint8)


def place(pixels: Pixels, alpha: Pixels, ground: Pixels) -> Pixels:
    """A crop with another background and without a halo of its own; where alpha is 255 the very pixels of the crop."""
    return over(foreground(pixels, alpha), alpha, ground)


def cut_out(pixels: Pixels, alpha: Pixels) -> Pixels:
    """uint8 [H, W, 4]: the person's own colours, not multiplied by alpha; black where alpha is 0."""
    colours = np.where(alpha[..., None] > 0, foreground(pixels, alpha), 0)
    return np.dstack([colours, alpha]).astype(np.uint8)


def empty_ground(pixels: Pixels, alpha: Pixels) -> Pixels:
    """A crop's background without its person: the hole is filled with the colours around it."""
    weight = _away(alpha)
    filled = _near(pixels, weight, max(alpha.shape) / 40)
    return _bytes(pixels * weight[..., None] + filled * (1 - weight[..., None]))


def blurred_ground(pixels: Pixels, alpha: Pixels, strength: float = 0.06) -> Pixels:
    """A crop's background out of focus, without the person's colours bleeding into it; ``strength`` is the standard
    deviation of the blur, relative to the longer side."""
    return _bytes(_near(pixels, _away(alpha), strength * max(alpha.shape)))


def noise(size: tuple[int, ...], random: np.random.Generator) -> Pixels:
    """Coloured noise: coarse or fine grain about a random colour, uint8 [H, W, 3]."""
    import cv2

    grain = int(random.integers(1, 5))
    coarse = (max(1, size[0] >> grain), max(1, size[1] >> grain))
    spread = random.uniform(15, 70)
    values = random.normal(0, spread, (*coarse, 3)) + random.uniform(30, 225, 3)
    small = np.asarray(np.clip(values, 0, 255), np.uint8)
    return np.asarray(cv2.resize(small, (size[1], size[0]), interpolation=cv2.INTER_LINEAR), np.uint8)


def _away(alpha: Pixels) -> Floats:
    """How much a pixel is sure to be background: 0 on the person and close to the edge."""
    import cv2

    reach = max(3, round(max(alpha.shape) / 40)) | 1
    wide: Any = cv2.dilate(alpha, np.ones((reach, reach), np.uint8))
    return np.asarray(np.clip(1 - wide / 64, 0, 1), np.float32)


def _near(pixels: Pixels, weight: Floats, sigma: float) -> Floats:
    """Weighted mean of the pixels near by; where none of them counts, of those further and further away."""
    import cv2

    def means(values: Any, part: float) -> Floats:
        side = 2 * round(part * max(weight.shape)) + 1
        return np.asarray(cv2.blur(values, (side, side), borderType=cv2.BORDER_REFLECT), np.float32)

    values = pixels.astype(np.float32) * weight[..., None]
    total: Floats = np.asarray(cv2.GaussianBlur(values, (0, 0), sigma), np.float32)
    norm: Floats = np.asarray(cv2.GaussianBlur(weight, (0, 0), sigma), np.float32)
    for part, trust in ((0.08, 1e-3), (0.25, 1e-5), (1.0, 1e-7)):
        total = total + trust * means(values, part)
        norm = norm + trust * means(weight, part)
    empty = norm[..., None] < 1e-12  # no background anywhere
    return np.asarray(np.where(empty, 127.5, total / np.maximum(norm[..., None], 1e-12)), np.float32)


def _bytes(values: Any) -> Pixels:
    return np.asarray(np.rint(np.clip(values, 0, 255)), np.uint8)


def foreground(pixels: Pixels, alpha: Pixels) -> Pixels:
    """The person's own colours, also where they are mixed with the background, so that no halo of it remains.

    Blur fusion (Forte and Pitié, Approximate Fast Foreground Colour Estimation, 2021): the mean colour of the person
    and of the background near by, then corrected so that both together give the pixel seen; once widely, once narrowly.
    Pixels that are wholly the person's stay as they are.
    """
    import cv2

    soft = (alpha > 0) & (alpha < 255)
    if not soft.any() or not (alpha >= 128).any():
        return pixels.copy()
    height, width = alpha.shape
    scale = min(1.0, WORKING_SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small, share = pixels, alpha
    if scale < 1:
        small, share = (np.asarray(cv2.resize(v, size, interpolation=cv2.INTER_AREA)) for v in (pixels, alpha))
    colours: Floats = small.astype(np.float32)
    weight: Floats = np.asarray(share[..., None] / 255, np.float32)
    person, ground = colours, colours
    for reach in (0.4, 0.03):
        radius = max(1, round(reach * max(size) / 2))
        person, ground = _fuse(colours, weight, person, ground, (2 * radius + 1, 2 * radius + 1))
    if scale < 1:
        person, ground = (np.asarray(cv2.resize(v, (width, height))) for v in (person, ground))
    result = pixels.copy()
    part = alpha[soft].astype(np.float32)[:, None] / 255
    mixed = part * person[soft] + (1 - part) * ground[soft]
    exact = person[soft] + part * (pixels[soft] - mixed)
    result[soft] = np.rint(np.clip(exact, 0, 255)).astype(np.uint8)
    return result


def _fuse(seen: Floats, weight: Floats, person: Floats, ground: Floats, box: tuple[int, int]) -> tuple[Floats, Floats]:
    """One round: weighted means of both layers near by, then the least correction that explains the pixels seen."""
    import cv2

    def near(values: Floats, weights: Floats) -> Floats:
        total = cv2.blur(values * weights, box, borderType=cv2.BORDER_REFLECT)
        norm = cv2.blur(weights, box, borderType=cv2.BORDER_REFLECT)
        return np.asarray(total / np.maximum(norm.reshape(weights.shape), 1e-20), np.float32)

    # the power lets sure pixels speak for the mixed ones beside them
    mean_person, mean_ground = near(person, weight**PURITY), near(ground, (1 - weight) ** PURITY)
    error = seen - weight * mean_person - (1 - weight) * mean_ground
    return np.clip(mean_person + weight * error, 0, 255), np.clip(mean_ground + (1 - weight) * error, 0, 255)
