"""Face masks drawn on photos, from the keypoints that face detectors give.

A face has coordinates of its own: ``u`` from -1 (its side at the left of the photo) over 0 (nose) to 1, as on a
cylinder that is turned with the head, and ``y``, 0 at the eyes and 1 at the mouth. A mask lies between two curves y(u).
It is as bright as the blurred face below it, with folds that are lit from above.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from maskprep.photos import Pixels

Floats = NDArray[np.float32]
State = Literal["worn", "nose", "chin"]  # over nose and chin, below the nose, under the chin
Curve = tuple[tuple[float, ...], tuple[float, ...]]


@dataclass(frozen=True)
class Kind:
    """A kind of mask: cut, colour (sRGB 0..1), share of all masks, and the colour of its dots where it has some."""

    cut: Literal["surgical", "ffp2", "cloth"]
    color: tuple[float, float, float]
    share: float
    dots: tuple[float, float, float] | None = None


KINDS = {
    "surgical-blue": Kind("surgical", (0.62, 0.79, 0.88), 0.20),
    "surgical-white": Kind("surgical", (0.92, 0.93, 0.93), 0.16),
    "surgical-black": Kind("surgical", (0.13, 0.13, 0.14), 0.08),
    "ffp2-white": Kind("ffp2", (0.92, 0.92, 0.91), 0.20),
    "ffp2-black": Kind("ffp2", (0.16, 0.16, 0.17), 0.05),
    "cloth-black": Kind("cloth", (0.12, 0.12, 0.13), 0.08),
    "cloth-grey": Kind("cloth", (0.44, 0.46, 0.48), 0.06),
    "cloth-navy": Kind("cloth", (0.16, 0.20, 0.32), 0.05),
    "cloth-red": Kind("cloth", (0.47, 0.16, 0.19), 0.04),
    "cloth-green-dotted": Kind("cloth", (0.24, 0.36, 0.29), 0.08, (0.88, 0.87, 0.84)),
}

# Upper and lower edge: |u|, and y at it. The mask ends at the last u of the upper one.
_JAW: Curve = (0, 0.32, 0.62, 0.84, 0.92), (1.88, 1.81, 1.51, 1.16, 0.92)
_EDGES: dict[State, tuple[Curve, Curve]] = {
    "worn": (((0, 0.15, 0.36, 0.66, 0.92), (0.17, 0.27, 0.36, 0.43, 0.47)), _JAW),
    "nose": (((0, 0.33, 0.66, 0.9), (0.82, 0.84, 0.78, 0.72)), _JAW),
    "chin": (((0, 0.4, 0.62, 0.8), (1.52, 1.50, 1.40, 1.20)), ((0, 0.28, 0.54, 0.78), (2.07, 1.98, 1.73, 1.36))),
}


class Frame:
    """The coordinates of a face; lengths are in units of eyes to mouth.

    Args:
        points: right eye, left eye (of the person), nose tip, then the mouth or its two corners, [4 or 5, 2] in pixels.
    """

    def __init__(self, points: NDArray[Any]) -> None:
        self.eyes = np.mean(points[:2], axis=0)
        down = np.mean(points[3:], axis=0) - self.eyes
        self.unit = max(float(np.linalg.norm(down)), 1.0)
        self.down = down / self.unit
        self.right = np.array([self.down[1], -self.down[0]])
        # Fitted to landmarks of 60 portraits: sides and chin are off by 3 % of the width there (sd), at most by 12 %.
        between = float(np.clip(np.linalg.norm(points[1] - points[0]) / self.unit, 0.6, 1.5))
        turn = float((points[2] - self.eyes) @ self.right) / self.unit
        self.half = 0.12 + 0.93 * between
        self.chin = 1.135 + 0.643 * between
        self.width = 2 * self.half * self.unit  # of the face, pixels
        self.shift = float(np.clip(-1.63 * turn, -0.6 * self.half, 0.6 * self.half))
        self.yaw = float(np.arcsin(-self.shift / self.half))

    def pixels(self, u: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
        """Photo coordinates [n, 2] of points of the face [n]."""
        x = self.half * np.sin(np.clip(np.arcsin(u) + self.yaw, -np.pi / 2, np.pi / 2)) + self.shift
        return np.asarray(self.eyes + self.unit * (x[:, None] * self.right + y[:, None] * self.down))

    def coordinates(self, height: int, width: int) -> tuple[Floats, Floats]:
        """u and y [height, width] of every pixel of a photo."""
        grid = (np.dstack(np.meshgrid(np.arange(width), np.arange(height))) - self.eyes) / self.unit
        u = np.sin(np.arcsin(np.clip((grid @ self.right - self.shift) / self.half, -1, 1)) - self.yaw)
        return u.astype(np.float32), (grid @ self.down).astype(np.float32)


def draw_mask(photo: Pixels, face: NDArray[Any], kind: str, state: State = "worn", seed: int = 0) -> Pixels:
    """A copy of a photo with a mask drawn on one face.

    Args:
        photo: RGB, uint8 [H, W, 3].
        face: its keypoints, see :class:`Frame`.
        kind: one of KINDS.
        seed: of the folds and of how straight the mask sits.
    """
    reach, centre = Frame(face).width, np.asarray(face[2])
    low, high = np.maximum(centre - reach, 0).astype(int), np.maximum(centre + reach, 0).astype(int)
    part = np.s_[low[1] : high[1], low[0] : high[0]]
    drawn = photo.copy()
    if photo[part].size:
        drawn[part] = _draw(photo[part], Frame(face - low), KINDS[kind], state, np.random.default_rng(seed))
    return drawn


def _draw(photo: Pixels, face: Frame, kind: Kind, state: State, rng: np.random.Generator) -> Pixels:
    size, unit = photo.shape[:2], face.unit
    u, y = face.coordinates(*size)
    skin = (np.abs(u) < 0.97) & (((y - 0.5) / 1.3) ** 2 + u**2 < 1)
    neck = (np.abs(u) < 0.6) & (y > 1) & (y < 3)
    light = ((photo / np.float32(255)) ** 2.2).astype(np.float32)  # linear
    white = _white(light, skin if skin.any() else ~skin, unit)
    edges = side, top, bottom = _edges(face, state, rng)
    outline = face.pixels(np.concatenate([side, side[::-1]]), np.concatenate([top, bottom[::-1]]))
    cover = cv2.fillPoly(np.zeros(size, np.uint8), [np.round(outline * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    alpha = _blur(cover / 255, max(0.6, 0.012 * unit))
    loops = _loops(face, edges, photo, skin)
    shadow = _blur(np.roll(np.maximum(alpha, 0.4 * loops), round(0.05 * unit), axis=0), 0.07 * unit)
    behind = light * (1 - 0.5 * (shadow * _blur(skin | neck, 0.04 * unit))[..., None])
    strap = np.array(kind.color if max(kind.color) < 0.3 else (0.93, 0.93, 0.92), np.float32) ** 2.2
    behind += loops[..., None] * (0.85 * strap * white - behind)
    v = np.float32((y - np.interp(u, side, top)) / (np.interp(u, side, bottom) - np.interp(u, side, top)))
    color, relief = _fabric(kind, state, u, np.asarray(v), rng)
    relief = _blur(relief * (unit / 8), 0.012 * unit)
    facing = 1 - 0.15 * cv2.Sobel(relief, -1, 1, 0) + 0.55 * cv2.Sobel(relief, -1, 0, 1)
    rim = np.clip(_blur(alpha, 0.07 * unit) * 2 - 1, 0, 1)  # the fabric turns away at its edge
    lit = color * white * (np.clip(facing, 0.35, 1.3) * (0.72 + 0.28 * rim))[..., None]
    front = np.clip(lit, 0, 1) ** (1 / 2.2) * 255 + 2.5 * _blur(rng.normal(0, 1, size), 0.6)[..., None]
    back = np.clip(behind, 0, 1) ** (1 / 2.2) * 255
    return np.asarray(np.clip(back + alpha[..., None] * (front - back) + 0.5, 0, 255), np.uint8)


def _edges(face: Frame, state: State, rng: np.random.Generator) -> NDArray[Any]:
    """u, and y of the upper and the lower edge at it, [3, n]: smooth, a little crooked."""
    end = _EDGES[state][0][0][-1]
    side = np.linspace(-end, end, 121)
    tilt, drop = rng.normal(0, 0.025), abs(rng.normal(0, 0.03))
    top, bottom = (np.interp(np.abs(side), *curve) for curve in _EDGES[state])
    edges = np.stack([top, bottom])
    edges = np.where(edges > 1, 1 + (edges - 1) * (face.chin - 1) / 0.78, edges) + tilt * side + drop
    return np.vstack([side, cv2.blur(edges, (13, 1), borderType=cv2.BORDER_REPLICATE)])


def _fabric(kind: Kind, state: State, u: Floats, v: Floats, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Linear colour [h, w, 3] and height towards the viewer [h, w] at u and v, which is 0 at the top and 1 below."""

    def line(distance: Floats, width: float = 0.012) -> Floats:
        return np.asarray(np.exp(-((distance / np.float32(width)) ** 2)))

    noise = cv2.resize(rng.normal(0, 0.02, (7, 9)).astype(np.float32), (256, 256), interpolation=cv2.INTER_CUBIC)
    relief = cv2.remap(noise, (u + 1) * 127, v * 255, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    if state == "worn":
        relief += 0.16 * line(u, 0.22) * line(v - np.float32(0.28), 0.25)  # the nose
    seams = line(np.minimum(v, 1 - v) - np.float32(0.06))
    if kind.cut == "surgical":
        for fold in (0.3, 0.48, 0.66):
            below = v - np.float32(fold) - np.float32(0.03) * u**2
            relief += 0.035 * np.clip(1 - np.abs(below) / 0.09, 0, 1) * (below > 0)
            seams += 1.5 * line(below)
    else:
        bulge = 0.55 * (1 - np.sqrt(u**2 + 0.003)) if kind.cut == "ffp2" else 0.14 * (1 - u**2)
        relief += bulge * np.sin(np.pi * np.clip(v, 0, 1))
        seams += line(u)
    dots = np.clip(6 * np.cos(np.pi * 9 * u) * np.cos(np.pi * 7 * v) - 2, 0, 1)[..., None]
    base, print_ = (np.array(color, np.float32) ** 2.2 for color in (kind.color, kind.dots or kind.color))
    return (base + dots * (print_ - base)) * (1 - 0.1 * seams)[..., None], relief


def _white(light: Floats, skin: NDArray[np.bool_], unit: float) -> NDArray[Any]:
    """What white would look like in the light on a face, linear [h, w, 3]."""
    brightness = cv2.cvtColor(light, cv2.COLOR_RGB2GRAY)
    middle = max(float(np.median(brightness[skin])), 1e-3)
    held = np.clip(brightness / middle, 0.35, 1.8)  # neither hair nor highlights
    shade = np.clip((_blur(held * skin, 0.35 * unit) + 1e-3) / (_blur(skin, 0.35 * unit) + 1e-3), 0.5, 1.3)
    # Dark skin and dim light look alike: half of the answer comes from the brightest things in the photo.
    bright = float(np.percentile(brightness, 96))
    level = 0.95 * float(np.clip(middle / 0.33, 0.5, 1.15) * np.clip(bright / 0.75, 0.4, 1.15)) ** 0.5
    tint = np.maximum(light.mean((0, 1)), 1e-3)
    return np.asarray(level * shade[..., None] * (tint / tint.mean()) ** 0.2)


def _loops(face: Frame, edges: NDArray[Any], photo: Pixels, skin: NDArray[np.bool_]) -> Floats:
    """Coverage [h, w] of the ear loops: from the corners of the mask to the ears, where no hair hides them."""
    cover = np.zeros(skin.shape, np.uint8)
    for sign, side, top, bottom in ((-1, *edges[:, 0]), (1, *edges[:, -1])):
        low = 0.1 * top + 0.9 * bottom
        for corner, ear in ((top + 0.04, 0.22), (low, max(0.75, low - 0.4))):
            points = face.pixels(np.array([side, sign]), np.array([corner, ear]))
            points[1] += 0.06 * face.unit * sign * face.right
            if sign * face.yaw > -0.35:  # not turned away
                line = np.round(points * 16).astype(np.int32)
                cv2.polylines(cover, [line], False, 255, max(1, round(0.035 * face.unit)), cv2.LINE_AA, 4)
    lab = _blur(cv2.cvtColor(photo, cv2.COLOR_RGB2LAB), 1)
    usual = np.median(lab[skin if skin.any() else ~skin], axis=0)
    likeness = np.exp(-(((lab - usual) / [40, 9, 10]) ** 2).sum(2))
    return np.asarray(_blur(cover / 255, 0.5) * np.maximum(likeness, 0.85 * skin), np.float32)


def _blur(plane: NDArray[Any], sigma: float) -> Floats:
    return np.asarray(cv2.GaussianBlur(np.float32(plane), (0, 0), max(sigma, 0.3)))
