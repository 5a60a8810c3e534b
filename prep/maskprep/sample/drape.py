"""Where fabric hangs on a face: the frame of the face, outlines on landmarks, and depth as taut cloth spans it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

from maskprep.sample.fabrics import Style

State = Literal["worn", "nose", "chin"]
STATES: tuple[State, ...] = ("worn", "nose", "chin")

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

OVAL: tuple[int, ...] = (10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377)
OVAL += (152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109)


# Outlines: rows of (u, {landmark: weight}, dx, dy) for the left half of the picture, u from -1 (side) to 0 (middle).
# dx is outwards. The right half uses the mirrored landmarks.
_Anchor = tuple[float, dict[int, float], float, float]
_MIRROR = {
    234: 454, 93: 323, 132: 361, 58: 288, 172: 397, 136: 365, 150: 379, 149: 378, 176: 400, 148: 377, 127: 356,
    117: 346, 118: 347, 119: 348, 50: 280, 101: 330, 217: 437, 114: 343, 100: 329, 205: 425, 207: 427, 187: 411,
    165: 391, 92: 322, 214: 434, 192: 416, 170: 395, 135: 364, 194: 418, 32: 262, 169: 394, 123: 352, 147: 376,
    36: 266, 126: 355, 210: 430, 212: 432, 106: 335,
}  # fmt: skip

_TOP_WORN: tuple[_Anchor, ...] = (
    (-1.0, {234: 0.15, 93: 0.85}, -0.035, 0.0),
    (-0.66, {117: 0.15, 50: 0.85}, 0.0, -0.01),
    (-0.36, {119: 0.25, 101: 0.75}, 0.0, 0.0),
    (-0.15, {114: 0.5, 217: 0.5}, 0.0, 0.0),
    (0.0, {197: 0.7, 6: 0.3}, 0.0, 0.0),
)
_BOTTOM_WORN: tuple[_Anchor, ...] = (
    (-1.0, {58: 0.3, 172: 0.7}, 0.012, 0.0),
    (-0.66, {136: 0.3, 150: 0.7}, 0.025, 0.02),
    (-0.33, {176: 0.6, 148: 0.4}, 0.02, 0.032),
    (0.0, {152: 1.0}, 0.0, 0.035),
)
_TOP_CUP: tuple[_Anchor, ...] = (
    (-1.0, {123: 0.6, 147: 0.4}, 0.01, 0.0),
    (-0.66, {50: 0.7, 101: 0.3}, 0.0, -0.015),
    (-0.36, {101: 0.6, 100: 0.4}, 0.0, -0.01),
    (-0.15, {114: 0.5, 217: 0.5}, 0.0, -0.01),
    (0.0, {197: 0.6, 6: 0.4}, 0.0, 0.0),
)
_BOTTOM_CUP: tuple[_Anchor, ...] = (
    (-1.0, {192: 0.5, 135: 0.5}, 0.0, 0.0),
    (-0.66, {169: 0.8, 170: 0.2}, 0.02, 0.03),
    (-0.33, {149: 0.3, 176: 0.7}, 0.02, 0.025),
    (0.0, {152: 1.0}, 0.0, 0.03),
)
_TOP_NOSE: tuple[_Anchor, ...] = (
    (-1.0, {132: 0.85, 93: 0.15}, -0.03, 0.0),
    (-0.66, {187: 0.3, 207: 0.7}, 0.0, 0.0),
    (-0.33, {165: 0.5, 92: 0.5}, 0.02, 0.0),
    (0.0, {164: 0.45, 2: 0.55}, 0.0, 0.012),
)
_TOP_CHIN: tuple[_Anchor, ...] = (
    (-1.0, {172: 0.8, 136: 0.2}, 0.01, -0.02),
    (-0.66, {136: 0.2, 169: 0.8}, 0.0, 0.015),
    (-0.33, {170: 0.4, 32: 0.6}, 0.0, 0.005),
    (0.0, {200: 0.6, 199: 0.4}, 0.0, 0.0),
)
_BOTTOM_CHIN: tuple[_Anchor, ...] = (
    (-1.0, {172: 0.3, 136: 0.7}, 0.02, 0.03),
    (-0.66, {150: 0.6, 149: 0.4}, 0.01, 0.09),
    (-0.33, {176: 0.5, 148: 0.5}, 0.01, 0.12),
    (0.0, {152: 1.0}, 0.0, 0.135),
)


@dataclass(frozen=True)
class FaceFrame:
    """The face in its own frame: where it is in the photo and where each landmark lies on it.

    ``points`` [478, 3] are in units of the face's width ``scale`` (pixels); ``origin`` [3] and the rows of ``axes``
    [3, 3] lead back to pixels.
    """

    points: Floats
    origin: Floats
    axes: Floats
    scale: float

    def to_pixels(self, points: Floats) -> Floats:
        """Photo coordinates (x, y, nearness), pixels, of points [..., 3] in the frame of the face."""
        return np.asarray(self.origin + self.scale * (points @ self.axes), np.float32)

    def anchor(self, weights: dict[int, float]) -> Floats:
        """Weighted mean of landmarks, [3], in the frame of the face."""
        return np.asarray(sum(w * self.points[i] for i, w in weights.items()), np.float32)


def face_frame(landmarks: npt.NDArray[Any]) -> FaceFrame:
    """The frame of a face from its 478 landmarks [478, 3] in pixels (z as MediaPipe gives it, times the width)."""
    p = np.asarray(landmarks, np.float32).copy()
    p[:, 2] *= -1.0
    right = p[454] - p[234]
    scale = float(np.linalg.norm(right))
    ex = right / scale
    down = p[152] - p[10]
    down -= (down @ ex) * ex
    ey = down / np.linalg.norm(down)
    axes = np.stack([ex, ey, np.cross(ex, ey)]).astype(np.float32)
    origin = ((p[234] + p[454]) / 2).astype(np.float32)
    return FaceFrame(((p - origin) @ axes.T / scale).astype(np.float32), origin, axes, scale)


def _outline(frame: FaceFrame, half: tuple[_Anchor, ...], us: Floats) -> Floats:
    """An edge of the sheet [n, 2] at the given u, a smooth curve through its anchors."""
    knots: list[float] = []
    xy: list[tuple[float, float]] = []
    for u, weights, dx, dy in half:
        p = frame.anchor(weights)
        knots.append(u)
        xy.append((float(p[0]) - dx, float(p[1]) + dy))
    for u, weights, dx, dy in reversed(half):
        if u < 0:
            p = frame.anchor({_MIRROR[i]: weight for i, weight in weights.items()})
            knots.append(-u)
            xy.append((float(p[0]) + dx, float(p[1]) + dy))
    return _smooth_curve(np.array(knots, np.float32), np.array(xy, np.float32), us)


def _smooth_curve(knots: Floats, values: Floats, at: Floats) -> Floats:
    """Cubic Hermite curve through values [k, d] at increasing knots, with Catmull-Rom slopes; linear outside."""
    slopes = np.gradient(values, knots, axis=0).astype(np.float32)
    i = np.clip(np.searchsorted(knots, at) - 1, 0, len(knots) - 2)
    step = (knots[i + 1] - knots[i])[:, None].astype(np.float32)
    t = (at - knots[i])[:, None].astype(np.float32) / step
    c = np.clip(t, 0, 1)
    curve = (2 * c**3 - 3 * c**2 + 1) * values[i] + (-2 * c**3 + 3 * c**2) * values[i + 1]
    curve += step * (c**3 - 2 * c**2 + c + np.minimum(t, 0)) * slopes[i]
    curve += step * (c**3 - c**2 + np.maximum(t - 1, 0)) * slopes[i + 1]
    return np.asarray(curve, np.float32)


def drape(frame: FaceFrame, style: Style, state: State, rng: np.random.Generator) -> tuple[Floats, Floats, Floats]:
    """Points [m, n, 3] of the fabric in the frame of the face, and its u in -1..1 and v in 0..1 (a little beyond)."""
    us = np.linspace(-1.06, 1.06, 41, dtype=np.float32)
    vs = np.linspace(-0.05, 1.05, 25, dtype=np.float32)
    cup = style.kind == "cup"
    top = {"worn": _TOP_CUP if cup else _TOP_WORN, "nose": _TOP_NOSE, "chin": _TOP_CHIN}[state]
    bottom = _BOTTOM_CHIN if state == "chin" else _BOTTOM_CUP if cup else _BOTTOM_WORN
    upper, lower = _outline(frame, top, us), _outline(frame, bottom, us)
    lift, tilt = rng.normal(0, 0.008), rng.normal(0, 0.012)
    if state == "worn":
        upper[:, 1] += abs(lift) * 1.2 + tilt * us
    elif state == "nose":
        upper[:, 1] += max(0.0, lift) + tilt * us * np.abs(us)
        lower[:, 1] += (0.045 + abs(lift) * 2) * (1 - us**2)
    else:
        upper[:, 1] += lift * 0.7 + tilt * us
        lower[:, 1] += rng.uniform(-0.03, 0.05) * (1 - us**2) + tilt * us
    if style.kind in ("pitta", "kn95") and state != "chin":  # narrow at the sides
        pull = np.clip(np.abs(us) - 0.45, 0, None) ** 2 / 0.3
        lower[:, 1] -= (0.10 if style.kind == "kn95" else 0.14) * pull
    wobble = cv2.blur(rng.normal(0, 1, (2, len(us))).astype(np.float32), (7, 1))
    upper[:, 1] += wobble[0] * 0.006
    lower[:, 1] += wobble[1] * 0.007
    u, v = np.meshgrid(us, vs)
    xy = upper[None] * (1 - v[..., None]) + lower[None] * v[..., None]
    if state != "chin":  # the side edge follows the cheek instead of cutting straight across
        xy[..., 0] += np.sign(u) * 0.012 * np.sin(np.pi * np.clip(v, 0, 1)) * np.abs(u) ** 3
    z = _depth(frame, style, state, xy)
    if state == "chin":
        z = z + 0.085 * np.sin(np.pi * np.clip(v, 0, 1) ** 0.7) * (1 - 0.6 * u**2)
    if style.kind == "cup":
        z = z + 0.10 * np.sqrt(np.clip(1 - u**2, 0, 1)) * np.sin(np.pi * np.clip(v, 0, 0.9999)) ** 0.8
    if style.kind in ("kn95", "pitta"):
        ridge = 0.10 if style.kind == "kn95" else 0.05
        z = z + ridge * (1 - np.abs(u)) * np.sin(np.pi * np.clip(v * 0.8 + 0.12, 0, 1))
    coarse = np.dstack([xy, z + 0.012]).astype(np.float32)
    # Refined with smooth weights: resampling tables are too coarse for depth that light falls on.
    n = int(np.clip(frame.scale * 2.6, 220, 900))
    m = int(n * (0.45 if state == "chin" else 0.8))
    fine_u = np.linspace(us[0], us[-1], n, dtype=np.float32)
    fine_v = np.linspace(vs[0], vs[-1], m, dtype=np.float32)
    rows, columns = coarse.shape[:2]
    wide = _smooth_curve(us, coarse.transpose(1, 0, 2).reshape(columns, -1), fine_u)
    wide = wide.reshape(n, rows, 3).transpose(1, 0, 2).reshape(rows, -1)
    points = _smooth_curve(vs, wide, fine_v).reshape(m, n, 3)
    grid_u, grid_v = np.meshgrid(fine_u, fine_v)
    return points, grid_u, grid_v


def _depth(frame: FaceFrame, style: Style, state: State, xy: Floats) -> Floats:
    """Depth of taut fabric over the face at points [m, n, 2]: never behind the skin, hollows spanned."""
    side = 36
    xs = np.linspace(-0.68, 0.68, side, dtype=np.float32)
    ys = np.linspace(float(frame.points[10, 1]), float(frame.points[152, 1]) + 0.35, side, dtype=np.float32)
    gx, gy = np.meshgrid(xs, ys)
    p = frame.points[:468]
    far = (gx.ravel()[:, None] - p[None, :, 0]) ** 2 + (gy.ravel()[:, None] - p[None, :, 1]) ** 2
    nearest = far.min(1, keepdims=True)
    weight = np.exp(-(far - nearest) / (2 * 0.03**2))
    face = (weight @ p[:, 2] / weight.sum(1)).reshape(side, side)
    face -= 3.0 * np.clip(np.sqrt(nearest.reshape(side, side)) - 0.03, 0, None) ** 1.5
    if state != "worn":  # below the nose nothing hangs on the nose
        face = np.minimum(face, frame.points[[0, 17, 199], 2].max() + 0.01)
    rounds = {"surgical": 40, "cloth": 34, "kn95": 72, "cup": 72}.get(style.kind, 20)
    z = face.astype(np.float32)
    for _ in range(rounds):
        z = np.maximum(face, cv2.blur(z, (3, 3), borderType=cv2.BORDER_REPLICATE)).astype(np.float32)
    z = cv2.GaussianBlur(z, (0, 0), 1.0)
    x, y = np.clip(xy[..., 0].ravel(), xs[0], xs[-1]), np.clip(xy[..., 1].ravel(), ys[0], ys[-1])
    one = np.eye(side, dtype=np.float32)
    found = ((_smooth_curve(ys, one, y) @ z) * _smooth_curve(xs, one, x)).sum(1)
    return np.asarray(found.reshape(xy.shape[:2]), np.float32)


def normals(points: Floats) -> Floats:
    """Unit normals [m, n, 3] of a grid of points, towards the viewer (+z)."""
    ux, uy, uz = (cv2.Scharr(points[..., k], cv2.CV_32F, 1, 0) for k in range(3))
    vx, vy, vz = (cv2.Scharr(points[..., k], cv2.CV_32F, 0, 1) for k in range(3))
    nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
    length = np.maximum(cv2.sqrt(nx * nx + ny * ny + nz * nz), 1e-20)
    return np.dstack([nx / length, ny / length, nz / length])
