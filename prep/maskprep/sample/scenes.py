"""Making one photo out of a portrait: framing, backdrop, people behind, mask, light of the room, camera."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

from maskprep.sample.backdrops import backdrop
from maskprep.sample.cutouts import Cutout
from maskprep.sample.drape import Bytes, Floats, State
from maskprep.sample.fabrics import Style
from maskprep.sample.masks import TO_LINEAR, draw_mask

WIDTH, HEIGHT = 384, 512
CLEAN = 0.8
"""Cut-outs below this quality are not used: a bad one is worse than none."""


@dataclass(frozen=True)
class Portrait:
    """One source shot: RGB uint8 [H, W, 3], landmarks [478, 3] in its pixels, and the person cut out of it."""

    image: Bytes
    landmarks: Floats
    cutout: Cutout


@dataclass(frozen=True)
class Look:
    """What the photos of one person share: framing, light and camera."""

    face_width: float
    face_x: float
    face_y: float
    warmth: float
    exposure: float
    contrast: float
    side_light: float
    noise: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Look:
        """A look at random."""
        return cls(
            float(rng.uniform(0.27, 0.42)),
            float(rng.normal(0.5, 0.03)),
            float(rng.uniform(0.40, 0.50)),
            float(rng.normal(0, 0.035)),
            float(rng.normal(0.0, 0.13)),
            float(rng.normal(1.0, 0.06)),
            float(rng.normal(0, 0.10)),
            float(rng.uniform(0.5, 3.2)),
        )

    def shaken(self, rng: np.random.Generator) -> Look:
        """The same look a moment later: people and camera move a little between photos."""
        return replace(
            self,
            face_width=self.face_width * float(rng.uniform(0.93, 1.07)),
            face_x=self.face_x + float(rng.normal(0, 0.025)),
            face_y=self.face_y + float(rng.normal(0, 0.02)),
            exposure=self.exposure + float(rng.normal(0, 0.05)),
            warmth=self.warmth + float(rng.normal(0, 0.01)),
        )


@dataclass(frozen=True)
class _Placed:
    """A portrait brought into the frame of the photo."""

    image: Bytes
    colors: Bytes
    matte: Floats
    landmarks: Floats
    inside: Floats


def take_photo(
    subject: Portrait,
    look: Look,
    mask: tuple[Style, State] | None,
    bystanders: list[Portrait],
    rng: np.random.Generator,
    room: Bytes | None = None,
) -> Bytes:
    """A photo, RGB uint8 [512, 384, 3].

    Args:
        subject: who it is of.
        look: framing, light and camera.
        mask: style and state, or None for a bare face.
        bystanders: up to two people behind, each much smaller than the subject.
        rng: movement, tilt and everything else that differs from photo to photo.
        room: backdrop [512, 384, 3] instead of the portrait's own; ignored when the cut-out is not clean.
    """
    placed = _place(subject, look, float(rng.normal(0, 2.0)))
    clean = subject.cutout.quality >= CLEAN
    back = _own_backdrop(placed, float(rng.choice([0.0, 2.0, 4.0], p=[0.5, 0.3, 0.2])) if clean else 0.0)
    replaced = clean and (room is not None or float((placed.inside < 0.5).mean()) > 0.02)
    if replaced:
        back = room if room is not None else backdrop(HEIGHT, WIDTH, rng)
    image = placed.image
    if clean and (replaced or bystanders):
        scene = back.astype(np.float32)
        sides = rng.permutation([-1, 1])
        for person, side in zip(bystanders, sides, strict=False):
            scene = _stand_behind(scene, person, placed, int(side), rng)
        soft = placed.matte[..., None]
        front = placed.colors if replaced else placed.image
        image = np.asarray(np.clip(front * soft + scene * (1 - soft) + 0.5, 0, 255), np.uint8)
    elif clean:
        soft = placed.matte[..., None]
        image = np.asarray(image * soft + back * (1 - soft) + 0.5, np.uint8)
    if mask:
        image = draw_mask(image, placed.landmarks, mask[0], mask[1], rng)
    return _expose(image, look, rng)


def _place(portrait: Portrait, look: Look, tilt: float) -> _Placed:
    h, w = portrait.image.shape[:2]
    points = portrait.landmarks
    span = float(np.linalg.norm(points[454, :2] - points[234, :2]))
    cover = max(WIDTH / w, HEIGHT / h) * 1.04
    scale = max(look.face_width * WIDTH / max(span, 1.0), cover)
    if portrait.cutout.quality >= CLEAN:  # the rest of the frame can be filled with another backdrop
        scale = max(look.face_width * WIDTH / max(span, 1.0), min(cover, 0.6 * WIDTH / max(span, 1.0)))
    centre = points[[234, 454, 10, 152], :2].mean(0)
    x, y = look.face_x * WIDTH, look.face_y * HEIGHT
    # Keep the frame inside the portrait; the floor first, since nobody hovers.
    x = _within(x, WIDTH - (w - centre[0]) * scale, centre[0] * scale)
    y = _within(y, HEIGHT - (h - centre[1]) * scale, centre[1] * scale)
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), tilt, scale)
    matrix[:, 2] += np.array([x, y]) - centre
    big = scale > 0.9
    source = portrait.image if big else cv2.GaussianBlur(portrait.image, (0, 0), 0.45 / scale)
    colors = portrait.cutout.colors if big else cv2.GaussianBlur(portrait.cutout.colors, (0, 0), 0.45 / scale)
    size = (WIDTH, HEIGHT)
    flags = cv2.INTER_CUBIC if big else cv2.INTER_LINEAR
    image = cv2.warpAffine(source, matrix, size, flags=flags, borderMode=cv2.BORDER_REFLECT_101)
    colors = cv2.warpAffine(colors, matrix, size, flags=flags, borderMode=cv2.BORDER_REPLICATE)
    matte = cv2.warpAffine(portrait.cutout.matte, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    inside = cv2.warpAffine(np.ones((h, w), np.float32), matrix, size)
    moved = np.column_stack([points[:, :2] @ matrix[:, :2].T + matrix[:, 2], points[:, 2] * scale])
    return _Placed(image, colors, np.clip(matte, 0, 1), moved.astype(np.float32), inside)


def _within(value: float, low: float, high: float) -> float:
    """Value between low and high; low wins where they cross."""
    return float(max(low, min(value, high)))


def _own_backdrop(placed: _Placed, blur: float) -> Bytes:
    """The portrait's own backdrop, without the person when it is blurred."""
    if blur <= 0:
        return placed.image
    free = (1 - cv2.dilate(placed.matte, np.ones((5, 5), np.uint8)))[..., None]
    seen = np.dstack([placed.image * free, free])
    near = cv2.GaussianBlur(seen, (0, 0), blur)
    half = cv2.resize(seen, (WIDTH // 8, HEIGHT // 8), interpolation=cv2.INTER_AREA)
    far = cv2.resize(cv2.GaussianBlur(half, (0, 0), 3.0), (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    total = near + 1e-3 * far + 1e-6
    return np.asarray(np.clip(total[..., :3] / total[..., 3:], 0, 255), np.uint8)


def _stand_behind(scene: Floats, person: Portrait, subject: _Placed, side: int, rng: np.random.Generator) -> Floats:
    """The scene with one more person in it, smaller than the subject, out of focus, beside the subject's head."""
    if person.cutout.quality < CLEAN:
        return scene
    span = float(np.linalg.norm(subject.landmarks[454, :2] - subject.landmarks[234, :2]))
    own = float(np.linalg.norm(person.landmarks[454, :2] - person.landmarks[234, :2]))
    size = float(rng.uniform(0.34, 0.58))
    scale = size * span / max(own, 1.0)
    head = subject.landmarks[:, :2].mean(0)
    x = float(head[0] + side * span * rng.uniform(0.95, 1.35))
    x = float(np.clip(x, 0.3 * size * span, WIDTH - 0.3 * size * span))
    y = float(head[1] + span * rng.uniform(-0.25, 0.35))
    centre = person.landmarks[:, :2].mean(0)
    matrix = np.array([[scale, 0, x - scale * centre[0]], [0, scale, y - scale * centre[1]]], np.float64)
    blur = float(rng.uniform(0.012, 0.024)) * span
    pre = max(0.3, 0.45 / scale)
    colors = cv2.GaussianBlur(person.cutout.colors, (0, 0), pre)
    cut = (WIDTH, HEIGHT)
    warped = cv2.warpAffine(colors, matrix, cut, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    matte = cv2.warpAffine(person.cutout.matte, matrix, cut, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
    floor = int(np.clip(matrix[1, 2] + scale * (person.image.shape[0] - 2), 0, HEIGHT - 1))
    if floor < HEIGHT - 1:  # the portrait ends above the frame: let the clothes go on
        matte[floor:] = matte[max(0, floor - 1)]
    tone = float(rng.uniform(0.68, 0.95)) * np.array([1.0, 1.0, 1.0 + rng.normal(0, 0.03)], np.float32)
    lit = cv2.GaussianBlur(warped.astype(np.float32) * tone, (0, 0), blur)
    soft = np.clip(cv2.GaussianBlur(matte, (0, 0), blur), 0, 1)[..., None]
    return np.asarray(scene * (1 - soft) + lit * soft, np.float32)


def _expose(image: Bytes, look: Look, rng: np.random.Generator) -> Bytes:
    """The photo under another light and through another camera: colour, brightness, lens, noise."""
    linear = TO_LINEAR[image]
    warm = np.array([1 + look.warmth * 1.3, 1.0, 1 - look.warmth * 1.3], np.float32)
    y, x = np.mgrid[-1 : 1 : HEIGHT * 1j, -1 : 1 : WIDTH * 1j].astype(np.float32)
    fall = np.exp(look.side_light * x - 0.06 * (x**2 + y**2)).astype(np.float32)
    linear = linear * warm * (2.0**look.exposure) * fall[..., None]
    linear = np.where(linear > 0.7, 1 - 0.09 / (np.maximum(linear, 0.7) - 0.4), linear)  # highlights roll off
    tones = cv2.pow(linear, 1 / 2.2)
    tones = np.clip((tones - 0.45) * look.contrast + 0.45, 0, 1)
    fine = rng.standard_normal((HEIGHT, WIDTH, 1), dtype=np.float32)
    coarse = rng.standard_normal((HEIGHT // 2, WIDTH // 2, 3), dtype=np.float32)  # colour noise is coarser
    noise = 0.7 * fine + 0.5 * cv2.resize(coarse, (WIDTH, HEIGHT), interpolation=cv2.INTER_LINEAR)
    return np.asarray(np.clip(tones * 255 + look.noise * noise + 0.5, 0, 255), np.uint8)
