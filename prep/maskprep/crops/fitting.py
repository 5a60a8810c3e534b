"""A crop that reaches beyond its photo is brought into it: moved first, then shrunk, before a pixel is invented.

The rule, for a crop around a face with its margin (``border: inside``):

1. A crop that lies in the photo stays as it is.
2. Else it is moved, no farther than needed; the face is then no longer in its middle.
3. A crop larger than the photo is shrunk, in its own shape, until it fits. It goes on holding the whole face: of a box
   that reaches beyond the photo, the part that was photographed.
4. Where even the face alone does not fit, as a tall face that fills a narrow photo does not fit a square, something has
   to give. At most INVENTED of the crop is invented; for that the crop may lose up to ``1 - CORE`` of the face, from
   the forehead first. Eyes, nose and mouth stay in it. Where that is not enough, more is invented.

Nothing is ever distorted. A turned crop (``align``) obeys the same rule. Around a face at the photo's edge its corners
cannot all lie inside: rather than lose its margin, it may leave CORNERS of itself outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from maskprep.base import Box

INVENTED = 0.07
"""At most this share of a crop is invented as long as the face can be shown from the brows to the chin."""

CORNERS = 0.01
"""At most this share of a turned crop is invented to keep the margin of a face at the photo's edge."""

CORE = 0.7
"""This share of a face's box, in height, holds brows, eyes, nose, mouth and chin."""

LOWER = 0.08
"""So far below the middle of a face's box lies the middle of eyes and mouth, relative to the box's height."""

STEPS = 24
"""Halvings of an interval of scales, to less than a hundredth of a pixel."""

ROUNDING = 1e-9
"""Pixels by which a crop may reach beyond the photo and still count as inside."""

NOTHING = 1e-8
"""A share of a crop below this is rounding."""

Outline = list[tuple[float, float]]
"""Corners of a convex polygon, in order."""


@dataclass(frozen=True)
class Region:
    """A turned rectangle of a photo: middle and sides in its pixels, and the clockwise angle in radians."""

    cx: float
    cy: float
    width: float
    height: float
    angle: float

    @property
    def reach(self) -> tuple[float, float]:
        """Half the width and height of the upright rectangle around it."""
        cos, sin = abs(math.cos(self.angle)), abs(math.sin(self.angle))
        return (self.width * cos + self.height * sin) / 2, (self.width * sin + self.height * cos) / 2


def is_inside(region: Region, photo: tuple[int, int]) -> bool:
    """Whether all of a region lies in a photo of this height and width."""
    x, y = region.reach
    free = min(region.cx - x, region.cy - y, photo[1] - region.cx - x, photo[0] - region.cy - y)
    return free >= -ROUNDING


def move_inside(region: Region, photo: tuple[int, int], face: Box) -> Region:
    """Move, then shrink a region into its photo, by the rule of this module.

    Args:
        region: what the crop was to show; turned and shaped as the crop is.
        photo: height and width.
        face: x0, y0, x1, y1 in the photo's pixels.
    """
    height, width = float(photo[0]), float(photo[1])
    x0, x1 = (min(max(v, 0.0), width) for v in (face[0], face[2]))
    y0, y1 = (min(max(v, 0.0), height) for v in (face[1], face[3]))
    middle, half = ((x0 + x1) / 2, (y0 + y1) / 2), (abs(x1 - x0) / 2, abs(y1 - y0) / 2)
    cos, sin = math.cos(region.angle), math.sin(region.angle)
    # of a turned face the ellipse in its box counts: the corners of the box are no face
    across, along = math.hypot(half[0] * cos, half[1] * sin), math.hypot(half[0] * sin, half[1] * cos)
    whole = min(1.0, max(2 * across / region.width, 2 * along / region.height))

    def placed(factor: float) -> Region:
        """At a scale: as near to the region's middle as the photo and then the face allow."""
        own = replace(region, width=region.width * factor, height=region.height * factor)
        x, y = own.reach
        cx = min(max(own.cx, x), width - x) if 2 * x <= width else width / 2
        cy = min(max(own.cy, y), height - y) if 2 * y <= height else height / 2
        dx, dy = middle[0] - cx, middle[1] - cy
        right = _pull(dx * cos + dy * sin, own.width / 2 - across, 0.0)
        down = _pull(dy * cos - dx * sin, own.height / 2 - along, LOWER * 2 * along)
        return replace(own, cx=cx + right * cos - down * sin, cy=cy + right * sin + down * cos)

    fits = min(1.0, width / (2 * region.reach[0]), height / (2 * region.reach[1]))
    if fits >= whole and is_inside(there := placed(fits), photo):
        return there
    if fits >= whole and outside(placed(whole), photo) <= CORNERS:  # turned, with the face at the photo's edge
        return placed(_largest(lambda s: outside(placed(s), photo) <= CORNERS, whole, fits))
    if outside(placed(whole), photo) <= INVENTED:
        return placed(whole)
    least = CORE * whole
    if outside(placed(least), photo) > INVENTED:
        return placed(least)
    return placed(_largest(lambda s: outside(placed(s), photo) <= INVENTED, least, whole))


def outside(region: Region, photo: tuple[int, int]) -> float:
    """Share of a region that lies outside a photo of this height and width, 0..1."""
    cos, sin = math.cos(region.angle), math.sin(region.angle)
    outline = []
    for x, y in ((0, 0), (photo[1], 0), (photo[1], photo[0]), (0, photo[0])):
        dx, dy = x - region.cx, y - region.cy
        outline.append((dx * cos + dy * sin + region.width / 2, dy * cos - dx * sin + region.height / 2))
    return share_outside(outline, region.width, region.height)


def share_outside(outline: Outline, width: float, height: float) -> float:
    """Share of the rectangle from (0, 0) to (width, height) that lies outside a convex polygon, 0..1. Exact."""
    for axis, limit in ((0, width), (1, height)):
        outline = _clip(_clip(outline, axis, 0.0, 1.0), axis, limit, -1.0)
    pairs = zip(outline, outline[1:] + outline[:1], strict=True)
    shown = abs(sum(a[0] * b[1] - b[0] * a[1] for a, b in pairs)) / 2
    share = 1 - shown / (width * height)
    return 0.0 if share < NOTHING else share


def _clip(outline: Outline, axis: int, limit: float, sign: float) -> Outline:
    """The part of a convex polygon on one side of a line (Sutherland and Hodgman 1974)."""
    kept: Outline = []
    for before, here in zip(outline[-1:] + outline[:-1], outline, strict=True):
        a, b = sign * (before[axis] - limit), sign * (here[axis] - limit)
        if (a < 0) != (b < 0):
            share = a / (a - b)
            kept.append((before[0] + share * (here[0] - before[0]), before[1] + share * (here[1] - before[1])))
        if b >= 0:
            kept.append(here)
    return kept


def _pull(distance: float, free: float, lower: float) -> float:
    """How far a region must move along one of its axes to hold a face: ``distance`` is from its middle to the face's,
    ``free`` by how much half the region exceeds half the face; where it does not, it looks ``lower`` than the middle.
    """
    if free < 0:
        return distance + min(lower, -free)
    return distance - min(max(distance, -free), free)


def _largest(holds: Callable[[float], bool], low: float, high: float) -> float:
    """The largest scale of an interval for which something holds, given that it holds at ``low``."""
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low
