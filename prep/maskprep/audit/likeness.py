"""What can be told from the faces' patches alone, learned from the data set itself: no model file, no training run.

- :func:`descriptors`: vectors whose cosine tells how much two faces look alike (colour and form of the upper half,
  which masks leave free);
- :func:`appearance`: vectors whose distance tells how much two faces look alike to a person, masks included;
- :func:`looks`: which class of an attribute a face looks like, always judged by what other people's photos taught;
- :func:`posterior`: how likely a value belongs to another population, by Bayes' rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskprep.photos import Pixels

Floats = NDArray[np.float64]

FAULTS = 0.02
"""Share of wrong labels and wrong crops that is expected before anything is seen: one in fifty."""

FOLDS = 5
FEATURES = 1500
RIDGE = 1.0
DIMENSIONS = 32


def lab(patches: Pixels) -> NDArray[np.float32]:
    """uint8 RGB [n, h, w, 3] as CIELAB with 8-bit scaling, float32."""
    import cv2

    out = np.empty(patches.shape, np.float32)
    for i, patch in enumerate(patches):
        out[i] = cv2.cvtColor(patch, cv2.COLOR_RGB2LAB)
    return out


def _shrunk(planes: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """Every plane reduced to (width, height) and made one row."""
    import cv2

    small: list[Any] = [cv2.resize(plane, size, interpolation=cv2.INTER_AREA) for plane in planes]
    return np.asarray(small, np.float32).reshape(len(planes), -1)


def descriptors(patches: Pixels, people: Sequence[str | None]) -> Floats:
    """One unit vector per face.

    The upper half of the face (hair, brow, eyes), its luma made free of exposure. Directions in which one person's
    photos differ among themselves are damped (within-class covariance normalisation, Hatch et al. 2006), as far as
    there are enough photos to know them.

    Args:
        patches: uint8 [n, 48, 48, 3].
        people: who is on each.
    """
    upper = lab(patches[:, 2:27, 4:44])
    light = upper[..., 0]
    light = (light - light.mean(axis=(1, 2), keepdims=True)) / (light.std(axis=(1, 2), keepdims=True) + 4)
    planes = np.stack([light, upper[..., 1] / 12, upper[..., 2] / 12], axis=3)
    values = _shrunk(planes, (20, 12)).astype(np.float64)
    values -= np.median(values, axis=0)
    groups: dict[str, list[int]] = {}
    for i, person in enumerate(people):
        if person is not None:
            groups.setdefault(person, []).append(i)
    several = [members for members in groups.values() if len(members) > 1]
    room = sum(len(members) - 1 for members in several)
    if room >= 40:
        _, axes = np.linalg.eigh(values.T @ values)
        values = values @ axes[:, ::-1][:, : min(64, room // 4)]
        within = np.concatenate([values[m] - np.median(values[m], axis=0) for m in several])
        far = np.linalg.norm(within, axis=1, keepdims=True)
        within *= np.minimum(1, 1.5 * np.median(far) / np.maximum(1e-9, far))  # an outlier counts less
        covariance = within.T @ within / room
        covariance += (0.1 * np.trace(covariance) / len(covariance) + 1e-9) * np.eye(len(covariance))
        values = np.linalg.solve(np.linalg.cholesky(covariance), values.T).T
    return unit(values)


def appearance(patches: Pixels, dimensions: int = DIMENSIONS) -> Floats:
    """What sets the faces of a data set apart: principal components of colours and edges, the widest first.

    Args:
        patches: uint8 [n, 48, 48, 3].
        dimensions: most components; fewer where there are fewer faces.

    Returns:
        float64 [n, d], each component with mean 0; its sign is chosen so that its largest weight is positive.
    """
    if not len(patches):
        return np.empty((0, 0))
    values = _features(patches).astype(np.float64)
    _, axes = np.linalg.eigh(values.T @ values)
    axes = axes[:, ::-1][:, : min(dimensions, len(patches))]
    return np.asarray(values @ (axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])))


def unit(vectors: Floats) -> Floats:
    """float64 [n, d] with rows of length 1; rows of zeros stay."""
    return np.asarray(vectors / np.maximum(1e-9, np.linalg.norm(vectors, axis=1, keepdims=True)), np.float64)


def looks(patches: Pixels, classes: NDArray[np.int64], count: int, groups: Sequence[str], seed: int = 0) -> Floats:
    """How much each face looks like each class, learned from the photos of other people only.

    Ridge regression on random Fourier features (Rahimi & Recht 2007) of the patch's colours relative to the skin around
    the eyes, classes weighted equally; people are dealt to five folds.

    Args:
        patches: uint8 [n, 48, 48, 3].
        classes: class of each by its label, int64 [n], 0..count-1.
        count: number of classes.
        groups: person of each.
        seed: of the features and the folds.

    Returns:
        float64 [n, count], around 1 for the class it looks like and 0 for the others.
    """
    random = np.random.default_rng(seed)
    values = _features(patches)
    size = values.shape[1]
    directions = random.normal(size=(size, FEATURES)) / np.sqrt(size) / 1.5
    raised = np.cos(values @ directions.astype(np.float32) + random.uniform(0, 2 * np.pi, FEATURES).astype(np.float32))
    raised = np.column_stack([raised * np.sqrt(2 / FEATURES), np.ones(len(values))]).astype(np.float32)
    names = sorted(set(groups))
    fold_of = dict(zip(names, random.permutation(len(names)) % FOLDS, strict=True))
    folds = np.array([fold_of[g] for g in groups])
    weight = (1 / np.maximum(1, np.bincount(classes, minlength=count)))[classes]
    weight = (weight / weight.mean()).astype(np.float32)
    target = np.eye(count, dtype=np.float32)[classes]
    out = np.empty((len(values), count))
    parts = []
    for rows in (folds == fold for fold in range(FOLDS)):
        weighted = raised[rows] * weight[rows, None]
        parts.append((rows, raised[rows].T @ weighted, weighted.T @ target[rows]))
    gram, right = sum(p[1] for p in parts), sum(p[2] for p in parts)
    for rows, own_gram, own_right in parts:  # what the other folds teach
        system = np.asarray(gram - own_gram, np.float64) + RIDGE * np.eye(FEATURES + 1)
        out[rows] = raised[rows] @ np.linalg.solve(system, np.asarray(right - own_right, np.float64))
    return out


def _features(patches: Pixels) -> NDArray[np.float32]:
    """Colours relative to the skin around the eyes on a 16x16 grid and vertical edges on an 8x8 grid, standardised."""
    import cv2

    colours = lab(patches)
    skin = np.median(colours[:, 4:20, 12:36].reshape(len(colours), -1, 3), axis=1)
    edges = np.stack([np.abs(cv2.Sobel(plane[..., 0], cv2.CV_32F, 0, 1)) for plane in colours])
    values = np.concatenate([_shrunk(colours - skin[:, None, None], (16, 16)), _shrunk(edges, (8, 8))], axis=1)
    return np.asarray((values - values.mean(axis=0)) / (values.std(axis=0) + 1e-3), np.float32)


def posterior(value: float, own: tuple[float, float], other: tuple[float, float], prior: float = FAULTS) -> float:
    """How likely ``value`` comes from another population than it is said to, 0..1; ``prior``: before it is known.

    Both are given by median and spread and taken for Student's t distributions with four degrees of freedom, whose
    heavy tails forgive a stray value.
    """
    return bayes(ratio(value, own, other), prior)


def ratio(value: float, own: tuple[float, float], other: tuple[float, float]) -> float:
    """Likelihood of a value under ``other`` relative to that under ``own``; see :func:`posterior`."""
    numerator, denominator = ((1 + ((value - m) / s) ** 2 / 4) ** -2.5 / s for m, s in (other, own))
    return float(numerator / denominator)


def bayes(likelihood_ratio: float, prior: float = FAULTS) -> float:
    """Posterior probability of a prior one and a likelihood ratio."""
    odds = likelihood_ratio * prior / (1 - prior)
    return odds / (1 + odds)
