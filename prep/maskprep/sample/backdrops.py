"""What stands behind people in made-up photos: walls, blurred rooms, lights out of focus, greenery, plaster."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]

_WALLS: tuple[tuple[float, float, float], ...] = (
    (0.80, 0.79, 0.77),
    (0.68, 0.71, 0.74),
    (0.74, 0.70, 0.63),
    (0.55, 0.60, 0.62),
    (0.62, 0.66, 0.60),
    (0.36, 0.40, 0.46),
    (0.83, 0.81, 0.74),
    (0.46, 0.43, 0.42),
    (0.60, 0.67, 0.75),
    (0.88, 0.88, 0.88),
)


def backdrop(height: int, width: int, rng: np.random.Generator) -> Bytes:
    """A backdrop made by code, RGB uint8 [height, width, 3], out of focus as behind a portrait."""
    kinds: tuple[tuple[Callable[[int, int, np.random.Generator], Floats], float], ...] = (
        (_wall, 0.32),
        (_studio, 0.18),
        (_room, 0.26),
        (_lights, 0.1),
        (_greenery, 0.14),
    )
    draw = kinds[int(rng.choice(len(kinds), p=[p for _, p in kinds]))][0]
    picture = draw(height, width, rng)
    picture += rng.normal(0, 0.006, (height, width, 1)).astype(np.float32)
    return np.asarray(np.clip(picture * 255 + 0.5, 0, 255), np.uint8)


def _pick(rng: np.random.Generator) -> Floats:
    color = np.array(_WALLS[int(rng.integers(len(_WALLS)))], np.float32)
    return np.asarray(np.clip(color * rng.uniform(0.85, 1.08) + rng.normal(0, 0.015, 3), 0.05, 0.97), np.float32)


def _cloud(height: int, width: int, size: float, rng: np.random.Generator) -> Floats:
    """Smooth noise of unit variance with features of about ``size`` pixels."""
    small = rng.normal(0, 1, (max(3, int(height / size) + 2), max(3, int(width / size) + 2))).astype(np.float32)
    big = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(big / max(float(big.std()), 1e-6), np.float32)


def _falloff(height: int, width: int, rng: np.random.Generator, strength: float) -> Floats:
    """Light that comes from one side and fades across the wall, about 1, [height, width, 1]."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    angle = rng.uniform(-np.pi, 0)
    along = (np.cos(angle) * (x / width - 0.5) + np.sin(angle) * (y / height - 0.5)).astype(np.float32)
    return np.asarray(1 + strength * along[..., None], np.float32)


def _wall(height: int, width: int, rng: np.random.Generator) -> Floats:
    grain = 0.012 * _cloud(height, width, 60, rng) + 0.006 * _cloud(height, width, 7, rng)
    return np.asarray(
        _pick(rng) * _falloff(height, width, rng, rng.uniform(0.1, 0.35)) * (1 + grain[..., None]), np.float32
    )


def _studio(height: int, width: int, rng: np.random.Generator) -> Floats:
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    cx, cy = width * rng.uniform(0.35, 0.65), height * rng.uniform(0.3, 0.6)
    glow = np.exp(-(((x - cx) / (0.7 * width)) ** 2 + ((y - cy) / (0.65 * height)) ** 2))
    mottled = 0.05 * _cloud(height, width, 90, rng) + 0.025 * _cloud(height, width, 35, rng)
    return np.asarray(_pick(rng) * (0.55 + 0.5 * glow + mottled)[..., None], np.float32)


def _room(height: int, width: int, rng: np.random.Generator) -> Floats:
    """A wall with a window or pictures, shelves and a door, far out of focus."""
    picture = np.broadcast_to(_pick(rng), (height, width, 3)).copy()
    floor = int(height * rng.uniform(0.72, 0.95))
    picture[floor:] *= np.array([0.62, 0.55, 0.5], np.float32)
    for _ in range(int(rng.integers(3, 7))):
        w, h = int(width * rng.uniform(0.08, 0.4)), int(height * rng.uniform(0.08, 0.5))
        x, y = int(rng.uniform(-0.1, 1.0) * width), int(rng.uniform(0.0, 0.6) * height)
        color = _pick(rng) * rng.uniform(0.45, 1.15)
        if rng.random() < 0.2:
            color = np.array([0.97, 0.98, 1.0], np.float32)  # a window or a lamp
        cv2.rectangle(picture, (x, y), (x + w, y + h), tuple(float(c) for c in color), -1)
    if rng.random() < 0.4:  # shelves with books
        left, step = int(rng.uniform(0, 0.7) * width), max(24, int(height * 0.12))
        for top in range(int(height * 0.05), int(height * 0.7), step):
            x = left
            while x < left + 0.35 * width:
                thick = int(rng.uniform(5, 14))
                shade = tuple(float(c) for c in rng.uniform(0.12, 0.75) * rng.uniform(0.6, 1.0, 3))
                cv2.rectangle(picture, (x, top + int(rng.uniform(2, 12))), (x + thick, top + step - 5), shade, -1)
                x += thick
    blurred = cv2.GaussianBlur(picture, (0, 0), rng.uniform(0.02, 0.045) * width)
    return np.asarray(blurred * _falloff(height, width, rng, 0.2), np.float32)


def _lights(height: int, width: int, rng: np.random.Generator) -> Floats:
    base = _pick(rng) * rng.uniform(0.15, 0.35)
    picture = (base * (1 + 0.25 * _cloud(height, width, 110, rng))[..., None]).astype(np.float32)
    for _ in range(int(rng.integers(14, 30))):
        disc = np.zeros((height, width), np.float32)
        centre = (int(rng.uniform(0, width)), int(rng.uniform(0, 0.75) * height))
        cv2.circle(disc, centre, int(rng.uniform(0.02, 0.055) * width), 1.0, -1, cv2.LINE_AA)
        warm = np.array([1.0, rng.uniform(0.65, 0.95), rng.uniform(0.35, 0.9)], np.float32)
        picture += cv2.GaussianBlur(disc, (0, 0), 1.2)[..., None] * warm * rng.uniform(0.1, 0.45)
    return np.asarray(cv2.GaussianBlur(np.clip(picture, 0, 1), (0, 0), 1.5), np.float32)


def _greenery(height: int, width: int, rng: np.random.Generator) -> Floats:
    leaf = np.array([0.30, 0.42, 0.20], np.float32) * rng.uniform(0.8, 1.2)
    depth = _cloud(height, width, 55, rng) * 0.3 + _cloud(height, width, 22, rng) * 0.2
    picture = leaf * np.clip(1 + depth, 0.25, 2.2)[..., None]
    sky = np.clip(_cloud(height, width, 80, rng) - 0.7 - 2.2 * np.linspace(-0.4, 1, height)[:, None], 0, 1)[..., None]
    picture = picture * (1 - sky) + np.array([0.86, 0.91, 0.96], np.float32) * sky
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), 0.02 * width), np.float32)
