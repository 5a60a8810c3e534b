"""What drawn masks are made of: kinds, colours, pleats, seams, prints and creases, as flat textures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np
import numpy.typing as npt

Kind = Literal["surgical", "cloth", "kn95", "cup", "pitta"]
Pattern = Literal["plain", "stripes", "dots", "check", "print"]
Color = tuple[float, float, float]

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Style:
    """One make of mask. Colours are sRGB 0..1; ``loop_width`` is in widths of the face."""

    kind: Kind
    color: Color
    pattern: Pattern = "plain"
    accent: Color = (0.9, 0.9, 0.9)
    loop: Color = (0.93, 0.93, 0.92)
    loop_width: float = 0.016
    valve: bool = False
    pleated: bool = True

    @property
    def name(self) -> str:
        """Short name for tables, such as ``surgical`` or ``cloth-dots``."""
        return self.kind if self.pattern == "plain" else f"{self.kind}-{self.pattern}"

    @property
    def sheen(self) -> float:
        """Share of light thrown back as from a mirror, whatever the colour."""
        return {"surgical": 0.035, "cloth": 0.015, "kn95": 0.02, "cup": 0.01, "pitta": 0.03}[self.kind]


@dataclass(frozen=True)
class Fabric:
    """A flat piece of mask on the grid of the sheet: linear colour [m, n, 3], coverage, relief and occlusion [m, n]."""

    albedo: Floats
    alpha: Floats
    height: Floats
    occlusion: Floats


_SURGICAL: tuple[tuple[Color, float], ...] = (
    ((0.62, 0.79, 0.88), 0.38),
    ((0.92, 0.93, 0.93), 0.24),
    ((0.13, 0.13, 0.14), 0.2),
    ((0.93, 0.76, 0.80), 0.1),
    ((0.66, 0.84, 0.79), 0.08),
)
_CLOTH: tuple[tuple[Color, Color], ...] = (
    ((0.16, 0.20, 0.32), (0.86, 0.86, 0.84)),
    ((0.47, 0.16, 0.19), (0.90, 0.85, 0.78)),
    ((0.42, 0.44, 0.46), (0.17, 0.18, 0.20)),
    ((0.78, 0.73, 0.64), (0.42, 0.30, 0.24)),
    ((0.24, 0.36, 0.29), (0.82, 0.80, 0.66)),
    ((0.86, 0.86, 0.84), (0.27, 0.38, 0.56)),
    ((0.55, 0.62, 0.72), (0.90, 0.90, 0.90)),
    ((0.12, 0.12, 0.13), (0.60, 0.60, 0.60)),
)
_PITTA: tuple[Color, ...] = ((0.22, 0.23, 0.25), (0.11, 0.11, 0.12), (0.72, 0.67, 0.61), (0.80, 0.66, 0.68))


def pick_style(rng: np.random.Generator) -> Style:
    """A mask as one meets them: mostly surgical, then cloth, folded and cup respirators."""
    kind: Kind = rng.choice(["surgical", "cloth", "kn95", "cup", "pitta"], p=[0.42, 0.24, 0.17, 0.08, 0.09])
    if kind == "surgical":
        color = _SURGICAL[int(rng.choice(len(_SURGICAL), p=[p for _, p in _SURGICAL]))][0]
        dark = max(color) < 0.3
        return Style(kind, _vary(color, rng), loop=(0.16, 0.16, 0.17) if dark else (0.94, 0.94, 0.93))
    if kind == "cloth":
        base, accent = _CLOTH[int(rng.integers(len(_CLOTH)))]
        pattern: Pattern = rng.choice(["plain", "stripes", "dots", "check", "print"], p=[0.4, 0.13, 0.14, 0.18, 0.15])
        loop = (0.15, 0.15, 0.16) if sum(base) < 1.2 else (0.92, 0.92, 0.9)
        return Style(kind, _vary(base, rng), pattern, accent, loop, 0.018, pleated=bool(rng.random() < 0.45))
    if kind == "kn95":
        color = (0.16, 0.16, 0.17) if rng.random() < 0.22 else (0.92, 0.92, 0.91)
        return Style(kind, color, loop=color if sum(color) < 1 else (0.94, 0.94, 0.93), valve=bool(rng.random() < 0.15))
    if kind == "cup":
        strap: Color = (0.87, 0.72, 0.36) if rng.random() < 0.5 else (0.9, 0.9, 0.9)
        return Style(kind, (0.90, 0.90, 0.88), loop=strap, loop_width=0.026, valve=bool(rng.random() < 0.5))
    color = _vary(_PITTA[int(rng.integers(len(_PITTA)))], rng)
    return Style("pitta", color, loop=color, loop_width=0.03)


def _vary(color: Color, rng: np.random.Generator) -> Color:
    r, g, b = np.clip(np.array(color) * rng.uniform(0.94, 1.05) + rng.normal(0, 0.01, 3), 0.03, 0.96)
    return float(r), float(g), float(b)


def draw_fabric(style: Style, state: str, u: Floats, v: Floats, rng: np.random.Generator) -> Fabric:
    """The fabric at u in -1..1 (side to side) and v in 0..1 (top to bottom), each [m, n]; transparent outside."""
    m, n = u.shape
    bunched = 1.8 if state == "chin" else 1.0
    albedo = np.broadcast_to(_linear(style.color), (m, n, 3)).copy()
    height = cv2.resize(_creases(u[::3, ::3], v[::3, ::3], rng), (n, m), interpolation=cv2.INTER_CUBIC)
    height *= {"surgical": 1.0, "cloth": 0.9, "kn95": 0.4, "cup": 0.12, "pitta": 0.45}[style.kind]
    height *= bunched
    occlusion = np.ones_like(u)
    if style.pattern != "plain":
        albedo = _print(style, albedo, u, v, rng)
    if style.kind == "surgical" or (style.kind == "cloth" and style.pleated):
        relief, dark = _pleats(u, v, 3 if style.kind == "surgical" else 2, 1.0 if state == "worn" else 1.4, rng)
        height, occlusion = height + relief, occlusion * dark
    elif style.kind in ("cloth", "kn95", "pitta"):
        seam = np.exp(-((u / 0.014) ** 2))
        height = height + (0.004 if style.kind == "kn95" else -0.004) * seam
        occlusion = occlusion * (1 - (0.10 if style.kind == "kn95" else 0.3) * np.exp(-((u / 0.010) ** 2)))
    if style.kind in ("surgical", "kn95"):
        wire = _band(v, 0.05, 0.085) * np.clip(1.25 - np.abs(u) / 0.26, 0, 1).clip(0, 0.25) * 4
        height = height + 0.0045 * cv2.GaussianBlur(wire.astype(np.float32), (0, 0), n / 260)
    if style.kind == "kn95":
        weld = _band(np.abs(u), 0.86, 0.90) + _band(v, 0.93, 0.95) * (np.abs(u) < 0.9)
        dotted = weld * (np.sin(v * 170) > -0.2) * (np.sin(u * 190) > -0.2)
        occlusion = occlusion * (1 - 0.16 * np.clip(dotted, 0, 1))
    height, occlusion, albedo = _edges(style, height, occlusion, albedo, u, v)
    if style.kind == "cup":
        occlusion = occlusion * (1 - 0.07 * np.exp(-((((np.hypot(u, (v - 0.5) * 2)) - 0.86) / 0.03) ** 2)))
    if style.valve:
        albedo, height, occlusion = _valve(style, albedo, height, occlusion, u, v)
    albedo = albedo * _weave(style, m, n, rng)[..., None]
    return Fabric(
        np.clip(albedo, 0, 1).astype(np.float32),
        _coverage(style, u, v, n),
        height.astype(np.float32),
        (occlusion * _edge_darkening(u, v)).astype(np.float32),
    )


def _linear(color: Color) -> Floats:
    return (np.array(color, np.float32) ** 2.2).astype(np.float32)


def _band(x: Floats, low: float, high: float) -> Floats:
    """1 between low and high, with edges soft over a fifth of the width."""
    soft = (high - low) / 5
    return np.asarray(np.clip((x - low) / soft + 0.5, 0, 1) * np.clip((high - x) / soft + 0.5, 0, 1), np.float32)


def _smooth_noise(shape: tuple[int, int], sx: float, sy: float, rng: np.random.Generator) -> Floats:
    """Gaussian noise of unit variance, blurred to the given widths (texels); computed small and scaled up."""
    step = max(1, int(min(sx, sy) / 3))
    small = (max(4, -(-shape[0] // step)), max(4, -(-shape[1] // step)))
    noise = cv2.GaussianBlur(rng.normal(0, 1, small).astype(np.float32), (0, 0), sx / step, sigmaY=sy / step)
    noise = cv2.resize(noise, (shape[1], shape[0]), interpolation=cv2.INTER_CUBIC)
    return np.asarray((noise - noise.mean()) / max(float(noise.std()), 1e-6), np.float32)


def _creases(u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    """Relief of soft folds: some across, and some running in from the corners where the loops pull."""
    m, n = u.shape
    relief = 0.0032 * _smooth_noise((m, n), n / 10, m / 18, rng) + 0.005 * _smooth_noise((m, n), n / 6, m / 6, rng)
    for su in (-1, 1):
        for cv_ in (0.05, 0.95):
            du, dv = (1 - su * u) * 1.2, v - cv_
            angle = np.arctan2(dv, du + 0.05)
            phase, count = rng.uniform(0, 6.28), rng.uniform(6, 9)
            near = np.exp(-((np.hypot(du, dv) / 0.42) ** 2)) * np.clip(np.hypot(du, dv) / 0.12, 0, 1)
            relief = relief + 0.0042 * near * np.sin(angle * count + phase)
    return np.asarray(relief, np.float32)


def _pleats(u: Floats, v: Floats, count: int, depth: float, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Relief and darkening of folds from side to side: each steps out below its line, deeper towards the sides."""
    relief: npt.NDArray[Any] = np.zeros_like(u)
    dark: npt.NDArray[Any] = np.ones_like(u)
    first, last = 0.27, 0.74
    for k in range(count):
        at = first + (last - first) * (k / max(1, count - 1)) + rng.normal(0, 0.008)
        bow = rng.normal(0.012, 0.008) * (1 - u**2) + rng.normal(0, 0.006) * u
        d = v - at - bow
        side = 0.55 + 0.75 * np.abs(u) ** 2
        lip = np.exp(np.where(d < 0, d / 0.05, -d / 0.006))
        relief = relief + 0.010 * depth * side * lip
        line = np.exp(-((np.clip(d, 0, None) / 0.013) ** 2)) * (d > -0.004)
        dark = dark * (1 - 0.20 * depth * side * line)
    soft = cv2.GaussianBlur(relief.astype(np.float32), (0, 0), 1.0)
    return np.asarray(soft, np.float32), np.clip(dark, 0.4, 1).astype(np.float32)


def _edges(
    style: Style, height: Floats, occlusion: Floats, albedo: Floats, u: Floats, v: Floats
) -> tuple[Floats, Floats, Floats]:
    """Bound or welded rims: a raised border with a stitched or pressed line inside it."""
    inside = np.minimum(np.minimum(v, 1 - v), (1 - np.abs(u)) * 0.9)
    rim = {"surgical": 0.038, "cloth": 0.03, "kn95": 0.03, "cup": 0.045, "pitta": 0.016}[style.kind]
    line = np.exp(-(((inside - rim) / 0.006) ** 2))
    strength = {"surgical": 0.10, "cloth": 0.20, "kn95": 0.10, "cup": 0.12, "pitta": 0.05}[style.kind]
    stitch = line * (0.55 + 0.45 * np.sign(np.sin(u * 120) * np.sin(v * 90 + 0.7))) if style.kind == "cloth" else line
    height = height - 0.003 * line + 0.002 * (inside < rim)
    occlusion = occlusion * (1 - strength * stitch)
    if style.kind == "surgical":  # the hem is a second layer: a touch lighter
        albedo = albedo * (1 + 0.05 * (inside < rim))[..., None]
    return height.astype(np.float32), occlusion.astype(np.float32), albedo.astype(np.float32)


def _edge_darkening(u: Floats, v: Floats) -> Floats:
    """Fabric turns away at the rim and lies in the shade under the chin."""
    inside = np.minimum(np.clip(v, 0, 1), (1 - np.abs(u)).clip(0, 1))
    rim = 1 - 0.16 * np.exp(-inside / 0.018)
    low = 1 - 0.22 * np.clip((v - 0.72) / 0.28, 0, 1) ** 1.5
    return np.asarray(rim * low, np.float32)


def _weave(style: Style, m: int, n: int, rng: np.random.Generator) -> Floats:
    """Fine unevenness of the material, about 1."""
    fine = rng.normal(0, 1, (m, n)).astype(np.float32)
    amount = {"surgical": 0.05, "cloth": 0.09, "kn95": 0.05, "cup": 0.10, "pitta": 0.04}[style.kind]
    if style.kind == "cloth":  # threads run along and across
        fine = cv2.GaussianBlur(fine, (0, 0), 3, sigmaY=0.6) + cv2.GaussianBlur(fine[::-1], (0, 0), 0.6, sigmaY=3)
    fine = cv2.GaussianBlur(fine, (0, 0), 1.0)
    patches = _smooth_noise((m, n), n / 22, n / 22, rng)
    return np.asarray(1 + amount * fine / max(float(fine.std()), 1e-6) * 0.6 + 0.015 * patches, np.float32)


def _print(style: Style, albedo: Floats, u: Floats, v: Floats, rng: np.random.Generator) -> Floats:
    """A printed or woven pattern in the accent colour."""
    x, y = u * 0.82, v  # about square on the face
    size = float(rng.uniform(0.07, 0.12))
    accent = _linear(style.accent)
    share: npt.NDArray[Any]
    if style.pattern == "stripes":
        along = y if rng.random() < 0.6 else x
        share = _soft_step(np.sin(along * 2 * np.pi / size), 0.35) * 0.9
    elif style.pattern == "dots":
        row = np.floor(y / size)
        dx = (x / size + 0.5 * (row % 2)) % 1 - 0.5
        share = _soft_step(0.26 - np.hypot(dx, y / size % 1 - 0.5), 0.06)
    elif style.pattern == "check":
        bars = [_soft_step(np.sin(t * 2 * np.pi / (size * 1.2)), 0.3) for t in (x, y)]
        share = 0.5 * bars[0] + 0.5 * bars[1]
    else:  # a scattered print: leaf-like blobs
        m, n = u.shape
        a, b = _smooth_noise((m, n), n / 34, n / 60, rng), _smooth_noise((m, n), n / 60, n / 34, rng)
        share = np.maximum(_soft_step(a - 0.9, 0.2), _soft_step(b - 0.9, 0.2))
    return np.asarray(albedo * (1 - share[..., None]) + accent * share[..., None], np.float32)


def _soft_step(x: npt.NDArray[Any], width: float) -> npt.NDArray[Any]:
    return np.clip(x / width + 0.5, 0, 1)


def _valve(
    style: Style, albedo: Floats, height: Floats, occlusion: Floats, u: Floats, v: Floats
) -> tuple[Floats, Floats, Floats]:
    """A round breathing valve, in the middle of a cup and beside the ridge of a folded mask."""
    cx, cy, r = (0.0, 0.5, 0.15) if style.kind == "cup" else (0.4, 0.5, 0.14)
    d = np.hypot((u - cx) * 0.82, v - cy) / r
    body = _soft_step(1 - d, 0.08)
    slots = body * _soft_step(np.sin((v - cy) / r * 13), 0.5) * (d < 0.68)
    height = height + 0.03 * _soft_step(1 - d, 0.35) - 0.006 * slots
    occlusion = occlusion * (1 - 0.28 * np.exp(-(((d - 1.03) / 0.07) ** 2))) * (1 - 0.22 * slots)
    plastic = np.array([0.72, 0.73, 0.74], np.float32) if sum(style.color) > 1 else np.array([0.03, 0.03, 0.03])
    albedo = albedo * (1 - body[..., None]) + plastic * body[..., None]
    return albedo.astype(np.float32), height.astype(np.float32), occlusion.astype(np.float32)


def _coverage(style: Style, u: Floats, v: Floats, n: int) -> Floats:
    """1 on the fabric, 0 off it, soft over two texels; cups are round, the others have rounded corners."""
    if style.kind == "cup":
        d = 1 - (np.abs(u) ** 2.6 + np.abs((v - 0.5) * 2) ** 4.0) ** (1 / 3)
        return np.asarray(np.clip(d * n / 4 + 0.5, 0, 1), np.float32)
    corner = 0.07
    x, y = np.abs(u), np.abs(v - 0.5) * 2
    qx, qy = np.clip(x - (1 - corner), 0, None), np.clip(y - (1 - corner * 1.6), 0, None) / 1.6
    d = np.minimum(corner - np.hypot(qx, qy), np.minimum(1 - x, 1 - y))
    return np.asarray(np.clip(d * n / 4 + 0.5, 0, 1), np.float32)
