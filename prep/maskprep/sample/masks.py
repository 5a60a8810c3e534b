"""Face masks drawn by code on a photo: a sheet of fabric laid over the face, lit as the face is lit.

The sheet is a grid of points in the frame of the face (x to the right, y down, z towards the viewer, one unit = the
width of the face). Its outline hangs on landmarks, its depth is the face's own depth with the hollows spanned as taut
fabric spans them. It is textured flat (:mod:`maskprep.sample.fabrics`), then projected back into the photo, so
pleats and prints follow the turn and tilt of the head. The light is read off the skin: brightness against surface
direction at the landmarks, solved by least squares.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from maskprep.sample.drape import OVAL, Bytes, FaceFrame, Floats, State, drape, face_frame, normals
from maskprep.sample.fabrics import Style, draw_fabric

_LUMINANCE = np.array([0.2126, 0.7152, 0.0722], np.float32)

# Landmarks that lie on bare skin in most portraits: cheeks, nose, forehead, temples.
_SKIN = (
    50, 280, 205, 425, 117, 346, 118, 347, 101, 330, 36, 266, 187, 411, 123, 352, 4, 5, 195, 197, 151, 9, 108, 337,
    69, 299, 104, 333, 207, 427, 147, 376, 116, 345, 100, 329, 142, 371, 198, 420, 49, 279,
)  # fmt: skip
_EYES = ((33, 160, 158, 133, 153, 144), (263, 387, 385, 362, 380, 373))

TO_LINEAR: Floats = ((np.arange(256) / 255) ** 2.2).astype(np.float32)
"""Linear light of each 8-bit tone."""


def draw_mask(image: Bytes, landmarks: npt.NDArray[Any], style: Style, state: State, rng: np.random.Generator) -> Bytes:
    """A copy of a photo with a mask drawn on one face.

    Args:
        image: RGB photo, uint8 [H, W, 3].
        landmarks: the face's 478 MediaPipe landmarks [478, 3] in pixels of this photo, z in the same unit.
        style: what the mask is made of.
        state: ``worn`` covers nose and chin, ``nose`` leaves the nose out, ``chin`` sits under the chin with mouth and
            nose free.
        rng: decides wrinkles and how straight the mask sits.
    """
    # Only the surroundings of the face are worked on.
    spots = np.asarray(landmarks, np.float32)
    reach = 0.75 * float(np.ptp(spots[:, :2], axis=0).max())
    low, high = spots[:, :2].min(0) - reach * 0.6, spots[:, :2].max(0) + reach * 0.6
    x0, y0 = (max(0, int(c)) for c in low)
    x1, y1 = (min(int(size), int(c) + 1) for size, c in zip(image.shape[1::-1], high, strict=True))
    out = image.copy()
    if x1 - x0 > 8 and y1 - y0 > 8:
        inner = np.ascontiguousarray(image[y0:y1, x0:x1])
        out[y0:y1, x0:x1] = _draw(inner, spots - np.array([x0, y0, 0], np.float32), style, state, rng)
    return out


def _draw(image: Bytes, landmarks: Floats, style: Style, state: State, rng: np.random.Generator) -> Bytes:
    frame = face_frame(landmarks)
    h, w = image.shape[:2]
    photo = TO_LINEAR[image]
    light, level, tint = _light(photo, landmarks, frame)

    points, u, v = drape(frame, style, state, rng)
    fabric = draw_fabric(style, state, u, v, rng)
    bumped = points.copy()
    bumped[..., 2] += fabric.height
    facing = normals(bumped)
    relief = light[1:] * 1.5  # fabric has harder folds than skin, and no glow of its own
    shade = np.clip(1 + (facing @ relief - relief[2] * 0.93), 0.25, 1.5) * fabric.occlusion
    half = relief / max(float(np.linalg.norm(relief)), 1e-6) + np.array([0, 0, 1], np.float32)
    sheen = np.clip(facing @ (half / np.linalg.norm(half)), 0, 1) ** 8 * fabric.occlusion
    color = np.clip((fabric.albedo * shade[..., None] + style.sheen * sheen[..., None]) * level * tint, 0, 1)
    layer, alpha = _project(frame.to_pixels(points), color, fabric.alpha, (h, w), frame.scale)

    blur = max(0.45, 0.0045 * frame.scale)
    layer, alpha = cv2.GaussianBlur(layer, (0, 0), blur), cv2.GaussianBlur(alpha, (0, 0), blur * 0.8)
    skin = _skin_region(frame, (h, w))
    soft = _shadow(alpha, frame.scale, light)
    behind = np.asarray(photo * (1 - (soft * skin)[..., None]), np.float32)
    behind = _draw_loops(behind, image, frame, style, state, points, level * tint, skin, rng)
    grain = _grain(image, frame, rng)
    lit = np.clip(cv2.pow(np.clip(layer, 0, 1), 1 / 2.2) + grain[..., None], 0, 1)
    out = cv2.pow(np.clip(behind, 0, 1), 1 / 2.2) * (1 - alpha[..., None]) + lit * alpha[..., None]
    return np.asarray(np.clip(out * 255 + 0.5, 0, 255), np.uint8)


def _light(photo: Floats, landmarks: Floats, frame: FaceFrame) -> tuple[Floats, float, Floats]:
    """Light on the face: shading [4] = constant and slope over the normal (1 on average over the face), level, tint.

    The level is the linear brightness that white paper held before the face would have; the tint its colour [3].
    """
    h, w = photo.shape[:2]
    smooth = cv2.GaussianBlur(photo, (0, 0), max(1.0, frame.scale * 0.025))
    at = np.round(landmarks[:, :2]).astype(int)
    at = np.stack([np.clip(at[:, 0], 0, w - 1), np.clip(at[:, 1], 0, h - 1)], 1)
    skin = np.array(_SKIN)
    rgb = smooth[at[skin, 1], at[skin, 0]]
    lum = rgb @ _LUMINANCE
    middle = float(max(np.median(lum), 1e-3))
    # Direction of the skin: a smooth bulge through the landmarks is enough (an ellipsoid of the face's proportions).
    p = frame.points[skin]
    centre = np.array([0.0, float(frame.points[1, 1]), float(frame.points[1, 2]) - 0.75], np.float32)
    n = (p - centre) / np.array([0.5, 0.75, 0.7], np.float32) ** 2
    n /= np.linalg.norm(n, axis=1, keepdims=True)
    design = np.column_stack([np.ones(len(n)), n])
    ratio = np.clip(lum / middle, 0.2, 2.0)
    weight = np.ones(len(n))
    prior = np.array([0.45, 0.0, -0.25, 0.55])  # mostly from the front, a little from above
    fit = prior
    for _ in range(4):
        a = design * weight[:, None]
        fit = np.linalg.solve(a.T @ design + np.diag([2.0, 1.0, 3.0, 4.0]), a.T @ ratio + prior * [2.0, 1.0, 3.0, 4.0])
        miss = np.abs(ratio - design @ fit)
        weight = 1 / np.maximum(1, miss / 0.12)
    eye = np.zeros((h, w), np.uint8)
    for ring in _EYES:
        cv2.fillPoly(eye, [at[list(ring)].astype(np.int32)], 1)
    seen = photo[eye > 0]
    white = float(np.percentile(seen.mean(1), 92)) / 0.5 if len(seen) >= 12 else 0.8
    bright = float(np.percentile(smooth[::4, ::4] @ _LUMINANCE, 97))
    cues = np.clip([white, middle / 0.33, bright / 0.75], [0.6, 0.75, 0.5], [1.1, 1.15, 1.15])
    level = float(np.clip(0.98 * cues.prod() ** (1 / 3), 0.45, 1.0))
    grey = photo.reshape(-1, 3).mean(0)
    tint = np.clip(grey / max(float(grey.mean()), 1e-3), 0.75, 1.3) ** 0.15
    return fit.astype(np.float32), level, (tint / tint.mean()).astype(np.float32)


def _project(
    pixels: Floats, color: Floats, alpha: Floats, size: tuple[int, int], scale: float
) -> tuple[Floats, Floats]:
    """The sheet in the photo: colour [H, W, 3] and coverage [H, W]. Where it folds over, the nearer part wins."""
    zoom = 2
    h, w = size[0] * zoom, size[1] * zoom
    x, y = pixels[..., 0].ravel() * zoom + 0.5, pixels[..., 1].ravel() * zoom + 0.5
    near = np.exp(np.clip(16 * (pixels[..., 2].ravel() - pixels[..., 2].max()) / scale, -12, 0))
    x0, y0 = int(max(0, x.min() - 2)), int(max(0, y.min() - 2))
    x1, y1 = int(min(w, x.max() + 3)), int(min(h, y.max() + 3))
    empty = np.zeros((*size, 3), np.float32), np.zeros(size, np.float32)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return empty
    bw, bh = x1 - x0, y1 - y0
    ix, iy = np.floor(x).astype(np.int64) - x0, np.floor(y).astype(np.int64) - y0
    keep = (ix >= 0) & (ix < bw) & (iy >= 0) & (iy < bh)
    cell = (iy * bw + ix)[keep]
    a = alpha.ravel()
    planes = [near, near * a, *(near * a * color[..., k].ravel() for k in range(3))]
    sums = np.dstack([np.bincount(cell, p[keep], bw * bh).reshape(bh, bw).astype(np.float32) for p in planes])
    closed = cv2.GaussianBlur(sums, (0, 0), 0.8)  # closes the gaps between points
    coverage = closed[..., 1] / np.maximum(closed[..., 0], 1e-12)
    tone = closed[..., 2:] / np.maximum(closed[..., 1:2], 1e-12)
    full = np.zeros((h, w), np.float32)
    tones = np.zeros((h, w, 3), np.float32)
    full[y0:y1, x0:x1] = np.clip(coverage, 0, 1)
    tones[y0:y1, x0:x1] = np.clip(tone, 0, 1) * full[y0:y1, x0:x1, None]
    small = cv2.resize(full, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    tint = cv2.resize(tones, (size[1], size[0]), interpolation=cv2.INTER_AREA)
    spread = cv2.GaussianBlur(tint, (0, 0), 1.5) / np.maximum(cv2.GaussianBlur(small, (0, 0), 1.5), 1e-4)[..., None]
    solid = small[..., None] > 0.5
    return np.where(solid, tint / np.maximum(small, 1e-4)[..., None], spread).astype(np.float32), small


def _shadow(alpha: Floats, scale: float, light: Floats) -> Floats:
    """Darkening 0..1 of what lies behind the edge of the mask, falling away from the light."""
    dx, dy = -float(light[1]), max(0.15, -float(light[2]))
    reach = 0.022 * scale / max(1e-6, (dx * dx + dy * dy) ** 0.5)
    shift = np.array([[1, 0, dx * reach], [0, 1, dy * reach]], np.float32)
    size = (alpha.shape[1], alpha.shape[0])
    wide = cv2.GaussianBlur(cv2.warpAffine(alpha, shift, size), (0, 0), 0.022 * scale)
    tight = cv2.GaussianBlur(alpha, (0, 0), max(0.8, 0.008 * scale))
    return np.asarray(np.clip(0.42 * wide + 0.28 * tight, 0, 0.6), np.float32)


def _skin_region(frame: FaceFrame, size: tuple[int, int]) -> Floats:
    """Soft region 0..1 of face and neck, where a mask can cast its shadow."""
    oval = frame.points[list(OVAL)].copy()
    neck = np.stack([frame.points[i] for i in (172, 397, 397, 172)])
    neck[:, 0] *= 0.9
    neck[2:, 1] += 0.55
    region = np.zeros(size, np.uint8)
    for shape in (oval, neck):
        cv2.fillPoly(region, [np.round(frame.to_pixels(shape)[:, :2]).astype(np.int32)], 255)
    return np.asarray(cv2.GaussianBlur(region, (0, 0), max(1.0, 0.01 * frame.scale)) / np.float32(255), np.float32)


def _skin_likeness(image: Bytes, frame: FaceFrame) -> Floats:
    """How much each pixel looks like this face's skin, 0..1, by colour."""
    lab = cv2.cvtColor(cv2.GaussianBlur(image, (0, 0), max(0.8, 0.006 * frame.scale)), cv2.COLOR_RGB2LAB)
    lab = lab.astype(np.float32)
    at = np.round(frame.to_pixels(frame.points[list(_SKIN)])[:, :2]).astype(int)
    at = np.clip(at, 0, [image.shape[1] - 1, image.shape[0] - 1])
    seen = lab[at[:, 1], at[:, 0]]
    middle = np.median(seen, 0)
    spread = np.maximum(1.5 * np.median(np.abs(seen - middle), 0), [22, 5, 6])
    off = (lab - middle) / spread
    off[..., 0] = np.where(off[..., 0] > 0, off[..., 0] * 0.6, off[..., 0])
    return np.asarray(
        np.exp(-0.25 * np.clip(off[..., 0] ** 2 + off[..., 1] ** 2 + off[..., 2] ** 2 - 1.5, 0, 40)), np.float32
    )


def _draw_loops(
    photo: Floats,
    image: Bytes,
    frame: FaceFrame,
    style: Style,
    state: State,
    points: Floats,
    light: Floats,
    skin: Floats,
    rng: np.random.Generator,
) -> Floats:
    """Ear loops or straps from the corners of the sheet to the ears; hair and ears in front hide them."""
    m, n = points.shape[:2]
    inner = (int(n * 0.045), int(n * 0.955))
    rows = (int(m * 0.08), int(m * 0.92))
    zoom = 4
    h, w = photo.shape[:2]
    cover = np.zeros((h * zoom, w * zoom), np.uint8)
    yaw = float(np.arcsin(np.clip(frame.axes[0, 2], -1, 1)))
    sag = abs(rng.normal(0.008, 0.006))
    for side, column in ((-1, inner[0]), (1, inner[1])):
        if side * yaw < -0.30:  # this side is turned away
            continue
        ears = (127, 234, 132) if side < 0 else (356, 454, 361)
        ear_top = frame.points[ears[0]] * 0.35 + frame.points[ears[1]] * 0.65
        ear_low = frame.points[ears[2]].copy()
        for corner, ear, out in ((points[rows[0], column], ear_top, 0.05), (points[rows[1], column], ear_low, 0.035)):
            end = ear + np.array([side * out, -0.01, -0.05], np.float32)
            t = np.linspace(0, 1, 24, dtype=np.float32)[:, None]
            path = corner * (1 - t) + end * t
            path[:, 1] += sag * 4 * (t * (1 - t))[:, 0]
            path[:, 0] += side * 0.02 * 4 * (t * (1 - t))[:, 0] * (0.4 if state == "chin" else 1.0)
            line = np.round(frame.to_pixels(path)[:, :2] * zoom * 16).astype(np.int32)
            width = max(1, round(style.loop_width * frame.scale * zoom))
            cv2.polylines(cover, [line], False, 255, width, cv2.LINE_AA, 4)
    full = cv2.resize(cover, (w, h), interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    full = cv2.GaussianBlur(full, (0, 0), max(0.4, 0.004 * frame.scale))
    # Loops lie on skin and on beards; hair and the backdrop beside the face hide them.
    face = np.zeros((h, w), np.uint8)
    rim = frame.to_pixels(frame.points[list(OVAL)] * np.array([0.97, 1, 1], np.float32))[:, :2]
    cv2.fillPoly(face, [np.round(rim).astype(np.int32)], 1)
    visible = full * np.maximum(_skin_likeness(image, frame), 0.85 * face)
    cast = cv2.GaussianBlur(np.roll(visible, max(1, round(0.008 * frame.scale)), 0), (0, 0), 0.009 * frame.scale)
    photo = photo * (1 - 0.3 * np.clip(cast, 0, 1) * skin)[..., None]
    around = cv2.GaussianBlur(photo @ _LUMINANCE, (0, 0), 0.04 * frame.scale)[..., None]
    local = np.clip(around / max(float(np.median(around[skin > 0.9])) if (skin > 0.9).any() else 1.0, 1e-3), 0.4, 1.15)
    tone = np.clip(np.array(style.loop, np.float32) ** 2.2 * light * 0.9 * local, 0, 1)
    return np.asarray(photo * (1 - visible[..., None]) + tone * visible[..., None], np.float32)


def _grain(image: Bytes, frame: FaceFrame, rng: np.random.Generator) -> Floats:
    """Noise [H, W] as strong as that of the photo around the face, as a share of full scale."""
    x, y = frame.to_pixels(frame.points[:468])[:, :2].mean(0)
    half = int(frame.scale * 0.4)
    y0, x0 = max(0, int(y) - half), max(0, int(x) - half)
    patch = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[y0 : y0 + 2 * half, x0 : x0 + 2 * half].astype(np.float32)
    sigma = 1.0
    if patch.size:
        kernel = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], np.float32)
        sigma = float(np.median(np.abs(cv2.filter2D(patch, cv2.CV_32F, kernel)))) / 0.6745 / 6
    noise = cv2.GaussianBlur(rng.normal(0, 1, image.shape[:2]).astype(np.float32), (0, 0), 0.6)
    return np.asarray(noise / max(float(noise.std()), 1e-6) * float(np.clip(sigma, 0.6, 4.0)) / 255, np.float32)
