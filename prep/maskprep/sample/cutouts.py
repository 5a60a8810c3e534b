"""Cutting a person out of a portrait with GrabCut, started from the landmarks, and saying when it went wrong."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from maskprep.sample.drape import OVAL, Bytes, FaceFrame, Floats, face_frame

_SIDE = 300  # GrabCut works on a reduced copy


@dataclass(frozen=True)
class Cutout:
    """A person without backdrop: matte [H, W] 0..1, colours [H, W, 3] free of backdrop at the edge, and how clean
    the cut is (0 useless .. 1 sharp)."""

    matte: Floats
    colors: Bytes
    quality: float


def cut_out(image: Bytes, landmarks: Floats, known: npt.NDArray[np.int8] | None = None) -> Cutout:
    """The matte of the person whose landmarks [478, 3] (pixels) these are, in an RGB photo uint8 [H, W, 3].

    ``known`` [H, W] is 1 where a pixel is known to be the person, -1 where it is known not to be, else 0.
    """
    h, w = image.shape[:2]
    factor = min(1.0, _SIDE / max(h, w))
    small = cv2.resize(image, (round(w * factor), round(h * factor)), interpolation=cv2.INTER_AREA)
    frame = face_frame(np.asarray(landmarks, np.float32) * factor)
    hint = _hints(frame, (small.shape[0], small.shape[1]))
    if known is not None:
        reduced = cv2.resize(known, (hint.shape[1], hint.shape[0]), interpolation=cv2.INTER_NEAREST)
        hint[reduced < 0] = cv2.GC_BGD
        hint[reduced > 0] = cv2.GC_FGD
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(1)
    lab = cv2.cvtColor(cv2.GaussianBlur(small, (0, 0), 0.7), cv2.COLOR_RGB2LAB)
    cv2.grabCut(lab, hint, None, *models, 4, cv2.GC_INIT_WITH_MASK)
    person = np.isin(hint, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.uint8)
    person = _largest(cv2.morphologyEx(person, cv2.MORPH_OPEN, np.ones((3, 3), np.uint8)))
    person = (1 - _without_specks(1 - person)).astype(np.uint8)
    quality = _quality(lab, person, frame)
    rough = cv2.GaussianBlur(
        cv2.resize(person.astype(np.float32), (w, h), interpolation=cv2.INTER_LINEAR), (0, 0), 0.5 / factor
    )
    guide = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) / 255
    matte = _guided(guide, rough, max(2, round(1.6 / factor)), 6e-4)
    matte = np.clip((matte - 0.2) / 0.7, 0, 1)  # tighten: a thin rim of old backdrop shows worse than lost fluff
    return Cutout(matte.astype(np.float32), _spread_inside(image, matte, 2.0 / factor), quality)


def _hints(frame: FaceFrame, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    h, w = size
    hint = np.full((h, w), cv2.GC_PR_BGD, np.uint8)
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    local = (np.dstack([x, y]) - frame.origin[:2]) @ frame.axes[:2, :2].T / frame.scale
    lx, ly = local[..., 0], local[..., 1]
    chin = float(frame.points[152, 1])
    brow = float(frame.points[10, 1])
    head = (lx / 0.82) ** 2 + ((ly - (brow + 0.05)) / 0.85) ** 2
    body = (ly > chin - 0.05) & (np.abs(lx) < 0.42 + 1.1 * np.clip(ly - chin - 0.15, 0, 1.0))
    hint[(head < 1) | body] = cv2.GC_PR_FGD
    far_head = (ly < chin) & ((lx / 1.35) ** 2 + ((ly - brow) / 1.25) ** 2 > 1) & (ly < chin - 0.1)
    hint[far_head] = cv2.GC_BGD
    hint[(ly > chin + 0.7) & (np.abs(lx) < 0.45)] = cv2.GC_FGD
    hint[(ly >= chin) & (ly <= chin + 0.7) & (np.abs(lx) < 0.2)] = cv2.GC_FGD
    oval = np.round(frame.to_pixels(frame.points[list(OVAL)])[:, :2]).astype(np.int32)
    cv2.fillPoly(hint, [oval], cv2.GC_FGD)
    hint[((lx / 0.33) ** 2 + ((ly - brow) / 0.18) ** 2 < 1)] = cv2.GC_FGD  # hair line
    return hint


def _largest(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    if count < 2:
        return mask
    return np.asarray(labels == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA])), np.uint8)


def _without_specks(mask: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Backdrop without islands inside the person (smaller than a hundredth of the picture)."""
    count, labels, stats, _ = cv2.connectedComponentsWithStats(mask)
    keep = np.concatenate([[False], stats[1:count, cv2.CC_STAT_AREA] > mask.size / 100])
    return np.asarray(keep[labels], np.uint8)


def _quality(lab: Bytes, person: npt.NDArray[np.uint8], frame: FaceFrame) -> float:
    """How clearly person and backdrop differ along the cut: the share of the cut that lies on a real edge, less for
    a shape that no head and shoulders have."""
    h, w = person.shape
    inner = person - cv2.erode(person, np.ones((7, 7), np.uint8))
    outer = cv2.dilate(person, np.ones((7, 7), np.uint8)) - person
    tones = lab.astype(np.float32)

    def local(ring: npt.NDArray[np.uint8]) -> Floats:
        weight = cv2.blur(ring.astype(np.float32), (9, 9))
        return np.asarray(cv2.blur(tones * ring[..., None], (9, 9)) / np.maximum(weight, 1e-4)[..., None], np.float32)

    edge = (cv2.dilate(person, np.ones((3, 3), np.uint8)) - person) > 0
    edge[-2:] = False
    if edge.sum() < 50:
        return 0.0
    contrast = np.linalg.norm((local(inner) - local(outer))[edge], axis=1)
    sharp = float((contrast > 16).mean())
    share = float(person.mean())
    top = float(person[0].mean())
    chin = int(np.clip(frame.to_pixels(frame.points[[152]])[0, 1], 0, h - 1))
    sides = float((person[:chin, 0].mean() + person[:chin, -1].mean()) / 2) if chin > 2 else 1.0
    below = int(min(h - 1, chin + 0.62 * frame.scale))
    shoulders = float(person[below].sum()) / frame.scale if below > chin + 0.4 * frame.scale else 9.0
    shoulders /= min(1.0, w / (1.5 * frame.scale))
    plausible = 0.12 < share < 0.85 and top < 0.35 and sides < 0.25 and shoulders > 1.35
    hair = float(frame.points[10, 1] - 0.06)  # a cut below this took the hair off
    crown = np.round(frame.to_pixels(np.array([0.0, hair, float(frame.points[10, 2])], np.float32))[:2]).astype(int)
    scalp = person[int(np.clip(crown[1], 0, h - 1)), int(np.clip(crown[0], 0, w - 1))] > 0
    return sharp * (1 - _lost(tones, person, chin, frame.scale)) if plausible and scalp else 0.0


def _lost(tones: Floats, person: npt.NDArray[np.uint8], chin: int, scale: float) -> float:
    """0 when what was cut away around the head is all of one kind, towards 1 when part of it looks like lost hair."""
    size = 2 * max(2, int(0.22 * scale)) + 1
    ring = cv2.dilate(person, np.ones((size, size), np.uint8)) - cv2.dilate(person, np.ones((5, 5), np.uint8))
    ring[chin + int(0.25 * scale) :] = 0
    centre = int(np.nonzero(person[:chin].any(0))[0].mean()) if person[:chin].any() else person.shape[1] // 2
    odd: list[float] = []
    for side in (slice(None, centre), slice(centre, None)):
        seen = tones[:, side][ring[:, side] > 0]
        if len(seen) >= 40:
            odd.append(float((np.linalg.norm(seen - np.median(seen, 0), axis=1) > 28).mean()))
    return float(np.clip((max(odd, default=0.0) - 0.08) * 5, 0, 1))


def _guided(guide: Floats, target: Floats, radius: int, eps: float) -> Floats:
    """Guided filter: target [H, W] smoothed so that its edges follow those of guide [H, W]."""
    size = (2 * radius + 1, 2 * radius + 1)
    mg, mt = cv2.blur(guide, size), cv2.blur(target, size)
    a = (cv2.blur(guide * target, size) - mg * mt) / (cv2.blur(guide * guide, size) - mg * mg + eps)
    b = mt - a * mg
    return np.asarray(np.clip(cv2.blur(a, size) * guide + cv2.blur(b, size), 0, 1), np.float32)


def _spread_inside(image: Bytes, matte: Floats, reach: float) -> Bytes:
    """The photo with the colours of the person's inside carried over its soft edge, so no old backdrop shines there."""
    solid = (matte > 0.97).astype(np.float32)
    inside = cv2.erode(solid, np.ones((3, 3), np.uint8))
    total = np.zeros((*matte.shape, 3), np.float32)
    weight = np.full(matte.shape, 1e-6, np.float32)
    for sigma, trust in ((reach, 1.0), (reach * 4, 1e-3)):
        total += trust * cv2.GaussianBlur(image.astype(np.float32) * inside[..., None], (0, 0), sigma)
        weight += trust * cv2.GaussianBlur(inside, (0, 0), sigma)
    keep = np.clip((matte - 0.5) / 0.47, 0, 1)[..., None]
    mixed = image * keep + (total / weight[..., None]) * (1 - keep)
    return np.asarray(np.clip(mixed + 0.5, 0, 255), np.uint8)
