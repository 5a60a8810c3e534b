"""Photos of 384x512 made of a portrait: another frame, room, light and camera, people behind, a mask."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from maskprep.base import quiet
from maskprep.photos import PhotoError, Pixels, load
from maskprep.sample.masks import Floats, Frame, State, draw_mask
from maskprep.weights import locate

WIDTH, HEIGHT = 384, 512

LOOK = np.array([0.34, 0.5, 0.47, 0, 0, 1, 0, 1.8]), np.array([0.05, 0.04, 0.035, 0.035, 0.13, 0.06, 0.1, 0.8])
"""Mean and spread over people of: width of the face and where its middle is (from the left, from the top) in shares of
the photo, warmth, exposure in stops, contrast, light from the right, noise in grey levels. Photos of one person spread
half as much."""


@dataclass(frozen=True)
class Portrait:
    """RGB uint8 [h, w, 3], keypoints of the largest face [5, 2] in pixels, and what is the person, 0..1 [h, w]."""

    pixels: Pixels
    face: NDArray[Any]
    matte: Floats


Read = Callable[[Path], Portrait]


@contextlib.contextmanager
def open_portraits() -> Iterator[Read]:
    """A function that reads a portrait. It raises PhotoError for what cannot be read or has no face.

    Raises:
        UserError: the weights ``yunet`` and ``selfie_segmenter`` cannot be had.
    """
    detector, selfie = (locate(name).read_bytes() for name in ("yunet", "selfie_segmenter"))
    with quiet():
        import mediapipe as mp
        from mediapipe.tasks.python import BaseOptions, vision

        model, none = np.frombuffer(detector, np.uint8), np.empty(0, np.uint8)
        net = cv2.FaceDetectorYN.create("onnx", model, none, (320, 320), 0.6)
        base = BaseOptions(model_asset_buffer=selfie)
        options = vision.ImageSegmenterOptions(base_options=base, output_confidence_masks=True)
        segmenter = vision.ImageSegmenter.create_from_options(options)

    def read(path: Path) -> Portrait:
        pixels = _reduced(load(path), 1000)
        small = _reduced(pixels, 480)
        net.setInputSize(small.shape[1::-1])
        faces = net.detect(np.ascontiguousarray(small[..., ::-1]))[1]
        if faces is None:
            raise PhotoError("no face found")
        face = max(faces, key=lambda row: float(row[2]))[4:14].reshape(5, 2) * (pixels.shape[1] / small.shape[1])
        masks = segmenter.segment(mp.Image(mp.ImageFormat.SRGB, pixels)).confidence_masks
        matte = np.array(masks[-1].numpy_view(), np.float32).reshape(pixels.shape[:2])
        return Portrait(pixels, face, np.clip((matte - 0.4) / 0.5, 0, 1))  # rather less hair than a rim of the old room

    with segmenter:
        yield read


def _reduced(pixels: Pixels, side: int) -> Pixels:
    factor = min(1.0, side / max(pixels.shape[:2]))
    return np.asarray(cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA), np.uint8)


def draw_room(rng: np.random.Generator) -> Pixels:
    """A room far out of focus, RGB uint8 [512, 384, 3]."""
    wall = rng.uniform(0.3, 0.8) + rng.normal(0, 0.03, 3)
    things = rng.choice([0.02, 0.1, 0.2]) * rng.normal(0, 1, (8, 6, 1)) + rng.normal(0, 0.02, (8, 6, 3))
    picture = cv2.resize(wall * (1 + things), (WIDTH, HEIGHT), interpolation=cv2.INTER_CUBIC)
    return np.asarray(np.clip(picture * 255, 0, 255), np.uint8)


def take_photo(
    subject: Portrait,
    look: NDArray[Any],
    mask: tuple[str, State] | None,
    behind: Sequence[Portrait],
    room: Pixels | None,
    rng: np.random.Generator,
) -> Pixels:
    """A photo, RGB uint8 [512, 384, 3].

    Args:
        look: of this person, drawn from LOOK.
        mask: its kind and state; None for a bare face.
        behind: up to two people, smaller and out of focus.
        room: what is seen behind, [512, 384, 3]; None for the portrait's own, which is used where it fills the photo.
    """
    width, x, y, *camera = rng.normal(look, LOOK[1] / 2) * [WIDTH, WIDTH, HEIGHT, 1, 1, 1, 1, 1]
    sides, own = np.array(subject.pixels.shape[1::-1]) - 1, Frame(subject.face).width
    filling = 1.03 * own * float(np.max((WIDTH, HEIGHT) / sides))
    width = max(width, min(filling, 0.5 * WIDTH))
    # The portrait's edges stay outside the photo, the right and the lower one if not all can: nobody hovers.
    start, end = subject.face.mean(0) * width / own, (sides - subject.face.mean(0)) * width / own
    x, y = np.maximum(np.minimum([x, y], start), [WIDTH, HEIGHT] - end)
    pixels, matte, face = _placed(subject, width, x, y, float(rng.normal(0, 1.5)))
    if room is None and width < filling:
        room = draw_room(rng)
    scene = (pixels if room is None else room).astype(np.float32)
    for person, side in zip(behind, rng.permutation([-1, 1]), strict=False):
        at = x + side * width * rng.uniform(0.95, 1.3), y + width * rng.uniform(-0.2, 0.3)
        other, soft, _ = _placed(person, width * rng.uniform(0.36, 0.56), *at, 0)
        dim = cv2.GaussianBlur(other, (0, 0), 0.015 * width) * rng.uniform(0.7, 0.95)
        scene += cv2.GaussianBlur(soft, (0, 0), 0.015 * width)[..., None] * (dim - scene)
    pixels = np.asarray(scene + matte[..., None] * (pixels - scene) + 0.5, np.uint8)
    if mask:
        pixels = draw_mask(pixels, face, *mask, seed=int(rng.integers(2**31)))
    return _exposed(pixels, camera, rng)


def _placed(portrait: Portrait, width: float, x: float, y: float, tilt: float) -> tuple[Pixels, Floats, NDArray[Any]]:
    """A portrait with its face at x, y of the photo, continued at its edges: pixels, matte and keypoints."""
    scale = width / Frame(portrait.face).width
    centre = portrait.face.mean(0)
    matrix = cv2.getRotationMatrix2D((float(centre[0]), float(centre[1])), tilt, scale)
    matrix[:, 2] += [x, y] - centre
    planes = portrait.pixels, portrait.matte
    if scale < 0.9:
        planes = tuple(cv2.GaussianBlur(plane, (0, 0), 0.45 / scale) for plane in planes)
    size, border = (WIDTH, HEIGHT), cv2.BORDER_REPLICATE
    pixels, matte = (cv2.warpAffine(plane, matrix, size, None, cv2.INTER_LINEAR, border) for plane in planes)
    return pixels, matte, portrait.face @ matrix[:, :2].T + matrix[:, 2]


def _exposed(pixels: Pixels, camera: Sequence[float], rng: np.random.Generator) -> Pixels:
    """The photo in another light and with another camera, see LOOK."""
    warmth, exposure, contrast, slope, noise = camera
    gain = 2**exposure * np.exp(slope * np.linspace(-1, 1, WIDTH))[:, None] * [1 + warmth, 1, 1 - warmth]
    linear = (pixels / np.float32(255)) ** 2.2 * gain.astype(np.float32)
    linear = np.where(linear > 0.7, 1 - 0.09 / (np.maximum(linear, 0.7) - 0.4), linear)  # highlights roll off
    tones = (linear ** (1 / 2.2) - 0.45) * contrast + 0.45
    grain = cv2.GaussianBlur(rng.standard_normal((HEIGHT, WIDTH, 3), np.float32), (0, 0), 0.6) * 1.8
    return np.asarray(np.clip(tones * 255 + max(noise, 0.4) * grain + 0.5, 0, 255), np.uint8)
